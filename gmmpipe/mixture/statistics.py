"""Sufficient statistics of frames under a mixture: Σ r x and Σ r x², a GEMM with the posteriors.

Legend: `gmmpipe.mixture.mixture`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gmmpipe.mixture.mixture import Mixture, block_frames, expand

SPAN_FRAMES = 16384
"""Frames that are expanded at once; a step of a fit has as many by default."""


_Span = tuple[Tensor, Tensor | None]
"""Frames [n, D] and their weights."""


@dataclass(frozen=True)
class Statistics:
    """Sums over frames, as views of one flat buffer: what ranks exchange.

    Args:
        center: c, what the frames are centred by, [D].
        flat: [(2D + 1) K + extra].
        sums: Σ_n r_nk [x - c, (x - c)², 1], [K, 2D + 1]; the transpose of how they lie in `flat`,
            which is the faster way round for the GEMM that makes them.
        extra: further numbers that travel along, [extra].
    """

    center: Tensor
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
        center: Tensor,
        extra: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "Statistics":
        """Empty statistics, on the device of `center`."""
        width = 2 * len(center) + 1
        flat = center.new_zeros(width * num_components + extra, dtype=dtype)
        sums, rest = torch.split(flat, [width * num_components, extra])
        return cls(center, flat, sums.view(width, num_components).t(), rest)

    def add(self, posteriors: Tensor, expanded: Tensor) -> None:
        """Add frames, given their posteriors [n, K] and their [x - c, (x - c)²], [n, 2D]."""
        self.moments.t().addmm_(expanded.t(), posteriors)
        self.counts.add_(posteriors.sum(0))


class StatisticsKernel:
    """Sufficient statistics of frames under a mixture, in float32 with buffers allocated once.

    This one sums all pairs of a frame and a component; `gmmpipe.mixture.kernels` chooses among the
    kernels that there are. Error against float64: tests/mixture/test_statistics.py has the bounds.

    Args:
        num_components: K.
        center: [D], near the data's mean; fixes the device.
        extra: numbers that travel with the statistics.
        block: frames of a block; None for what suits the device.
    """

    def __init__(
        self, num_components: int, center: Tensor, extra: int = 0, block: int | None = None
    ) -> None:
        self.statistics = Statistics.zeros(num_components, center, extra)
        self._expanded = center.new_empty(SPAN_FRAMES, 2 * len(center), dtype=torch.float32)
        columns = self._padded(num_components)
        shape = (block or block_frames(center.device, columns), columns)
        self._joints = center.new_empty(shape, dtype=torch.float32)
        self._loaded: tuple[Tensor, list[_Span]] | None = None

    def __call__(self, frames: Tensor, mixture: Mixture) -> Statistics:
        """Statistics of `frames` [N, D] (any floating dtype), in place of the previous ones."""
        self.load(frames)
        return self.sum_loaded(mixture)

    @torch.no_grad()
    def load(self, frames: Tensor, weights: Tensor | None = None) -> None:
        """Take the frames of the next `sum_loaded`, and do what needs no mixture yet."""
        spans = torch.split(frames, SPAN_FRAMES)
        shares = [None] * len(spans) if weights is None else torch.split(weights, SPAN_FRAMES)
        first, *later = zip(spans, shares, strict=True)
        self._loaded = self._expand(*first), later

    @torch.no_grad()
    def sum_loaded(self, mixture: Mixture) -> Statistics:
        """Statistics of the frames that were loaded, in place of the previous ones."""
        assert self._loaded, "frames are loaded once for each sum of them"
        (expanded, later), self._loaded = self._loaded, None
        matrix, bias = self._affine_map(mixture)
        flat = self.statistics.flat.zero_()
        self._add(expanded, matrix, bias)
        if later:  # in float64: millions of frames are too long a sum for float32
            total = flat.double()
            for span in later:
                flat.zero_()
                self._add(self._expand(*span), matrix, bias)
                total += flat
            flat.copy_(total)
        return self.statistics

    def _expand(self, frames: Tensor, weights: Tensor | None) -> Tensor:
        """The rows of the products, of frames [n, D]."""
        assert weights is None, "a kernel for a CPU takes all frames"
        return expand(frames.float(), self.statistics.center, self._expanded)

    def _padded(self, num_components: int) -> int:
        """How many columns the log joints have: K, or more where a kernel needs that."""
        return num_components

    def _affine_map(self, mixture: Mixture) -> tuple[Tensor, Tensor]:
        """The map to the log joints, with as many rows as those have columns."""
        return mixture.affine_map(self.statistics.center)

    def _add(self, expanded: Tensor, matrix: Tensor, bias: Tensor) -> None:
        """Add frames, given their [x - c, (x - c)²], [n, 2D]."""
        for block, joints in self._blocks(expanded, matrix, bias):
            self._add_all_pairs(block, joints)

    def _blocks(
        self, expanded: Tensor, matrix: Tensor, bias: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of the expanded frames, each with its log joints, which the next overwrites."""
        size = len(self._joints)
        for start in range(0, len(expanded), size):
            block = expanded[start : start + size]
            joints = self._joints[: len(block)]
            torch.addmm(bias, block, matrix.t(), out=joints)
            yield block, joints

    def _add_all_pairs(self, block: Tensor, joints: Tensor) -> None:
        """Add a block; its log joints become posteriors."""
        torch.softmax(joints, 1, out=joints)
        self.statistics.add(joints[:, : len(self.statistics.counts)], block)
