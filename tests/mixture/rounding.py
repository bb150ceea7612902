"""How far sufficient statistics in float32 may be from those of the Gaussian formula in float64.

Measured on frames of speech, errors are at most a tenth of the bound; products of 10 bits (TF32)
exceed it 8 times or more, of 7 bits (bfloat16) 60 times, and frames 100 from their centre 2 times.
"""

import math

import torch
from torch import Tensor

from gmmpipe.mixture.kernels import statistics_kernel
from gmmpipe.mixture.mixture import BLOCK_FRAMES, Mixture
from gmmpipe.mixture.statistics import StatisticsKernel

ROUNDING = 2.0**-24
"""The largest relative error of one operation in float32."""


def gaussian_log_joints(frames: Tensor, model: Mixture) -> Tensor:
    """ln w_k N(x; mean_k, var_k) as the textbook has it, float64 [N, K]."""
    x, wide, columns = frames.double(), model.double(), []
    parts = (wide.means, wide.log_vars.exp(), wide.log_weights)
    for mean, variance, log_weight in zip(*parts, strict=True):
        exponent = ((x - mean).square() / variance).sum(1)
        columns.append(log_weight - 0.5 * (exponent + (2 * math.pi * variance).log().sum()))
    return torch.stack(columns, 1)


def term_sizes(centred: Tensor, model: Mixture, center: Tensor) -> Tensor:
    """Σ |term| of each log joint's affine map, which cancel in part; float64 [N, K]."""
    wide = model.double()
    precisions, moved = torch.exp(-wide.log_vars), (wide.means - center.double()).abs()
    logarithms = math.log(2 * math.pi) + wide.log_vars.abs()
    constants = (logarithms + precisions * moved.square()).sum(1) / 2
    of_frames = centred.abs() @ (precisions * moved).t() + centred.square() @ precisions.t() / 2
    return of_frames + wide.log_weights.abs() + constants


def expected_and_bound(frames: Tensor, model: Mixture, center: Tensor) -> tuple[Tensor, Tensor]:
    """Σ r [x - c, (x - c)², 1] in float64, and how far float32 may be from it; [K, 2D + 1] each.

    A log joint is a sum of n = 2D + 1 products. Its rounding errors add up to n roundings of
    Σ |term| at the very worst, and, as they are of either sign, to more than 3 √n of them hardly
    ever (n roundings are those of a number with 7 fewer bits, which the tests are to notice).
    Errors e of a frame's log joints change its posteriors r_k by r_k (e_k - Σ_j r_j e_j), to
    first order: where one component has it all, by nothing. Errors of sums over components, over
    a block's frames and over blocks are held to the very worst, for equal frames do round alike.
    Posteriors below a rounding / K may be left out.
    """
    num_components, dim = model.means.shape
    centred = frames.double() - center.double()
    posteriors = torch.softmax(gaussian_log_joints(frames, model), 1)
    errors = 3 * math.sqrt(2 * dim + 1) * ROUNDING * term_sizes(centred, model, center)
    shared = (posteriors * errors).sum(1, keepdim=True)
    changes = posteriors * (errors * (1 - 2 * posteriors) + shared)
    num_terms = num_components + BLOCK_FRAMES + len(frames) / BLOCK_FRAMES
    changes += num_terms * ROUNDING * posteriors + posteriors.clamp(max=ROUNDING / num_components)
    summed = torch.cat([centred, centred.square(), torch.ones(len(frames), 1)], 1)
    return posteriors.t() @ summed, changes.t() @ summed.abs()


def error_of_bound(sums: Tensor, frames: Tensor, model: Mixture, center: Tensor) -> float:
    """The largest error of any entry, as a multiple of what is allowed for that entry."""
    expected, bound = expected_and_bound(frames, model, center)
    # Of components that no frame is near, both are 0.
    return float(((sums.double() - expected).abs() / bound.clamp(min=1e-30)).max())


def kernel_error(
    frames: Tensor, model: Mixture, center: Tensor, kernel: StatisticsKernel | None = None
) -> float:
    """The error of a kernel, or of the one that is chosen for a fit of so many components."""
    kernel = kernel or statistics_kernel(model.num_components, center)
    return error_of_bound(kernel(frames, model).sums, frames, model, center)
