"""The density of a diagonal mixture, as one affine map of [x, x²].

Legend: N frames, D dimensions, K components; p = 1/σ² the precisions. For frames centred by c,

    ln w_k N(x; μ_k, σ_k²) = b_k + x·(p_k μ_k) + x²·(-p_k / 2)
    b_k = ln w_k - (D ln 2π + Σ_d [ln σ_kd² + p_kd μ_kd²]) / 2

so the log joints of N frames are one GEMM of [x, x²] (N x 2D) with the map, and the sufficient
statistics Σ r x and Σ r x² a second one of the same matrix with the posteriors.
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
from torch.nn.functional import pad

from gmmpipe.mixture.likely_pairs import (
    GROUP_SIZE,
    MAX_GROUPS,
    LikelyGroups,
    add_likely_groups,
    find_likely_groups,
)

BLOCK_FRAMES = 512
"""Frames a block: [512, K] posteriors stay in a CPU core's cache at K = 1024."""
CUDA_BLOCK_FRAMES = 16384
SPAN_FRAMES = 16384
"""Frames whose likely pairs are summed at once; a step of a fit has as many by default."""
MIN_SPARSE_COMPONENTS = 256
"""From so many components on are likely pairs looked for: fewer are summed as fast as searched."""


def block_frames(device: torch.device) -> int:
    """How many frames are worked on at once; it bounds memory, and fills the device."""
    return CUDA_BLOCK_FRAMES if device.type == "cuda" else BLOCK_FRAMES


def affine_map(
    means: Tensor, log_vars: Tensor, log_weights: Tensor, center: Tensor
) -> tuple[Tensor, Tensor]:
    """The map from [x - center, (x - center)²] to log joints: matrix [K, 2D] and bias [K].

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
    return torch.cat([scaled, precisions.mul_(-0.5)], dim=1), bias


def expand(frames: Tensor, center: Tensor, out: Tensor) -> Tensor:
    """[x - center, (x - center)²] of `frames` [n, D], written to the first n rows of `out`."""
    n, dim = frames.shape
    expanded = out[:n]
    torch.sub(frames, center, out=expanded[:, :dim])
    torch.mul(expanded[:, :dim], expanded[:, :dim], out=expanded[:, dim:])
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
    center = _center_of(means.double())
    matrix, bias = affine_map(means.double(), log_vars.double(), log_weights.double(), center)
    num_frames = frames.numel() // means.shape[1]
    size = min(block_frames(frames.device), max(1, num_frames))
    expanded = torch.empty(size, matrix.shape[1], dtype=torch.float64, device=frames.device)
    joints = torch.empty(size, len(matrix), dtype=torch.float64, device=frames.device)
    for start in range(0, num_frames, size):
        block = _block(frames, start, min(start + size, num_frames)).double()
        out = joints[: len(block)]
        torch.addmm(bias, expand(block, center, expanded), matrix.t(), out=out)
        yield slice(start, start + len(block)), block, out


def _center_of(means: Tensor) -> Tensor:
    """What frames are centred by, [D]: the mean of the means [K, D].

    Where some means have run away so far that theirs is nowhere near a frame, which would cost all
    digits, it is the one of the smallest magnitude.
    """
    mean = means.mean(0)
    smallest = means.gather(0, means.abs().argmin(0, keepdim=True))[0]
    return torch.where((mean - smallest).abs() > 1e6 * (1 + smallest.abs()), smallest, mean)


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
    total = torch.zeros((), dtype=torch.float64, device=out.device)
    for _, _, joints in exact_log_joints(frames, means, log_vars, log_weights):
        total -= torch.logsumexp(joints, 1).sum()
    out += total


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
        flat: [(2D + 1) K + extra].
        sums: Σ_n r_nk [x - c, (x - c)², 1], [K, 2D + 1]; the transpose of how they lie in `flat`,
            which is the faster way round for the GEMM that makes them.
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
        size = (2 * dim + 1) * num_components
        flat = torch.zeros(size + extra, dtype=dtype, device=device)
        sums, rest = torch.split(flat, [size, extra])
        return cls(flat, sums.view(2 * dim + 1, num_components).t(), rest)

    def add(self, posteriors: Tensor, expanded: Tensor) -> None:
        """Add frames, given their posteriors [n, K] and their [x - c, (x - c)²], [n, 2D]."""
        self.moments.t().addmm_(expanded.t(), posteriors)
        self.counts.add_(posteriors.sum(0))


class StatisticsKernel:
    """Sufficient statistics of frames under a mixture, in float32 with buffers allocated once.

    On a CPU, and with components enough, only the pairs of a frame and a component that count are
    summed, where they are few; see `gmmpipe.mixture.likely_pairs`. A GPU is faster over all pairs.
    Error against float64: see tests/mixture/test_density.py for the bounds that are held to.

    Args:
        num_components: K.
        center: [D], near the data's mean; fixes the device.
        extra: numbers that travel with the statistics.
    """

    def __init__(self, num_components: int, center: Tensor, extra: int = 0) -> None:
        dim, device = len(center), center.device
        self.center = center
        self.statistics = Statistics.zeros(num_components, dim, device, extra)
        self._sparse = device.type == "cpu" and num_components >= MIN_SPARSE_COMPONENTS
        self._padding = -num_components % GROUP_SIZE if self._sparse else 0
        width = num_components + self._padding
        self._expanded = torch.empty(SPAN_FRAMES, 2 * dim, device=device, dtype=torch.float32)
        self._joints = torch.empty(block_frames(device), width, device=device, dtype=torch.float32)
        self._loaded: tuple[Tensor, list[Tensor]] | None = None

    def __call__(
        self, frames: Tensor, means: Tensor, log_vars: Tensor, log_weights: Tensor
    ) -> Statistics:
        """Statistics of `frames` [N, D] (any floating dtype), in place of the previous ones."""
        self.load(frames)
        return self.sum_loaded(means, log_vars, log_weights)

    @torch.no_grad()
    def load(self, frames: Tensor) -> None:
        """Take the frames of the next `sum_loaded`, and do what needs no mixture yet."""
        first, *later = torch.split(frames, SPAN_FRAMES)
        self._loaded = expand(first.float(), self.center, self._expanded), later

    @torch.no_grad()
    def sum_loaded(self, means: Tensor, log_vars: Tensor, log_weights: Tensor) -> Statistics:
        """Statistics of the frames that were loaded, in place of the previous ones."""
        assert self._loaded, "frames are loaded once for each sum of them"
        (expanded, later), self._loaded = self._loaded, None
        matrix, bias = affine_map(means, log_vars, log_weights, self.center)
        if self._padding:  # components that no frame is ever of
            matrix = pad(matrix, (0, 0, 0, self._padding))
            bias = pad(bias, (0, self._padding), value=-math.inf)
        flat = self.statistics.flat.zero_()
        self._add(expanded, matrix, bias)
        if later:  # in float64, for millions of frames are too long a sum
            total = flat.double()
            for span in later:
                flat.zero_()
                self._add(expand(span.float(), self.center, self._expanded), matrix, bias)
                total += flat
            flat.copy_(total)
        return self.statistics

    def _add(self, expanded: Tensor, matrix: Tensor, bias: Tensor) -> None:
        """Add frames, given their [x - c, (x - c)²], [n, 2D]."""
        num_components = len(self.statistics.counts)
        found: list[LikelyGroups] = []
        size = len(self._joints)
        for start in range(0, len(expanded), size):
            block = expanded[start : start + size]
            joints = self._joints[: len(block)]
            torch.addmm(bias, block, matrix.t(), out=joints)
            likely = find_likely_groups(joints, start) if self._sparse else None
            if likely:
                found.append(likely)
            else:
                torch.softmax(joints, 1, out=joints)
                self.statistics.add(joints[:, :num_components], block)
            last = start + size >= len(expanded)
            if found and (last or sum(len(part.groups) for part in found) > MAX_GROUPS):
                add_likely_groups(found, expanded, self.statistics.moments, self.statistics.counts)
                found.clear()
