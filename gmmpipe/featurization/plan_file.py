"""The file of a published plan, ``plan.npz``; nothing that it says is taken on trust."""

import json
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.features.kinds import computed_from_json
from gmmpipe.features.spec import ComputedSpec
from gmmpipe.files import open_regular
from gmmpipe.store.documents import pick
from gmmpipe.store.plans import PlanOptions

_BLOCK_ROWS = 1 << 16


@contextmanager
def open_plan(path: Path) -> Iterator[ZipFile]:
    """The file of a plan; what is wrong with it becomes a StoreError that names it.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        with open(open_regular(path), "rb") as file, ZipFile(file) as archive:
            yield archive
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (
        *(ValueError, KeyError, TypeError, EOFError, OverflowError, MemoryError),
        *(RecursionError, NotImplementedError, RuntimeError, struct.error, BadZipFile, StoreError),
    ) as error:
        reason = " ".join(str(error).split())[:200]
        known = any(path.parent.glob("shard-*"))
        advice = "use --overwrite" if known else "move it away, or use another --output_dir"
        raise StoreError(
            f"{path}: not a plan of this store: {type(error).__name__}: {reason}; {advice}"
        ) from error


def read_identity(archive: ZipFile) -> tuple[ComputedSpec, PlanOptions]:
    """What the frames are, and what else decides the bytes, of the store that is planned."""
    identity = json.loads(str(read_array(archive, "identity")))
    features, options = identity["features"], identity["options"]
    if unknown := options.keys() - {field.name for field in fields(PlanOptions)}:
        raise ValueError(f"of another version of gmmpipe: it knows {min(unknown)!r}")
    return computed_from_json(features), pick(PlanOptions, options)


def read_array(archive: ZipFile, name: str, dtype: type[np.generic] | None = None) -> NDArray[Any]:
    """An array of one dimension and of this dtype, or without one a short text.

    No memory is taken before what the headers say agrees with the size of the file.
    """
    with _opened_array(archive, name, dtype) as (member, shape, there):
        return np.frombuffer(member.read(), there).reshape(shape)


def array_length(archive: ZipFile, name: str, dtype: type[np.generic]) -> int:
    """How many numbers are in an array of one dimension, by what is checked for `read_array`."""
    with _opened_array(archive, name, dtype) as (_, shape, _there):
        return int(shape[0])


def read_blocks(archive: ZipFile, name: str, dtype: type[np.generic]) -> Iterator[NDArray[Any]]:
    """An array of one dimension in consecutive parts; none of them is empty."""
    with _opened_array(archive, name, dtype) as (member, shape, there):
        for start in range(0, shape[0], _BLOCK_ROWS):
            rows = min(_BLOCK_ROWS, shape[0] - start)
            yield np.frombuffer(member.read(rows * there.itemsize), there, rows)
        member.read()  # at its end its CRC-32 is compared


@contextmanager
def _opened_array(
    archive: ZipFile, name: str, dtype: type[np.generic] | None
) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]]:
    """The bytes of an array, its shape and its dtype, once they agree with all that is known."""
    info = archive.getinfo(f"{name}.npy")
    held = os.fstat(archive.fp.fileno()).st_size  # type: ignore[union-attr]
    if info.compress_type != ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{name} is compressed")
    if info.file_size > held:
        raise ValueError(f"{name} of {info.file_size} bytes in a file of {held}")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise ValueError(f"{name} of version {version}")
        shape, fortran, there = np.lib.format.read_array_header_1_0(member)
        if dtype is None:
            fits = shape == () and there.kind == "U" and there.itemsize < 1 << 20
        else:
            fits = len(shape) == 1 and there == dtype
        if not fits:
            raise ValueError(f"{name} is {there} {list(shape)}")
        num_bytes = math.prod(shape) * there.itemsize
        if (fortran and shape) or num_bytes != info.file_size - member.tell():
            raise ValueError(f"{name} of {num_bytes} bytes in {info.file_size}")
        yield member, shape, there
