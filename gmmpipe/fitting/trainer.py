"""The fitting loop."""

import logging
import math
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from types import FrameType

import torch

from gmmpipe.errors import CheckpointError, GmmpipeError, NoAnswerError, RankGoneError, Stopped
from gmmpipe.fitting.checkpoint import MODEL_FILE, FitState
from gmmpipe.fitting.event_files import EventFiles
from gmmpipe.fitting.folder import FitFolder
from gmmpipe.fitting.held_out import HeldOut
from gmmpipe.fitting.initial_state import seed_state
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.schedule import Update, crosses_multiple
from gmmpipe.fitting.step import Stepper
from gmmpipe.fitting.summary import FitSummary, Times, count_frames, summarise
from gmmpipe.fitting.update_metrics import EVAL_COLUMN, format_row, measure_update, mostly_at_floor
from gmmpipe.fitting.update_reader import HeldFrames, UpdateStream
from gmmpipe.run.progress import Progress
from gmmpipe.run.signals import is_orphaned, stop_signals
from gmmpipe.run.world import World
from gmmpipe.store.feature_store import FeatureStore

log = logging.getLogger(__name__)


def fit(options: FitOptions, world: World) -> FitSummary | None:
    """Fit a mixture to feature stores, or go on with a fit, together with all ranks of `world`.

    Returns:
        What was done; None where a resumed fit had reached its target before.

    Raises:
        GmmpipeError: see `gmmpipe.errors`.
        Stopped: a signal ended the fit; a checkpoint holds what was done.
    """
    torch.set_float32_matmul_precision("highest")  # TF32 is too coarse for small variances
    store = FeatureStore.open(options.data_dir)
    held_out = None
    if options.eval_data_dir:
        held_out = HeldOut.read(options.eval_data_dir, store.features, world)
    return Trainer(options, store, held_out, world).run()


class Trainer:
    """One fit, on one rank.

    Args:
        options: what to do.
        store: the frames.
        held_out: what else to evaluate on after each update, if anything.
        world: this rank among the others.
    """

    def __init__(
        self, options: FitOptions, store: FeatureStore, held_out: HeldOut | None, world: World
    ) -> None:
        self.options = options
        self.held_out = held_out
        self.world = world = replace(world, stopping=self._is_stopping)
        self.schedule = options.schedule(store)
        self.folder = FitFolder(options, store, options.identity(store, self.schedule), world)
        self.stream = UpdateStream(
            store, self.schedule, world, options.num_workers, self._is_stopping
        )
        self.state: FitState | None = None
        self.stop_signal: int | None = None
        self.times = Times()

    def run(self) -> FitSummary | None:
        """Seed or resume, then update after update until the target is reached."""
        with closing(self.folder):
            return self._run()

    def _run(self) -> FitSummary | None:
        content = self.folder.prepare()
        if content:
            self.state = FitState.from_dict(content, self.world.device)
        position = (self.state.frames, self.state.updates) if self.state else (0, 0)
        first = self.schedule.update_at(*position)
        with stop_signals(self._on_signal), self._keeping_what_is_left():
            if first is None:
                if self.state and self.state.step:
                    raise self._unfinished(self.state)
                log.info("%d frames are done already: nothing to do", position[0])
            else:
                self._fit_updates(first)
            assert self.state is not None, "a fit without a state has an update before it"
            if first:
                self.folder.save_model(self.state)
            elif not self.folder.holds_result(self.state):
                log.info("%s or metrics.tsv is damaged or missing: made again", MODEL_FILE)
                self.folder.begin(self.state)
                self.folder.save_model(self.state)
        if mostly_at_floor(self.state.parameters.mixture, self.state.var_floor):
            log.warning(
                "warning: most variances sit at --var_floor %s: the floor makes this model, not "
                "the data; lower it, or give fewer components",
                self.options.var_floor,
            )
        return summarise(self.state, self.stream, self.times, self.world) if first else None

    def _fit_updates(self, first: Update) -> None:
        target = self.schedule.target_frames
        with (
            Progress("fit", "frames", target, first.start, line_every_seconds=0) as progress,
            self.folder.open_events(first.start) as events,
        ):
            if self.state is not None:
                self._begin_fitting(self.state)
            updates = self.stream.updates(first)
            while (arrived := self._await_frames(updates)) is not None:
                update, held = arrived
                if self.state is None:
                    state = self._seed(update, held)
                    self._stop_if_asked()
                    self.state = state
                    self._begin_fitting(state)
                with self.times.count("fitting"):
                    row = self._fit_update(update, held, events)
                progress.advance(update.num_frames, f"nll {row['nll']:.4f}, {row['alive']} alive")

    def _await_frames(
        self, updates: Iterator[tuple[Update, HeldFrames | None]]
    ) -> tuple[Update, HeldFrames] | None:
        """The next update, if there is one; all ranks leave here where one is to stop or failed."""
        try:
            with self.times.count("waiting"):
                arrived = self.world.on_each_rank(lambda: next(updates, None))
        except RankGoneError:
            raise  # what is left is kept without the others
        except GmmpipeError:
            if self.state is not None:
                self.folder.save_checkpoint(self.state)
            raise
        if arrived is None:
            return None  # on all ranks: they have the same updates
        update, held = arrived
        self._stop_if_asked()
        assert held is not None, "a rank without frames has asked for a stop"
        return update, held

    def _seed(self, update: Update, held: HeldFrames) -> FitState:
        with self.times.count("seeding"):
            return seed_state(self.options, self.schedule, update, held, self.world)

    def _begin_fitting(self, state: FitState) -> None:
        if self.held_out:
            state.evaluate_on(self.held_out.digests)
        self.stepper = Stepper(self.schedule, state, self.world, self._is_stopping)
        self.folder.begin(state)

    def _fit_update(self, update: Update, held: HeldFrames, events: EventFiles) -> dict[str, float]:
        """All steps of an update and, where one is due, its checkpoint; its metrics."""
        state = self.state
        assert state is not None
        if state.at_start is None:
            state.at_start = state.parameters.clone()
            state.update_stop = update.stop
        elif state.update_stop != update.stop:
            raise self._unfinished(state)
        while state.step < update.num_steps:
            if self.stepper.step(update, held):
                self._stop()
        self._stop_if_asked()
        self._check_mixture(state)
        avg_loss, mixture = state.loss_sum / state.loss_count, state.parameters.mixture
        before = state.at_start.mixture
        row = measure_update(update, held, mixture, before, avg_loss, self.schedule, self.world)
        if self.held_out:
            self._stop_if_asked()
            row[EVAL_COLUMN] = self.held_out.nll(mixture, self.world)
        if not math.isfinite(row["nll"]):
            raise self._ran_away(state)
        state.end_update(update.stop, format_row(row))
        self.folder.write_metrics(state)
        events.write(row)
        if crosses_multiple(update.start, update.stop, self.options.save_every):
            self.folder.save_checkpoint(state)
        return row

    def _is_stopping(self) -> bool:
        return self.stop_signal is not None or is_orphaned()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.state is None:
            raise Stopped(signum)  # nothing to keep yet: reading and seeding are done again
        self.stop_signal = signum

    def _stop_if_asked(self) -> None:
        if self.world.any(self._is_stopping(), short=True):
            self._stop()

    def _stop(self) -> None:
        """Leave a checkpoint, if there is something to keep; all ranks are here alike."""
        if is_orphaned():
            log.warning("warning: torchrun is gone")
        if self.state is not None:
            self._check_mixture(self.state)
            self.folder.save_checkpoint(self.state)
            count_frames(self.state, self.stream, self.world)
            log.info("--resume auto goes on from there")
        raise Stopped(self.stop_signal or signal.SIGTERM)

    @contextmanager
    def _keeping_what_is_left(self) -> Iterator[None]:
        """Where another rank is gone, leave a checkpoint of the last whole step by this one alone.

        All that are left do: each has the same state, and any of them may be who sees the folder.
        """
        try:
            yield
        except RankGoneError as error:
            kept = None
            if self.state is not None:
                self._check_mixture(self.state)
                kept = self.folder.keep(self.state)
            if isinstance(error, NoAnswerError):
                log.warning("warning: another rank does not answer")
                raise Stopped(self.stop_signal or signal.SIGTERM) from error
            if kept is None:
                raise
            raise RankGoneError(f"{error}; --resume auto goes on from {kept}") from error

    def _check_mixture(self, state: FitState) -> None:
        """Make sure that the steps so far have left a mixture at all."""
        parameters = state.parameters
        variances = parameters.log_vars.exp()
        sound = parameters.flat.isfinite().all() & variances.isfinite().all()
        lowest = state.var_floor * (1 - 1e-5)  # a float32 logarithm and its exponential
        if not (sound and (variances >= lowest).all()):
            raise self._ran_away(state)

    def _ran_away(self, state: FitState) -> GmmpipeError:
        return GmmpipeError(
            f"update {state.updates + 1} left a mixture that is not finite, or below the floor; "
            f"try a lower --lr than {self.options.lr:g}"
        )

    def _unfinished(self, state: FitState) -> CheckpointError:
        return CheckpointError(
            f"the fit was stopped inside an update that ends at {state.update_stop} frames; finish "
            f"that with --target_frames {state.update_stop} before choosing another"
        )
