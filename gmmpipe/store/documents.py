"""The JSON documents of a store. Their size is bounded, and each carries a checksum.

A document is canonical JSON and a newline. Its field ``checksum`` is the SHA-256 of the canonical
JSON of all its other fields, so a change of any byte is found. Earlier versions of gmmpipe wrote
documents without a checksum, which are still read.
"""

import hashlib
import json
import sys
from collections.abc import Hashable
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

from gmmpipe.errors import StoreError
from gmmpipe.files import canonical_json, read_regular, write_atomic

FORMAT_VERSION = 1
MAX_DOCUMENT_BYTES = 1 << 27
"""Enough for 400,000 shards of a million utterances each: a row of ``store.json`` takes some 300
bytes, and an utterance in a sidecar 100."""
MAX_INT = 1 << 60
"""The largest count, size or place in a file; sums of a few of them still fit int64."""

_CHECKSUM = "checksum"
_FIELDS_WITHOUT_CHECKSUM = frozenset(
    [
        *("K", "bytes", "features", "fingerprint", "format_version", "frames", "gmm_sha256"),
        *("index", "kind", "left_out", "name", "plan", "redo", "rejects", "sha256", "shards"),
        *("source_sha256", "tally", "temperature", "top_k", "topk_ids_index"),
        *("topk_probs_index", "totals", "utterances"),
    ]
)
"""The fields of documents before there were checksums. A document with another field must have a
checksum, so that a change in the name ``checksum`` itself is noticed."""
_T = TypeVar("_T")


def write_document(path: Path, values: dict[str, Any]) -> None:
    """Publish a document as `path`, with its checksum; a checksum in `values` is left out.

    Raises:
        StoreError: it would be too large to be read.
        ValueError: a number is NaN or infinite.
    """
    plain = {name: value for name, value in values.items() if name != _CHECKSUM}
    checksum = hashlib.sha256(canonical_json(plain).encode()).hexdigest()
    content = canonical_json({**plain, _CHECKSUM: checksum}).encode() + b"\n"
    if len(content) > MAX_DOCUMENT_BYTES:
        limit = f"{MAX_DOCUMENT_BYTES >> 20} MiB"
        raise StoreError(f"{path}: would be larger than {limit}; change --utterances_per_shard")
    write_atomic(path, content)


def read_document(path: Path) -> dict[str, Any]:
    """A document of this format version; see `parse_document`.

    Raises:
        StoreError: it is missing, damaged, too large, no regular file, or of another version.
    """
    return parse_document(read_document_bytes(path), path)


def read_document_bytes(path: Path) -> bytes:
    """The bytes of a document, unchecked.

    Raises:
        StoreError: it is missing, too large, or no regular file.
    """
    try:
        return read_regular(path, MAX_DOCUMENT_BYTES)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error


def parse_document(content: bytes, path: Path) -> dict[str, Any]:
    """The document in the bytes of a file; `path` names it in errors.

    Raises:
        StoreError: it is damaged or of another version.
    """
    try:
        document = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("format_version") != FORMAT_VERSION:
        raise StoreError(f"{path}: not of format version {FORMAT_VERSION}")
    if _CHECKSUM in document:
        # The bytes themselves count, since other bytes may be read as the same values.
        field = f'"{_CHECKSUM}":{json.dumps(document[_CHECKSUM])},'.encode()
        text, newline = content[:-1].replace(field, b"", 1), content[-1:]
        whole = newline == b"\n" and hashlib.sha256(text).hexdigest() == document[_CHECKSUM]
    else:
        whole = document.keys() <= _FIELDS_WITHOUT_CHECKSUM
    if not whole:
        raise StoreError(f"{path}: damaged: its checksum is not that of its content")
    return document


def pick(cls: type[_T], values: dict[str, Any]) -> _T:
    """A dataclass from a JSON object, without the fields that later versions have added.

    Raises:
        TypeError: a field is missing or of another type.
    """
    hints = _type_hints(cast(Hashable, cls))
    names = [known.name for known in fields(cls)]  # type: ignore[arg-type]
    return cls(
        **{name: checked(name, values[name], hints[name]) for name in names if name in values}
    )


def checked(name: str, value: Any, hint: Any) -> Any:
    """The value of a field, if it is of the type that `hint` says; else raises TypeError."""
    if not _fits(value, hint):
        raise TypeError(f"{name} is {_shortened(value)}")
    return value


def int_list(values: object) -> list[int]:
    """`values`, if it is a list of integers; else raises TypeError, or ValueError beyond bounds."""
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError("a column is not a list of integers")
    if values and not -MAX_INT <= min(values) <= max(values) <= MAX_INT:
        raise ValueError("a column holds a number beyond all bounds")
    return values


@lru_cache
def _type_hints(cls: Hashable) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value from JSON is of a plain type, of a Literal, a union, or dict[str, ...]."""
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is dict:
        of_values = get_args(hint)[1]
        return isinstance(value, dict) and all(_fits(part, of_values) for part in value.values())
    return type(value) is hint


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
