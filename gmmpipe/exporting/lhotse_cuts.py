"""``lhotse``: cuts in lhotse's JSONL, with the labels in the field ``custom`` of each."""

import gzip
import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import soundfile

from gmmpipe.exporting.form import Labels
from gmmpipe.exporting.utterance import LabelledUtterance, is_member, path_of, whole_number
from gmmpipe.files import canonical_json

log = logging.getLogger(__name__)


class _Header(NamedTuple):
    """What a file's header says: Hz, samples of a channel, channels."""

    sample_rate: int
    num_samples: int
    num_channels: int


def write_cuts(labels: Labels, files: Mapping[str, BinaryIO]) -> None:
    """Write ``cuts.jsonl.gz``; no time and no name in its header, so that equal cuts are equal."""
    num_without = 0
    with gzip.GzipFile("", "wb", 6, files["cuts.jsonl.gz"], mtime=0) as file:
        for utterance in labels.utterances.in_order():
            cut = _cut(labels, utterance)
            num_without += "recording" not in cut
            file.write(canonical_json(cut).encode() + b"\n")
    if num_without:
        log.warning(
            "warning: %d of %d cuts have no recording, because their audio is in an archive or is "
            "not named: unpack the archive and featurize the files, or read only their labels",
            num_without,
            len(labels.utterances),
        )


def _cut(labels: Labels, utterance: LabelledUtterance) -> dict[str, Any]:
    values, name = utterance.values, utterance.name
    rate = whole_number(values.get("sample_rate")) or labels.sample_rate
    num_samples = whole_number(values.get("num_samples"))
    duration = len(utterance.labels) / labels.frame_rate
    if rate and num_samples:
        duration = num_samples / rate
    cut: dict[str, Any] = {
        "type": "MonoCut",
        "id": name,
        "start": 0.0,
        "duration": duration,
        "channel": 0,
        "supervisions": [],
        "custom": {"labels": utterance.labels.tolist()},
    }
    path = path_of(values)
    if path is not None and not is_member(path) and rate:
        cut |= _audio(labels, values, path, duration, rate)
    fields = {field: values.get(field) for field in ("text", "speaker", "language")}
    spoken = {field: value for field, value in fields.items() if isinstance(value, str)}
    if spoken:
        recording = cut.get("recording", {"id": name})["id"]
        cut["supervisions"] = [
            {
                "id": name,
                "recording_id": recording,
                "start": 0.0,
                "duration": cut["duration"],
                "channel": cut["channel"],
                **spoken,
            }
        ]
    return cut


def _audio(
    labels: Labels, values: dict[str, Any], path: str, duration: float, rate: int
) -> dict[str, Any]:
    """The fields of a cut that say which part of which file it is.

    Without the file's own header, or with one of a file that ends before the utterance begins, the
    file is taken to be mono, at the store's rate, and to end with the utterance.
    """
    offset = values.get("offset")
    start = float(offset) if isinstance(offset, int | float) else 0.0
    given = whole_number(values.get("channel"))
    place = os.path.join(labels.base_path or "", path)
    header = _header(place)
    if header is None or start * header.sample_rate >= header.num_samples:
        header = _Header(rate, round((start + duration) * rate), (given or 0) + 1)
    whole = header.num_samples / header.sample_rate
    # Resampling rounds the number of samples up: by less than one of them.
    duration = min(duration, whole - start)
    channels = [*range(header.num_channels)]
    channel: int | list[int] = channels if len(channels) > 1 else 0
    if given is not None and given in channels:
        channel = given
    return {
        # All channels of a file together: features are those of their mean.
        "type": "MonoCut" if isinstance(channel, int) else "MultiCut",
        "start": start,
        "duration": duration,
        "channel": channel,
        "recording": {
            "id": path,
            "sources": [{"type": "file", "channels": channels, "source": place}],
            "sampling_rate": header.sample_rate,
            "num_samples": header.num_samples,
            "duration": whole,
            "channel_ids": channels,
        },
    }


@lru_cache(maxsize=1024)  # the segments of a recording are neighbours
def _header(path: str) -> _Header | None:
    """The header of a file that is here, and that libsndfile can read."""
    if not os.path.isfile(path):
        return None
    try:
        found = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        return None
    has_audio = found.samplerate > 0 and found.frames > 0
    return _Header(found.samplerate, found.frames, found.channels) if has_audio else None
