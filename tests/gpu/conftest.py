"""The device that a test runs on: every body runs on a CPU too, so that none is run first on a GPU.

Tests of a GPU have the marker `gpu`; `make gpu` runs them.
"""

import pytest
import torch

from gmmpipe.run.world import World

ON_GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")


@pytest.fixture(params=["cpu", ON_GPU])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def world(device: torch.device) -> World:
    """One rank, which computes on the device."""
    return World(0, 1, device)
