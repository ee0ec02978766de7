"""Whether heareval and what it needs are installed, and the commands that add what is missing."""

from __future__ import annotations

import importlib.util

import importlib_metadata

from myna_plugin.common.errors import InputError

HEAREVAL_VERSION = "2021.1.3"
"""The version that `compatibility` answers, file and line."""

INSTALL_HEAREVAL = f"pip install --no-deps heareval=={HEAREVAL_VERSION}"
"""Without its dependencies: its pins (numpy 1.19.2, numba 0.48) exist for no current Python."""

INSTALL_NEEDS = 'pip install "myna-plugin[hear-eval]"'

NEEDS = {
    "pytorch_lightning": "pytorch-lightning 1.9.5",
    "pkg_resources": "setuptools below 81",
    "torchinfo": "torchinfo",
    "pandas": "pandas",
    "intervaltree": "intervaltree",
    "more_itertools": "more-itertools",
    "slugify": "python-slugify",
    "sed_eval": "sed_eval",
    "dcase_util": "dcase_util",
    "mir_eval": "mir_eval",
}
"""Import name to distribution, of what heareval and our score of beats import, and `myna_plugin`
itself does not need."""

CUDA_NEEDS = {"pynvml": "nvidia-ml-py"}
"""What heareval imports besides, where torch sees a CUDA device (gpu_max_mem.py:14)."""


def check_requirements(cuda: bool) -> None:
    """Raise InputError, with the commands to run, unless heareval can be imported.

    Args:
        cuda: whether heareval will see a CUDA device.
    """
    needs = {**NEEDS, **CUDA_NEEDS} if cuda else NEEDS
    missing = [distribution for name, distribution in needs.items() if not is_installed(name)]
    unfit = unfit_lightning()
    faults, commands = [], []
    if not is_installed("heareval"):
        faults.append("heareval is not installed")
        commands.append(INSTALL_HEAREVAL)
    if missing:
        faults.append(f"heareval needs {', '.join(missing)}, not installed")
    if unfit:
        faults.append(unfit)
    if missing or unfit:
        commands.append(INSTALL_NEEDS)
    if faults:
        raise InputError(f"{'; '.join(faults)}. Run: {' && '.join(commands)}")


def is_installed(name: str) -> bool:
    """Whether a top-level module can be found, without importing it."""
    return importlib.util.find_spec(name) is not None


def unfit_lightning() -> str | None:
    """A Lightning that heareval cannot use, in words: its `Trainer(gpus=)` went with 2.0."""
    if not is_installed("pytorch_lightning"):
        return None
    version = importlib_metadata.version("pytorch-lightning")
    if version.startswith("1."):
        return None
    return f"pytorch-lightning {version} is installed, heareval needs 1.9.5"
