"""One cut or recording of lhotse's, as JSON has it, to the fields of a plain manifest line."""

from enum import StrEnum
from typing import Any

from gmmpipe.errors import AudioError
from gmmpipe.sources.line_fields import END_FIELDS, RANGE_FIELD, START_FIELDS, path_field_of
from gmmpipe.sources.refusal import REFUSAL_FIELD

Json = dict[str, Any]

_CUTS = ("MonoCut", "MultiCut", "Cut")
_CUTS_OF_NO_FILE = ("MixedCut", "PaddingCut")
_SUPERVISION_FIELDS = ("text", "speaker", "language", "gender")
_TAKEN = {
    *("wav_path", "id", "channel", "duration", RANGE_FIELD, REFUSAL_FIELD),
    *START_FIELDS,
    *END_FIELDS,
}
"""Fields with a meaning of their own, which a custom field of that name must not take."""
_WHOLE_SECONDS = 1e-3
"""How close a cut's times are to its recording's if it is the whole; lhotse's own tolerance."""


class Item(StrEnum):
    """What a line of lhotse's describes."""

    CUT = "cut"
    RECORDING = "recording"
    SUPERVISION = "supervision"


def item_of(values: Json) -> Item | None:
    """What a line describes; None if it is none of lhotse's that matter here."""
    if "id" not in values:
        return None
    if values.get("type") in (*_CUTS, *_CUTS_OF_NO_FILE):
        return Item.CUT
    if isinstance(values.get("sources"), list) and "sampling_rate" in values:
        return Item.RECORDING
    is_supervision = "type" not in values and {"recording_id", "start", "duration"} <= values.keys()
    return Item.SUPERVISION if is_supervision and path_field_of(values) is None else None


def fields_of_cut(cut: Json, member: Json | None = None) -> Json:
    """The plain line of a cut.

    Args:
        cut: the cut.
        member: where its audio lies in an archive: the fields that say so, instead of its sources.

    Raises:
        AudioError: missing_path, unsafe_path or bad_json: no part of one file is its audio.
    """
    if cut.get("type") in _CUTS_OF_NO_FILE:
        raise AudioError("missing_path", f"a {cut['type']}: no file holds its audio")
    recording = cut.get("recording")
    if not isinstance(recording, dict):
        raise AudioError("missing_path", "a cut without a recording")
    channels = _integers(cut["channel"]) if cut.get("channel") is not None else None
    start, duration = cut.get("start", 0), cut.get("duration")
    fields = {
        **_carried(recording, _only_supervision(cut), cut.get("custom")),
        **_audio(recording, channels, member),
        "id": cut.get("id"),
        "duration": duration,
    }
    if not (_are_close(start, 0) and _are_close(duration, recording.get("duration"))):
        fields["offset"] = start
    return fields


def fields_of_recording(recording: Json, supervision: Json) -> Json:
    """The plain line of a whole recording.

    Args:
        recording: the recording.
        supervision: the only one that it has, or nothing.

    Raises:
        AudioError: missing_path, unsafe_path or bad_json: no one file is its audio.
    """
    return {
        **_carried(recording, supervision, None),
        **_audio(recording, None, None),
        "id": recording.get("id"),
        "duration": recording.get("duration"),
    }


def named_path(values: Json) -> str:
    """The path, or whatever else the first source of a cut or recording names, or nothing."""
    recording = values.get("recording", values)
    match recording.get("sources") if isinstance(recording, dict) else None:
        case [{"source": str(source)}, *_]:
            return source
    return ""


def _audio(recording: Json, channels: list[int] | None, member: Json | None) -> Json:
    """The fields that say where the audio is; no `channels` are all that the recording has."""
    source, channel = _source_of(recording, channels)
    place = member
    if place is None:
        _refuse_transforms(recording.get("transforms"))
        place = {"wav_path": _path_of(source)}
    return place if channel is None else {**place, "channel": channel}


def _source_of(recording: Json, channels: list[int] | None) -> tuple[Json, int | None]:
    """The one source that holds the channels, and which of its own is meant; None: the mean."""
    sources = recording.get("sources")
    if not isinstance(sources, list) or not all(isinstance(each, dict) for each in sources):
        raise AudioError("bad_json", "the sources of the recording are no list of objects")
    held = [(each, _integers(each.get("channels"))) for each in sources]
    if channels is not None:
        held = [(each, those) for each, those in held if set(those) & set(channels)]
    if len(held) != 1:
        raise AudioError("bad_json", f"its channels are in {len(held)} files, not in one")
    source, those = held[0]
    if channels is None or set(channels) == set(those):
        return source, None
    if len(channels) == 1:
        return source, those.index(channels[0])
    raise AudioError("bad_json", f"channels {channels} of a file with {those}: neither one nor all")


def _path_of(source: Json) -> str:
    kind, path = source.get("type"), source.get("source")
    if kind == "shar":
        raise AudioError("missing_path", "audio of a Shar that no recording tar beside it holds")
    if kind != "file" or not isinstance(path, str):
        raise AudioError("unsafe_path", f"a source of type {kind}, not a file")
    return path


def _refuse_transforms(transforms: object) -> None:
    """Refuse audio that has yet to be altered; resampling alone is what featurizing does anyway."""
    if not transforms:
        return
    names = [
        str(each.get("name")) if isinstance(each, dict) else "an unknown transform"
        for each in (transforms if isinstance(transforms, list) else [transforms])
    ]
    if altering := [name for name in names if name != "Resample"]:
        raise AudioError(
            "missing_path", f"audio that {', '.join(altering)} would make: no file holds it"
        )


def _only_supervision(cut: Json) -> Json:
    """The supervision of a cut that has exactly one, else nothing."""
    match cut.get("supervisions"):
        case [dict(supervision)]:
            return supervision
    return {}


def _carried(recording: Json, supervision: Json, custom: object) -> Json:
    """The fields that only describe the utterance."""
    fields = {name: supervision.get(name) for name in _SUPERVISION_FIELDS}
    fields["recording_id"] = recording.get("id")
    found = {name: value for name, value in fields.items() if _is_plain(value)}
    for others in (custom, supervision.get("custom")):
        for name, value in others.items() if isinstance(others, dict) else ():
            if _is_plain(value):
                found.setdefault(f"custom_{name}" if name in _TAKEN else name, value)
    return found


def _is_plain(value: object) -> bool:
    """Whether a value is a text, a number, or a list of those; arrays and recordings are not."""
    if isinstance(value, list):
        return all(isinstance(each, str | int | float) for each in value)
    return isinstance(value, str | int | float)


def _integers(value: object) -> list[int]:
    """A channel, or several, as a list."""
    values: list[object] = value if isinstance(value, list) else [value]
    numbers = [each for each in values if isinstance(each, int) and not isinstance(each, bool)]
    if not values or len(numbers) < len(values):
        raise AudioError("bad_json", "its channels are no integers")
    return numbers


def _are_close(value: object, other: object) -> bool:
    """Whether two times are the same but for rounding; not if one is no number."""
    if not isinstance(value, int | float) or not isinstance(other, int | float):
        return False
    return abs(value - other) < _WHOLE_SECONDS
