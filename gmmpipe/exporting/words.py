"""Labels as text."""

from typing import Any

from numpy.typing import NDArray


class Words:
    """The decimal numbers of all labels, made once.

    Args:
        num_classes: K; labels are below it.
    """

    def __init__(self, num_classes: int) -> None:
        self._words = [str(label).encode() for label in range(num_classes)]

    def of(self, labels: NDArray[Any]) -> bytes:
        """The labels of an utterance [T], separated by blanks."""
        return b" ".join([self._words[label] for label in labels.tolist()])
