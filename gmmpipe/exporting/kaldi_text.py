"""``kaldi``: the labels as the words of ``text``, and how many there are as ``utt2num_frames``."""

from collections.abc import Mapping
from typing import BinaryIO

from gmmpipe.exporting.form import Labels
from gmmpipe.exporting.words import Words


def write_kaldi(labels: Labels, files: Mapping[str, BinaryIO]) -> None:
    """Write ``text`` and ``utt2num_frames``; names have no whitespace."""
    words = Words(labels.num_classes)
    for utterance in labels.utterances.in_order():
        name = utterance.name.encode()
        files["text"].write(b"%b %b\n" % (name, words.of(utterance.labels)))
        files["utt2num_frames"].write(b"%b %d\n" % (name, len(utterance.labels)))
