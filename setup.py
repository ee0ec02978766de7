"""Package metadata; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION_LINE = re.search(
    r'^__version__ = "(.+)"$', (HERE / "myna_plugin" / "_version.py").read_text(), re.MULTILINE
)
if VERSION_LINE is None:
    raise SystemExit('myna_plugin/_version.py must hold a line: __version__ = "…"')

# What heareval 2021.1.3 imports, in versions it runs on. heareval itself is not listed: its own
# pins (numpy 1.19.2, numba 0.48, tensorflow) cannot be met on a current Python, so it is
# installed beside these with `pip install --no-deps heareval==2021.1.3`.
HEAR_EVAL = [
    "pytorch-lightning==1.9.5",
    # pytorch-lightning 1.9 and dcase_util import pkg_resources, which setuptools 81 no longer has.
    "setuptools<81",
    "torchinfo>=1.8",
    "pandas>=2.2",
    "intervaltree>=3.1",
    "more-itertools>=10.2",
    "python-slugify>=8.0",
    "nvidia-ml-py>=12.535",
    "sed_eval>=0.2.1",
    "dcase_util>=0.2.20",
    "mir_eval>=0.7",
]

# What `benchmarks/rendered` reads MIDI files with. Its synthesiser, tinysoundfont, is installed
# beside it with `pip install --no-deps tinysoundfont`: it asks for PyAudio, which must be compiled,
# to play sound, and rendering to a file needs none.
RENDERED = ["pretty_midi>=0.2.11"]

PLOT = ["matplotlib>=3.8"]
PROBE = ["mir_eval>=0.7", "scipy>=1.12", "PyYAML>=6.0", *PLOT]
PRETRAIN = ["PyYAML>=6.0", "tensorboard>=2.15", *PLOT]
UMAP = ["umap-learn>=0.5.6"]
ONNX = ["onnx>=1.21", "onnxruntime>=1.23", "onnxscript>=0.7"]
TRANSFORMERS = ["transformers>=5.20"]

DOCS = ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29", "mkdocs-click>=0.9"]

DEV = [
    "build>=1.2",
    "import-linter>=2.3",
    "mypy>=1.15",
    "peft>=0.21",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.11",
    "torchmetrics>=1.4",
    "types-PyYAML",
    "types-tqdm",
]


def describe_for_an_index(readme: str) -> str:
    """The README where no other file is at hand: relative links become the names of files."""
    text = re.sub(r"!\[([^]]*)\]\((?!https?:)([^)]*)\)", r"(Picture: \1, `\2`)", readme)
    text = re.sub(r"\[([^]]*)\]\((?!https?:)([^)]*)\)", r"\1 (`\2`)", text)
    return f"{text}\nThe files that this page names are in the source archive.\n"


setup(
    name="myna-plugin",
    version=VERSION_LINE.group(1),
    description="Myna music representations: HEAR module, pre-training recipes and MIR probe tasks",
    long_description=describe_for_an_index((HERE / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author="The myna_plugin authors",
    license="MIT",
    # The card names the makers of what the packaged weights heard, as CC BY asks.
    license_files=["LICENSE", "docs/model.md"],
    python_requires=">=3.10",
    packages=find_packages(include=["myna_plugin", "myna_plugin.*"]),
    package_data={
        "myna_plugin": ["py.typed"],
        "myna_plugin.model": ["weights/*.safetensors"],
        "myna_plugin.recipes": ["files/*/*"],
        "myna_plugin.hear_eval": [
            "demo_tasks/README.md",
            "demo_tasks/*/*.json",
            "demo_tasks/*/*.csv",
            "demo_tasks/*/16000/*/*.ogg",
        ],
    },
    zip_safe=False,
    install_requires=[
        "torch>=2.4",
        "torchaudio>=2.4",
        "nnAudio>=0.3.3",
        "numpy>=1.26",
        "pyarrow>=16",
        "scikit-learn>=1.4",
        "click>=8.2",
        "importlib-metadata>=6.0",
        "filelock>=3.20",
        "av>=17.1",
        "soundfile>=0.12.1",
        "soxr>=0.4",
        "safetensors>=0.4.3",
        "huggingface_hub>=0.26",
        "tqdm>=4.66",
    ],
    extras_require={
        "plot": PLOT,
        "umap": [*UMAP, *PLOT],
        "probe": PROBE,
        "pretrain": PRETRAIN,
        "hear-eval": HEAR_EVAL,
        "rendered": PROBE + RENDERED,
        "ray": ["ray[data]>=2.40"],
        "onnx": ONNX,
        "transformers": TRANSFORMERS,
        "all": PROBE + PRETRAIN + HEAR_EVAL + ONNX + TRANSFORMERS,
        "docs": DOCS,
        "dev": DEV + DOCS + PROBE + PRETRAIN + HEAR_EVAL + RENDERED + UMAP + ONNX + TRANSFORMERS,
    },
    entry_points={
        "console_scripts": [
            "hear-eval = myna_plugin.hear_eval.__main__:main",
            "myna = myna_plugin.cli.__main__:main",
        ],
        "hear.models": [
            "myna = myna_plugin",
            "myna-square = myna_plugin.hear.square",
            "myna-vertical = myna_plugin.hear.vertical",
            # Other people's encoders, and baselines.
            *(
                f"{name} = myna_plugin.peers.{name.replace('-', '_')}"
                for name in (
                    "chroma",
                    "clap-music",
                    "clmr",
                    "dasheng",
                    "krumhansl",
                    "mel-statistics",
                    "mert-330m",
                    "mert-95m",
                    "mert-95m-public",
                    "mfcc",
                    "random-vit",
                )
            ),
        ],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
