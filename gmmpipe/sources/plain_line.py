"""The plain manifest lines that a translation writes."""

from collections.abc import Mapping
from typing import Any

from gmmpipe.files import canonical_json

BLANK_LINE = b"\n"
"""Stands for a line of the user's file that is no utterance and no reject."""


def plain_line(values: Mapping[str, Any]) -> bytes:
    """The line of an utterance: its fields as canonical JSON, without those that are None."""
    kept = {name: value for name, value in values.items() if value is not None}
    return canonical_json(kept).encode() + b"\n"


def rejected_line(content: list[str]) -> bytes:
    """A line that becomes a reject, ``bad_json``: what the user's file has there, as a list."""
    return canonical_json(content).encode() + b"\n"
