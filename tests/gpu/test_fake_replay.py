"""The steps of a GPU: on tensors without data, and with stand-ins for streams and graphs on a CPU.

A stand-in for a graph notes the work that was recorded, undoes it, and does it at each replay.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from gmmpipe.errors import GmmpipeError, NoAnswerError, RankGoneError
from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.draw_blocks import BLOCK_STEPS, DrawBlocks, Draws, most_frames
from gmmpipe.fitting.gpu_step import GpuStepper
from gmmpipe.fitting.initial_state import seed_state
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.schedule import LOSS_EVERY_STEPS, Schedule, Update
from gmmpipe.fitting.step import Stepper
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.adam import Adam
from gmmpipe.mixture.em import StepwiseEM
from gmmpipe.mixture.fused_statistics import FusedStatisticsKernel
from gmmpipe.run.repeated_sum import RepeatedSum
from gmmpipe.run.world import World
from helpers.making import fit_here
from pipelines.benchmark.fake_cuda import counted, fake_cuda
from pipelines.benchmark.fake_fit import FITS, FakeFit, fake_ranks
from pipelines.benchmark.fake_streams import fake_streams

NUM_STEPS = BLOCK_STEPS + LOSS_EVERY_STEPS + 20
RULES = Schedule(5, 2000, 4000, NUM_STEPS, 256)
CPU = torch.device("cpu")


class Inert:
    """A stream or an event on a CPU, where everything is done when the next thing begins."""

    def __init__(self, *_: object) -> None: ...

    def wait_stream(self, other: object) -> None: ...

    def record(self, *_: object) -> None: ...

    def query(self) -> bool:
        return True


class Graph:
    """Stands in for a CUDA graph."""

    made: int = 0
    replayed: int = 0
    coarse: bool = False

    def __init__(self) -> None:
        type(self).made += 1
        self.work: Callable[[], object] = lambda: None

    def replay(self) -> None:
        type(self).replayed += 1
        self.work()


@dataclass
class StandIns:
    """How often graphs were made and replayed, and the stepper whose steps are recorded."""

    graph: type[Graph]
    stepper: GpuStepper | None = None


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> StandIns:
    class OwnGraph(Graph):
        made = replayed = 0

    found = StandIns(OwnGraph)
    take, empty = GpuStepper._take, Draws.empty.__func__  # type: ignore[attr-defined]
    asked: list[Any] = []

    def noting(stepper: GpuStepper, *of: Any, **named: Any) -> Any:
        asked[:] = [partial(take, stepper, *of, **named)]
        return take(stepper, *of, **named)

    @contextmanager
    def recording(graph: Graph, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        assert found.stepper is not None
        state, blocks = found.stepper._state, found.stepper._blocks
        assert blocks is not None
        tensors = [state.parameters.flat, *state.optimizer.tensors(), blocks.row]
        before = [tensor.clone() for tensor in tensors]
        yield
        graph.work = asked[0]
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)

    def without_pinning(cls: type[Draws], *size: Any, **where: Any) -> Draws:
        return empty(cls, *size, **{**where, "pin_memory": False})

    def fused(*of: Any, kind: str | None = None, **more: Any) -> FusedStatisticsKernel:
        return FusedStatisticsKernel(*of, **more)

    monkeypatch.setattr(GpuStepper, "_take", noting)
    monkeypatch.setattr(Draws, "empty", classmethod(without_pinning))
    for name, value in {
        "Stream": Inert,
        "Event": Inert,
        "current_stream": lambda device=None: Inert(),
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": OwnGraph,
        "graph": recording,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for optimizer in (Adam, StepwiseEM):
        monkeypatch.setattr(optimizer, "make_kernel", staticmethod(fused))
    return found


def updates(frames: Tensor) -> list[tuple[Update, HeldFrames]]:
    """Two updates, each with frames of its own."""
    first = RULES.update_at(0, 0)
    assert first is not None
    second = RULES.after(first)
    assert second is not None
    return [
        (update, HeldFrames(frames[update.start : update.stop].half(), 0, 2000))
        for update in (first, second)
    ]


def seeded(frames: Tensor, options: dict[str, Any]) -> FitState:
    chosen = FitOptions("store", "fit", K=12, init="kmeans++", **options)
    update, held = updates(frames)[0]
    state = seed_state(chosen, RULES, update, held, World(0, 1, CPU))
    state.begin_update(update.stop)
    return state


def take_all(stepper: Any, state: FitState, frames: Tensor) -> None:
    for update, held in updates(frames):
        if state.step == update.num_steps:
            state.end_update(update.start, "")
            state.begin_update(update.stop)
        while state.step < update.num_steps:
            assert not stepper.step(update, held)


def values(state: FitState) -> list[Any]:
    tensors = [state.parameters.flat, *state.optimizer.tensors()]
    counted_steps = state.optimizer.state_dict().get("count")
    return [*tensors, state.step, state.loss_sum, state.loss_count, counted_steps]


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
@pytest.mark.parametrize("block_steps", [BLOCK_STEPS, 7])
def test_replayed_steps_are_those_of_a_cpu_bit_for_bit(
    block_steps: int,
    options: dict[str, Any],
    frames: Tensor,
    stand_ins: StandIns,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over blocks of draws, losses and updates; a graph for the frames of each buffer."""
    most = block_steps * RULES.frames_per_step  # as where steps are so large
    monkeypatch.setattr("gmmpipe.fitting.draw_blocks._BLOCK_FRAMES", most)
    expected, found = seeded(frames, options), seeded(frames, options)
    world = World(0, 1, CPU)
    take_all(Stepper(RULES, expected, world, lambda: False), expected, frames)
    stand_ins.stepper = GpuStepper(RULES, found, world, lambda: False)
    take_all(stand_ins.stepper, found, frames)
    assert_same(values(found), values(expected))
    losses = -(-NUM_STEPS // LOSS_EVERY_STEPS)
    assert (stand_ins.graph.made, stand_ins.graph.replayed) == (2, 2 * (NUM_STEPS - losses))


@pytest.mark.parametrize("wrong", ["twice", "nan"])
def test_a_graph_that_gives_other_values_is_not_used_again(
    wrong: str,
    frames: Tensor,
    stand_ins: StandIns,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: Any,
) -> None:
    """It moves the mixture twice, or to no number. The step before it counts, a line says so."""
    expected, found = seeded(frames, {}), seeded(frames, {})
    world = World(0, 1, CPU)
    take_all(Stepper(RULES, expected, world, lambda: False), expected, frames)
    right = Graph.replay

    def replay(graph: Graph) -> None:
        right(graph)
        if wrong == "twice":
            right(graph)
        else:
            found.parameters.means[0] = torch.nan

    monkeypatch.setattr(stand_ins.graph, "replay", replay)
    stand_ins.stepper = GpuStepper(RULES, found, world, lambda: False)
    take_all(stand_ins.stepper, found, frames)
    assert_same(values(found), values(expected))
    assert stand_ins.graph.made == 1
    assert caplog.text.count("a CUDA graph of a step gives other values") == 1


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
def test_where_no_graph_can_be_recorded_steps_go_on_with_one_warning(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """This machine has no GPU that could record one, and the attempt is a real one."""
    with fake_cuda() as counts, fake_streams() as streams:
        fit = FakeFit(init="random", **options)
        fit.stepper = GpuStepper(fit.schedule, fit.state, fit.world, lambda: False)
        for _ in range(4):
            fit.step()
        assert not counted(fit.step, counts).waits
    assert fit.state.step == 5
    assert not streams.races
    assert caplog.text.count("a CUDA graph of a step cannot be recorded") == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_draws_of_all_ranks_are_those_of_a_step(size: int, stand_ins: StandIns) -> None:
    """Together and in order, whatever comes between: a fit may begin within a block."""
    update = RULES.update_at(0, 0)
    assert update is not None
    em = StepwiseEM(torch.zeros(3, 5), 0.1)
    ranks = [World(rank, size, CPU) for rank in range(size)]
    blocks = [DrawBlocks(RULES, em, one, most_frames(RULES, update, one)) for one in ranks]
    start = BLOCK_STEPS - 3
    for step in range(start, 2 * BLOCK_STEPS + 2):
        parts = []
        for world, own in zip(ranks, blocks, strict=True):
            own.seek(update, step)
            row = int(own.row)
            count = own.num_drawn(step)
            numbers = own.draws.numbers[row]
            assert not numbers[count:].any()
            if own.draws.weights is not None:
                assert own.draws.weights[row].tolist() == [1.0] * count + [0.0] * (
                    own.num_frames - count
                )
            parts.append(numbers[:count] + update.rank_slice(world.rank, size)[0])
            assert own.draws.scalars[row].tolist() == [*em.scalars_at(step, 0.0)]
            own.row += 1
        assert torch.cat(parts).tolist() == RULES.step_frames(update, step).tolist()


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("num_frames", [1, 5, 1000, 1999, 2001])
def test_rows_are_as_long_on_all_ranks_and_long_enough(size: int, num_frames: int) -> None:
    """A rank that made other rows than the others would record while those replay, and wait."""
    update = Update(3, 6000, 6000 + num_frames, 60)
    ranks = [World(rank, size, CPU) for rank in range(size)]
    (longest,) = {most_frames(RULES, update, world) for world in ranks}
    for step in range(20):
        drawn = RULES.step_frames(update, step)
        for world in ranks:
            start, stop = update.rank_slice(world.rank, size)
            assert ((drawn >= start) & (drawn < stop)).sum() <= longest


@pytest.mark.parametrize("num_frames", [1, 2])
def test_where_a_rank_has_no_frames_none_replays(
    num_frames: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It would not take the frames that it has none of for others than in the update before."""
    with fake_cuda(), fake_streams(), fake_ranks(2) as world:
        fit = FakeFit(init="random", world=world)
        stepper = GpuStepper(fit.schedule, fit.state, world, lambda: False)
        update = Update(0, 0, num_frames, 3)
        held = HeldFrames(fit.held.frames[:1], 0, 1)
        for _ in range(2):
            stepper.step(update, held)
    assert ("cannot be recorded" in caplog.text) == (num_frames == 2)


@pytest.mark.parametrize(
    ("lost_at", "done", "step"),
    [(2, 0, 1), (3, 0, 1), (5, 0, LOSS_EVERY_STEPS + 1), (7, 2000, 0)],
    ids=["recording", "comparing", "within", "new"],
)
def test_a_rank_that_is_lost_leaves_the_others_at_a_step_that_was_waited_for(
    lost_at: int, done: int, step: int, frames: Tensor, stand_ins: StandIns
) -> None:
    """In an update, which is waited for at its losses and at its end; and in the one after it.

    A step that is recorded and compared is waited for before, because torch waits there without a
    limit. Exchanges are broken off without a graph that holds one: NCCL would wait for its end.
    """

    class LosingWorld(World):
        waits = 0
        graphs: ClassVar[list[int]] = []

        def wait_for_device(self) -> None:
            type(self).waits += 1
            if self.waits == lost_at:
                raise RankGoneError("killed")

        def break_off(self) -> None:
            self.graphs.append(len(lost._graphs))

    expected, found = seeded(frames, {}), seeded(frames, {})
    stand_ins.stepper = stepper = GpuStepper(RULES, expected, World(0, 1, CPU), lambda: False)
    (first, held), (second, _) = updates(frames)
    while expected.step < (first.num_steps if done else step):
        stepper.step(first, held)
    if done:
        expected.end_update(second.start, "")
    stand_ins.stepper = lost = GpuStepper(RULES, found, LosingWorld(0, 1, CPU), lambda: False)
    with pytest.raises(RankGoneError):
        take_all(lost, found, frames)
    assert (found.frames, found.step) == (done, step)
    assert LosingWorld.graphs == [0]
    assert_same(values(found), values(expected))


@pytest.mark.parametrize("recorded", [True, False])
def test_a_sum_that_cannot_be_recorded_is_no_rank_that_is_gone(
    recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.distributed, "all_reduce", refuse)
    with fake_cuda(), fake_ranks(2) as world:
        sums = RepeatedSum(world, torch.zeros(3, device=world.device))
        with pytest.raises(RuntimeError if recorded else RankGoneError, match="capturing"):
            sums.start(recorded)


class Unending(Inert):
    """An event that a rank which is gone keeps from coming."""

    def query(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("stops", "error"), [(True, NoAnswerError), (False, RankGoneError)], ids=["stop", "loss"]
)
def test_a_device_is_waited_for_no_longer_than_a_stop_or_a_limit_allows(
    stops: bool, error: type[RankGoneError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Unending)
    monkeypatch.setattr("gmmpipe.run.world._LEAVING_SECONDS", 0.0)
    limit = 60.0 if stops else 0.0
    world = World(0, 2, CPU, stopping=lambda: stops, exchange_timeout=limit)
    with pytest.raises(RankGoneError) as caught:
        world.wait_for_device()
    assert caught.type is error


@pytest.mark.parametrize("fails", [False, True])
def test_a_fit_lets_go_of_its_graphs_however_it_ends(
    fails: bool, store: Path, tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the ranks could not part: NCCL waits for the graphs that hold a sum."""
    held: list[int] = []

    class Holding(GpuStepper):
        def __init__(self, *of: Any) -> None:
            super().__init__(*of)
            stand_ins.stepper = self

        def step(self, *of: Any) -> bool:
            stops = super().step(*of)
            held.append(len(self._graphs))
            if fails and len(held) == 3:
                raise GmmpipeError("a failure")
            return stops

    monkeypatch.setattr("gmmpipe.fitting.trainer.Stepper", Holding)
    sizes = {"K": 12, "batch_update_size": 2000, "target_frames": 2000, "sgd_batch_size": 256}
    with pytest.raises(GmmpipeError) if fails else nullcontext():
        fit_here(store, tmp_path / "fit", World(0, 1, CPU), n_sgd_steps=3, **sizes)
    assert held == [0, 1, 1]
    assert stand_ins.stepper is not None
    assert not stand_ins.stepper._graphs
