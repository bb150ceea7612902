"""Statistics by a fused kernel in Triton, for a GPU: no log joint is ever stored.

Two passes over the frames of a span. The first computes ln p(x) of each frame. The second computes
the log joints again, tile by tile, and adds Σ r [x, x², 1] to the partial sums of a chunk of the
frames; those are added up last. There are no atomics, and the number of chunks follows from K
alone: the same frames give the same bits. That takes one and a half times the products of
`StatisticsKernel`, and reads and writes next to nothing besides.

The programs are compiled at the first sum, so a CUDA graph is captured after one.
"""

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from gmmpipe.errors import GmmpipeError
from gmmpipe.mixture.matmul import allows_tf32
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.statistics import SPAN_FRAMES, Statistics

TILE_COMPONENTS = 64
_NUM_PROGRAMS = 256
"""As many are started at once, if there are frames enough: two for each multiprocessor of a
large GPU."""
_MAX_PARTS = 16
"""Into so many parts the components are cut at most, where few frames would leave a GPU idle."""


@dataclass(frozen=True)
class Tile:
    """What a program has in hand at once.

    Args:
        frames: how many; a power of 2.
        dims: how many dimensions of them; a power of 2, from 16 on.
        num_warps: how many warps share it.
    """

    frames: int
    dims: int
    num_warps: int


TILES = {"ieee": Tile(64, 16, 4), "tf32": Tile(128, 16, 8)}
"""By precision of the products: as much as the registers of sm_80 and sm_90 hold."""


class TritonKernel:
    """Sufficient statistics of frames under a mixture, in float32 with buffers allocated once.

    The interface is that of `StatisticsKernel`, and so is the error against float64.

    Args:
        num_components: K.
        center: [D], near the data's mean; fixes the device.
        extra: numbers that travel with the statistics.
        tile: None for what suits a GPU.

    Raises:
        GmmpipeError: triton is not installed.
    """

    def __init__(
        self, num_components: int, center: Tensor, extra: int = 0, tile: Tile | None = None
    ) -> None:
        self._programs = load_programs()
        self.statistics = Statistics.zeros(num_components, center, extra)
        self._tile = tile
        self._num_tiles = -(-num_components // TILE_COMPONENTS)
        num_chunks = -(-_NUM_PROGRAMS // self._num_tiles)
        width = 2 * len(center) + 1
        self._center = center.float().contiguous()
        self._log_sums = center.new_empty(_MAX_PARTS, SPAN_FRAMES, dtype=torch.float32)
        self._partials = center.new_empty(num_chunks, width * num_components, dtype=torch.float32)
        self._span_sums = center.new_empty(width * num_components, dtype=torch.float64)
        self._total = torch.empty_like(self._span_sums)
        self._loaded: tuple[Tensor, Tensor | None] | None = None

    def __call__(self, frames: Tensor, mixture: Mixture) -> Statistics:
        """Statistics of `frames` [N, D] (any floating dtype), in place of the previous ones."""
        self.load(frames)
        return self.sum_loaded(mixture)

    def load(self, frames: Tensor, weights: Tensor | None = None) -> None:
        """Take the frames of the next `sum_loaded`, which are not to change until then.

        Args:
            frames: [N, D], of any floating dtype that a GPU computes in.
            weights: float32 [N], 0 for a row that is padding and adds nothing, else 1; None: all 1.
        """
        self._loaded = frames, weights

    @torch.no_grad()
    def sum_loaded(self, mixture: Mixture) -> Statistics:
        """Statistics of the frames that were loaded, in place of the previous ones."""
        assert self._loaded, "frames are loaded once for each sum of them"
        (frames, weights), self._loaded = self._loaded, None
        matrix, bias = mixture.affine_map(self._center)
        self._total.zero_()
        for start in range(0, len(frames), SPAN_FRAMES):
            span = slice(start, start + SPAN_FRAMES)
            self._sum(frames[span], None if weights is None else weights[span], matrix, bias)
            torch.sum(self._partials, 0, dtype=torch.float64, out=self._span_sums)
            self._total.add_(self._span_sums)
        flat = self.statistics.flat.zero_()
        flat[: len(self._total)].copy_(self._total)
        return self.statistics

    def _sum(self, frames: Tensor, weights: Tensor | None, matrix: Tensor, bias: Tensor) -> None:
        """Leave the sums of at most `SPAN_FRAMES` frames in the partial ones."""
        self._partials.zero_()
        precision = "tf32" if allows_tf32() else "ieee"
        tile = self._tile or TILES[precision]
        constants = {
            "dim": frames.shape[1],
            "BLOCK_N": tile.frames,
            "BLOCK_K": TILE_COMPONENTS,
            "BLOCK_D": tile.dims,
            "PRECISION": precision,
            "num_warps": tile.num_warps,
        }
        shared = (frames, *frames.stride(), self._center, matrix, bias)
        sums = self._log_sums, SPAN_FRAMES
        tiles_of_frames = -(-len(frames) // tile.frames)
        most_parts = min(-(-_NUM_PROGRAMS // tiles_of_frames), _MAX_PARTS)
        tiles_per_part = -(-self._num_tiles // most_parts)
        num_parts = -(-self._num_tiles // tiles_per_part)
        self._programs.sum_likelihoods[tiles_of_frames, num_parts](
            *shared, *sums, len(frames), len(bias), tiles_per_part, **constants
        )
        num_chunks = len(self._partials)
        for first in range(0, tiles_of_frames, num_chunks):
            chunks = min(num_chunks, tiles_of_frames - first)
            self._programs.add_statistics[self._num_tiles, chunks](
                *shared,
                *sums,
                self._center if weights is None else weights,
                self._partials,
                first * tile.frames,
                len(frames),
                len(bias),
                num_parts=num_parts,
                WEIGHTED=weights is not None,
                **constants,
            )


def load_programs() -> ModuleType:
    """The programs of the kernel, compiled on first use.

    Raises:
        GmmpipeError: triton is not installed.
    """
    try:
        from gmmpipe.mixture import triton_programs
    except ImportError as error:
        raise GmmpipeError(
            f"--kernel triton needs triton, which comes with torch for CUDA: {error}"
        ) from None
    return triton_programs


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs the programs, on a CPU: TRITON_INTERPRET=1 is set.

    Raises:
        GmmpipeError: triton is not installed.
    """
    programs = load_programs()
    return not isinstance(programs.sum_likelihoods, programs.triton.JITFunction)
