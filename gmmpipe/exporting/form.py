"""What a form of labels is, and what its writer gets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gmmpipe.exporting.gathered import Gathered

Write = Callable[["Labels", Mapping[str, BinaryIO]], None]
"""Writes labels into the open files of a form, by their names.

Raises `StoreError` where the form cannot hold an utterance, and `OptionError` where a package that
it needs is not installed.
"""


@dataclass(frozen=True)
class Labels:
    """What is to be written.

    Args:
        utterances: all of them.
        num_classes: K; labels are below it.
        frame_rate: frames a second.
        sample_rate: Hz of `num_samples` in the JSON of the utterances; None where the frames are
            not of audio that gmmpipe read.
        top_k: how many posteriors of a frame there are; None where there are none.
        temperature: of those.
        base_path: what relative audio paths are relative to; None where that is not known.
    """

    utterances: Gathered
    num_classes: int
    frame_rate: float
    sample_rate: int | None
    top_k: int | None
    temperature: float
    base_path: Path | None


@dataclass(frozen=True)
class Form:
    """One of the forms.

    Args:
        files: the names of its files.
        write: writes them.
        is_word: whether an utterance's name is to be without whitespace.
        with_top_k: whether it has room for the top k.
    """

    files: tuple[str, ...]
    write: Write
    is_word: bool = False
    with_top_k: bool = False
