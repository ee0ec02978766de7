"""torchaudio is reached whether or not its compiled part loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from myna_plugin.common.torchaudio_bridge import gtzan_split, resample

PACKAGE = Path(__file__).parents[2] / "myna_plugin" / "common"

INIT = "from . import _extension\nfrom . import datasets, functional\n"
FUNCTIONAL = """
from torchaudio._extension import _IS_TORCHAUDIO_EXT_AVAILABLE, fail_if_no_align

@fail_if_no_align
def forced_align():
    return "aligned"

def resample(waveform, rate, target_rate, **settings):
    return "resampled"
"""
INTACT = """
_IS_TORCHAUDIO_EXT_AVAILABLE = True
def fail_if_no_align(function):
    return function
"""
BREAKS = {
    "CUDA library missing": "raise OSError('libc10_cuda.so: cannot open shared object file')",
    "other CUDA version": "raise RuntimeError('compiled with different CUDA versions')",
    "half loaded": "raise ImportError('Failed to load libtorchaudio')",
}


@pytest.fixture
def torchaudio_folder(tmp_path: Path) -> Path:
    """A folder with a miniature torchaudio of the same structure, and nothing else in it."""
    package = tmp_path / "torchaudio"
    for name, source in {
        "__init__.py": INIT,
        "_extension/__init__.py": INTACT,
        "functional/__init__.py": FUNCTIONAL,
        "datasets/__init__.py": "from . import gtzan",
        "datasets/gtzan.py": "filtered_train = ['blues.00001']",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source)
    return tmp_path


def run(code: str, folder: Path) -> str:
    """What a fresh interpreter prints that finds `folder` first; its error where it fails.

    The bridge is imported as a single file, which spares each interpreter the import of torch.
    """
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{PACKAGE}"}
    command = [sys.executable, "-c", f"import torchaudio_bridge as b; {code}"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    return result.stdout + result.stderr


@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS.keys())
def test_python_part_works_without_compiled_part(torchaudio_folder: Path, fault: str) -> None:
    (torchaudio_folder / "torchaudio" / "_extension" / "__init__.py").write_text(fault)

    printed = run(
        "print(b.gtzan_split('train'), b.resample(None, 1, 2));"
        "print(b.load_torchaudio()._extension._IS_TORCHAUDIO_EXT_AVAILABLE);"
        "b.load_torchaudio().functional.forced_align()",
        torchaudio_folder,
    )

    assert printed.startswith("('blues.00001',) resampled\nFalse\n")
    assert "RuntimeError: forced_align needs torchaudio's compiled part" in printed


def test_intact_compiled_part_is_kept(torchaudio_folder: Path) -> None:
    printed = run("print(b.load_torchaudio().functional.forced_align())", torchaudio_folder)

    assert printed == "aligned\n"


def test_both_faults_are_named_where_the_python_part_fails_too(torchaudio_folder: Path) -> None:
    package = torchaudio_folder / "torchaudio"
    (package / "_extension" / "__init__.py").write_text(BREAKS["CUDA library missing"])
    (package / "functional" / "__init__.py").write_text("raise ValueError('torn file')")

    printed = run(
        "import sys\n"
        "try: b.load_torchaudio()\n"
        "except ImportError as error: print(error)\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'torchaudio'])",
        torchaudio_folder,
    )

    assert "libc10_cuda.so" in printed
    assert "torn file" in printed
    assert printed.endswith("[]\n")


def test_missing_torchaudio_names_the_command(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torchaudio'] = None; b.gtzan_split('test')"

    assert "ImportError: torchaudio is not installed: pip install torchaudio" in run(code, tmp_path)


def test_gtzan_splits_are_the_published_ones() -> None:
    splits = {split: gtzan_split(split) for split in ("train", "valid", "test")}

    assert {split: len(tracks) for split, tracks in splits.items()} == {
        "train": 443,
        "valid": 197,
        "test": 290,
    }
    assert len(set().union(*splits.values())) == 443 + 197 + 290
    with pytest.raises(ValueError, match="validation"):
        gtzan_split("validation")


def test_resample_agrees_with_soxr_in_the_pass_band() -> None:
    times = np.arange(44_100) / 44_100
    sound = (np.sin(2 * np.pi * 440 * times) + 0.3 * np.sin(2 * np.pi * 6_000 * times)).astype("f4")

    ours = resample(torch.from_numpy(sound)[None], 44_100, 16_000)[0].numpy()
    theirs = soxr.resample(sound, 44_100, 16_000, quality="VHQ")

    np.testing.assert_allclose(ours[500:-500], theirs[500:-500], atol=1e-3)
