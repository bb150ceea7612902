"""CUDA on a machine without one: operations on tensors that have a device and no data, counted.

Shapes, dtypes and devices are those of a GPU; no value is known. Where Python asks for one, it gets
1.0, True, 0 or an array of ones: so code runs down one way of each branch. An operation on tensors
of two devices is an error, as it is on a GPU.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
_NO_KERNEL = ("prim.", *(f"aten.{name}" for name in ("empty", "new_empty", "detach", "lift_fresh")))
_INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)
_COPYING = (aten._to_copy.default, aten.copy_.default)
_ANSWERS: dict[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: lambda x: _value_of(x),
    aten.nonzero.default: lambda x: x.new_zeros((1, x.ndim), dtype=torch.int64),
    aten.masked_select.default: lambda x, mask: x.new_zeros(1),
    aten.bincount.default: lambda x, weights=None, length=0: x.new_zeros(max(1, length)),
    aten.equal.default: lambda x, other: True,
    aten.allclose.default: lambda x, other, *bounds, **named: True,
}
"""What has a value, or a shape, that the device alone knows: the host waits for each of them."""


@dataclass
class Counts:
    """What was asked of the device, by name.

    Args:
        kernels: operations that compute something there; a few of them launch two kernels.
        waits: operations for which the host waits until the device has done all before them.
        copies: copies between host and device that the host waits for, because they are not
            non-blocking or the memory of the host is not pinned.
        sent: copies between host and device that the host goes on beside: non-blocking, from or
            to pinned memory.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Begin anew."""
        for counter in vars(self).values():
            counter.clear()

    def copy(self) -> "Counts":
        """The counts so far."""
        return Counts(**{name: +counter for name, counter in vars(self).items()})


class _Counting(TorchDispatchMode):
    """Counts operations, and answers those that no tensor without data can: what is its value?"""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts
        self._pinned: set[int] = set()  # storages, which live as long as the block
        self._kept: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        if func in _ANSWERS:
            if any(tensor.is_cuda for tensor in given):
                self.counts.waits[func._opname] += 1
            return _ANSWERS[func](*args, **kwargs)
        if func is aten.is_pinned.default:
            return self.is_pinned(args[0])
        if func is aten._pin_memory.default:
            return self._pin(args[0].clone())
        if func in _INDEXING:
            args = (args[0], self._plain(*args[:2]), *args[2:])
        result = func(*args, **kwargs)
        if kwargs.get("pin_memory"):
            self._pin(result)
        self._count(func, [*given, *_tensors(result)], (args, kwargs))
        return result

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor's memory is pinned, which a tensor without data does not say itself."""
        return tensor.untyped_storage()._cdata in self._pinned

    def _pin(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pinned.add(storage._cdata)
        self._kept.append(storage)
        return tensor

    def _plain(self, indexed: Tensor, indices: list[Tensor | None]) -> list[Tensor | None]:
        """Indices without masks: their places are known to the device alone; here it is one."""
        plain: list[Tensor | None] = []
        for index in indices:
            if index is not None and indexed.is_cuda and not index.is_cuda:
                self.counts.copies["index"] += 1
            if index is not None and index.dtype == torch.bool:
                self.counts.waits["mask"] += index.is_cuda
                plain += [index.new_zeros(1, dtype=torch.int64)] * index.ndim
            else:
                plain.append(index)
        return plain

    def _count(self, func: Any, tensors: list[Tensor], arguments: Any) -> None:
        """Count an operation that was done, given what it took and what it gave."""
        name = str(func).removesuffix(".default")
        devices = {tensor.device.type for tensor in tensors}
        if len(devices) > 1 and func in _COPYING:
            here = [tensor for tensor in tensors if not tensor.is_cuda]
            sent = _is_non_blocking(func, *arguments) and all(map(self.is_pinned, here))
            (self.counts.sent if sent else self.counts.copies)[name] += 1
        elif "cuda" in devices and not func.is_view and not name.startswith(_NO_KERNEL):
            self.counts.kernels[name] += 1


def _is_non_blocking(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    in_place = func is aten.copy_.default and len(args) > 2 and args[2]
    return bool(in_place or kwargs.get("non_blocking"))


def _value_of(tensor: Tensor) -> float | int | bool:
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.is_floating_point() else 0


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _numpy(tensor: Tensor) -> NDArray[Any]:
    """Ones of a tensor's shape and dtype, in memory of their own."""
    if tensor.is_cuda:
        raise TypeError("a tensor of CUDA is copied to the host before numpy sees it")
    return np.ones(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _deep_copy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """A copy of the same `FakeTensorMode`, which torch would copy too."""
    copied = _like(tensor, tensor.detach().clone())
    memo[id(tensor)] = copied
    return copied


def _module_to(module: torch.nn.Module, *where: Any, **named: Any) -> torch.nn.Module:
    """As `Module.to`, which swaps tensors, and those without data cannot be swapped."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = _like(tensor, tensor.detach().to(*where, **named))
    return module


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    """A value as a parameter where the tensor is one."""
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(value, tensor.requires_grad)
    return value


@contextmanager
def fake_cuda() -> Iterator[Counts]:
    """Tensors that are made in the block have no data; an operation on two devices is an error.

    Yields:
        Counts of what the block has asked of the device so far.
    """
    counts = Counts()

    def to_list(tensor: Tensor) -> Any:
        counts.waits["tolist"] += tensor.is_cuda
        return np.full(tuple(tensor.shape), _value_of(tensor)).tolist()

    # When it is first used, autograd starts a thread for each device that it knows, and a process
    # with such threads cannot be forked. From the first FakeTensorMode on it knows one of CUDA.
    torch.ones(1, requires_grad=True).sum().backward()
    answers = {
        "numpy": _numpy,
        "tolist": to_list,
        "data_ptr": lambda tensor: tensor.untyped_storage()._cdata,
        "__deepcopy__": _deep_copy,
    }
    with (
        mock.patch.multiple(FakeTensor, create=True, **answers),
        mock.patch.object(torch.nn.Module, "to", _module_to),
        mock.patch.object(torch.cuda, "get_device_capability", return_value=(9, 0)),
        FakeTensorMode(),
        _Counting(counts),
    ):
        yield counts


def counted(function: Callable[[], object], counts: Counts, times: int = 1) -> Counts:
    """What so many calls ask of the device, all together."""
    counts.clear()
    for _ in range(times):
        function()
    return counts.copy()
