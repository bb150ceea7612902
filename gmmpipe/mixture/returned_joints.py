"""The log joints of which everything is made that is returned: in float64, or as good as that."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from gmmpipe.mixture.fast_joints import JointBlock, fast_joints
from gmmpipe.mixture.mixture import Mixture

MIN_FAST_COMPONENTS = 256
"""With fewer, a product in float64 takes no longer than to compute the likely components again, by
their operations and bytes on a card whose float64 has 1/64 of float32's speed."""

_FAST_FLOAT64 = {(6, 0), (7, 0), (8, 0), (9, 0), (9, 4), (10, 0)}
"""Compute capabilities of cards that multiply in float64 at least half as fast as in float32: P100,
V100, A100, H100 and B200 by the throughput table of the CUDA C++ Programming Guide; AMD's MI200 and
MI300 are among them by the numbers that torch gives them. Of others, 1/32 or 1/64 is usual."""


def joint_blocks(
    mixture: Mixture, frames: Tensor, temperature: float = 1.0
) -> Iterator[JointBlock]:
    """The log joints of frames, block after block, on any device.

    Args:
        mixture: the mixture.
        frames: [N, D], or [B, D, T] (then N = B * T, time fastest); any floating dtype.
        temperature: of the softmax that is taken of them.
    """
    if takes_float32(frames.device, mixture.num_components):
        yield from fast_joints(mixture, frames, temperature)
        return
    for rows, block, joints in mixture.log_joints(frames):
        yield JointBlock(rows, block, joints)


def takes_float32(device: torch.device, num_components: int) -> bool:
    """Whether `gmmpipe.mixture.fast_joints` is the faster way: on a GPU with slow float64.

    On a CPU it takes 4 times as long as float64. What decides is known to the host.
    """
    if device.type != "cuda" or num_components < MIN_FAST_COMPONENTS:
        return False
    return _has_slow_float64(device)


@lru_cache
def _has_slow_float64(device: torch.device) -> bool:
    # Without a GPU, a device is that of tensors without data.
    return torch.cuda.is_available() and (
        torch.cuda.get_device_capability(device) not in _FAST_FLOAT64
    )
