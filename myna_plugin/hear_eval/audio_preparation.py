"""A task's audio made ready for heareval: every file checked, then resampled where needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from myna_plugin.common.errors import InputError, say
from myna_plugin.common.files import digest_pairs, digest_path
from myna_plugin.hear_eval.audio_check import AudioCheck, AudioFacts
from myna_plugin.hear_eval.resampling import (
    AudioPlan,
    Key,
    plan_audio,
    planned_frames,
    resample_task,
)
from myna_plugin.probing.tasks.hear_folder import METADATA, VOCABULARY, HearFolder


def prepare_audio(
    tasks: Mapping[HearFolder, AudioCheck], sample_rate: int, allow_silent: bool
) -> dict[HearFolder, str]:
    """Check the audio of all tasks, then give those that lack it a folder at `sample_rate`.

    Nothing is written before every file of every task has passed.

    Args:
        tasks: each with what is known of its files.
        sample_rate: of the model, Hz.
        allow_silent: let files without a sound pass.

    Returns:
        For each task, a digest of all that its embeddings depend on: labels, metadata and samples.

    Raises:
        InputError: one line for each file that cannot be used.
    """
    plans = {task: plan_audio(task, sample_rate) for task in tasks}
    facts: dict[HearFolder, dict[Path, AudioFacts]] = {}
    faults: list[str] = []
    for task, plan in plans.items():
        facts[task], found = check_audio(task, plan, tasks[task], sample_rate, allow_silent)
        faults += found
    if faults:
        raise InputError(*faults)
    digests = {}
    for task, plan in plans.items():
        if plan.sources:
            resample_task(task, plan.sources, facts[task], sample_rate)
            _say_resampled(task, [facts[task][path] for path in plan.sources.values()], sample_rate)
            plan = plan_audio(task, sample_rate)
            facts[task], faults = check_audio(task, plan, tasks[task], sample_rate, allow_silent)
            if faults:
                raise InputError(*faults)
        tasks[task].save()
        digests[task] = digest_task(task, plan, facts[task])
    return digests


def check_audio(
    task: HearFolder, plan: AudioPlan, check: AudioCheck, sample_rate: int, allow_silent: bool
) -> tuple[dict[Path, AudioFacts], list[str]]:
    """Look into every file of a task.

    Returns:
        What the files hold, and one line for each that cannot be used.
    """
    files = {**plan.present, **plan.sources}
    facts, errors = check.inspect(files.values(), f"{task.name}: checking audio")
    faults = []
    for (split, name), path in files.items():
        if path in errors:
            faults.append(f"{errors[path]}; replace it, or take {name} out of {split}.json")
        elif facts[path].silent and not allow_silent:
            faults.append(
                f"{path}: is silent, every sample is zero; replace it, take {name} out of "
                f"{split}.json, or pass --allow-silent"
            )
        elif (split, name) in plan.present:
            faults += _present_faults(path, facts[path], sample_rate)
    return facts, faults or list(_length_faults(task, plan, facts, sample_rate))


def heareval_batch_size(sample_duration: float | None, sample_rate: int) -> int:
    """Sounds that heareval stacks into one batch (task_embeddings.py:417).

    >>> heareval_batch_size(4.0, 16_000), heareval_batch_size(None, 16_000)
    (21, 1)
    """
    if sample_duration is None:
        return 1
    return max(1, int(0.7 * (120 / sample_duration) * (16000 / sample_rate)))


def digest_task(task: HearFolder, plan: AudioPlan, facts: Mapping[Path, AudioFacts]) -> str:
    """A digest of a task's labels, metadata and samples; neither dates nor formats matter."""
    texts = [METADATA, VOCABULARY, *(f"{split}.json" for split in task.splits)]
    pairs = [(name, digest_path(task.folder / name)) for name in texts]
    pairs += [("/".join(key), facts[path].digest) for key, path in sorted(plan.present.items())]
    return digest_pairs(pairs)


def _say_resampled(task: HearFolder, sources: Sequence[AudioFacts], sample_rate: int) -> None:
    rates = " and ".join(str(rate) for rate in sorted({facts.sample_rate for facts in sources}))
    message = f"{task.name}: made {len(sources)} files of {sample_rate} Hz from {rates} Hz"
    lower = sum(facts.sample_rate < sample_rate for facts in sources)
    say(message + (f"; {lower} lack the upper frequencies" if lower else ""))


def _present_faults(path: Path, facts: AudioFacts, sample_rate: int) -> list[str]:
    remedy = f"remove the folder {path.parents[1]} to have it made from another rate's"
    if facts.sample_rate != sample_rate:
        return [f"{path}: its sample rate is {facts.sample_rate} Hz, not {sample_rate}; {remedy}"]
    if facts.channels != 1:
        return [f"{path}: has {facts.channels} channels, not 1; mix it to mono, or {remedy}"]
    return []


def _length_faults(
    task: HearFolder, plan: AudioPlan, facts: Mapping[Path, AudioFacts], sample_rate: int
) -> Iterator[str]:
    """heareval stacks a batch of sounds into one array, so they must be equally long."""
    batch_size = heareval_batch_size(task.sample_duration, sample_rate)
    for split, labels in task.splits.items():
        keys = [(split, name) for name in labels]
        for start in range(0, len(keys), batch_size):
            batch = keys[start : start + batch_size]
            lengths = {key: _frames(task, plan, facts, key, sample_rate) for key in batch}
            usual = Counter(lengths.values()).most_common(1)[0][0]
            for key, frames in lengths.items():
                if frames != usual:
                    path = plan.present.get(key) or plan.sources[key]
                    yield (
                        f"{path}: lasts {frames / sample_rate:.3f} s and others "
                        f"{usual / sample_rate:.3f} s; cut or pad it, or set sample_duration to "
                        f"null in {task.folder / METADATA}"
                    )


def _frames(
    task: HearFolder,
    plan: AudioPlan,
    facts: Mapping[Path, AudioFacts],
    key: Key,
    sample_rate: int,
) -> int:
    if key in plan.present:
        return facts[plan.present[key]].frames
    return planned_frames(task, facts[plan.sources[key]], sample_rate)
