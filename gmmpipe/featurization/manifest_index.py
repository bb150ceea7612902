"""Where each line of the manifests is, and which lines repeat a key; found in one pass."""

import hashlib
import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmmpipe.audio.opener import header_seconds
from gmmpipe.errors import AudioError
from gmmpipe.sources.lines import OpenManifests, read_lines
from gmmpipe.sources.manifest import Manifest, ManifestLine, clean_line
from gmmpipe.sources.utterance import ParsedLine, Utterance, parse_window_key, recording_of

_DOUBTFUL_WINDOWS = 64  # a duration this long may be in milliseconds: look at the header
MAX_WINDOWS = 100_000
"""Of one line: what five digits of a key can number, 17 days at 15 s."""

COLUMN_DTYPES: dict[str, type[np.generic]] = {
    "manifest_index": np.int32,
    "line_number": np.int64,
    "byte_offset": np.int64,
    "num_windows": np.int32,
    "first_ordinal": np.int64,
    "duplicate": np.bool_,
}
"""The columns of a `ManifestIndex`, in the order of its fields, as ``plan.npz`` keeps them."""


@dataclass(frozen=True)
class ManifestIndex:
    """Where planned lines are: every one, or those that some shards need.

    A shard is made of items: a line each, or one window of its audio where long audio is split.

    Args:
        manifest_index: int32 [lines].
        line_number: within its manifest, from 1, int64 [lines].
        byte_offset: within its manifest, int64 [lines].
        num_windows: into how many windows its audio is split, int32 [lines].
        first_ordinal: lines in all manifests before each one, int64 [manifests].
        duplicate: whether an earlier line has the line's key, bool [lines].
    """

    manifest_index: NDArray[np.int32]
    line_number: NDArray[np.int64]
    byte_offset: NDArray[np.int64]
    num_windows: NDArray[np.int32]
    first_ordinal: NDArray[np.int64]
    duplicate: NDArray[np.bool_]

    @property
    def windows_sha256(self) -> str:
        """Of the number of windows of each line."""
        return hashlib.sha256(self.num_windows.tobytes()).hexdigest()

    def manifest(self, manifests: Sequence[Manifest], ordinal: int) -> Manifest:
        """The manifest that holds line `ordinal` over all of them; names may be alike."""
        return manifests[int(np.searchsorted(self.first_ordinal, ordinal)) - 1]

    def line(self, manifests: Sequence[Manifest], at: int) -> ManifestLine:
        """The planned line number `at`."""
        index, number = int(self.manifest_index[at]), int(self.line_number[at])
        return ManifestLine(manifests[index], number, int(self.first_ordinal[index]) + number)


LineObserver = Callable[[int, ParsedLine, str | None], None]
"""Is told the manifest's number, the line and its key, of each planned line in turn."""


def index_manifests(
    manifests: Sequence[Manifest],
    base_path: Path | None,
    window_seconds: float | None,
    observers: Sequence[LineObserver] = (),
) -> ManifestIndex:
    """Index the lines of the manifests. A line takes 33 bytes, and 8 more until this returns.

    A file's header is read only where long audio is split and its line states no duration.

    Args:
        manifests: their plain lines are in files.
        base_path: where relative audio paths start; None for their manifest's folder.
        window_seconds: how long the windows are that long audio is split into; None: into none.
        observers: what else is to be known of the lines, in the same pass.
    """
    manifest_index, line_number, byte_offset = array("i"), array("q"), array("q")
    num_windows, key_hash = array("i"), array("q")
    window_like = _WindowLikeKeys()
    first_ordinal = []
    ordinal = 0
    for index, manifest in enumerate(manifests):
        first_ordinal.append(ordinal)
        for number, (offset, raw) in enumerate(read_lines(manifest), start=1):
            ordinal += 1
            cleaned = clean_line(raw, first=offset == 0)
            if not cleaned:
                continue
            manifest_index.append(index)
            line_number.append(number)
            byte_offset.append(offset)
            parsed = ParsedLine(cleaned)
            if window_seconds is not None:
                line = ManifestLine(manifest, number, ordinal)
                key, windows = _key_and_windows(parsed, line, window_seconds, base_path)
                window_like.add(len(key_hash), key)
            else:
                key, windows = parsed.key(ordinal), 1
            num_windows.append(windows)
            for observe in observers:
                observe(index, parsed, key)
            # Lines without a key get numbers of their own, so that they match nothing.
            key_hash.append(hash(key or -ordinal))
    hashes = np.frombuffer(key_hash, dtype=np.int64)
    found = ManifestIndex(
        np.frombuffer(manifest_index, dtype=np.int32),
        np.frombuffer(line_number, dtype=np.int64),
        np.frombuffer(byte_offset, dtype=np.int64),
        np.frombuffer(num_windows, dtype=np.int32),
        np.array(first_ordinal, dtype=np.int64),
        np.zeros(len(hashes), dtype=np.bool_),
    )
    duplicate = _find_duplicates(manifests, found, hashes)
    duplicate[window_like.taken(hashes, found.num_windows)] = True
    return replace(found, duplicate=duplicate)


class _WindowLikeKeys:
    """The lines whose own key looks like that of a window of another line."""

    def __init__(self) -> None:
        self._line, self._owner_hash, self._window = array("q"), array("q"), array("q")

    def add(self, line: int, key: str | None) -> None:
        """Remember planned line number `line` if its key is such a one."""
        if key and (like := parse_window_key(key)):
            self._line.append(line)
            self._owner_hash.append(hash(like[0]))
            self._window.append(like[1])

    def taken(self, hashes: NDArray[np.int64], num_windows: NDArray[np.int32]) -> NDArray[np.int64]:
        """The lines that give way, because the other line has that window.

        Args:
            hashes: of the keys of all lines, int64 [lines].
            num_windows: of each, int32 [lines].
        """
        lines = np.array(self._line, dtype=np.int64)
        if len(lines) == 0:
            return lines
        by_hash = np.argsort(hashes, kind="stable")
        owner = np.searchsorted(hashes, self._owner_hash, sorter=by_hash)
        owner = by_hash[np.minimum(owner, len(hashes) - 1)]
        is_window = (hashes[owner] == self._owner_hash) & (
            num_windows[owner] > np.maximum(self._window, 1)
        )
        return np.compress(is_window, lines)


def _key_and_windows(
    parsed: ParsedLine, line: ManifestLine, window_seconds: float, base_path: Path | None
) -> tuple[str | None, int]:
    """A line's key, and into how many windows its audio is split."""
    try:
        utterance = parsed.utterance(line.ordinal)
    except AudioError:
        return parsed.key(line.ordinal), 1
    return utterance.key, _count_windows(utterance, line, window_seconds, base_path)


def _count_windows(
    utterance: Utterance, line: ManifestLine, window_seconds: float, base_path: Path | None
) -> int:
    """Into how many windows an utterance is split: by its duration, else by its header."""
    seconds = utterance.duration_seconds
    if seconds is None or seconds > _DOUBTFUL_WINDOWS * window_seconds:
        recording = recording_of(utterance, line, base_path)
        held = header_seconds(recording) - (utterance.offset_seconds or 0.0)
        seconds = held if seconds is None else min(seconds, held)
    # A rounding error beyond a whole number of windows is no window of its own.
    return min(max(1, math.ceil(seconds / window_seconds - 1e-6)), MAX_WINDOWS)


def _find_duplicates(
    manifests: Sequence[Manifest], index: ManifestIndex, hashes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which lines repeat an earlier line's key: equal hashes first, then the keys themselves."""
    duplicate = np.zeros(len(hashes), dtype=np.bool_)
    by_hash = np.argsort(hashes, kind="stable")
    equal = hashes[by_hash][1:] == hashes[by_hash][:-1]
    suspects = np.unique(np.concatenate([by_hash[1:][equal], by_hash[:-1][equal]]))
    seen: set[str] = set()
    with OpenManifests() as files:
        for at in suspects.tolist():
            line = index.line(manifests, at)
            raw = files.line_at(line.manifest, int(index.byte_offset[at]))
            key = ParsedLine(raw).key(line.ordinal)
            if key is not None:
                duplicate[at] = key in seen
                seen.add(key)
    return duplicate
