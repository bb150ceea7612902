"""The density of a diagonal mixture, as one linear map of [x, x², 1].

Legend: N frames, D dimensions, K components; p = 1/σ² the precisions. For frames centred by c,

    ln w_k N(x; μ_k, σ_k²) = b_k + x·(p_k μ_k) + x²·(-p_k / 2)
    b_k = ln w_k - (D ln 2π + Σ_d [ln σ_kd² + p_kd μ_kd²]) / 2

so the log joints of N frames are one GEMM of [x, x², 1] (N x 2D + 1) with the map, and the
sufficient statistics Σ r x, Σ r x² and Σ r a second one of the posteriors with the same matrix.
The gradient of the likelihood and the M-step of EM both follow from the statistics in O(K D)
(`gmmpipe.mixture.optimizers`), so no N x K x D array and no autograd graph ever exists.

Two precisions, for two uses. Fitting takes float32: where variances sit at the floor the terms of
the map cancel and scores err by up to some 1e-2 nats, which a gradient tolerates. What is returned
to anybody takes float64, in which the same map is exact to 1e-9, and which nothing (autocast, TF32,
the default dtype) can touch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_FRAMES = 2048
"""Frames a block: [2048, K] posteriors stay in a CPU's cache at K = 1024."""
CUDA_BLOCK_FRAMES = 16384


def block_frames(device: torch.device) -> int:
    """How many frames are worked on at once; it bounds memory, and fills the device."""
    return CUDA_BLOCK_FRAMES if device.type == "cuda" else BLOCK_FRAMES


def linear_map(means: Tensor, log_vars: Tensor, log_weights: Tensor, center: Tensor) -> Tensor:
    """The map from [x - center, (x - center)², 1] to log joints, [K, 2D + 1].

    Args:
        means, log_vars: [K, D].
        log_weights: [K], normalised.
        center: [D]; near the data's mean, for the sake of float32.
    """
    precisions = torch.exp(-log_vars)
    centred = means - center
    scaled = centred * precisions
    constant = means.shape[1] * math.log(2 * math.pi)
    bias = log_weights - 0.5 * (constant + (log_vars + scaled * centred).sum(1))
    return torch.cat([scaled, precisions.mul_(-0.5), bias[:, None]], dim=1)


def expand(frames: Tensor, center: Tensor, out: Tensor) -> Tensor:
    """[x - center, (x - center)²] of `frames` [n, D], written to the first n rows of `out`.

    The column of ones that `out` ends with is left alone.
    """
    n, dim = frames.shape
    expanded = out[:n]
    torch.sub(frames, center, out=expanded[:, :dim])
    torch.mul(expanded[:, :dim], expanded[:, :dim], out=expanded[:, dim : 2 * dim])
    return expanded


def exact_log_joints(
    frames: Tensor, means: Tensor, log_vars: Tensor, log_weights: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """ln w_k N(x; μ_k, σ_k²) in float64, a block of frames at a time.

    Args:
        frames: [N, D], or [B, D, T] (then N = B * T, time fastest); any floating dtype.
        means, log_vars: [K, D].
        log_weights: [K].

    Yields:
        The block's slice of the N frames; the block's frames, float64 [n, D]; its log joints,
        float64 [n, K], in a buffer that the next block overwrites.
    """
    center = means.double().mean(0)
    weights = linear_map(means.double(), log_vars.double(), log_weights.double(), center)
    num_frames = frames.numel() // means.shape[1]
    size = min(block_frames(frames.device), max(1, num_frames))
    expanded = torch.ones(size, weights.shape[1], dtype=torch.float64, device=frames.device)
    joints = torch.empty(size, len(weights), dtype=torch.float64, device=frames.device)
    for start in range(0, num_frames, size):
        block = _block(frames, start, min(start + size, num_frames)).double()
        out = joints[: len(block)]
        torch.mm(expand(block, center, expanded), weights.t(), out=out)
        yield slice(start, start + len(block)), block, out


def temper(joints: Tensor, temperature: float) -> Tensor:
    """softmax(log joint / temperature) over the components, in place of the joints [n, K].

    The temperature is above 0; 1 gives the posteriors.
    """
    # Shifted first, so that a tiny temperature does not overflow.
    joints.sub_(joints.amax(1, keepdim=True)).div_(temperature)
    return torch.softmax(joints, 1, out=joints)


def add_nll(
    frames: Tensor, means: Tensor, log_vars: Tensor, log_weights: Tensor, out: Tensor
) -> None:
    """Add Σ_n -ln p(x_n) of `frames` to the scalar `out`, in place; see `exact_log_joints`."""
    for _, _, joints in exact_log_joints(frames, means, log_vars, log_weights):
        out -= torch.logsumexp(joints, 1).sum()


def _block(frames: Tensor, start: int, stop: int) -> Tensor:
    """Frames [start, stop) as [n, D]; of [B, D, T] no more than those are copied."""
    if frames.ndim == 2:
        return frames[start:stop]
    numbers = torch.arange(start, stop, device=frames.device)
    length = frames.shape[2]
    return frames[numbers // length, :, numbers % length]


@dataclass(frozen=True)
class Statistics:
    """Sums over frames, as views of one flat buffer: what ranks exchange.

    Args:
        flat: [K (2D + 1) + extra].
        sums: Σ_n r_nk [x - c, (x - c)², 1], [K, 2D + 1].
        extra: further numbers that travel along, [extra].
    """

    flat: Tensor
    sums: Tensor
    extra: Tensor

    @property
    def counts(self) -> Tensor:
        """Σ_n r_nk, [K]."""
        return self.sums[:, -1]

    @property
    def moments(self) -> Tensor:
        """Σ_n r_nk [x - c, (x - c)²], [K, 2D]."""
        return self.sums[:, :-1]

    @classmethod
    def zeros(
        cls,
        num_components: int,
        dim: int,
        device: torch.device,
        extra: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "Statistics":
        """Empty statistics."""
        size = num_components * (2 * dim + 1)
        flat = torch.zeros(size + extra, dtype=dtype, device=device)
        sums, rest = torch.split(flat, [size, extra])
        return cls(flat, sums.view(num_components, 2 * dim + 1), rest)


class StatisticsKernel:
    """Sufficient statistics of frames under a mixture, in float32 with buffers allocated once.

    Error against float64: see tests/mixture/test_density.py for the bounds that are held to.

    Args:
        num_components: K.
        center: [D], near the data's mean; fixes the device.
        extra: numbers that travel with the statistics.
    """

    def __init__(self, num_components: int, center: Tensor, extra: int = 0) -> None:
        size, dim, device = block_frames(center.device), len(center), center.device
        self.center = center
        self.statistics = Statistics.zeros(num_components, dim, device, extra)
        self._expanded = torch.ones(size, 2 * dim + 1, device=device, dtype=torch.float32)
        self._posteriors = torch.empty(size, num_components, device=device, dtype=torch.float32)

    @torch.no_grad()
    def __call__(
        self, frames: Tensor, means: Tensor, log_vars: Tensor, log_weights: Tensor
    ) -> Statistics:
        """Statistics of `frames` [N, D] (any floating dtype), in place of the previous ones."""
        weights = linear_map(means, log_vars, log_weights, self.center)
        statistics = self.statistics
        statistics.flat.zero_()
        size = len(self._posteriors)
        for start in range(0, len(frames), size):
            block = frames[start : start + size]
            posteriors = self._posteriors[: len(block)]
            expanded = expand(block.float(), self.center, self._expanded)
            torch.mm(expanded, weights.t(), out=posteriors)
            torch.softmax(posteriors, 1, out=posteriors)
            statistics.sums.addmm_(posteriors.t(), expanded)
        return statistics
