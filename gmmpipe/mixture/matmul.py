"""The precision of float32 matrix products on a GPU: float32's own, or TF32's 10 bits.

Torch has two interfaces to it, and from 2.9 on it raises an error where the state that one has set
is read by the other. The one of 2.9 is used where there is one; all is put back as it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Precision = Literal["highest", "tf32"]


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Matrix products of float32 in this precision within; as before, afterwards.

    TF32 is for GPUs alone. In float64, nothing changes.
    """
    settings = _settings()
    if not settings:  # torch before 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    earlier = [one.fp32_precision for one in settings]
    cuda, *others = settings
    cuda.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    for one in others:
        one.fp32_precision = "ieee"
    try:
        yield
    finally:
        for one, value in zip(settings, earlier, strict=True):
            one.fp32_precision = value


def allows_tf32() -> bool:
    """Whether float32 products are taken in TF32 on a GPU."""
    settings = _settings()
    if not settings:
        return torch.get_float32_matmul_precision() != "highest"
    return bool(settings[0].fp32_precision == "tf32")


def _settings() -> list[Any]:
    """What says how CUDA and a CPU multiply, in torch's interface of 2.9; else empty."""
    backends: list[Any] = [torch.backends.cuda, torch.backends.mkldnn]
    matmuls = [getattr(backend, "matmul", None) for backend in backends]
    return [one for one in matmuls if hasattr(one, "fp32_precision")]
