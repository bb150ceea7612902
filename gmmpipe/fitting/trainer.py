"""A fit, from the store's frames to the finished model."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from gmmpipe.errors import GmmpipeError, RankGoneError
from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.dead_centers import move_dead_centers
from gmmpipe.fitting.folder import fit_folder, trackers_of
from gmmpipe.fitting.gpu_step import GpuStepper
from gmmpipe.fitting.held_out import HeldOut
from gmmpipe.fitting.initial_state import seed_state
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.schedule import Schedule, Update, crosses_multiple
from gmmpipe.fitting.step import Stepper
from gmmpipe.fitting.summary import FitSummary, Times, count_frames, summarise
from gmmpipe.fitting.update_metrics import (
    EVAL_COLUMN,
    format_row,
    measure_inertia,
    measure_update,
    mostly_at_floor,
)
from gmmpipe.fitting.update_reader import HeldFrames, UpdateReader
from gmmpipe.mixture.kernels import check_kind
from gmmpipe.mixture.matmul import matmul_precision
from gmmpipe.run.progress import Progress
from gmmpipe.run.run_folder import RunFolder
from gmmpipe.run.stop import StopRequest
from gmmpipe.run.world import World
from gmmpipe.store.feature_store import FeatureStore

log = logging.getLogger(__name__)
Updates = Iterator[tuple[Update, HeldFrames | None]]
Arrived = tuple[Update, HeldFrames]
"""An update whose frames are there."""


@matmul_precision("highest")  # TF32 is too coarse for small variances
def fit(
    options: FitOptions, world: World, draw: Callable[[Path], Sequence[Path]] | None = None
) -> FitSummary | None:
    """Fit a mixture to feature stores, or go on with a fit, together with all ranks of `world`.

    Args:
        options: of the fit.
        world: the ranks.
        draw: gives the pictures of a finished fit's folder, for where its metrics are tracked.

    Returns:
        What was done; None where a resumed fit had reached its target before.

    Raises:
        GmmpipeError: see `gmmpipe.errors`.
        Stopped: a signal ended the fit; a checkpoint holds what was done.
    """
    check_kind(options.kernel_kind, world.device)
    if options.matmul != "highest" and world.device.type == "cpu":
        log.warning("warning: --matmul %s changes nothing on a CPU", options.matmul)
    stop, times = StopRequest(), Times()
    world = replace(world, stopping=stop.is_made)
    store = FeatureStore.open(options.data_dir)
    held_out = None
    if options.eval_data_dir:
        held_out = HeldOut.read(options.eval_data_dir, store.features, world)
    schedule = options.schedule(store)
    reader = UpdateReader(store, schedule, world, options.num_workers, stop.is_made)
    folder = fit_folder(options, store, schedule, world)

    with folder.prepared() as content:
        state = FitState.from_dict(content, world.device) if content else None
        frames, num_updates = (state.frames, state.updates) if state else (0, 0)
        first = schedule.update_at(frames, num_updates)
        if first is None:
            assert state is not None, "a fit without a state has an update before it"
            with stop.listening():
                _end_again(options, folder, state)
            return None

        bar = Progress("fit", "frames", options.target_frames, frames, line_every_seconds=0)
        with bar as progress, closing(trackers_of(options, state, world)) as trackers:
            updates = reader.updates(first)
            arrived: list[Arrived] = []
            if state is None:
                state, arrived = _seed(options, schedule, updates, world, stop, times)
            fitting = _Fitting(options, schedule, held_out, folder, reader, state, world, stop)
            with (
                closing(fitting.stepper),  # before the ranks part
                stop.listening(),
                stop.keeping(fitting.save_last, fitting.keep_alone),
            ):
                folder.begin(state)
                coming = _arriving(updates, fitting.save, world, stop, times)
                for update, held in chain(arrived, coming):
                    with times.count("fitting"):
                        row = fitting.fit_update(update, held)
                        if folder.replacing:
                            fitting.save()
                        folder.write_metrics(state)
                        trackers.log(row)
                        if crosses_multiple(update.start, update.stop, options.save_every):
                            fitting.save()
                    note = f"nll {row['nll']:.4f}, {row['alive']} alive"
                    progress.advance(update.num_frames, note)
                folder.save(state, finished=True)
            if draw and options.trackers and world.rank == 0:
                trackers.show(partial(draw, options.output_dir), state.frames)
    _warn_of_floor(options, state)
    return summarise(state, reader, times, world)


def _end_again(options: FitOptions, folder: RunFolder, state: FitState) -> None:
    """See to it that a fit that has reached its target before is whole."""
    if state.step:
        raise state.unfinished()
    log.info("%d frames are done already: nothing to do", state.frames)
    folder.mend(state, (options.target_frames, 0))
    _warn_of_floor(options, state)


def _warn_of_floor(options: FitOptions, state: FitState) -> None:
    if mostly_at_floor(state.parameters.mixture, state.var_floor):
        log.warning(
            "warning: most variances sit at --var_floor %s: the floor makes this model, not "
            "the data; lower it, or give fewer components",
            options.var_floor,
        )


def _seed(
    options: FitOptions,
    schedule: Schedule,
    updates: Updates,
    world: World,
    stop: StopRequest,
    times: Times,
) -> tuple[FitState, list[Arrived]]:
    """The state before the first step, and the first of `updates`, from whose frames it comes.

    There is nothing to keep yet: a signal ends the process here, and reading and seeding are done
    again.
    """
    first = _await_frames(updates, world, stop, times)
    assert first is not None, "there is an update to begin with"
    with times.count("seeding"):
        state = seed_state(options, schedule, *first, world)
    stop.raise_on_all(world)
    return state, [first]


def _arriving(
    updates: Updates, save: Callable[[], None], world: World, stop: StopRequest, times: Times
) -> Iterator[Arrived]:
    """Each update once its frames are there; where they are damaged, a checkpoint is left first."""
    while True:
        try:
            arrived = _await_frames(updates, world, stop, times)
        except RankGoneError:
            raise  # what is left is kept without the others
        except GmmpipeError:
            save()
            raise
        if arrived is None:
            return
        yield arrived


def _await_frames(
    updates: Updates, world: World, stop: StopRequest, times: Times
) -> Arrived | None:
    """The next update, if there is one; all ranks leave here where one is to stop or failed."""
    with times.count("waiting"):
        arrived = world.on_each_rank(lambda: next(updates, None))
    if arrived is None:
        return None  # on all ranks: they have the same updates
    update, held = arrived
    stop.raise_on_all(world)
    assert held is not None, "a rank without frames has asked for a stop"
    return update, held


@dataclass
class _Fitting:
    """A fit that has a state, on one rank."""

    options: FitOptions
    schedule: Schedule
    held_out: HeldOut | None
    folder: RunFolder
    reader: UpdateReader
    state: FitState
    world: World
    stop: StopRequest

    def __post_init__(self) -> None:
        if self.held_out:
            self.state.evaluate_on(self.held_out.digests)
        made = (self.schedule, self.state, self.world, self.stop.is_made)
        kind = self.options.kernel_kind
        self.stepper: Stepper | GpuStepper
        if self.world.device.type == "cuda":
            self.stepper = GpuStepper(*made, kind, self.options.matmul)
        else:
            self.stepper = Stepper(*made, kind)

    def fit_update(self, update: Update, held: HeldFrames) -> dict[str, float]:
        """All steps of an update; its metrics."""
        state = self.state
        before = state.begin_update(update.stop).mixture
        if state.step == 0:
            move_dead_centers(state, update, held, self.schedule, self.world)
        while state.step < update.num_steps:
            if self.stepper.step(update, held):
                raise self.stop.stopped()
        self.stop.raise_on_all(self.world)
        self._check_mixture()
        mixture, avg_loss = state.parameters.mixture, state.loss_sum / state.loss_count
        row = measure_update(update, held, mixture, before, avg_loss, self.schedule, self.world)
        if state.model == "kmeans":
            row["inertia"] = measure_inertia(update, held, mixture, self.schedule, self.world)
        if self.held_out:
            self.stop.raise_on_all(self.world)
            row[EVAL_COLUMN] = self.held_out.nll(mixture, self.world)
        if not math.isfinite(row["nll"]):
            raise self._ran_away()
        state.end_update(update.stop, format_row(row, state.model))
        return row

    def save(self) -> None:
        """Leave a checkpoint, together with all ranks."""
        self.folder.save(self.state)

    def save_last(self) -> None:
        """Leave a checkpoint of a fit that ends here, and say what it came to."""
        self._check_mixture()
        self.save()
        count_frames(self.state, self.reader, self.world)
        log.info("--resume auto goes on from there")

    def keep_alone(self) -> Path | None:
        """Leave a checkpoint of the last whole step by this rank alone."""
        self._check_mixture()
        return self.folder.keep_alone(self.state)

    def _check_mixture(self) -> None:
        """Make sure that the steps so far have left a mixture at all."""
        parameters = self.state.parameters
        variances = parameters.log_vars.exp()
        sound = parameters.flat.isfinite().all() & variances.isfinite().all()
        lowest = self.state.var_floor * (1 - 1e-5)  # a float32 logarithm and its exponential
        if not (sound and (variances >= lowest).all()):
            raise self._ran_away()

    def _ran_away(self) -> GmmpipeError:
        return GmmpipeError(
            f"update {self.state.updates + 1} left a mixture that is not finite, or below the "
            f"floor; try a lower --lr than {self.options.lr:g}"
        )
