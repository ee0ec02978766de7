"""Package metadata; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "myna_plugin" / "_version.py").read_text(), re.M
).group(1)

setup(
    name="myna-plugin",
    version=VERSION,
    description="Myna music representations: HEAR module, pre-training recipes and MIR probe tasks",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["myna_plugin", "myna_plugin.*"]),
    package_data={"myna_plugin": ["py.typed"]},
    install_requires=[
        "torch>=2.4",
        "torchaudio>=2.4",
        "nnAudio>=0.3.3",
        "numpy>=1.26",
        "scikit-learn>=1.4",
        "click>=8.1",
        "importlib-metadata>=6.0",
        "soundfile>=0.12.1",
        "soxr>=0.4",
        "safetensors>=0.4.3",
        "huggingface_hub>=0.23",
        "tqdm>=4.66",
    ],
    entry_points={
        "console_scripts": ["hear-eval = myna_plugin.hear_eval.cli:main"],
        "hear.models": ["myna = myna_plugin"],
    },
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
