"""The order in which items go into the shards, and what is checked of one that a file holds."""

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import AudioError
from gmmpipe.randomness import checked_permutation, permutation
from gmmpipe.sources.utterance import ParsedLine
from gmmpipe.store.plans import PlanOptions

_STREAMED_MEMBER = re.compile(r"(.*?\.(?:tar\.gz|tgz|parquet))#.", re.IGNORECASE | re.DOTALL)
"""The path of a member of an archive that is read from front to end, or in blocks."""
_IN_LINE_ORDER = -1.0


class RecordingOrder:
    """The order that keeps the items of a recording together, while the lines are being read.

    A recording is an audio path as one manifest gives it, or an archive that is read as a whole.
    The recordings are in the order of seeded hashes of that, so where one comes depends on the
    seed, its path and the number of its manifest alone. Its items are in time order. The members of
    an archive are in the order of their lines, which is that of the archive.

    Args:
        seed: of the plan.
        streamed: of each manifest, whether it is an archive that is read from front to end.
    """

    def __init__(self, seed: int, streamed: Sequence[bool]) -> None:
        self._seed = seed
        self._streamed = streamed
        self._hash, self._start = array("q"), array("d")
        self._last: tuple[int, str] | None = None
        self._last_hash, self._is_archive = 0, False

    def add(self, manifest_index: int, parsed: ParsedLine, key: str | None) -> None:
        """Take note of the next planned line."""
        recording = (manifest_index, parsed.path)
        if recording != self._last:
            self._last = recording
            self._last_hash, self._is_archive = self._identify(*recording)
        try:
            start = 0.0 if key is None else parsed.times()[0] or 0.0
        except AudioError:
            start = 0.0
        if self._is_archive:
            start = _IN_LINE_ORDER
        self._hash.append(self._last_hash)
        self._start.append(start)

    def _identify(self, manifest_index: int, path: str) -> tuple[int, bool]:
        """A hash of the recording that `path` is in, and whether that is an archive."""
        is_archive = self._streamed[manifest_index]
        if is_archive:
            path = ""  # all of the manifest, whatever the archive's name ends in
        elif "#" in path and (member := _STREAMED_MEMBER.match(path)):
            path, is_archive = member[1], True
        name = f"shuffle/{self._seed}/{manifest_index}/{path}"
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "little", signed=True), is_archive

    def order(self, num_windows: NDArray[np.int32], window_seconds: float) -> NDArray[np.int64]:
        """The numbers of the items in the order of the shards, int64 [items].

        Args:
            num_windows: of each line, int32 [lines].
            window_seconds: how long a window is.
        """
        recording = np.frombuffer(self._hash, dtype=np.int64)
        start = np.frombuffer(self._start, dtype=np.float64)
        num_items = int(num_windows.sum(dtype=np.int64))
        if num_items > len(num_windows):
            owner = np.repeat(np.arange(len(num_windows)), num_windows)
            first = np.cumsum(num_windows, dtype=np.int64) - num_windows
            window = np.arange(num_items) - first[owner]
            recording, start = recording[owner], start[owner]
            start = np.where(start < 0, start, start + window * window_seconds)
        return np.lexsort((start, recording)).astype(np.int64, copy=False)


def utterance_order(num_items: int, options: PlanOptions) -> NDArray[np.int64]:
    """The order by utterances, or that of the manifests, int64 [items]."""
    if options.shuffle:
        return permutation(num_items, "shuffle", options.seed)
    return np.arange(num_items, dtype=np.int64)


def checked_order(
    blocks: Iterable[NDArray[np.int64]], num_items: int, options: PlanOptions
) -> Iterator[NDArray[np.int64]]:
    """The blocks of an order from a file, each as soon as it is checked.

    It must be the one that the seed gives. Where recordings are shuffled, only the lines could tell
    which that is; then it must have each item once.

    Raises:
        ValueError: it is not so.
    """
    if not options.shuffle:
        return _in_line_order(blocks)
    if options.shuffle_by == "recordings":
        return _each_once(blocks, num_items)
    return checked_permutation(blocks, num_items, "shuffle", options.seed)


def _in_line_order(blocks: Iterable[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
    at = 0
    for block in blocks:
        if not np.array_equal(block, np.arange(at, at + len(block))):
            raise ValueError("another order than that of the manifests")
        yield block
        at += len(block)


def _each_once(blocks: Iterable[NDArray[np.int64]], num_items: int) -> Iterator[NDArray[np.int64]]:
    seen = np.zeros(num_items, dtype=np.bool_)
    for block in blocks:
        if block.min() < 0 or block.max() >= num_items:
            raise ValueError("another order: of an item beyond the last")
        before = seen[block].any()
        seen[block] = True
        if before or len(np.unique(block)) < len(block):
            raise ValueError("another order: of an item twice")
        yield block
