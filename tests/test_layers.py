"""What `import myna_plugin` may load, and how long a module and a function may be.

The layers themselves are a contract in pyproject.toml.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

LAZY = (
    "heareval",
    "huggingface_hub",
    "matplotlib",
    "mir_eval",
    "onnx",
    "onnxruntime",
    "peft",
    "pytorch_lightning",
    "tensorflow",
    "torchaudio",
    "transformers",
)


def modules_after(statement: str) -> set[str]:
    """Names of the top-level modules that a fresh interpreter has after a statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_importing_the_package_loads_no_toolkit() -> None:
    assert not modules_after("import myna_plugin") & {"torch", "numpy", *LAZY}
    loaded = modules_after("from myna_plugin import *")

    assert {"myna_plugin", "torch"} <= loaded
    assert not loaded & set(LAZY)


def test_toolkits_are_imported_on_use_only() -> None:
    loaded = modules_after(
        "import myna_plugin.common.torchaudio_bridge, myna_plugin.hear_eval.demo, "
        "myna_plugin.adapters.marble, myna_plugin.adapters.mteb, myna_plugin.adapters.onnx, "
        "myna_plugin.adapters.s3prl, myna_plugin.adapters.xares, "
        "myna_plugin.peers.mert_95m, myna_plugin.peers.clap_music, myna_plugin.peers.clmr"
    )

    assert not loaded & set(LAZY)


WINDOWS = """
import importlib.util, os, pkgutil, signal, sys
import matplotlib, pyarrow.parquet, torch.distributed, transformers
from transformers import PreTrainedModel
if importlib.util.find_spec("psutil"):  # of newer transformers
    import psutil
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for name in ("SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "setitimer", "pthread_sigmask"):
    delattr(signal, name)
for name in ("fork", "getuid", "killpg", "setsid", "sched_getaffinity", "statvfs", "mkfifo"):
    delattr(os, name)
import myna_plugin
names = [module.name for module in pkgutil.walk_packages(myna_plugin.__path__, "myna_plugin.")]
for name in names:
    if not name.startswith(LEFT_OUT) and not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""


def test_every_module_is_imported_without_what_windows_lacks() -> None:
    """Modules, signals and functions of POSIX alone; other packages have had theirs before."""
    left_out = (
        "myna_plugin.common.server_watch",  # forkserver's own, which Windows has not
        "myna_plugin.pretraining.step.kernels",  # needs Triton
        "myna_plugin.library.ray_engine",  # needs Ray
    )
    code = f"LEFT_OUT = {left_out}\n{WINDOWS}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 100


def test_modules_and_functions_stay_short() -> None:
    """At most 450 lines a module and 60 a function, docstrings included."""
    root = Path(__file__).parents[1]
    modules, functions = {}, {}
    for top in ("myna_plugin", "benchmarks", "recipes"):
        for path in root.glob(f"{top}/**/*.py"):
            name, text = str(path.relative_to(root)), path.read_text()
            modules[name] = len(text.splitlines())
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    functions[f"{name}: {node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    assert len(modules) > 200
    assert [name for name, length in modules.items() if length > 450] == []
    assert [name for name, length in functions.items() if length > 60] == []
