"""One flipped bit anywhere in a document or a sample's JSON: found where it is read, or harmless.

And `verify` reports it in any case.
"""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from sealing import EARLIER, make_tiny_stores, shard_path

from gmmpipe import FeatureStore, LabelStore
from gmmpipe.errors import StoreError
from gmmpipe.jepa import JEPABatches
from gmmpipe.store.names import IDENTITY_FILE, REOPENED_FILE
from gmmpipe.store.schema import find_identity
from gmmpipe.store.shard import forget_sidecars
from gmmpipe.store.verify import open_store, verify
from helpers.damage import flipped


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny store of each kind, and labels of one; flips are taken back."""
    return make_tiny_stores(tmp_path_factory.mktemp("flips"))


def read_all(folder: Path, tar: Path) -> list[Any]:
    """All that readers get from a store, sidecars read anew."""
    forget_sidecars()
    if folder.name == "labels":
        labels = LabelStore.open(folder)
        counts = [shard.row.utterances for shard in labels.shards]
        found = [
            labels.read_utterance(n, at) for n, count in enumerate(counts) for at in range(count)
        ]
        (batch,) = JEPABatches(tar, labels=folder)
        return [
            [[u.labels.tolist(), u.topk_ids.tolist(), u.topk_probs.tolist()] for u in found],
            batch.topk_ids.tolist(),
        ]
    store = FeatureStore.open(folder)
    return [
        store.features,
        store.read_frames(0, store.num_frames).tolist(),
        [(utt.key, utt.metadata, utt.features.tolist()) for utt in store.utterances()],
    ]


def reported(folder: Path) -> bool:
    """Whether `gmmpipe verify` would exit 1."""
    try:
        return any(fault for _, fault in verify(open_store(folder)))
    except StoreError:
        return True


def span_of(folder: Path, what: str) -> tuple[Path, range]:
    """A file, and the bytes of it that are to be flipped."""
    if what != "samples":
        path = folder / what
        return path, range(path.stat().st_size)
    path = shard_path(folder)
    if path.suffix == ".zarr":
        path = path / "json" / "c" / "0"
        return path, range(path.stat().st_size)
    content = path.read_bytes()
    start = content.index(b'{"', content.index(b".json\0"))
    return path, range(start, content.index(b"}", start) + 1)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        *((kind, "store.json") for kind in ("tar", "zarr", "labels")),
        *((kind, "shard-000000.json") for kind in ("tar", "zarr", "labels")),
        *((kind, "samples") for kind in ("tar", "zarr")),
        *((kind, "rejects.jsonl") for kind in ("tar", "zarr")),
    ],
)
def test_a_flip_is_found_or_harmless_and_always_reported(
    kind: str, what: str, stores: dict[str, Path]
) -> None:
    folder = stores[kind]
    path, places = span_of(folder, what)
    intact = read_all(folder, stores["tar"])
    assert not reported(folder)
    draw, seen = random.Random(f"{kind} {what}"), []
    for at in places:
        with flipped(path, at, 1 << draw.randrange(8)):
            assert reported(folder), f"verify says nothing of byte {at}"
            try:
                harmless = read_all(folder, stores["tar"]) == intact
            except StoreError as error:
                seen.append(str(error))
            else:
                assert harmless, f"byte {at} changes what is read"
    if what == "rejects.jsonl":
        assert not seen  # nobody reads it but people
    else:
        assert len(seen) == len(places)  # each of them
        assert all(what in error or "shard-000000" in error for error in seen)


@pytest.mark.parametrize("name", [IDENTITY_FILE, REOPENED_FILE])
def test_a_flip_in_what_an_unfinished_store_is_made_by_is_found(
    name: str, stores: dict[str, Path], tmp_path: Path
) -> None:
    kind = "labels" if name == IDENTITY_FILE else "tar"
    folder = Path(shutil.copytree(stores[kind], tmp_path / kind))
    (folder / "store.json").rename(folder / name)
    for at in range((folder / name).stat().st_size):
        with flipped(folder / name, at, 1 << at % 8), pytest.raises(StoreError, match=name):
            find_identity(folder)


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_a_flip_in_an_earlier_versions_sidecar_never_changes_a_frame(
    kind: str, tmp_path: Path
) -> None:
    """They have no checksums; what can be compared with something else is."""
    folder = tmp_path / kind
    shutil.copytree(EARLIER / kind, folder)
    intact = read_all(folder, folder)[1]
    path, draw = folder / "shard-000000.json", random.Random(kind)
    for at in range(path.stat().st_size):
        with flipped(path, at, 1 << draw.randrange(8)):
            try:
                frames = read_all(folder, folder)[1]
            except StoreError:
                continue
            assert frames == intact, f"byte {at} changes what is read"
