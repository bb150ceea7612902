"""Updates are sent to fake CUDA while others are fitted, and streams wait where they must."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from gmmpipe import FeatureStore
from gmmpipe.fitting import update_buffers, update_reader
from gmmpipe.fitting.schedule import Schedule
from gmmpipe.fitting.update_buffers import SentBuffers
from gmmpipe.fitting.update_reader import UpdateReader
from gmmpipe.run.world import World
from pipelines.benchmark.fake_cuda import CUDA, Counts, fake_cuda
from pipelines.benchmark.fake_streams import FakeStream, Streams, fake_streams

RULES = Schedule(11, 3000, 12_000, 50, 512)
PIECE_FRAMES = 700


@pytest.fixture
def counts() -> Iterator[Counts]:
    with fake_cuda() as counts:
        yield counts


class AtOnce(ThreadPoolExecutor):
    """Does what it is given before it goes on: threads cannot share a mode without data.

    So all pieces of an update are sent as early as they ever may be.
    """

    def submit(self, function: Any, *args: Any) -> Future[Any]:  # type: ignore[override]
        done: Future[Any] = Future()
        done.set_result(function(*args))
        return done


@pytest.fixture
def streams(counts: Counts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Streams]:
    """Fake streams; pieces are small."""
    monkeypatch.setattr(update_reader, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(update_buffers, "MAX_PIECE_FRAMES", PIECE_FRAMES)
    with fake_streams() as streams:
        yield streams


def read_updates(store: Path) -> list[torch.Tensor]:
    """Read all updates and select from each, as a fit does; the frames of each."""
    reader = UpdateReader(FeatureStore.open(store), RULES, World(0, 1, CUDA), 2, lambda: False)
    found = []
    for update, held in reader.updates(RULES.update_at(0, 0)):
        assert held is not None
        assert held.select(RULES.step_frames(update, 0)).device == CUDA
        found.append(held.frames)
    assert reader.frames_read == reader.frames_used == 12_000
    return found


def test_updates_are_sent_in_pinned_pieces_while_others_are_fitted(
    store: Path, counts: Counts, streams: Streams
) -> None:
    frames = read_updates(store)
    assert all(held.shape == (3000, 80) and held.device == CUDA for held in frames)
    assert len({held.untyped_storage()._cdata for held in frames}) == 2
    assert counts.sent["aten.copy_"] >= 12_000 / PIECE_FRAMES
    assert not counts.copies["aten.copy_"]
    assert not streams.races


@pytest.mark.parametrize("forgotten", ["begin", "frames"])
def test_a_wait_between_streams_that_is_forgotten_is_noticed(
    forgotten: str, store: Path, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = getattr(SentBuffers, forgotten)

    def forgetful(self: SentBuffers, *args: Any) -> Any:
        with monkeypatch.context() as here:
            here.setattr(FakeStream, "wait_stream", lambda *_: None)
            return kept(self, *args)

    monkeypatch.setattr(SentBuffers, forgotten, forgetful)
    read_updates(store)
    assert streams.races


def test_the_device_holds_two_updates_and_the_host_two_pieces_a_thread(streams: Streams) -> None:
    buffers = SentBuffers((5000, 80), torch.float16, CUDA, 3)
    for index in range(5):
        buffers.begin(index)
        assert len(buffers._buffers) == min(2, index + 1)
    slots = [slot.frames for slots in buffers._slots for slot in slots]
    assert len(slots) == 6
    assert all(slot.is_pinned() and slot.shape == (PIECE_FRAMES, 80) for slot in slots)


def test_a_piece_is_no_larger_than_64_mb(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_buffers, "MAX_PIECE_FRAMES", 1 << 16)
    for dim, expected in ((80, 65_536), (768, 43_690), (2048, 16_384)):
        piece = SentBuffers((10**6, dim), torch.float16, CUDA, 1)._slots[0][0].frames
        assert piece.shape == (expected, dim)
        assert piece.nbytes <= 1 << 26


def test_a_reader_whose_pieces_are_never_sent_ends_when_it_is_told_to(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.benchmark.fake_streams.FakeEvent.query", lambda self: False)
    places, closing = SentBuffers((5000, 80), torch.float16, CUDA, 1).begin(0)[0], threading.Event()
    closing.set()
    assert not places.wait(closing)
