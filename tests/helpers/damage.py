"""Damage done to files on purpose."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def flip(path: Path, at: int | None = None, bit: int = 1) -> None:
    """Change bits of the byte at a place of a file, counted from its end if negative.

    Without a place it is the byte in the middle.
    """
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(size // 2 if at is None else at % size)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ bit]))


@contextmanager
def flipped(path: Path, at: int, bit: int) -> Iterator[None]:
    """`flip`, taken back at the end of the block."""
    flip(path, at, bit)
    yield
    flip(path, at, bit)


def flip_after(path: Path, text: bytes, bit: int = 1) -> None:
    """Change bits of the byte that follows the first place of a text in a file."""
    flip(path, path.read_bytes().index(text) + len(text), bit)


def flip_in_frames(store: Path, shard: int = 0, utterance: int = 0, byte: int = 0) -> Path:
    """Flip a bit within the frames of an utterance of a feature store; the shard's file."""
    from gmmpipe import FeatureStore

    there = FeatureStore.open(store).shards[shard]
    flip(there.path, int(there.sidecar().index.byte_offset[utterance]) + byte)
    return there.path


def edit_document(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a store's document in place, and give it the checksum that it should have then."""
    from gmmpipe.store.documents import write_document

    document = json.loads(path.read_bytes())
    change(document)
    write_document(path, document)
