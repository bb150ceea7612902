"""Sufficient statistics of frames under a mixture: Σ r x and Σ r x², a GEMM after the posteriors.

Legend: `gmmpipe.mixture.mixture`.
"""

import math
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
from gmmpipe.mixture.mixture import Mixture, block_frames, expand

SPAN_FRAMES = 16384
"""Frames whose likely pairs are summed at once; a step of a fit has as many by default."""
MIN_SPARSE_COMPONENTS = 256
"""From so many components on are likely pairs looked for: fewer are summed as fast as searched."""


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
    Error against float64: see tests/mixture/test_statistics.py for the bounds that are held to.

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

    def __call__(self, frames: Tensor, mixture: Mixture) -> Statistics:
        """Statistics of `frames` [N, D] (any floating dtype), in place of the previous ones."""
        self.load(frames)
        return self.sum_loaded(mixture)

    @torch.no_grad()
    def load(self, frames: Tensor) -> None:
        """Take the frames of the next `sum_loaded`, and do what needs no mixture yet."""
        first, *later = torch.split(frames, SPAN_FRAMES)
        self._loaded = expand(first.float(), self.center, self._expanded), later

    @torch.no_grad()
    def sum_loaded(self, mixture: Mixture) -> Statistics:
        """Statistics of the frames that were loaded, in place of the previous ones."""
        assert self._loaded, "frames are loaded once for each sum of them"
        (expanded, later), self._loaded = self._loaded, None
        matrix, bias = mixture.affine_map(self.center)
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
