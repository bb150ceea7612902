"""Statistics of hard assignments: how many frames each centre is the nearest of, and their sum.

Of squared distances |x - μ_k|² = |x|² - 2 (x·μ_k - |μ_k|² / 2) only the bracket depends on k, so
the nearest centres of a block of frames are one GEMM and one maximum. The sums are in float64:
frames that are stored in float16 add up there without rounding, in whatever order and on however
many ranks. Legend: `gmmpipe.mixture.mixture`.
"""

import torch
from torch import Tensor

from gmmpipe.mixture.mixture import Mixture, block_frames
from gmmpipe.mixture.statistics import Statistics


class HardStatisticsKernel:
    """Σ_n r_nk [x_n, 1], where r_nk is 1 for the nearest centre of frame n and 0 for the others.

    The statistics are float64, centred by 0, and have no second moments: their sums are [K, D + 1].

    Args:
        num_components: K.
        center: [D], near the data's mean, where distances are taken; fixes the device.
        extra: numbers that travel with the statistics.
    """

    def __init__(
        self, num_components: int, center: Tensor, extra: int = 0, kind: str | None = None
    ) -> None:
        assert kind is None, "there is one kind of it"
        size, width = block_frames(center.device), len(center) + 1
        flat = center.new_zeros(num_components * width + extra, dtype=torch.float64)
        sums, rest = torch.split(flat, [num_components * width, extra])
        origin = torch.zeros_like(center, dtype=torch.float64)
        self.statistics = Statistics(origin, flat, sums.view(num_components, width), rest)
        self._center = center
        self._affinities = center.new_empty(size, num_components, dtype=torch.float32)
        self._rows = center.new_ones(size, width, dtype=torch.float64)
        self._loaded: tuple[Tensor, Tensor | None] | None = None

    def __call__(self, frames: Tensor, mixture: Mixture) -> Statistics:
        """Statistics of `frames` [N, D] (any floating dtype), in place of the previous ones."""
        self.load(frames)
        return self.sum_loaded(mixture)

    def load(self, frames: Tensor, weights: Tensor | None = None) -> None:
        """Take the frames of the next `sum_loaded`."""
        self._loaded = frames, weights

    @torch.no_grad()
    def sum_loaded(self, mixture: Mixture) -> Statistics:
        """Statistics of the frames that were loaded, in place of the previous ones."""
        assert self._loaded is not None, "frames are loaded once for each sum of them"
        (frames, weights), self._loaded = self._loaded, None
        sums = self.statistics.sums
        self.statistics.flat.zero_()
        centers = mixture.means - self._center
        half_norms = centers.square().sum(1).mul_(0.5)
        for start in range(0, len(frames), len(self._rows)):
            block = frames[start : start + len(self._rows)]
            affinities = self._affinities[: len(block)]
            centred = block.float() - self._center
            torch.addmm(half_norms, centred, centers.t(), beta=-1.0, out=affinities)
            rows = self._rows[: len(block)]
            rows[:, :-1] = block
            rows[:, -1] = 1.0
            if weights is not None:
                rows.mul_(weights[start : start + len(block), None])
            sums.index_add_(0, affinities.max(1).indices, rows)
        return self.statistics


@torch.no_grad()
def nearest_square_distances(frames: Tensor, mixture: Mixture) -> Tensor:
    """min_k |x - μ_k|² of each frame, float64 [N], for `frames` [N, D]."""
    means = mixture.means.double()
    center = means.mean(0)
    nearest = torch.empty(len(frames), dtype=torch.float64, device=frames.device)
    size = block_frames(frames.device)
    for start in range(0, len(frames), size):
        block = frames[start : start + size].double()
        best = nearest_centers(block - center, means - center)
        # From the difference, so that a frame where a centre is has a distance of 0 exactly.
        nearest[start : start + size] = (block - means[best]).square().sum(1)
    return nearest


def nearest_centers(frames: Tensor, centers: Tensor) -> Tensor:
    """The nearest centre of each frame, int64 [N], in blocks.

    Args:
        frames: [N, D], centred near 0.
        centers: [K, D], of the same dtype.
    """
    half_norms = centers.square().sum(1).mul_(0.5)
    blocks = torch.split(frames, block_frames(frames.device))
    products = (torch.addmm(half_norms, block, centers.t(), beta=-1.0) for block in blocks)
    return torch.cat([product.max(1).indices for product in products])
