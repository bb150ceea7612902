"""Random numbers as pure functions of what they are for.

Every draw of gmmpipe names its purpose (``"shuffle", seed`` or ``"step", seed, update, step``) and
gets its own Philox stream, keyed by the SHA-256 of that name. So a draw needs no saved state, and
every process can make it alone. Only raw 64-bit output is used: numpy promises that it never
changes, and promises no such thing of its distributions.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 18
"""Words that are drawn at once: 2 MB."""


def raw_stream(*purpose: str | int) -> np.random.Philox:
    """The bit generator whose name is `purpose`."""
    name = "/".join(map(str, purpose)).encode("utf-8", "surrogatepass")
    key = np.frombuffer(hashlib.sha256(name).digest()[:16], dtype="<u8")
    return np.random.Philox(key=key)


def permutation(length: int, *purpose: str | int) -> NDArray[np.int64]:
    """A uniform permutation of ``range(length)``, int64 [length]."""
    return np.argsort(raw_stream(*purpose).random_raw(length), kind="stable").astype(np.int64)


def checked_permutation(
    blocks: Iterable[NDArray[np.int64]], length: int, *purpose: str | int
) -> Iterator[NDArray[np.int64]]:
    """The blocks of an order of `length` numbers, each once it is known to be the permutation's.

    Nothing is sorted, and 8 bytes a number are held.

    Raises:
        ValueError: the order is not `permutation(length, *purpose)`.
    """
    words = raw_stream(*purpose).random_raw(length)
    last = np.empty(0, dtype=np.int64)
    for block in blocks:
        if len(block) and (block.min() < 0 or block.max() >= length):
            raise ValueError("another order than its seed's")
        order = np.concatenate([last, block])
        raw = words[order]
        rises = raw[1:] > raw[:-1]
        if not np.all(rises | ((raw[1:] == raw[:-1]) & (order[1:] > order[:-1]))):
            raise ValueError("another order than its seed's")
        yield block
        last = order[-1:]


def sample(length: int, size: int, *purpose: str | int) -> NDArray[np.int64]:
    """The first `size` of `permutation(length, *purpose)`, in memory that only `size` decides."""
    stream = raw_stream(*purpose)
    words, numbers = np.empty(0, np.uint64), np.empty(0, np.int64)
    largest = np.uint64(2**64 - 1)  # no word above it is among the `size` smallest
    for start in range(0, length, _BLOCK):
        block = stream.random_raw(min(_BLOCK, length - start))
        low = np.flatnonzero(block <= largest)
        words = np.concatenate([words, block[low]])
        numbers = np.concatenate([numbers, low + start])
        if len(words) > 2 * size:
            kept = np.sort(np.argsort(words, kind="stable")[:size])  # equal words stay in order
            words, numbers = words[kept], numbers[kept]
            largest = words.max(initial=np.uint64(0))
    return numbers[np.argsort(words, kind="stable")[:size]]


def uniforms(count: int, *purpose: str | int) -> NDArray[np.float64]:
    """`count` float64 in [0, 1), [count]."""
    raw = raw_stream(*purpose).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(count: int, *purpose: str | int) -> NDArray[np.float64]:
    """`count` standard normal float64, [count], by Box and Muller (Ann. Math. Stat. 29, 1958).

    Their last bits may differ between processors, as those of numpy's logarithm and cosine do.
    """
    draws = uniforms(2 * -(-count // 2), *purpose).reshape(2, -1)
    radius, angle = np.sqrt(-2.0 * np.log1p(-draws[0])), 2.0 * np.pi * draws[1]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
