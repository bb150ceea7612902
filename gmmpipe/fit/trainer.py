"""The fitting loop."""

import logging
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from gmmpipe.distributed import World
from gmmpipe.errors import CheckpointError, GmmpipeError, Stopped
from gmmpipe.files import remove_temporaries, write_atomic
from gmmpipe.fit.checkpoint import (
    CHECKPOINT_PATTERN,
    MODEL_FILE,
    FitState,
    check_identity,
    find_checkpoint,
)
from gmmpipe.fit.options import FitOptions
from gmmpipe.fit.schedule import LOSS_EVERY_STEPS, Update, crosses_multiple, is_loss_step
from gmmpipe.fit.start import seed_state
from gmmpipe.fit.stream import HeldFrames, UpdateStream
from gmmpipe.fit.update_metrics import (
    METRIC_COLUMNS,
    format_row,
    measure_update,
    mostly_at_floor,
    write_metrics,
)
from gmmpipe.mixture.density import StatisticsKernel, exact_log_joints
from gmmpipe.mixture.optimizers import nll_gradient
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.progress import Progress
from gmmpipe.signals import stop_signals
from gmmpipe.store.feature_store import FeatureStore

log = logging.getLogger(__name__)
OPTIONS_FILE = "options.yaml"
_STOP, _LOSS = 0, 1  # places among the numbers that travel with a step's statistics


@dataclass(frozen=True)
class FitSummary:
    """What a run of `fit` came to; frames are counted over all ranks."""

    frames: int
    updates: int
    nll: float
    frames_read: int
    frames_used: int


def fit(options: FitOptions, world: World) -> FitSummary | None:
    """Fit a mixture to feature stores, or go on with a fit, together with all ranks of `world`.

    Returns:
        What was done; None where a resumed fit had reached its target before.

    Raises:
        GmmpipeError: see `gmmpipe.errors`.
        Stopped: a signal ended the fit; a checkpoint holds what was done.
    """
    torch.set_float32_matmul_precision("highest")  # TF32 is too coarse for small variances
    return Trainer(options, FeatureStore.open(options.data_dir), world).run()


class Trainer:
    """One fit, on one rank.

    Args:
        options: what to do.
        store: the frames.
        world: this rank among the others.
    """

    def __init__(self, options: FitOptions, store: FeatureStore, world: World) -> None:
        self.options = options
        self.store = store
        self.world = world
        self.schedule = options.schedule(store)
        self.identity = options.identity(store, self.schedule)
        self.stream = UpdateStream(
            store, self.schedule, world, options.num_workers, lambda: self.stop_signal is not None
        )
        self.state: FitState | None = None
        self.stop_signal: int | None = None
        self.seconds_seeding = 0.0

    def run(self) -> FitSummary | None:
        """Seed or resume, then update after update until the target is reached."""
        began = time.monotonic()
        content = self.world.on_first_rank(self._prepare_output)
        if content:
            self._begin_fitting(FitState.from_dict(content, self.world.device))
        position = (self.state.frames, self.state.updates) if self.state else (0, 0)
        first = self.schedule.update_at(*position)
        with stop_signals(self._on_signal):
            if first is None:
                if self.state and self.state.step:
                    raise self._unfinished(self.state)
                log.info("%d frames are done already: nothing to do", position[0])
            else:
                self._fit_updates(first)
            assert self.state is not None, "a fit without a state has an update before it"
            if first or self.world.on_first_rank(lambda: not self._path(MODEL_FILE).exists()):
                self._save(self.state, MODEL_FILE)
        if mostly_at_floor(self.state.parameters, self.options.var_floor):
            log.warning(
                "warning: most variances sit at --var_floor %s: the floor makes this model, not "
                "the data; lower it, or give fewer components",
                self.options.var_floor,
            )
        return self._summarise(self.state, time.monotonic() - began) if first else None

    def _fit_updates(self, first: Update) -> None:
        target = self.schedule.target_frames
        with Progress("fit", "frames", target, first.start, line_every_seconds=0) as progress:
            updates = self.stream.updates(first)
            while (arrived := self._await_frames(updates)) is not None:
                update, held = arrived
                if self.state is None:
                    began = time.monotonic()
                    self._begin_fitting(
                        seed_state(self.options, self.schedule, update, held, self.world)
                    )
                    self.seconds_seeding = time.monotonic() - began
                row = self._fit_update(update, held)
                progress.advance(update.num_frames, f"nll {row['nll']:.4f}, {row['alive']} alive")

    def _await_frames(
        self, updates: Iterator[tuple[Update, HeldFrames | None]]
    ) -> tuple[Update, HeldFrames] | None:
        """The next update, if there is one; all ranks leave here where one is to stop or failed."""
        held, failure = None, None
        try:
            update, held = next(updates)
        except StopIteration:
            return None  # on all ranks: they have the same updates
        except GmmpipeError as error:
            failure = error
        if self.world.any(failure is not None):
            if self.state is not None:
                self._save(self.state, self.state.checkpoint_name())
            raise failure or GmmpipeError("another rank failed; its error says why")
        if self.world.any(held is None or self.stop_signal is not None):
            self._stop()
        assert held is not None, "a rank without frames has asked for a stop"
        return update, held

    def _prepare_output(self) -> dict[str, Any] | None:
        """Make the output folder ready; the content of the checkpoint to go on from, if any."""
        folder, options = self.options.output_dir, self.options
        self.store.check_files()
        folder.mkdir(parents=True, exist_ok=True)
        earlier = [p for pattern in (MODEL_FILE, CHECKPOINT_PATTERN) for p in folder.glob(pattern)]
        found = find_checkpoint(options.resume, folder) if options.resume else None
        if found:
            check_identity(*found, self.identity)
            log.info("going on from %s", found[0])
        elif options.resume:
            log.info("%s holds no checkpoint: starting afresh", folder)
        elif options.overwrite:
            for path in earlier:
                path.unlink()
        elif earlier:
            raise GmmpipeError(
                f"{folder}: holds a fit already ({earlier[0].name}); --resume auto goes on with "
                "it, --overwrite starts afresh"
            )
        remove_temporaries(folder)
        write_atomic(self._path(OPTIONS_FILE), options.to_yaml().encode())
        return found[1] if found else None

    def _begin_fitting(self, state: FitState) -> None:
        self.state = state
        parameters = state.parameters
        self.kernel = StatisticsKernel(self.options.K, state.center, extra=2)
        self.gradient = Parameters.view(torch.zeros_like(parameters.flat), *parameters.means.shape)
        self._write_metrics(state)

    def _fit_update(self, update: Update, held: HeldFrames) -> dict[str, float]:
        """All steps of an update and, where one is due, its checkpoint; its metrics."""
        state = self.state
        assert state is not None
        if state.at_start is None:
            state.at_start = state.parameters.clone()
            state.update_stop = update.stop
        elif state.update_stop != update.stop:
            raise self._unfinished(state)
        for step in range(state.step, update.num_steps):
            stop = self._fit_step(state, update, held, step)
            state.step = step + 1
            if stop:
                self._stop()
        avg_loss = state.loss_sum / state.loss_count
        row = measure_update(
            update, held, state.parameters, state.at_start, avg_loss, self.schedule, self.world
        )
        if not math.isfinite(row["nll"]):
            raise GmmpipeError(
                f"update {update.index + 1} left a mixture that is not finite; try a lower --lr"
            )
        state.end_update(update.stop, format_row(row))
        self._write_metrics(state)
        if crosses_multiple(update.start, update.stop, self.options.save_every):
            self._save(state, state.checkpoint_name())
        return row

    def _fit_step(self, state: FitState, update: Update, held: HeldFrames, step: int) -> bool:
        """Draw, statistics, gradient, Adam; whether all ranks are to stop now."""
        parameters = state.parameters
        log_weights = parameters.log_weights
        frames = held.select(self.schedule.step_frames(update, step))
        statistics = self.kernel(frames, parameters.means, parameters.log_vars, log_weights)
        if is_loss_step(step):
            model = (parameters.means, parameters.log_vars, log_weights)
            for _, _, joints in exact_log_joints(frames, *model):
                statistics.extra[_LOSS] -= torch.logsumexp(joints, 1).sum()
        statistics.extra[_STOP] = float(self.stop_signal is not None)
        self.world.all_reduce(statistics.flat)
        num_frames = self.schedule.frames_per_step
        nll_gradient(statistics, parameters, self.kernel.center, num_frames, out=self.gradient)
        lr = self.schedule.lr_at(update, step)
        state.adam.step(parameters.flat, self.gradient.flat, lr)
        parameters.log_vars.clamp_(min=math.log(self.options.var_floor))
        if is_loss_step(step):
            state.loss_sum += float(statistics.extra[_LOSS]) / num_frames
            state.loss_count += 1
        # Looking at the flag waits for a GPU: there, only now and then.
        look = self.world.device.type == "cpu" or step % LOSS_EVERY_STEPS == 0
        return look and bool(statistics.extra[_STOP] > 0)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.state is None:
            raise Stopped(signum)  # nothing to keep yet: reading and seeding are done again
        self.stop_signal = signum

    def _stop(self) -> None:
        """Leave a checkpoint and end; all ranks are here after the same step."""
        assert self.state is not None, "before there is a state, a signal ends the process at once"
        self._save(self.state, self.state.checkpoint_name())
        self._count_frames(self.state)
        log.info("--resume auto goes on from there")
        raise Stopped(self.stop_signal or signal.SIGTERM)

    def _write_metrics(self, state: FitState) -> None:
        folder = self.options.output_dir
        self.world.on_first_rank(lambda: write_metrics(folder, state.metrics))

    def _save(self, state: FitState, name: str) -> None:
        path = self._path(name)
        self.world.on_first_rank(lambda: state.save(path, self.identity, self.store.features))
        log.info("wrote %s", path)

    def _unfinished(self, state: FitState) -> CheckpointError:
        return CheckpointError(
            f"the fit was stopped inside an update that ends at {state.update_stop} frames; finish "
            f"that with --target_frames {state.update_stop} before choosing another"
        )

    def _path(self, name: str) -> Path:
        return self.options.output_dir / name

    def _count_frames(self, state: FitState) -> tuple[int, int]:
        """Frames read and used, over all ranks; says what became of them."""
        counts = torch.tensor(
            [self.stream.frames_read, self.stream.frames_used],
            dtype=torch.int64,
            device=self.world.device,
        )
        self.world.all_reduce(counts)
        frames_read, frames_used = (int(count) for count in counts)
        log.info(
            "frames: %d done in %d updates; %d read = %d used + %d dropped",
            state.frames,
            state.updates,
            frames_read,
            frames_used,
            frames_read - frames_used,
        )
        return frames_read, frames_used

    def _summarise(self, state: FitState, seconds: float) -> FitSummary:
        frames_read, frames_used = self._count_frames(state)
        nll = float(state.metrics[-1].split("\t")[METRIC_COLUMNS.index("nll")])
        log.info(
            "seconds: %.1f in all, %.1f seeding, %.1f waiting for frames; final nll %.4f nats",
            seconds,
            self.seconds_seeding,
            self.stream.seconds_waiting,
            nll,
        )
        return FitSummary(state.frames, state.updates, nll, frames_read, frames_used)
