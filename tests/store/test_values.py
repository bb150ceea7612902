"""Values that cannot be, planted with every right checksum, are named wherever they are read."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sealing import EARLIER, make_tiny, plant

from gmmpipe import FeatureStore, GradientGMM, LabelStore
from gmmpipe.apply.evaluate import evaluate
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.errors import StoreError
from gmmpipe.jepa import JEPABatches
from gmmpipe.store.columns import all_finite
from gmmpipe.store.verify import verify
from helpers.making import alone, fit_here

ALONE = alone()


def check(folder: Path) -> None:
    """`verify`, as the others: with an error."""
    for path, fault in verify(FeatureStore.open(folder)):
        if fault:
            raise StoreError(f"{path}: {fault}")


def read(folder: Path) -> None:
    store = FeatureStore.open(folder)
    store.read_frames(0, store.num_frames)


def mixture(folder: Path) -> Path:
    """A model file of two components for the frames of a store."""
    dim = FeatureStore.open(folder).dim
    means = torch.stack([torch.zeros(dim), torch.ones(dim)])
    path = fresh(folder) / "gmm.pt"
    GradientGMM(means, torch.zeros(2, dim), torch.full((2,), -np.log(2.0))).save(path)
    return path


def fresh(folder: Path) -> Path:
    """An empty folder beside another."""
    return Path(tempfile.mkdtemp(dir=folder.parent))


READERS: dict[str, Callable[[Path], object]] = {
    "verify": check,
    "read_frames": read,
    "utterances": lambda folder: list(FeatureStore.open(folder).utterances()),
    "fit": lambda folder: fit_here(folder, fresh(folder) / "fit", K=2, target_frames=54),
    "evaluate": lambda folder: evaluate(str(folder), mixture(folder), None, ALONE),
    "label": lambda folder: label(
        LabelOptions(folder, mixture(folder), fresh(folder) / "labels"), ALONE
    ),
    "JEPABatches": lambda folder: list(JEPABatches(folder)),
}


@pytest.mark.parametrize("kind", ["tar", "zarr"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_frames_that_are_not_finite_are_named(kind: str, value: float, tmp_path: Path) -> None:
    folder = make_tiny(kind, tmp_path / "store")
    for reader in READERS.values():
        reader(folder)  # all is well
    dtype = np.float16 if kind == "tar" else np.float32
    key = plant(folder, "index", 1, np.array([1.0, value], dtype=dtype))
    for name, reader in READERS.items():
        with pytest.raises(StoreError, match=rf"shard-000000.*{key}.*not finite"):
            pytest.fail(f"{name} says nothing: {reader(folder)}")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_exactly_infinity_and_nan_are_not_finite(dtype: type) -> None:
    unsigned = {np.float16: np.uint16, np.float32: np.uint32}[dtype]
    bits = np.arange(1 << 16, dtype=np.uint32)  # of every float16, and the upper half of float32
    values = (bits << (8 * unsigned().itemsize - 16)).astype(unsigned).view(dtype)
    found = [bool(all_finite(values[at : at + 1])) for at in range(len(values))]
    assert np.array_equal(found, ~np.isfinite(values))
    assert all_finite(values[np.isfinite(values)]) == ""


LABELS = {
    "a label of K": ("index", np.array([4], dtype=np.uint16)),
    "an id beyond K": ("topk_ids_index", np.array([0, 65535], dtype=np.uint16)),
    "a probability of NaN": ("topk_probs_index", np.array([np.nan], dtype=np.float16)),
    "a probability above 1": ("topk_probs_index", np.array([0.5, 1.001], dtype=np.float16)),
    "a negative probability": ("topk_probs_index", np.array([-0.5], dtype=np.float16)),
}


@pytest.mark.parametrize("lie", LABELS)
def test_labels_out_of_range_are_named(lie: str, tmp_path: Path) -> None:
    source, folder = make_tiny("tar", tmp_path / "store"), tmp_path / "labels"
    label(LabelOptions(source, EARLIER / "gmm.pt", folder, top_k=2), ALONE)
    assert len(list(JEPABatches(source, labels=folder))) == 1
    key = plant(folder, LABELS[lie][0], 1, LABELS[lie][1])
    (_, fault), _ = verify(LabelStore.open(folder))
    assert f"{key} holds values out of range" in fault
    with pytest.raises(StoreError, match=rf"shard-000000\.tar.*{key} holds values out of range"):
        list(JEPABatches(source, labels=folder))
    with pytest.raises(StoreError, match=rf"shard-000000\.tar.*{key} holds values out of range"):
        LabelStore.open(folder).read_utterance(0, 1)
