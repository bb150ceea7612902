"""What the tests of the JEPA recipe share; a pytest plugin, beside a conftest.py for all tests."""

from pathlib import Path

import pytest
from recipe import train_here


@pytest.fixture(scope="session")
def uninterrupted(store: Path, gmm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one piece; not to be changed."""
    return train_here(store, gmm_path, tmp_path_factory.mktemp("jepa") / "whole")
