"""``units``: a JSON object a line with the id and the units of an utterance."""

from collections.abc import Mapping
from typing import BinaryIO

from gmmpipe.exporting.form import Labels
from gmmpipe.files import canonical_json


def write_units(labels: Labels, files: Mapping[str, BinaryIO]) -> None:
    """Write ``units.jsonl``."""
    for utterance in labels.utterances.in_order():
        line = canonical_json({"id": utterance.name, "units": utterance.labels.tolist()})
        files["units.jsonl"].write(line.encode() + b"\n")
