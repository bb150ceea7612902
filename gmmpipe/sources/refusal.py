"""Lines that a translator refuses itself, where their own fields would not say why."""

from typing import Any

from gmmpipe.errors import AudioError
from gmmpipe.files import canonical_json

REFUSAL_FIELD = "gmmpipe_refusal"
"""Of a plain line: why it is no utterance, as ``[reason, detail]`` of its reject."""
_REASONS = ("bad_json", "missing_path", "unsafe_path")


def refused_line(error: AudioError, path: str = "") -> bytes:
    """The plain line that becomes a reject for this reason.

    Args:
        error: one of bad_json, missing_path or unsafe_path.
        path: what the user's file gives as the audio, if anything; the reject names it.
    """
    values: dict[str, Any] = {REFUSAL_FIELD: [error.reason, error.detail]}
    if path:
        values["wav_path"] = path
    return canonical_json(values).encode() + b"\n"


def refuse_marked(values: dict[str, Any]) -> None:
    """Refuse a line that a translator has marked; any other content of the field means nothing.

    Raises:
        AudioError: bad_json, missing_path or unsafe_path, as the mark says.
    """
    match values.get(REFUSAL_FIELD):
        case [str(reason), str(detail)] if reason in _REASONS:
            raise AudioError(reason, detail)
