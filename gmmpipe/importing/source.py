"""What an import reads: utterances by number, each with its frames."""

import hashlib
from abc import ABC, abstractmethod
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmpipe.sources.utterance import make_key


@dataclass(frozen=True)
class Entry:
    """One utterance as its source names it.

    Args:
        id: the source's name of the utterance.
        wav_path: the path of its audio where that is known, else of its frames.
        manifest: the file, relative to the source, that its frames are listed in.
        line: its number in that file, from 1.
        num_samples: of its audio, where that is stated.
    """

    id: str
    wav_path: str
    manifest: str
    line: int
    num_samples: int | None = None

    @property
    def key(self) -> str:
        """The key of its sample."""
        return make_key(self.id, self.wav_path, 0)


class Source(ABC):
    """Utterances of one kind, in the order of the source.

    `digest` is the SHA-256 of all that decides what they are, without the frames themselves: names
    below the source, sizes and lists, no times and no absolute paths.
    """

    digest: str
    num_files: int

    @abstractmethod
    def __len__(self) -> int:
        """How many utterances there are, good or not."""

    @abstractmethod
    def entry(self, number: int) -> Entry:
        """The utterance `number`, from 0."""

    @abstractmethod
    def frames(self, number: int) -> NDArray[Any]:
        """Its frames [T, D] as the source has them.

        Raises:
            AudioError: they cannot be read.
        """

    def close(self) -> None:  # noqa: B027
        """Close the files that are open."""

    def duplicates(self) -> set[int]:
        """The numbers of the utterances whose key an earlier one has; 8 bytes each are held."""
        hashes = array("Q")
        for number in range(len(self)):
            digest = hashlib.blake2b(self.entry(number).key.encode(), digest_size=8).digest()
            hashes.append(int.from_bytes(digest, "little"))
        words = np.frombuffer(hashes, dtype=np.uint64)
        order = np.argsort(words, kind="stable")
        alike = np.flatnonzero(words[order[1:]] == words[order[:-1]]) + 1
        seen, found = set(), set()
        for at in alike.tolist():
            key = self.entry(int(order[at])).key
            seen.add(self.entry(int(order[at - 1])).key)
            if key in seen:
                found.add(int(order[at]))
            seen.add(key)
        return found
