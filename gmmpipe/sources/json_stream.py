"""Reads one JSON object of any length, a part at a time."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gmmpipe.errors import ManifestError

_CHUNK_BYTES = 1 << 20
_LONGEST_VALUE = 1 << 26
"""In characters: memory that does not hold the file may well hold this."""
_BLANKS = " \t\n\r"
_BEHIND_VALUES = frozenset(",:]}" + _BLANKS)


class JsonStream:
    """The text of a JSON document from front to end, as far as it is needed.

    Args:
        path: the file, for error messages.
        file: its bytes, decompressed.
        most: how many characters may be read before the stream counts as damaged.
    """

    def __init__(self, path: Path, file: BinaryIO, most: int | None = None) -> None:
        self._path, self._file, self._most = path, file, most
        self._text, self._at, self._before = "", 0, 0
        self._has_more = True
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._scan = json.JSONDecoder().raw_decode

    def members(self) -> Iterator[str]:
        """The name of each member of the object that begins here; its value comes next.

        The caller reads the value, by `value` or by `elements`, before it asks for the next name.

        Raises:
            ManifestError: the text is no such object.
        """
        for _ in self._items("{", "}"):
            name = self.value()
            self._expect(":")
            if not isinstance(name, str):
                raise self._damaged("a name that is no string")
            yield name

    def elements(self) -> Iterator[Any]:
        """The values of the array that begins here.

        Raises:
            ManifestError: the text is no such array, or a value in it is longer than memory allows.
        """
        for _ in self._items("[", "]"):
            yield self.value()

    def value(self) -> Any:
        """The value that begins here.

        Raises:
            ManifestError: the text is no JSON, or the value is longer than memory allows.
        """
        self.peek()
        size = _CHUNK_BYTES
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except RecursionError:
                raise self._damaged("nested too deeply") from None
            except ValueError as error:
                missing = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            else:
                if self._text[end : end + 1] in _BEHIND_VALUES:
                    self._at = end
                    return value
                missing = "no end of a value"  # as far as is known: a number may go on
            if len(self._text) - self._at > _LONGEST_VALUE:
                raise self._damaged(f"{missing}, or more than {_LONGEST_VALUE} characters")
            if not self._has_more:
                raise self._damaged(missing)
            self._read(size)
            size *= 2

    def end(self) -> None:
        """Make sure that nothing follows.

        Raises:
            ManifestError: something does.
        """
        if self.peek():
            raise self._damaged("more behind the end")

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANKS:
                    return self._text[self._at]
                self._at += 1
            if not self._has_more:
                return ""
            self._read(_CHUNK_BYTES)

    def _items(self, first: str, last: str) -> Iterator[None]:
        """Once before each item between two brackets."""
        self._expect(first)
        if self.peek() != last:
            yield
            while self.peek() == ",":
                self._at += 1
                yield
        self._expect(last)

    def _expect(self, character: str) -> None:
        if self.peek() != character:
            raise self._damaged(f"no {character} where one is due")
        self._at += 1

    def _read(self, size: int) -> None:
        """Read on; what has been used is forgotten."""
        if self._most is not None and self._before + len(self._text) >= self._most:
            raise self._damaged(f"not found within {self._most} characters")
        raw = self._file.read(size)
        self._has_more = bool(raw)
        try:
            more = self._decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise self._damaged("no UTF-8") from error
        self._before += self._at
        self._text, self._at = self._text[self._at :] + more, 0

    def _damaged(self, what: str) -> ManifestError:
        return ManifestError(
            f"{self._path}: no JSON at character {self._before + self._at}: {what}"
        )
