"""Streams and events of CUDA on a machine without it, and a watch for races between streams.

What is ordered after what is decided by the bookkeeping of torch's CUDA sanitizer
(`torch.cuda._sanitizer`), which is told of every operation within `fake_cuda`.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.cuda._sanitizer import EventHandler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_numbers = itertools.count(1)
_MAIN = 0
"""The stream that is current at first."""


class Streams:
    """What has been ordered so far.

    Args:
        races: operations on memory that another stream was still to write, or to read.
        current: the stream that operations go to.
    """

    def __init__(self) -> None:
        self.races: list[str] = []
        self._handler = EventHandler()
        self.current = FakeStream(self, _MAIN)
        self._kept: list[Any] = []  # a storage that is freed would lend its number to another

    @contextmanager
    def entered(self, stream: "FakeStream") -> Iterator[None]:
        """As ``torch.cuda.stream``."""
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def watch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> None:
        """Note what an operation reads and writes on the current stream."""
        written: set[int] = set()
        named = {argument.name: argument for argument in func._schema.arguments}
        given = [*zip(named.values(), args, strict=False)]
        given += [(named[name], value) for name, value in kwargs.items() if name in named]
        for argument, value in given:
            if argument.alias_info is not None and argument.alias_info.is_write:
                written |= self._memory_of(value)
        used = self._memory_of((args, kwargs))
        written |= self._memory_of(made) - used
        if func.is_view or not used | written:
            return
        names = {number: [] for number in used | written}
        errors = self._handler._handle_kernel_launch(
            self.current.number, used - written, written, set(), str(func), names
        )
        self.races += [f"{func}: {type(error).__name__}" for error in errors]

    def _memory_of(self, values: Any) -> set[int]:
        tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
        storages = [tensor.untyped_storage() for tensor in tensors if tensor.is_cuda]
        self._kept += storages
        return {storage._cdata for storage in storages}


class FakeStream:
    """As ``torch.cuda.Stream``."""

    def __init__(self, streams: Streams, number: int | None = None) -> None:
        self._streams = streams
        self.number = next(_numbers) if number is None else number
        self.device = torch.device("cuda", 0)

    def wait_stream(self, other: "FakeStream") -> None:
        """What comes later here waits for what is under way there."""
        event = FakeEvent(self._streams)
        event.record(other)
        event.wait(self)


class FakeEvent:
    """As ``torch.cuda.Event``."""

    def __init__(self, streams: Streams) -> None:
        self._streams, self.number = streams, next(_numbers)

    def record(self, stream: FakeStream | None = None) -> None:
        """Stand for what is under way in a stream."""
        stream = stream or self._streams.current
        self._streams._handler._handle_event_record(self.number, stream.number)

    def wait(self, stream: FakeStream | None = None) -> None:
        """Let a stream wait."""
        stream = stream or self._streams.current
        self._streams._handler._handle_event_wait(self.number, stream.number)

    def query(self) -> bool:
        """All is done at once here."""
        return True


class _Watching(TorchDispatchMode):
    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self._streams = streams

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        self._streams.watch(func, args, kwargs or {}, made)
        return made


@contextmanager
def fake_streams() -> Iterator[Streams]:
    """Within `fake_cuda`: let torch.cuda have streams, and watch them."""
    streams = Streams()
    names = {
        "Stream": lambda device=None: FakeStream(streams),
        "Event": lambda: FakeEvent(streams),
        "current_stream": lambda device=None: streams.current,
        "stream": streams.entered,
        "set_device": lambda device: None,
    }
    with mock.patch.multiple(torch.cuda, **names), _Watching(streams):
        yield streams
