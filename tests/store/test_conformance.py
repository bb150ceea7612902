"""What every kind of shard must do, for the columns of features and for those of labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmmpipe.errors import StoreError
from gmmpipe.store.columns import Column
from gmmpipe.store.read_ranges import TORCH_DTYPES, read_frames
from gmmpipe.store.shard_file import ShardFile
from gmmpipe.store.shard_index import ShardIndex
from gmmpipe.store.shard_kinds import SHARD_KINDS, shard_file
from gmmpipe.store.sidecar import Sidecar
from helpers.damage import flip

FEATURES = {
    "half": [Column("logmel", "float16", 80)],
    "single": [Column("logmel", "float32", 3)],
    "of another kind": [Column("features", "float16", 768)],
    "one dimension": [Column("features", "float32", 1)],
}
LABELS = {
    "labels": [Column("labels", "uint16", 1, flat=True, max_bits=99)],
    "top k": [
        Column("labels", "uint16", 1, flat=True, max_bits=99),
        Column("topk_ids", "uint16", 3, max_bits=99),
        Column("topk_probs", "float16", 3, max_bits=0x3C00),
    ],
}
COLUMNS = {**FEATURES, **LABELS}
LENGTHS = {"a": 3, "b-w00001": 1, "c": 9000, "d_4": 17}
"""Frames of each utterance: the third has more than a chunk of Zarr."""


@pytest.fixture(params=SHARD_KINDS)
def path(request: Any, tmp_path: Path) -> Path:
    """Where a shard of the kind that is tested is to be."""
    return tmp_path / f"shard-000000.{request.param}"


def arrays_of(columns: list[Column], num_frames: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(num_frames)
    return {
        column.name: (draw.random((num_frames, column.width)) * (1 if column.max_bits else 90))
        .astype(np.float32)
        .astype(column.dtype)
        for column in columns
    }


def metadata_of(key: str) -> dict[str, Any]:
    return {"key": key, "num_frames": LENGTHS[key], "text": f"ü of {key}"}


def write(
    path: Path, columns: list[Column], *, has_json: bool = True, audio: bool = False
) -> Sidecar:
    with shard_file(path).open_writer(columns, has_json=has_json) as writer:
        for key, num_frames in LENGTHS.items():
            metadata = metadata_of(key) if has_json else None
            flac = f"fLaC of {key}".encode() if audio else None
            writer.add(key, arrays_of(columns, num_frames), metadata, flac)
        assert not path.exists()
        return writer.finish("features" if has_json else "labels")


def read(file: ShardFile, index: ShardIndex, column: Column, start: int, stop: int) -> torch.Tensor:
    out = torch.empty(stop - start, column.width, dtype=TORCH_DTYPES[column.dtype])
    read_frames(file.raw_file(column), index, column, start, stop, out)
    return out


def check(path: Path, columns: list[Column], written: Sidecar, has_json: bool = True) -> None:
    shard_file(path).check_layout(columns, written.indices, has_json)


@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_every_range_of_every_column_comes_back(columns: list[Column], path: Path) -> None:
    has_json = columns[0].name != "labels"
    written, file = write(path, columns, has_json=has_json), shard_file(path)
    row, index = written.row, written.index
    assert (row.name, row.utterances, row.frames) == (path.name, 4, sum(LENGTHS.values()))
    assert (row.bytes, row.sha256) == (file.size(), file.sha256())
    assert (index.keys, index.num_frames.tolist()) == (list(LENGTHS), list(LENGTHS.values()))
    assert list(written.further) == [column.name for column in columns[1:]]
    check(path, columns, written, has_json)
    whole = [arrays_of(columns, num_frames) for num_frames in LENGTHS.values()]
    for column, places in zip(columns, written.indices, strict=True):
        expected = torch.from_numpy(np.concatenate([arrays[column.name] for arrays in whole]))
        for start, stop in [(0, row.frames), (0, 0), (2, 4), (3, 9004), (9003, row.frames)]:
            assert torch.equal(read(file, places, column, start, stop), expected[start:stop])
        backwards = places.take(np.array([3, 2, 1, 0]))
        assert torch.equal(read(file, backwards, column, 0, 17), expected[-17:])


def test_the_same_utterances_are_the_same_bytes(path: Path) -> None:
    first = write(path, COLUMNS["top k"], has_json=False)
    moved = path.rename(path.with_name(f"shard-000001{path.suffix}"))
    assert write(path, COLUMNS["top k"], has_json=False).row == first.row
    assert shard_file(moved).sha256() == first.row.sha256


@pytest.mark.parametrize("columns", FEATURES.values(), ids=FEATURES)
def test_metadata_and_audio_stand_beside_the_frames(columns: list[Column], path: Path) -> None:
    written = write(path, columns, audio=True)
    file, index = shard_file(path), written.index
    expected = {key: metadata_of(key) for key in LENGTHS}
    assert dict(file.read_metadata(index)) == expected
    for position in (2, 0, 3, 1):
        key = index.keys[position]
        found = file.read_audio(index, position, columns[0])
        assert found == (expected[key], f"fLaC of {key}".encode())


def test_a_shard_without_audio_says_so(path: Path) -> None:
    columns = COLUMNS["half"]
    written = write(path, columns)
    for position in range(len(LENGTHS)):
        with pytest.raises(StoreError, match=path.name):
            shard_file(path).read_audio(written.index, position, columns[0])


@pytest.mark.parametrize("has_json", [True, False])
def test_a_shard_may_hold_nothing(path: Path, has_json: bool) -> None:
    """As one does whose lines are all rejects."""
    columns = COLUMNS["half"]
    with shard_file(path).open_writer(columns, has_json=has_json) as writer:
        written = writer.finish()
    assert (written.row.utterances, written.row.frames) == (0, 0)
    assert ("json_crc32c" in written.index.to_json()) == has_json
    check(path, columns, written, has_json)
    if has_json:
        assert list(shard_file(path).read_metadata(written.index)) == []


@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_a_flipped_byte_in_any_column_is_found_and_named(columns: list[Column], path: Path) -> None:
    written, file = write(path, columns), shard_file(path)
    for column, index in zip(columns, written.indices, strict=True):
        raw = file.raw_file(column)
        flip(raw, int(index.byte_offset[1]))
        assert len(read(file, index, column, 0, 3)) == 3
        with pytest.raises(StoreError, match=rf"{path.name}.*: utterance b-w00001 is corrupt"):
            read(file, index, column, 0, 9000)
    assert file.sha256() != written.row.sha256


def test_a_flipped_byte_in_the_metadata_is_found_and_named(path: Path) -> None:
    written = write(path, COLUMNS["half"])
    file = path if path.is_file() else path / "json" / "c" / "0"
    flip(file, file.read_bytes().index(b"of c"))
    with pytest.raises(StoreError, match=rf"{path.name}: the JSON of utterance c is corrupt"):
        list(shard_file(path).read_metadata(written.index))


def test_a_layout_that_is_not_what_the_index_says_is_found(path: Path) -> None:
    half, half_as_wide = COLUMNS["half"], [Column("logmel", "float16", 40)]
    written = write(path, half)
    for columns in (
        half_as_wide,
        [Column("logmel", "float32", 40)],
        [Column("mfcc", "float16", 80)],
    ):
        with pytest.raises(StoreError, match=path.name):
            check(path, columns, written)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("another width", np.zeros((5, 79), np.float16)),
        ("another dtype", np.zeros((5, 80), np.float32)),
        ("no axis", np.zeros(5, np.float16)),
        ("no frame", np.zeros((0, 80), np.float16)),
        ("no array", None),
    ],
)
def test_what_is_not_of_the_columns_is_refused(name: str, array: Any, path: Path) -> None:
    arrays = {} if array is None else {"logmel": array}
    with (
        pytest.raises(ValueError, match="logmel of utterance k"),
        shard_file(path).open_writer(COLUMNS["half"]) as writer,
    ):
        writer.add("k", arrays, {"key": "k"})
    assert not path.exists()


def add_all(path: Path, *keys: str) -> None:
    columns = COLUMNS["half"]
    with shard_file(path).open_writer(columns) as writer:
        for key in keys:
            writer.add(key, arrays_of(columns, 2), {"key": key})
        writer.finish()


@pytest.mark.parametrize("keys", [("b", "a"), ("a", "a"), ("a b",), ("k" * 81,)])
def test_keys_that_are_none_or_not_sorted_are_refused(keys: tuple[str, ...], path: Path) -> None:
    with pytest.raises(ValueError, match="keys that are"):
        add_all(path, *keys)
    assert list(path.parent.iterdir()) == []


def test_metadata_for_some_utterances_only_is_refused(path: Path) -> None:
    columns = COLUMNS["half"]
    with (
        pytest.raises(ValueError, match="utterance k: metadata for some"),
        shard_file(path).open_writer(columns) as writer,
    ):
        writer.add("k", arrays_of(columns, 2))
    assert list(path.parent.iterdir()) == []
