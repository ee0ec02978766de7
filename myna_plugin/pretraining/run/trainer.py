"""A whole training run: checks, model, loop, checkpoints, and what is written at the end."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import signal
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from myna_plugin.common.devices import choose_device, without_mps
from myna_plugin.common.errors import UnfinishedError
from myna_plugin.common.launch import launched_rank
from myna_plugin.common.progress import ProgressBar
from myna_plugin.model.checkpoint import save_checkpoint
from myna_plugin.model.encoder import MynaEncoder
from myna_plugin.pretraining.run import distributed
from myna_plugin.pretraining.run.building import build_objective, first_encoder, load_frames
from myna_plugin.pretraining.run.monitoring import (
    Events,
    Stopwatch,
    cut_pairs,
    draw_curve,
    draw_reconstructions,
    matmul_ceiling,
    measure,
)
from myna_plugin.pretraining.run.plan import (
    PretrainPlan,
    flops_per_clip,
    uses_bfloat16,
)
from myna_plugin.pretraining.run.run_files import (
    PROBE,
    ProgressTable,
    RunError,
    find_best_probe,
    read_table,
)
from myna_plugin.pretraining.run.signals import Signals
from myna_plugin.pretraining.step.autoencoder import MaskedAutoencoder
from myna_plugin.pretraining.step.crops import SINGLE, Views, ViewSampler
from myna_plugin.pretraining.step.losses import rank, world_size
from myna_plugin.pretraining.step.optimiser import build_optimiser, rate_at, set_learning_rate
from myna_plugin.pretraining.step.patches import HostViews
from myna_plugin.pretraining.step.training_step import TrainingStep

Probe = Callable[[MynaEncoder], Mapping[str, float]]
"""Gives a copy of the encoder validation scores, higher is better, by the name of the task."""

OnStep = Callable[[int, Tensor], None]
"""Is told of every step taken, from 1, and the loss of each patching, before they are added up."""

SHOWN_CLIPS = 4
"""Clips in the picture of reconstructions, as in the paper's Appendix B."""


class DivergedError(UnfinishedError):
    """The loss or a weight is not finite any more; the message names the last good checkpoint."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: steps taken, those before a resumption included.
        stopped_by: the signal that ended it early, if one did.
        last_row: the last row of train.csv.
    """

    step: int
    stopped_by: signal.Signals | None
    last_row: dict[str, str]


def train(
    plan: PretrainPlan,
    say: Callable[[str], None] = print,
    probe: Probe | None = None,
    on_step: OnStep | None = None,
) -> Outcome:
    """Train as planned, in this process and those that `torchrun` started beside it.

    Args:
        plan: from `plan_run`.
        say: receives lines for the user, in the first process only.
        probe: scores the encoder where the settings name tasks; called in the first process only,
            while the others wait (NCCL's patience is ten minutes).
        on_step: called after every step.

    Raises:
        RunError: several processes do not see the same checkpoints.
        DivergedError: the loss or a weight became NaN or infinite.
        WriteError: a checkpoint could not be written.
    """
    if plan.finished:
        if launched_rank() == 0:
            say(f"{plan.folder.path}: already finished after {plan.first_step:,} steps")
        return Outcome(plan.first_step, None, read_table(plan.folder.table)[-1])
    device = distributed.launched_device(without_mps(choose_device(plan.settings.device)))
    with distributed.process_group(device):
        if not distributed.agree(plan.first_step, device):
            raise RunError(
                f"{plan.folder.path}: the processes found different checkpoints; all machines "
                "must see the same folder"
            )
        return Trainer(plan, device, say, probe, on_step).run()


class Trainer:
    """The parts of a run, and its loop.

    Args:
        plan: what to do.
        device: of this process.
        say: receives lines for the user, in the first process only.
        probe: see `train`.
        on_step: see `train`.
    """

    def __init__(
        self,
        plan: PretrainPlan,
        device: torch.device,
        say: Callable[[str], None],
        probe: Probe | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.plan = plan
        self.probe = probe
        self.on_step = on_step
        self.settings = settings = plan.settings
        self.device = device
        self.first = distributed.is_first()
        self.say = say if self.first else _ignore
        self.bfloat16 = uses_bfloat16(settings)
        self.resident = load_frames(plan, device, self.say)
        self.encoder = first_encoder(plan, self.say).to(device)
        self.objective = build_objective(plan, self.encoder, self.resident, device)
        self.optimiser = build_optimiser(
            settings.optimiser,
            self.objective,
            settings.learning_rate,
            settings.weight_decay,
            settings.scheduled,
        )
        if world_size() > 1:
            distributed.average_before_update(self.optimiser)
        self.step = TrainingStep(
            self.objective, self.optimiser, settings.graph and device.type == "cuda"
        )
        self.sampler = self._build_sampler(plan.trained, settings.batch_size, device)
        self._restore()

    # ---------------------------------------------------------------------------------
    # Parts
    # ---------------------------------------------------------------------------------

    def _build_sampler(
        self, clips: np.ndarray, batch_size: int, device: torch.device, alone: bool = False
    ) -> ViewSampler:
        """Draws views of some clips, where the frames are; `alone` for this process by itself."""
        store, settings = self.plan.store, self.settings
        return ViewSampler(
            store.offsets[clips],
            store.frames[clips],
            batch_size=batch_size,
            patchings=settings.patchings,
            masking=settings.masking,
            mask_ratio=settings.mask_ratio,
            crop_frames=settings.crop_frames,
            seed=settings.seed,
            device=device if self.resident is not None and not alone else "cpu",
            rank=0 if alone else rank(),
            world_size=1 if alone else world_size(),
            clips_per_block=1 if alone else settings.clips_per_block,
            versions=SINGLE if alone else settings.view_versions,
        )

    def _views(self) -> Generator[Views, None, None]:
        """Views of the steps still to be taken."""
        first, last = self.plan.first_step, self.plan.total_steps
        if self.resident is not None:
            for step in range(first, last):
                yield self.sampler.draw(step)
        else:
            whole = self.settings.objective == "mae"
            ahead = HostViews(self.plan.store, self.sampler, self.device, whole=whole)
            yield from ahead.stream(first, last)

    # ---------------------------------------------------------------------------------
    # Loop
    # ---------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Take all steps that are left, and write what belongs at the end."""
        plan, settings, step = self.plan, self.settings, self.plan.first_step
        if step:
            self.say(f"goes on after step {step:,} of {plan.total_steps:,}")
        watch = self._stopwatch()
        table = ProgressTable(plan.folder.table, step) if self.first else None
        stopped_by = None
        with (
            Signals() as signals,
            contextlib.closing(self._events()) as events,
            self._progress_bar() as bar,
            contextlib.closing(self._views()) as all_views,
        ):
            crops = self._monitored_crops() if self.first else None
            total, since = torch.zeros(len(settings.patchings), device=self.device), step
            watch.start()
            for views in all_views:
                if settings.scheduled:
                    set_learning_rate(self.optimiser, self._rate(step))
                # Summed on the device: reading the loss would make the CPU wait for every step.
                losses = self.step(views)
                step += 1
                if self.on_step is not None:
                    self.on_step(step, losses)
                total += losses
                last = step == plan.total_steps
                to_log = last or step % settings.log_every == 0
                stopped_by = self._agree_to_stop(signals, to_log)
                to_measure = last or step % settings.monitor_every == 0
                to_probe = self._probe_is_due(step)
                # A probe's step too: else a run that goes on from before it might not find the
                # scores again that best_probe.safetensors has.
                to_save = last or to_probe or step % settings.checkpoint_every == 0
                to_save = to_save or stopped_by is not None
                if to_log or to_save or to_measure or to_probe:
                    row = self._read_losses(total, since, step) | watch.look(step - since)
                    bar.update(step - since)
                    bar.set_postfix(_postfix(row))
                    total.zero_()
                    since = step
                    if crops is not None and to_measure:
                        row |= self._measure(crops)
                    if to_probe and self.first:
                        row |= self._run_probe(step)
                    if table is not None:
                        table.add(row)
                        events.add(step, {k: v for k, v in row.items() if k != "step"})
                        self._keep_best_probe(step)
                    if to_save:
                        self._save(step)
                    watch.start()
                if stopped_by:
                    break
        if step >= plan.total_steps:
            stopped_by = None
            if self.first:
                self._finish(step)
        distributed.wait_for_all()
        return Outcome(step, stopped_by, next(reversed(read_table(plan.folder.table)), {}))

    def _stopwatch(self) -> Stopwatch:
        batch_size = self.settings.batch_size
        work = flops_per_clip(self.settings) * batch_size / world_size()
        return Stopwatch(batch_size, work, matmul_ceiling(self.device, self.bfloat16))

    def _progress_bar(self) -> ProgressBar:
        return ProgressBar(
            desc="pretrain",
            total=self.plan.total_steps,
            initial=self.plan.first_step,
            unit="step",
            disable=not self.first,
            dynamic_ncols=True,
        )

    def _agree_to_stop(self, signals: Signals, to_log: bool) -> signal.Signals | None:
        """The signal to stop by, the same in all processes; several ask only at every row."""
        if world_size() == 1:
            return signals.received
        if not to_log:
            return None
        stop = distributed.any_process(signals.received is not None, self.device)
        return (signals.received or signal.SIGTERM) if stop else None

    def _read_losses(self, total: Tensor, since: int, step: int) -> dict[str, float]:
        """Mean losses of the steps after `since`; waits for the GPU."""
        losses = distributed.average(total / (step - since)).tolist()
        loss = sum(losses) / len(losses)
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} in steps {since + 1} to {step}; {self.plan.folder.last_good()}"
            )
        row: dict[str, float] = {"step": step, "epoch": step / self.sampler.steps_per_epoch}
        row["loss"] = loss
        row |= {
            f"loss_{name}": value
            for name, value in zip(self.settings.patchings, losses, strict=True)
        }
        return row | {"learning_rate": self._rate(step - 1)}

    def _rate(self, step: int) -> float:
        """Learning rate of a step."""
        settings = self.settings
        return rate_at(
            step,
            self.plan.total_steps,
            settings.learning_rate,
            settings.schedule,
            settings.warmup_steps,
        )

    def _events(self) -> Events:
        wanted = self.first and self.settings.tensorboard
        folder = self.plan.folder.path / "events" if wanted else None
        return Events(folder, self.plan.first_step, self.say)

    def _monitored_crops(self) -> Tensor:
        plan, settings = self.plan, self.settings
        crops = cut_pairs(plan.store, plan.monitored, settings.crop_frames, settings.seed)
        return crops.to(self.device)

    def _measure(self, crops: Tensor) -> dict[str, float]:
        return asdict(measure(self.encoder, crops, self.settings.temperature, self.bfloat16))

    def _probe_is_due(self, step: int) -> bool:
        """Whether to probe after a step: the same in all processes, and never without tasks."""
        every = self.settings.probe_every
        on_the_way = every > 0 and step % every == 0
        return bool(self.settings.probe_tasks) and (on_the_way or step == self.plan.total_steps)

    def _run_probe(self, step: int) -> dict[str, float]:
        """Validation scores of a copy of the encoder, by column of the table."""
        if self.probe is None:
            return {}
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                scores = self.probe(copy.deepcopy(self.encoder).requires_grad_(False))
        except (ValueError, OSError, torch.OutOfMemoryError) as error:
            # What has become of a task's files, say, must not cost a run of days.
            self.say(f"step {step:,}: the probe failed ({error})")
            return {}
        told = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
        self.say(f"step {step:,}: probes on validation: {told}")
        return {PROBE + name: float(score) for name, score in scores.items()}

    def _keep_best_probe(self, step: int) -> None:
        """Write the encoder if this step's probe is the best so far."""
        if self.probe is None or not self._probe_is_due(step):
            return
        folder = self.plan.folder
        best = find_best_probe(read_table(folder.table))
        if best is not None and best[0] == step:
            save_checkpoint(self.encoder, folder.best_probe, self._facts(step))

    # ---------------------------------------------------------------------------------
    # Files
    # ---------------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        finite = torch.stack([p.isfinite().all() for p in self.objective.parameters()]).all()
        if not finite.item():
            raise DivergedError(
                f"weights are not finite after step {step}; {self.plan.folder.last_good()}"
            )
        if self.first:
            self.plan.folder.save(
                step,
                {
                    "settings": self.settings.to_mapping(),
                    "fingerprint": self.plan.store.fingerprint,
                    "world_size": world_size(),
                    "objective": self.objective.state_dict(),
                    "optimiser": self.optimiser.state_dict(),
                },
            )

    def _restore(self) -> None:
        state = self.plan.state
        if state is None:
            return
        self.objective.load_state_dict(state["objective"])
        # Of the groups' options nothing may differ but what the device asks for.
        options = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({**state["optimiser"], "param_groups": options})
        if state["world_size"] != world_size():
            self.say(
                f"begun with {state['world_size']} processes, now {world_size()}: from here on "
                "crops and masks are drawn differently"
            )

    def _finish(self, step: int) -> None:
        """Write the encoder and the pictures, and say how to load it."""
        folder = self.plan.folder
        save_checkpoint(self.encoder, folder.final, self._facts(step))
        self._draw()
        best = find_best_probe(read_table(folder.table))
        if best is not None:
            told = ", ".join(f"{name} {score:.3f}" for name, score in best[1].items())
            self.say(f"best probe on validation: {told}, after step {best[0]:,}")
            self.say(f"  {folder.best_probe}")
        self.say(f"{folder.path}: {step:,} steps done; load the model with")
        self.say(f"  myna_plugin.load_model({str(folder.final)!r})")

    def _facts(self, step: int) -> dict[str, str]:
        """What a saved encoder says about itself."""
        return {
            "steps": str(step),
            "settings": json.dumps(self.settings.to_mapping()),
            "store": self.plan.store.fingerprint,
        }

    def _draw(self) -> None:
        """The run's pictures, or a line of how to have them: the weights are there without."""
        try:
            draw_curve(self.plan.folder.path / "loss.png", read_table(self.plan.folder.table))
            if self.settings.objective == "mae":
                self._draw_reconstructions()
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "matplotlib":
                raise
            self.say("no pictures of the run: `pip install matplotlib` adds them to later ones")

    def _draw_reconstructions(self) -> None:
        clips = self.plan.monitored[:SHOWN_CLIPS]
        assert isinstance(self.objective, MaskedAutoencoder)
        sampler = self._build_sampler(clips, len(clips), self.device, alone=True)
        views = HostViews(self.plan.store, sampler, self.device, whole=True).gather(0)
        for patching in self.settings.patchings:
            pictures = self.objective.reconstruct(views.to(self.device), patching)
            path = self.plan.folder.path / f"reconstruction_{patching}.png"
            draw_reconstructions(path, pictures)


def _ignore(_: str) -> None:
    """What the other processes have to say is what the first one says."""


def _postfix(row: dict[str, float]) -> dict[str, str]:
    """What the progress bar shows beside the time left."""
    shown = {"loss": f"{row['loss']:.4f}", "examples/s": f"{row['examples_per_s']:,.0f}"}
    if "ceiling_fraction" in row:
        shown["of ceiling"] = f"{row['ceiling_fraction']:.0%}"
    return shown
