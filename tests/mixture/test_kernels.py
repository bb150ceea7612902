"""Which kernel a device gets, and the sizes of its blocks."""

import pytest
import torch

from gmmpipe.mixture.mixture import BLOCK_FRAMES, CUDA_BLOCK_FRAMES, block_frames
from gmmpipe.mixture.statistics import SPAN_FRAMES


@pytest.mark.parametrize("num_components", [1, 100, 256, 1000, 1024, 4096, 16384, 100_000])
def test_log_joints_of_a_block_on_a_gpu_fit_half_of_its_l2_cache(num_components) -> None:
    device = torch.device("cuda")
    size = block_frames(device, num_components)
    assert size % 128 == 0
    assert 1024 <= size <= block_frames(device) == CUDA_BLOCK_FRAMES
    if torch.cuda.is_available():
        half = torch.cuda.get_device_properties(device).L2_cache_size // 2
    else:
        half = 20 << 20
    assert 4 * num_components * size <= half or size == 1024
    blocks = -(-SPAN_FRAMES // size)
    one_fewer = -(-SPAN_FRAMES // (blocks - 1)) if blocks > 1 else 0
    assert not one_fewer or 4 * num_components * one_fewer > half or one_fewer < 1024


@pytest.mark.parametrize("num_components", [None, 7, 16384])
def test_blocks_on_a_cpu_are_of_one_size(num_components) -> None:
    assert block_frames(torch.device("cpu"), num_components) == BLOCK_FRAMES
