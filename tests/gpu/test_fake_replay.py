"""The steps of a GPU: on tensors without data, and with stand-ins for streams and graphs on a CPU.

A stand-in for a graph notes the work that was recorded, undoes it, and does it at each replay.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from gmmpipe.errors import RankGoneError
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
from gmmpipe.run.world import World
from pipelines.benchmark.fake_cuda import counted, fake_cuda
from pipelines.benchmark.fake_fit import FITS, FakeFit
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

    def noting(stepper: GpuStepper, *of: Any) -> Any:
        asked[:] = [partial(take, stepper, *of)]
        return take(stepper, *of)

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
def test_replayed_steps_are_those_of_a_cpu_bit_for_bit(
    options: dict[str, Any], frames: Tensor, stand_ins: StandIns
) -> None:
    """Over blocks of draws, losses and updates; a graph for the frames of each buffer."""
    expected, found = seeded(frames, options), seeded(frames, options)
    world = World(0, 1, CPU)
    take_all(Stepper(RULES, expected, world, lambda: False), expected, frames)
    stand_ins.stepper = GpuStepper(RULES, found, world, lambda: False)
    take_all(stand_ins.stepper, found, frames)
    assert_same(values(found), values(expected))
    losses = -(-NUM_STEPS // LOSS_EVERY_STEPS)
    assert (stand_ins.graph.made, stand_ins.graph.replayed) == (2, 2 * (NUM_STEPS - losses))


def test_a_graph_that_gives_other_values_is_not_used_again(
    frames: Tensor, stand_ins: StandIns, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """It moves the mixture twice here. The step before it counts, and one line says so."""
    expected, found = seeded(frames, {}), seeded(frames, {})
    world = World(0, 1, CPU)
    take_all(Stepper(RULES, expected, world, lambda: False), expected, frames)
    right = Graph.replay
    monkeypatch.setattr(stand_ins.graph, "replay", lambda graph: (right(graph), right(graph)))
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


@pytest.mark.parametrize(
    ("lost_at", "done", "step"), [(3, 0, LOSS_EVERY_STEPS + 1), (5, 2000, 0)], ids=["within", "new"]
)
def test_a_rank_that_is_lost_leaves_the_others_at_a_step_that_was_waited_for(
    lost_at: int, done: int, step: int, frames: Tensor, stand_ins: StandIns
) -> None:
    """In an update, which is waited for at its losses and at its end; and in the one after it."""

    class LosingWorld(World):
        waits = 0

        def wait_for_device(self) -> None:
            type(self).waits += 1
            if self.waits == lost_at:
                raise RankGoneError("killed")

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
    assert_same(values(found), values(expected))
