"""What heareval needs is given to it alone, and each item still answers the line it names."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from myna_plugin.hear_eval import compatibility
from myna_plugin.probing.tasks import hear_folder

HEAREVAL = Path(importlib.util.find_spec("heareval").origin).parent
CITED = {
    "embeddings/runner.py:13": "import tensorflow",
    "embeddings/runner.py:21": "tf.test.is_gpu_available",
    "embeddings/runner.py:66": "slugify(k), slugify(str(v))",
    "embeddings/runner.py:24": "GPUs not available in tensorflow",
    "embeddings/task_embeddings.py:35": "import tensorflow",
    "embeddings/task_embeddings.py:83": "tf.Module",
    "task_embeddings.py:417": "estimated_batch_size = max(",
    "predictions/task_predictions.py:431": "self.epoch_best_postprocessing[epoch]",
    "predictions/task_predictions.py:1050": "torch.load(",
    "predictions/task_predictions.py:1102": "trainer.fit_loop.current_epoch = ",
    "predictions/task_predictions.py:1105": "trainer.test(",
    "gpu_max_mem.py:14": "from pynvml import",
    "gpu_max_mem.py:50": ".decode(",
    "score.py:365": "available_scores",
}
"""Every line of heareval that our code names, with what stands there."""


def run_python(code):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_every_line_of_heareval_that_we_name_is_checked_here():
    sources = [*Path(compatibility.__file__).parent.glob("*.py"), Path(hear_folder.__file__)]
    named = {
        citation
        for source in sources
        for citation in re.findall(r"[\w/]+\.py:\d+", source.read_text(encoding="utf-8"))
    }
    assert named == set(CITED)


@pytest.mark.parametrize("citation", CITED)
def test_line_says_what_we_answer(citation):
    name, _, number = citation.partition(":")
    (file,) = [f for f in HEAREVAL.rglob("*.py") if f.as_posix().endswith(f"/{name}")]
    assert CITED[citation] in file.read_text().splitlines()[int(number) - 1]


def test_nothing_is_touched_by_import_and_the_stand_in_is_soon_gone():
    run_python(
        "import os, sys; before = dict(os.environ)\n"
        "import myna_plugin, myna_plugin.hear_eval.cli\n"
        "from myna_plugin.hear_eval import compatibility\n"
        "assert dict(os.environ) == before\n"
        "assert not {'heareval', 'tensorflow', 'pytorch_lightning'} & set(sys.modules)\n"
        "compatibility.embeddings_command()\n"
        "from heareval.embeddings import runner, task_embeddings\n"
        "assert runner.tf is task_embeddings.tf\n"
        "assert runner.tf.test.is_gpu_available(cuda_only=False) is True\n"
        "import torch; assert not isinstance(torch.nn.Linear(1, 1), runner.tf.Module)\n"
        "import importlib.util\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert importlib.util.find_spec('tensorflow') is None\n"
    )


def test_installed_tensorflow_is_left_alone(import_folder):
    (import_folder / "tensorflow.py").write_text("real = True\n")
    with compatibility.tensorflow_stand_in():
        import tensorflow
    assert tensorflow.real
    assert sys.modules["tensorflow"] is tensorflow


@pytest.mark.parametrize("name", ["NVIDIA H200", b"NVIDIA H200"])
def test_gpu_name_can_be_decoded(monkeypatch, name):
    # as in heareval.gpu_max_mem on a machine with CUDA: old pynvml gives bytes, nvidia-ml-py str
    gpu_max_mem = SimpleNamespace(nvmlDeviceGetName=lambda handle: name)
    monkeypatch.setitem(sys.modules, "heareval.gpu_max_mem", gpu_max_mem)
    monkeypatch.setattr("heareval.gpu_max_mem", gpu_max_mem, raising=False)
    compatibility.name_gpu_in_bytes()
    assert gpu_max_mem.nvmlDeviceGetName(0).decode("utf-8") == "NVIDIA H200"
