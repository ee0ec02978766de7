"""A run of `hear-eval`: heareval's embeddings runner over the tasks, then its predictions runner.

Tasks go to heareval one by one: its own loop takes every entry of the tasks folder for a task,
stray files included, and stops at the first that fails.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myna_plugin.common.errors import InputError, say
from myna_plugin.common.files import digest_path, read_json, read_json_object
from myna_plugin.common.locks import locked
from myna_plugin.common.progress import ProgressBar
from myna_plugin.common.provenance import RECORDS, Inputs, Record
from myna_plugin.hear_eval.audio_check import AudioCheck
from myna_plugin.hear_eval.audio_preparation import prepare_audio
from myna_plugin.hear_eval.contract import ModuleFacts
from myna_plugin.hear_eval.heareval_process import HearevalProcess, Job, JobError
from myna_plugin.hear_eval.results import SCORES, TaskResult, read_scores
from myna_plugin.model.audio import AudioError
from myna_plugin.probing.tasks.hear_folder import HearFolder

EMBEDDINGS, PREDICTIONS = "embeddings", "predictions"

CAUSES = {
    "module": "the module",
    "code": "the module's code",
    "weights": "the weights file",
    "model_options": "the model options",
    "sample_rate": "the sample rate",
    "task": "the task's data",
    "grid": "--grid",
    "grid_points": "--grid-points",
}
"""Names of recorded inputs, for the reader."""


@dataclass(frozen=True)
class HearEvalSettings:
    """What a run is asked to do.

    Attributes:
        module: import path of the HEAR module.
        model: weights file or folder; None for the module's own.
        model_options: keyword arguments for `load_model`.
        embeddings_dir: where embeddings, scores and our records go.
        grid: heareval's grid: default, fast or faster.
        grid_points: points of the grid to try.
        environment: variables for heareval's processes.
        allow_silent: let files without a sound pass.
        skip_predictions: stop after the embeddings.
    """

    module: str
    model: Path | None
    model_options: dict[str, Any]
    embeddings_dir: Path
    grid: str
    grid_points: int
    environment: Mapping[str, str]
    allow_silent: bool
    skip_predictions: bool


@dataclass(frozen=True)
class HearEvalRun:
    """Settings, and what was found out about the module.

    Attributes:
        settings: as asked.
        facts: of the module.
        weights: digest of the weights file; None without one.
    """

    settings: HearEvalSettings
    facts: ModuleFacts
    weights: str | None

    @property
    def heareval_dir(self) -> Path:
        """What heareval is given as its embeddings folder: one for each weights file."""
        model = self.settings.model
        if model is None:
            return self.settings.embeddings_dir
        # the same name in another folder is another model: exp1/last.pt, exp2/last.pt
        place = hashlib.sha256(str(model).encode()).hexdigest()[:6]
        return self.settings.embeddings_dir / f"{model.stem}-{place}"

    @property
    def folder(self) -> Path:
        """Where heareval puts the folders of the tasks."""
        return self.heareval_dir / (self.facts["name"] + self.facts["slug"])

    def log(self, task: HearFolder, stage: str) -> Path:
        return self.folder / RECORDS / "logs" / f"{task.name}.{stage}.log"

    def record(self, task: HearFolder) -> Record:
        return Record(self.folder / RECORDS / f"{task.name}.json")

    def locked(self, task: HearFolder) -> AbstractContextManager[None]:
        """While the block runs, no other process embeds or scores this task with this module."""
        path = self.folder / RECORDS / f"{task.name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        busy = f"{self.folder / task.name}: another hear-eval is at this task; wait for its end"
        return locked(path, f"{busy}, or choose another --embeddings-dir")


def evaluate(
    settings: HearEvalSettings, tasks: Sequence[HearFolder]
) -> tuple[HearEvalRun, list[TaskResult]]:
    """Embed and score every task.

    Args:
        settings: what to do.
        tasks: the tasks, read and checked.

    Returns:
        What was run, and a result for each task, in order. A task that fails does not keep the
        others from being scored.

    Raises:
        InputError: the module or the audio cannot be used, or another run is at one of the tasks;
            no task has been run.
    """
    results = {task: TaskResult(task.name) for task in tasks}
    with ExitStack() as held:
        with HearevalProcess(settings.environment) as process:
            run = examine(settings, tasks, process)
            checks = {task: AudioCheck(_audio_cache(settings, task)) for task in tasks}
            try:
                digests = prepare_audio(checks, run.facts["sample_rate"], settings.allow_silent)
            except AudioError as error:  # it passed the check, and went bad since
                raise InputError(str(error)) from error
            for task in tasks:
                held.enter_context(run.locked(task))
            for task, result in results.items():
                with failure_noted(run, task, EMBEDDINGS, result):
                    embed_task(run, task, digests[task], process, result)
        if settings.skip_predictions:
            return run, list(results.values())
        # heareval's predictors are tiny: threads wait for each other longer than they compute, and
        # one thread leaves no score to the number of cores.
        with HearevalProcess({**settings.environment, "OMP_NUM_THREADS": "1"}) as process:
            for task, result in results.items():
                if result.status == "embedded":
                    with failure_noted(run, task, PREDICTIONS, result):
                        predict_task(run, task, process, result)
    return run, list(results.values())


def examine(
    settings: HearEvalSettings, tasks: Sequence[HearFolder], process: HearevalProcess
) -> HearEvalRun:
    """Try the module on noise.

    Raises:
        InputError: with where to find the traceback.
    """
    say(f"{settings.module}: loading")
    folder = Path(tempfile.mkdtemp(prefix="hear-eval-"))
    log = folder / "module.log"
    arguments = {
        "module": settings.module,
        "model": _text(settings.model),
        "model_options": settings.model_options,
        "embedding_types": sorted({task.embedding_type for task in tasks}, reverse=True),
    }
    try:
        facts = process.run(Job("examine", arguments, log))
    except (InputError, JobError) as error:
        raise InputError(f"{error} (all output: {log})") from error
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
    say(f"{settings.module}: {facts['location']}, {facts['sample_rate']} Hz, on {facts['device']}")
    for warning in facts["warnings"]:
        say(f"{settings.module} warns: {warning}")
    weights = digest_path(settings.model) if settings.model else None
    return HearEvalRun(settings, facts, weights)


def embed_task(
    run: HearEvalRun,
    task: HearFolder,
    task_digest: str,
    process: HearevalProcess,
    result: TaskResult,
) -> None:
    """Have heareval embed one task, unless that is done and nothing has changed since.

    Raises:
        JobError: it failed; nothing of it is left.
    """
    settings = run.settings
    folder = run.folder / task.name
    record = run.record(task)
    inputs: Inputs = {
        "module": run.facts["name"],
        "code": run.facts["code"],
        "weights": run.weights,
        "model_options": settings.model_options,
        "sample_rate": run.facts["sample_rate"],
        "task": task_digest,
    }
    is_done = (folder / ".done.embeddings").is_file()
    changes = record.changes(EMBEDDINGS, inputs)
    if is_done and changes is None:
        say(
            f"{task.name}: using embeddings that heareval made without hear-eval; nothing tells "
            f"what they were made from: delete {folder} to have them made again"
        )
    elif is_done and not changes:
        say(f"{task.name}: embedded before, nothing changed")
    else:
        if is_done and changes:
            say(f"{task.name}: embedding again, since {_list_causes(changes)} changed")
        shutil.rmtree(folder, ignore_errors=True)
        record.stages.clear()
        record.begin(EMBEDDINGS, inputs)
        _run_embeddings(run, task, process, folder)
        record.finish(EMBEDDINGS, device=run.facts["device"])
    result.status = "embedded"
    profile = read_json_object(folder / "profile.embeddings.json")
    result.seconds[EMBEDDINGS] = profile["time_elapsed"]
    result.made[EMBEDDINGS] = record.made(EMBEDDINGS)


def _run_embeddings(
    run: HearEvalRun, task: HearFolder, process: HearevalProcess, folder: Path
) -> None:
    settings = run.settings
    arguments = [settings.module, "--tasks-dir", str(task.folder.parent), "--task", task.name]
    arguments += ["--embeddings-dir", str(run.heareval_dir)]
    arguments += ["--model-options", json.dumps(settings.model_options)]
    if settings.model:
        arguments += ["--model", str(settings.model)]
    job = Job("embed", {"arguments": arguments}, _fresh_log(run, task, EMBEDDINGS))
    total = sum(1 for _ in task.files())
    try:
        with progress(f"{task.name}: embedding", total, "file") as show:
            process.run(job, lambda: show(count_embedded(folder, task)))
        if not (folder / ".done.embeddings").is_file():
            raise JobError(f"heareval left no embeddings in {folder}")
    except JobError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    say(f"{task.name}: embedded {total} files")


def predict_task(
    run: HearEvalRun, task: HearFolder, process: HearevalProcess, result: TaskResult
) -> None:
    """Have heareval train and test predictors for one task, unless that is done already.

    Raises:
        JobError: it failed, or it has no score.
    """
    settings = run.settings
    folder = run.folder / task.name
    record = run.record(task)
    inputs: Inputs = {"grid": settings.grid, "grid_points": settings.grid_points}
    done = folder / "prediction-done.json"
    changes = record.changes(PREDICTIONS, inputs)
    is_done = read_json(done, None) is not None and read_json(folder / SCORES, None) is not None
    if is_done and changes == []:
        say(f"{task.name}: scored before, nothing changed")
    else:
        if is_done and changes:
            say(f"{task.name}: scoring again, since {_list_causes(changes)} changed")
        done.unlink(missing_ok=True)
        (folder / SCORES).unlink(missing_ok=True)
        record.begin(PREDICTIONS, inputs)
        _run_predictions(run, task, process, folder)
        record.finish(PREDICTIONS, device=run.facts["device"])
    result.scores, result.folds = read_scores(task, folder)
    result.seconds[PREDICTIONS] = read_json_object(done)["time"]
    result.made[PREDICTIONS] = record.made(PREDICTIONS)
    main = result.scores[0]
    if main.value is None:
        raise JobError(f"{main.metric} is NaN; a class may be missing from the test data")
    result.status = "scored"


def _run_predictions(
    run: HearEvalRun, task: HearFolder, process: HearevalProcess, folder: Path
) -> None:
    settings = run.settings
    arguments = [str(folder), "--grid", settings.grid, "--grid-points", str(settings.grid_points)]
    job = Job("predict", {"arguments": arguments}, _fresh_log(run, task, PREDICTIONS))
    # heareval logs as it goes on; a run before this one may have logged here too
    log = folder / "prediction.log"
    begin = log.stat().st_size if log.is_file() else 0
    total = settings.grid_points + task.models_per_grid
    with progress(f"{task.name}: predicting", total, "model") as show:
        process.run(job, lambda: show(count_trained(log, begin)))
    if read_json(folder / SCORES, None) is None:
        raise JobError(f"heareval left no scores in {folder}")
    say(f"{task.name}: scored")


def count_embedded(folder: Path, task: HearFolder) -> int:
    """Files that heareval has embedded so far."""
    count = 0
    for split in task.splits:
        if (folder / split).is_dir():
            count += sum(
                path.name.endswith(".embedding.npy") for path in (folder / split).iterdir()
            )
    return count


def count_trained(log: Path, begin: int) -> int:
    """Predictors trained so far, by heareval's log from byte `begin` on."""
    if not log.is_file():
        return 0
    text = log.read_bytes()[begin:]
    return text.count(b"  result: ") + text.count(b"Validation Score for the Training Split")


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar, and a function that sets how far it is."""
    with ProgressBar(desc=description, total=total, unit=unit, leave=False) as bar:

        def show(count: int) -> None:
            bar.n = min(count, total)
            bar.refresh()

        yield show


@contextmanager
def failure_noted(
    run: HearEvalRun, task: HearFolder, stage: str, result: TaskResult
) -> Iterator[None]:
    """Turn a JobError in the block into the reason why the task failed."""
    try:
        yield
    except JobError as error:
        result.status = "failed"
        result.reason = f"{stage}: {error}"
        result.log = str(run.log(task, stage))
        say(f"{task.name}: failed")


def _fresh_log(run: HearEvalRun, task: HearFolder, stage: str) -> Path:
    log = run.log(task, stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    return log


def _audio_cache(settings: HearEvalSettings, task: HearFolder) -> Path:
    place = hashlib.sha256(str(task.folder).encode()).hexdigest()[:6]
    return settings.embeddings_dir / RECORDS / "audio" / f"{task.name}-{place}.json"


def _list_causes(changes: Sequence[str]) -> str:
    return " and ".join(CAUSES.get(change, change) for change in changes)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
