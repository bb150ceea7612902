"""Stores that lie: changed on purpose, and then given every checksum that they should have."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c

from gmmpipe import FeatureConfig, LabelOptions
from gmmpipe.apply.label import label
from gmmpipe.store.columns import Column
from gmmpipe.store.documents import read_document
from gmmpipe.store.shard_kinds import shard_file
from helpers.damage import edit_document
from helpers.making import CORPUS, alone, make_store

EARLIER = Path(__file__).parent / "earlier"
"""Stores made by a version that wrote no checksums of documents; see its README."""
MANIFEST = EARLIER / "manifest.jsonl"
TINY: dict[str, dict[str, Any]] = {
    "tar": {
        "features": FeatureConfig(n_mels=20),
        "utterances_per_shard": 3,
        "store_audio": "flac",
    },
    "zarr": {
        "features": FeatureConfig(n_mels=4),
        "utterances_per_shard": 3,
        "format": "zarr",
        "dtype": "float32",
    },
}
"""Options of stores of four utterances and a reject, in two shards."""


def make_tiny(kind: str, folder: Path) -> Path:
    """The store of a kind of `TINY`."""
    return make_store(MANIFEST, folder, base_path=CORPUS, **TINY[kind])


def make_tiny_stores(folder: Path) -> dict[str, Path]:
    """A tiny store of each kind, and labels of the first."""
    made = {kind: make_tiny(kind, folder / kind) for kind in TINY}
    made["labels"] = folder / "labels"
    label(LabelOptions(made["tar"], EARLIER / "gmm.pt", made["labels"], top_k=2), alone())
    return made


def shard_path(folder: Path, number: int = 0) -> Path:
    """A shard of a store."""
    document = json.loads((folder / "store.json").read_bytes())
    return folder / document["shards"][number]["name"]


def seal(folder: Path) -> None:
    """Give each shard and sidecar the digests that they now have, up to those in store.json."""
    rows = read_document(folder / "store.json")["shards"]
    for row in rows:
        path = folder / row["name"]
        sidecar = path.with_suffix(".json")
        row |= {"bytes": shard_file(path).size(), "sha256": shard_file(path).sha256()}
        same = {name: row[name] for name in ("bytes", "sha256")}

        def record_size(document: dict[str, Any], same: dict[str, Any] = same) -> None:
            document.update(same)
            if "tally" in document:
                document["tally"]["bytes"] = same["bytes"]

        edit_document(sidecar, record_size)
        row["sidecar_sha256"] = hashlib.sha256(sidecar.read_bytes()).hexdigest()

    def record(document: dict[str, Any]) -> None:
        document["shards"] = rows
        document["totals"]["bytes"] = sum(row["bytes"] for row in rows)

    edit_document(folder / "store.json", record)


def edit_sidecar(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the sidecar of the first shard, and give it and store.json the checksums for that."""
    path = shard_path(folder).with_suffix(".json")
    edit_document(path, change)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def record(document: dict[str, Any]) -> None:
        document["shards"][0]["sidecar_sha256"] = digest

    edit_document(folder / "store.json", record)


def plant(folder: Path, column: str, position: int, values: np.ndarray) -> str:
    """Put `values` in place of an utterance's first ones in the first shard, with a right CRC.

    Args:
        folder: the store.
        column: the sidecar's index that has their place, as ``index``.
        position: which utterance.
        values: in the stored dtype.

    Returns:
        The utterance's key.
    """
    path = shard_path(folder)
    document = json.loads(path.with_suffix(".json").read_bytes())
    index = {**document["index"], **document[column]}
    start, count = index["byte_offset"][position], index["num_frames"][position]
    raw = shard_file(path).raw_file(Column("logmel", "float16", 2))
    content = bytearray(raw.read_bytes())
    content[start : start + values.nbytes] = values.tobytes()
    raw.write_bytes(content)
    stop = start + count * _frame_bytes(folder, column)

    def record(sidecar: dict[str, Any]) -> None:
        sidecar[column]["crc32c"][position] = crc32c(bytes(content[start:stop]))

    edit_document(path.with_suffix(".json"), record)
    seal(folder)
    return str(index["keys"][position])


def _frame_bytes(folder: Path, column: str) -> int:
    document = json.loads((folder / "store.json").read_bytes())
    if document["kind"] == "labels":
        return 2 if column == "index" else 2 * document["top_k"]
    return document["features"]["n_mels"] * np.dtype(document["plan"]["dtype"]).itemsize
