"""``km``: what fairseq's HuBERT reads: labels, the list of the audio, and a dictionary.

fairseq joins the first line of the list and a path with a slash, and drops whitespace at both ends
of a line (``fairseq/data/audio/hubert_dataset.py``).
"""

import logging
import os
from collections.abc import Mapping
from typing import BinaryIO

from gmmpipe.errors import StoreError
from gmmpipe.exporting.form import Labels
from gmmpipe.exporting.utterance import LabelledUtterance, is_whole_file, path_of, whole_number
from gmmpipe.exporting.words import Words

log = logging.getLogger(__name__)
_DEFAULT_RATE = 16000
"""Hz of the samples of frames that are of no audio that gmmpipe read."""


def write_km(labels: Labels, files: Mapping[str, BinaryIO]) -> None:
    """Write ``labels.km``, ``labels.tsv`` and ``dict.km.txt``.

    Raises:
        StoreError: a path cannot stand in a list of tab-separated lines.
    """
    words, root = Words(labels.num_classes), _root(labels)
    files["labels.tsv"].write(os.fsencode(root) + b"\n")
    num_parts = 0
    for utterance in labels.utterances.in_order():
        num_parts += not is_whole_file(utterance.values)
        path = _encoded(_below(root, labels, utterance), utterance)
        files["labels.tsv"].write(b"%b\t%d\n" % (path, _num_samples(labels, utterance)))
        files["labels.km"].write(words.of(utterance.labels) + b"\n")
    for label in range(labels.num_classes):
        files["dict.km.txt"].write(b"%d 1\n" % label)
    if num_parts:
        log.warning(
            "warning: labels.tsv names whole files, but %d of %d utterances are segments, windows, "
            "crops, channels or members of archives, or name no audio: cut the audio into files "
            "and featurize those, or use --format lhotse",
            num_parts,
            len(labels.utterances),
        )


def _root(labels: Labels) -> str:
    """The first line of the list: what all its paths are below."""
    if labels.utterances.has_absolute_paths and (
        labels.base_path is not None or not labels.utterances.has_relative_paths
    ):
        return "/"
    return "." if labels.base_path is None else str(labels.base_path)


def _below(root: str, labels: Labels, utterance: LabelledUtterance) -> str:
    """The path of an utterance below the root; its name, if it has none."""
    path = path_of(utterance.values) or utterance.name
    if root != "/":
        return path
    return os.path.join(labels.base_path or "/", path).lstrip("/")


def _encoded(path: str, utterance: LabelledUtterance) -> bytes:
    what = f"utterance {utterance.values['key']}: labels.tsv cannot hold its path {path!r:.200}"
    if path != path.lstrip() or any(character in path for character in "\t\n\r"):
        raise StoreError(f"{what}: it has a tab, a line break, or a blank in front")
    try:
        return os.fsencode(path)
    except UnicodeEncodeError as error:
        raise StoreError(f"{what}: it is no file name") from error


def _num_samples(labels: Labels, utterance: LabelledUtterance) -> int:
    """Samples at the store's rate; if none are stated, those that the frames last for."""
    stated = whole_number(utterance.values.get("num_samples"))
    rate = labels.sample_rate or _DEFAULT_RATE
    return stated or round(len(utterance.labels) / labels.frame_rate * rate)
