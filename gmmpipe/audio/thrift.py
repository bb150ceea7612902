"""Thrift's compact protocol, in which Parquet's headers are written, to Python values."""

from typing import Any

_MOST_LEVELS = 20


class ThriftError(Exception):
    """Bytes that are not of the protocol."""


class ThriftReader:
    """Values one after another.

    Args:
        data: the bytes. A method that needs more of them raises IndexError.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        """How many bytes are read."""

    def struct(self, level: int = 0) -> dict[int, Any]:
        """A struct's fields by their numbers: integers, bytes, lists and structs.

        Raises:
            ThriftError: it is none.
        """
        if level > _MOST_LEVELS:
            raise ThriftError("too many levels")
        fields, number = {}, 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, level)
        return fields

    def _value(self, kind: int, level: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            return self._list(level)
        if kind == 12:
            return self.struct(level + 1)
        raise ThriftError(f"a value of the unknown kind {kind}")

    def _list(self, level: int) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        return [self._value(head & 15, level + 1) for _ in range(count)]

    def _bytes(self, count: int) -> bytes:
        start = self.at
        self.at += count
        if self.at > len(self._data):
            raise IndexError
        return self._data[start : self.at]

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ThriftError("a number of too many digits")

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte
