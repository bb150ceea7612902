"""The utterances of a label store, brought from the order of its shards to that of the manifests.

Shards are read one after another, each once, with every checksum; what is read of an utterance goes
into a nameless file, and in memory there are only some 30 bytes of it: its place and its name's
hash. Then the file is read in the order of the places. So a store of any size and shuffle takes one
pass over its shards, and a damaged one is found before anything is written.
"""

import hashlib
import json
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.exporting.utterance import LabelledUtterance, name_of, path_of, place_of
from gmmpipe.files import canonical_json
from gmmpipe.run.progress import Progress
from gmmpipe.store.columns import Column
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.label_store import LabelStore
from gmmpipe.store.schema import LABELS, TOPK_IDS, TOPK_PROBS
from gmmpipe.store.shard import Shard
from gmmpipe.store.shard_reader import ShardReader

BLOCK_FRAMES = 16384
"""Frames read at once, rounded up to a whole utterance."""
_HEAD = struct.Struct("<II")
"""Bytes of the JSON, and frames."""


class Gathered:
    """The utterances in a file, in any order; they come back in that of the manifests.

    Args:
        file: empty, to be read and written.
        columns: the arrays of an utterance, the labels first.
        is_word: whether names are to be without whitespace.
    """

    def __init__(self, file: BinaryIO, columns: Sequence[Column], is_word: bool) -> None:
        self._file, self._columns, self._is_word = file, tuple(columns), is_word
        self._lines, self._windows = array("q"), array("q")
        self._starts, self._names = array("q", [0]), array("Q")
        self.num_frames = 0
        self.has_absolute_paths = self.has_relative_paths = False

    def __len__(self) -> int:
        """How many utterances."""
        return len(self._lines)

    def add(self, values: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Append an utterance: its JSON, and its arrays by the columns' names."""
        text, num_frames = canonical_json(values).encode(), len(arrays[LABELS])
        parts = [arrays[column.name].tobytes() for column in self._columns]
        self._file.writelines([_HEAD.pack(len(text), num_frames), text, *parts])
        size = _HEAD.size + len(text) + sum(map(len, parts))
        self._starts.append(self._starts[-1] + size)
        line, window = place_of(values)
        self._lines.append(line)
        self._windows.append(window)
        name = name_of(values, is_word=self._is_word).encode()
        digest = hashlib.blake2b(name, digest_size=8).digest()
        self._names.append(int.from_bytes(digest, "little"))
        self.num_frames += num_frames
        if (path := path_of(values)) is not None:
            self.has_absolute_paths |= path.startswith("/")
            self.has_relative_paths |= not path.startswith("/")

    def in_order(self) -> Iterator[LabelledUtterance]:
        """The utterances by their lines over all manifests and their windows.

        Those without a line follow, in the order in which they were added. If two names are the
        same, the keys are the names.
        """
        hashes = np.sort(np.frombuffer(self._names, np.uint64))
        has_unique_names = not (hashes[1:] == hashes[:-1]).any()
        del hashes
        lines, windows = (np.frombuffer(each, np.int64) for each in (self._lines, self._windows))
        for at in np.lexsort((windows, lines)):
            yield self._read(int(at), has_unique_names)

    def _read(self, at: int, has_unique_names: bool) -> LabelledUtterance:
        start, stop = self._starts[at], self._starts[at + 1]
        self._file.seek(start)
        record = self._file.read(stop - start)
        text_bytes, num_frames = _HEAD.unpack_from(record)
        offset = _HEAD.size + text_bytes
        values = json.loads(record[_HEAD.size : offset])
        arrays: dict[str, NDArray[Any]] = {}
        for column in self._columns:
            count = num_frames * column.width
            flat = np.frombuffer(record, column.numpy_dtype, count, offset)
            arrays[column.name] = flat.reshape(column.shape(num_frames))
            offset += flat.nbytes
        name = name_of(values, is_word=self._is_word) if has_unique_names else str(values["key"])
        return LabelledUtterance(
            name, values, arrays[LABELS], arrays.get(TOPK_IDS), arrays.get(TOPK_PROBS)
        )


def gather(
    labels: LabelStore, source: FeatureStore | None, with_top_k: bool, is_word: bool, file: BinaryIO
) -> Gathered:
    """Read a label store into `file`, checking all that is read.

    Args:
        labels: the store.
        source: where the JSON is; None where the label store has it.
        with_top_k: whether the top k are wanted too, if the store has them.
        is_word: see `Gathered`.
        file: see `Gathered`.

    Raises:
        StoreError: a shard is missing or damaged; it is named.
    """
    columns = labels.plan.columns if with_top_k else labels.plan.columns[:1]
    gathered = Gathered(file, columns, is_word)
    metadata = labels.shards if source is None else source.shards
    for shard in {shard.path: shard for shard in [*labels.shards, *metadata]}.values():
        shard.check_files()
    with Progress("export", "shards", total=len(labels.shards)) as progress:
        for shard, beside in zip(labels.shards, metadata, strict=True):
            _gather_shard(gathered, shard, beside, columns)
            progress.advance(1, note=f"{len(gathered)} utterances")
    return gathered


def _gather_shard(
    gathered: Gathered, shard: Shard, beside: Shard, columns: Sequence[Column]
) -> None:
    reader, names = ShardReader(shard), [column.name for column in columns]
    index, metadata = reader.index, beside.read_metadata()
    if beside.sidecar().index.keys != index.keys:
        raise StoreError(f"{shard.path}: not the labels of {beside.path}: other utterances")
    for first, beyond in index.blocks(BLOCK_FRAMES):
        start, stop = int(index.frame_offset[first]), int(index.frame_offset[beyond])
        block = reader.read_arrays(start, stop, names)
        arrays = {
            column.name: block[column.name].numpy().reshape(column.shape(stop - start))
            for column in columns
        }
        for at in range(first, beyond):
            part = slice(index.frame_offset[at] - start, index.frame_offset[at + 1] - start)
            _, values = next(metadata)
            gathered.add(values, {name: whole[part] for name, whole in arrays.items()})
    for _ in metadata:  # there are no more, or the index would be another; this says so
        pass
