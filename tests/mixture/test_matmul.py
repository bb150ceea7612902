"""The precision of float32 matrix products: whose it is, and that it is put back."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gmmpipe.fitting.gpu_step import GpuStepper
from gmmpipe.mixture.matmul import Precision, allows_tf32, matmul_precision
from pipelines.benchmark.fake_cuda import fake_cuda
from pipelines.benchmark.fake_fit import FakeFit
from pipelines.benchmark.fake_streams import fake_streams

CUDA = torch.backends.cuda.matmul
NEW = hasattr(CUDA, "fp32_precision")


@pytest.fixture(params=["highest", "high", "medium", "new interface"])
def _set_before(request: pytest.FixtureRequest):
    """What a user may have set, through either of torch's interfaces."""
    if request.param == "new interface":
        if not NEW:
            pytest.skip("torch before 2.9")
        before, CUDA.fp32_precision = CUDA.fp32_precision, "tf32"
        yield
        assert CUDA.fp32_precision == "tf32"
        CUDA.fp32_precision = before
    else:
        torch.set_float32_matmul_precision(request.param)
        yield
        assert torch.get_float32_matmul_precision() == request.param
        torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("_set_before")
def test_precisions_nest_and_are_put_back_even_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), matmul_precision("highest"):  # noqa: PT012
        assert not allows_tf32()
        with matmul_precision("tf32"):
            assert allows_tf32()
        assert not allows_tf32()
        _ = 1 / 0


class Products(TorchDispatchMode):
    """Notes of every matrix product whether it is float32, and whether TF32 was allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[torch.dtype, bool]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "mm" in func.__name__.split(".")[0]:
            dtypes = [one.dtype for one in args if isinstance(one, Tensor)]
            self.seen.add((dtypes[0], allows_tf32()))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("matmul", ["highest", "tf32"])
def test_a_step_of_a_gpu_allows_tf32_for_its_statistics_alone(matmul: Precision) -> None:
    """Its loss is taken in float64; on tensors of CUDA without data."""
    with fake_cuda(), fake_streams(), matmul_precision("highest"):
        fit = FakeFit(init="random")
        fit.stepper = GpuStepper(
            *(fit.schedule, fit.state, fit.world, lambda: False, None, matmul), replaying=False
        )
        with Products() as products:
            fit.step()
    assert products.seen == {(torch.float32, matmul == "tf32"), (torch.float64, False)}
