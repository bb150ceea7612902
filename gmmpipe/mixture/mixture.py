"""`Mixture`: a diagonal Gaussian mixture as a value, and its density as one affine map of [x, x²].

Legend: N frames, D dimensions, K components; p = 1/σ² the precisions. For frames centred by c,

    ln w_k N(x; μ_k, σ_k²) = b_k + x·(p_k μ_k) + x²·(-p_k / 2)
    b_k = ln w_k - (D ln 2π + Σ_d [ln σ_kd² + p_kd μ_kd²]) / 2

so the log joints of N frames are one GEMM of [x, x²] (N x 2D) with the map. The sufficient
statistics Σ r x and Σ r x² are a second GEMM, of the same matrix with the posteriors
(`gmmpipe.mixture.statistics`). The gradient of the likelihood and the M-step of EM both follow from
the statistics in O(K D) (`gmmpipe.mixture.adam`, `em`). No N x K x D array and no autograd graph
ever exists.

There are three uses of two precisions. A fit computes in float32: where variances sit at the floor
the terms of the map cancel, and scores err by up to some 1e-2 nats, which a gradient tolerates.
Everything that is returned to a user is computed in float64 (`Mixture.log_joints`): the same map is
exact to 1e-9 there, and no autocast, TF32 setting or default dtype changes it. On a GPU whose
float64 is slow, it is computed in float32, with the likely components again in float64 and a bound
of what is lost (`gmmpipe.mixture.fast_joints`; `returned_joints` chooses).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_FRAMES = 512
"""Frames per block on a CPU: [512, K] posteriors stay in a core's cache at K = 1024."""
CUDA_BLOCK_FRAMES = 16384
"""Frames per block on a GPU, at most: as many fill one."""
_MIN_CUDA_BLOCK_FRAMES, _CUDA_TILE_FRAMES = 1024, 128
_L2_BYTES = 40 << 20
"""Of an A100; newer cards have more."""


def block_frames(device: torch.device, num_components: int | None = None) -> int:
    """The number of frames of a block: it bounds memory, and fills the device.

    Args:
        device: where the frames are.
        num_components: K, if a block is to have as many frames that its float32 log joints
            [n, K] fit half of a GPU's L2 cache, where what passes over them finds them.
    """
    if device.type != "cuda":
        return BLOCK_FRAMES
    if num_components is None:
        return CUDA_BLOCK_FRAMES
    most = max(_l2_bytes(device) // 2 // (4 * num_components), _MIN_CUDA_BLOCK_FRAMES)
    most -= most % _CUDA_TILE_FRAMES
    num_blocks = -(-CUDA_BLOCK_FRAMES // most)
    even = -(-CUDA_BLOCK_FRAMES // num_blocks)  # a last block of few frames does not fill a GPU
    return even + -even % _CUDA_TILE_FRAMES


def _l2_bytes(device: torch.device) -> int:
    """The size of a GPU's L2 cache; without a GPU (tensors without storage), a usual one."""
    if not torch.cuda.is_available():
        return _L2_BYTES
    return int(torch.cuda.get_device_properties(device).L2_cache_size) or _L2_BYTES


@dataclass(frozen=True)
class Mixture:
    """A diagonal-covariance Gaussian mixture.

    Args:
        means: [K, D].
        log_vars: [K, D], the log variances.
        log_weights: [K], normalised.
    """

    means: Tensor
    log_vars: Tensor
    log_weights: Tensor

    @property
    def num_components(self) -> int:
        """K."""
        return self.means.shape[0]

    @property
    def dim(self) -> int:
        """D."""
        return self.means.shape[1]

    def double(self) -> "Mixture":
        """The same mixture in float64."""
        return Mixture(self.means.double(), self.log_vars.double(), self.log_weights.double())

    def affine_map(self, center: Tensor) -> tuple[Tensor, Tensor]:
        """The map from [x - center, (x - center)²] to log joints: matrix [K, 2D] and bias [K].

        Args:
            center: [D]; in float32, digits are kept where it is near the frames' mean.
        """
        precisions = torch.exp(-self.log_vars)
        centred = self.means - center
        scaled = centred * precisions
        constant = self.dim * math.log(2 * math.pi)
        bias = self.log_weights - 0.5 * (constant + (self.log_vars + scaled * centred).sum(1))
        return torch.cat([scaled, precisions.mul_(-0.5)], dim=1), bias

    def log_joints(self, frames: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """ln w_k N(x; μ_k, σ_k²) in float64, one block of frames after another.

        Args:
            frames: [N, D], or [B, D, T] (then N = B * T, time fastest); any floating dtype.

        Yields:
            The block's slice of the N frames; the block's frames, float64 [n, D]; its log joints,
            float64 [n, K], in a buffer that the next block overwrites.
        """
        wide = self.double()
        center = center_of(wide.means)
        matrix, bias = wide.affine_map(center)
        num_frames = frames.numel() // self.dim
        size = min(block_frames(frames.device), max(1, num_frames))
        expanded = torch.empty(size, matrix.shape[1], dtype=torch.float64, device=frames.device)
        joints = torch.empty(size, len(matrix), dtype=torch.float64, device=frames.device)
        for start in range(0, num_frames, size):
            block = frames_between(frames, start, min(start + size, num_frames)).double()
            out = joints[: len(block)]
            torch.addmm(bias, expand(block, center, expanded), matrix.t(), out=out)
            yield slice(start, start + len(block)), block, out

    def nll_sum(self, frames: Tensor) -> Tensor:
        """Σ_n -ln p(x_n) of `frames` (see `log_joints`), a float64 scalar."""
        total = torch.zeros((), dtype=torch.float64, device=frames.device)
        for _, _, joints in self.log_joints(frames):
            total -= torch.logsumexp(joints, 1).sum()
        return total


def center_of(means: Tensor) -> Tensor:
    """What frames are centred by, [D]: the mean of the means [K, D].

    Where some means have run away, their mean is far from every frame, and centring by it would
    cost all digits. There the value of the smallest magnitude is taken instead.
    """
    mean = means.mean(0)
    smallest = means.gather(0, means.abs().argmin(0, keepdim=True))[0]
    return torch.where((mean - smallest).abs() > 1e6 * (1 + smallest.abs()), smallest, mean)


def frames_between(frames: Tensor, start: int, stop: int) -> Tensor:
    """Frames [start, stop) as [n, D]; of [B, D, T] only those are copied."""
    if frames.ndim == 2:
        return frames[start:stop]
    numbers = torch.arange(start, stop, device=frames.device)
    length = frames.shape[2]
    return frames[numbers // length, :, numbers % length]


def expand(frames: Tensor, center: Tensor, out: Tensor) -> Tensor:
    """[x - center, (x - center)²] of `frames` [n, D], written to the first n rows of `out`."""
    n, dim = frames.shape
    expanded = out[:n, : 2 * dim]
    torch.sub(frames, center, out=expanded[:, :dim])
    torch.mul(expanded[:, :dim], expanded[:, :dim], out=expanded[:, dim:])
    return expanded


def temper(joints: Tensor, temperature: float) -> Tensor:
    """softmax(log joint / temperature) over the components, in place of the joints [n, K].

    The temperature is above 0; 1 gives the posteriors.
    """
    # Shifted first, so that a tiny temperature does not overflow.
    joints.sub_(joints.amax(1, keepdim=True)).div_(temperature)
    return torch.softmax(joints, 1, out=joints)
