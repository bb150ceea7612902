"""The kernel in Triton, run by Triton's interpreter; `test_triton.py` starts these in a process.

For TRITON_INTERPRET=1 must be set before triton is imported, and holds for the whole process. The
file that SPEECH names has some frames of speech.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from rounding import error_of_bound, kernel_error
from torch import Tensor

from gmmpipe.mixture.matmul import matmul_precision
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.statistics import SPAN_FRAMES, StatisticsKernel
from gmmpipe.mixture.triton_statistics import Tile, TritonKernel, is_interpreted

K = 100
assert is_interpreted()


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return torch.load(os.environ["SPEECH"], weights_only=True)


@pytest.fixture(scope="module")
def model(speech: Tensor) -> Mixture:
    """Means at the first frames, each with the variances of a small cluster of speech."""
    log_vars = (speech.var(0) / 16).log().repeat(K, 1)
    return Mixture(speech[:K].clone(), log_vars, torch.full((K,), -math.log(K)))


def made_up(num_components: int, dim: int, count: int) -> tuple[Tensor, Mixture]:
    """Frames of a made-up mixture, at scales from 0.1 to 30."""
    draw = torch.Generator().manual_seed(dim)
    scales = torch.logspace(-1, 1.5, dim)
    means = scales * torch.randn(num_components, dim, generator=draw) * 8 / math.sqrt(dim)
    log_vars = 2 * scales.log() + 0.1 * torch.randn(num_components, dim, generator=draw)
    mixture = Mixture(means, log_vars, torch.full((num_components,), -math.log(num_components)))
    chosen = torch.randint(num_components, (count,), generator=draw)
    noise = torch.randn(count, dim, generator=draw) * (0.5 * log_vars[chosen]).exp()
    return means[chosen] + noise, mixture


def summed(kernel: TritonKernel, frames: Tensor, mixture: Mixture, weights: Tensor) -> Tensor:
    kernel.load(frames, weights)
    return kernel.sum_loaded(mixture).flat.clone()


@pytest.mark.parametrize("dim", [1, 39, 80, 768])
@pytest.mark.parametrize("num_components", [7, 256, 1000, 1024])
def test_statistics_are_exact_to_float32(num_components, dim) -> None:
    """In fewer, larger tiles than on a GPU where there are many: the interpreter is slow."""
    x, mixture = made_up(num_components, dim, 50)
    tile = Tile(64, 256 if dim == 768 else 64, 4) if num_components * dim > 10_000 else None
    kernel = TritonKernel(num_components, x.mean(0), tile=tile)
    assert kernel_error(x, mixture, x.mean(0), kernel) < 1


@pytest.mark.parametrize("count", [1, 63, 64, 65, 140])
def test_statistics_of_speech_do_not_depend_on_where_tiles_end(count, speech, model) -> None:
    kernel = TritonKernel(K, speech.mean(0))
    assert kernel_error(speech[:count], model, speech.mean(0), kernel) < 1


@pytest.mark.parametrize("variance", ["wide", "floor"])
def test_statistics_of_speech_beside_silence(variance, speech, model) -> None:
    """Silence is all alike: roundings of its sums all point the same way."""
    log_vars = speech.var(0).log() if variance == "wide" else torch.full((80,), math.log(0.1))
    mixture = replace(model, log_vars=log_vars.repeat(K, 1))
    mixture.means[0] = math.log(1e-6)
    x = torch.cat([speech, torch.full((300, 80), math.log(1e-6))])
    assert kernel_error(x, mixture, x.mean(0), TritonKernel(K, x.mean(0))) < 1


def test_a_long_input_is_summed_in_spans(speech) -> None:
    x, mixture = speech[:, :3].repeat(1 + SPAN_FRAMES // len(speech), 1), made_up(7, 3, 1)[1]
    assert SPAN_FRAMES < len(x) < SPAN_FRAMES + len(speech)
    kernel = TritonKernel(7, x.mean(0), tile=Tile(1024, 16, 4))
    assert kernel_error(x, mixture, x.mean(0), kernel) < 1


def test_the_same_frames_give_the_same_bits(speech, model) -> None:
    kernels = [TritonKernel(K, speech.mean(0), extra=2) for _ in range(2)]
    first = kernels[0](speech, model).flat.clone()
    assert torch.equal(kernels[1](speech, model).flat, first)
    kernels[0](speech[:50], model).extra.fill_(7.0)
    assert torch.equal(kernels[0](speech, model).flat, first), "nothing is left of other frames"


def test_rows_of_weight_0_add_nothing_whatever_is_in_them(speech, model) -> None:
    kernel = TritonKernel(K, speech.mean(0))
    whole = kernel(speech, model).flat.clone()
    assert torch.equal(summed(kernel, speech, model, torch.ones(len(speech))), whole)
    padded = torch.cat([speech, torch.full((7, 80), math.nan)])
    weights = torch.cat([torch.ones(len(speech)), torch.zeros(7)])
    assert torch.equal(summed(kernel, padded, model, weights), whole)
    weights[::2] = 0
    odd = summed(kernel, padded, model, weights)[: K * 161].view(161, K).t()
    assert error_of_bound(odd, speech[1::2], model, speech.mean(0)) < 1


def test_frames_of_weight_0_alone_give_no_statistics(speech, model) -> None:
    kernel = TritonKernel(K, speech.mean(0))
    assert summed(kernel, speech, model, torch.zeros(len(speech))).abs().max() == 0
    assert kernel(speech[:0], model).flat.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_frames_may_be_of_another_dtype_and_of_any_strides(dtype, speech, model) -> None:
    kernel, same = TritonKernel(K, speech.mean(0)), speech.half()
    expected = kernel(same.float(), model).flat.clone()
    transposed = same.to(dtype).t().contiguous().t()
    assert torch.equal(kernel(transposed, model).flat, expected)


def test_components_without_weight_get_nothing(speech, model) -> None:
    log_weights = model.log_weights.clone()
    log_weights[:64] = -math.inf  # all of a tile
    kernel = TritonKernel(K, speech.mean(0))
    counts = kernel(speech, replace(model, log_weights=log_weights)).counts
    assert counts[:64].abs().max() == 0
    assert float(counts.sum()) == pytest.approx(len(speech), rel=1e-6)


def test_nan_does_not_go_unnoticed(speech, model) -> None:
    spoilt = speech.clone()
    spoilt[50, 7] = math.nan
    assert TritonKernel(K, speech.mean(0))(spoilt, model).counts.isnan().any()


@pytest.fixture
def _tf32() -> Iterator[None]:
    with matmul_precision("tf32"):
        yield


@pytest.mark.usefixtures("_tf32")
def test_products_of_ten_bits_are_taken_where_they_are_allowed(speech, model) -> None:
    """Coarser than float32 allows, but as coarse as ten bits are."""
    x, wide = speech, replace(model, log_vars=model.log_vars + math.log(16))
    exact = StatisticsKernel(K, x.mean(0))(x, wide).sums
    coarse = TritonKernel(K, x.mean(0))(x, wide).sums
    assert error_of_bound(coarse, x, wide, x.mean(0)) > 1
    for columns in (slice(0, 80), slice(80, 160), slice(160, 161)):
        here, there = coarse[:, columns], exact[:, columns]
        assert (here - there).abs().max() < 0.05 * there.abs().max()
