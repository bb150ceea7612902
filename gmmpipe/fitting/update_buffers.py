"""Where an update's frames are read to: in place on a CPU; in pieces, and sent on, for a GPU."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

MAX_PIECE_FRAMES = 1 << 16
MAX_PIECE_BYTES = 1 << 26
"""Of a piece that is sent to a GPU: 64 MB."""
_POLL_SECONDS = 0.001


class Places(Protocol):
    """Where one reader thread puts the frames of an update."""

    def wait(self, closing: threading.Event) -> bool:
        """Wait until there is a place for a piece; False where `closing` is set before that."""

    def place(self, at: int, count: int) -> AbstractContextManager[Tensor]:
        """Memory of the host, [count, D], to be filled with the frames from number `at` on."""


class UpdateBuffers(Protocol):
    """The frames of two updates, one that is fitted and one that is read; they take turns."""

    piece_frames: int
    """Frames of a piece at most."""

    def begin(self, index: int) -> list[Places]:
        """Let reader threads fill the buffer of update `index`: the places of each thread.

        All that is done with the update before the last one must have been asked for.
        """

    def frames(self, index: int, count: int) -> Tensor:
        """The first frames of update `index`, [count, D] on the rank's device, once all are read.

        They are good until `begin` is called for the update after the next one.
        """

    def end(self) -> None:
        """No thread reads any more; the buffers may be freed."""


def update_buffers(
    num_frames: int, dim: int, dtype: torch.dtype, device: torch.device, num_threads: int
) -> UpdateBuffers:
    """Buffers for updates of which a rank holds up to `num_frames` frames."""
    shape = (num_frames, dim)
    if device.type == "cuda":
        return SentBuffers(shape, dtype, device, num_threads)
    return HostBuffers(shape, dtype, num_threads)


class HostBuffers:
    """Two buffers in the host's memory: frames are read to where they stay."""

    piece_frames = MAX_PIECE_FRAMES

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, num_threads: int) -> None:
        self._buffers = [torch.empty(shape, dtype=dtype) for _ in range(2)]
        self._num_threads = num_threads

    def begin(self, index: int) -> list[Places]:
        """See `UpdateBuffers.begin`."""
        return [InPlace(self._buffers[index % 2])] * self._num_threads

    def frames(self, index: int, count: int) -> Tensor:
        """See `UpdateBuffers.frames`."""
        return self._buffers[index % 2][:count]

    def end(self) -> None:
        """See `UpdateBuffers.end`."""


class InPlace:
    """Places in a buffer [N, D] of the host; see `Places`."""

    def __init__(self, buffer: Tensor) -> None:
        self._buffer = buffer

    def wait(self, closing: threading.Event) -> bool:
        """See `Places.wait`."""
        return not closing.is_set()

    @contextmanager
    def place(self, at: int, count: int) -> Iterator[Tensor]:
        """See `Places.place`."""
        yield self._buffer[at : at + count]


class SentBuffers:
    """Two buffers on a GPU, filled piece by piece while it computes.

    A piece is read into pinned memory and copied on a stream of its own, which waits for what is
    computed only before it overwrites an update that was fitted. The device holds two updates, the
    host two pieces for each reader thread. Memory is taken in the thread that computes: CUDA may
    forbid to take any while another thread captures a graph.

    The streams keep these rules, so the allocator need not know of a second stream: the copies wait
    for all that was computed before `begin`; what is computed after `frames` or `end` waits for the
    copies.
    """

    def __init__(
        self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device, num_threads: int
    ) -> None:
        self._device = device
        self._shape, self._dtype = shape, dtype
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: dict[int, Tensor] = {}
        num_frames, dim = shape
        fitting = MAX_PIECE_BYTES // (dim * dtype.itemsize)
        self.piece_frames = max(1, min(MAX_PIECE_FRAMES, fitting, num_frames))
        piece = (self.piece_frames, dim)
        self._slots = [[_Slot(piece, dtype) for _ in range(2)] for _ in range(num_threads)]

    def begin(self, index: int) -> list[Places]:
        """See `UpdateBuffers.begin`."""
        turn = index % 2
        if turn not in self._buffers:  # not both at once: a fit may be a single update
            buffer = torch.empty(self._shape, dtype=self._dtype, device=self._device)
            self._buffers[turn] = buffer
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return [_Sending(slots, self._buffers[turn], self._stream) for slots in self._slots]

    def frames(self, index: int, count: int) -> Tensor:
        """See `UpdateBuffers.frames`."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return self._buffers[index % 2][:count]

    def end(self) -> None:
        """See `UpdateBuffers.end`."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


class _Slot:
    """Pinned memory for a piece, and the event of its last copy."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.frames = torch.empty(shape, dtype=dtype, pin_memory=True)
        self.sent = torch.cuda.Event()  # type: ignore[no-untyped-call]


class _Sending:
    """See `Places`; slots take turns, and each is free once its copy is done."""

    def __init__(self, slots: list[_Slot], buffer: Tensor, stream: torch.cuda.Stream) -> None:
        self._slots, self._buffer, self._stream = slots, buffer, stream
        self._turn = 0

    def wait(self, closing: threading.Event) -> bool:
        sent = self._slots[self._turn].sent
        while not sent.query():  # type: ignore[no-untyped-call]
            if closing.wait(_POLL_SECONDS):
                return False
        return not closing.is_set()

    @contextmanager
    def place(self, at: int, count: int) -> Iterator[Tensor]:
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % len(self._slots)
        frames = slot.frames[:count]
        yield frames
        torch.cuda.set_device(self._stream.device)  # each thread begins on the first GPU
        with torch.cuda.stream(self._stream):
            self._buffer[at : at + count].copy_(frames, non_blocking=True)
            slot.sent.record(self._stream)
