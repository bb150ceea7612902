"""A task's utterances as waveforms, in the order of their keys or in reading order."""

import threading
from collections.abc import Iterator

from gmmpipe.audio.open_recording import OpenRecording
from gmmpipe.audio.opener import Recording
from gmmpipe.audio.segment import Limit, Part, Segment
from gmmpipe.audio.waveform import Waveform, load_waveform
from gmmpipe.errors import AudioError
from gmmpipe.features.spec import ComputedSpec
from gmmpipe.featurization.plan import ShardTask
from gmmpipe.featurization.planned import Planned, Rejects, planned_utterances

_kept = threading.local()
"""The recording that this thread has read last, open: the next shard may go on with it."""


def load_by_key(task: ShardTask, rejected: Rejects) -> Iterator[tuple[Planned, Waveform]]:
    """The utterances with audio, sorted by key, each opened by itself; the others are rejected."""
    utterances = [
        planned
        for planned in planned_utterances(task, rejected)
        if not rejected.add_if_repeat(planned)
    ]
    for planned in sorted(utterances, key=lambda planned: planned.utterance.key):
        try:
            waveform = load_waveform(
                planned.recording,
                task.features.sample_rate,
                _limit(planned, task),
                _segment(planned),
            )
            _refuse_too_short(waveform, task.features)
        except AudioError as error:
            rejected.add(planned, error)
        else:
            yield planned, waveform


def load_by_recording(task: ShardTask, rejected: Rejects) -> Iterator[tuple[Planned, Waveform]]:
    """The utterances with audio, those of a recording together and in the order of time.

    Each recording is opened once. The recordings are in the order of the task's items, and the last
    one stays open for the next task of this thread. The others are rejected.
    """
    by_recording: dict[Recording, list[Planned]] = {}
    for planned in planned_utterances(task, rejected):
        by_recording.setdefault(planned.recording, []).append(planned)
    for audio, planned_here in by_recording.items():
        # Only now: how long a repeat is may be read from its header, and an archive that can only
        # be read forward stands at it.
        group = [planned for planned in planned_here if not rejected.add_if_repeat(planned)]
        if not group:
            continue
        try:
            recording = _open(audio)
        except AudioError as error:
            for planned in group:
                rejected.add(planned, error)
        else:
            yield from _load_parts(recording, group, task, rejected)


def _load_parts(
    recording: OpenRecording, group: list[Planned], task: ShardTask, rejected: Rejects
) -> Iterator[tuple[Planned, Waveform]]:
    """The parts of one recording, from the first to the last."""
    parts: list[tuple[Part, Planned]] = []
    for planned in group:
        try:
            parts.append((recording.part(_limit(planned, task), _segment(planned)), planned))
        except AudioError as error:
            rejected.add(planned, error)
    # The order of equal starts is that of the items, because the sort is stable.
    parts.sort(key=lambda pair: pair[0].span.start)
    for number, (part, planned) in enumerate(parts):
        recording.keep_from(parts[number + 1][0] if number + 1 < len(parts) else None)
        try:
            waveform = recording.load(
                part, task.features.sample_rate, _limit(planned, task), _segment(planned)
            )
            _refuse_too_short(waveform, task.features)
        except AudioError as error:
            rejected.add(planned, error)
        else:
            yield planned, waveform


def _open(audio: Recording) -> OpenRecording:
    """The recording that is open still, if it is this one; else this one in its place."""
    last: OpenRecording | None = getattr(_kept, "recording", None)
    if last is not None:
        if last.can_go_on(audio):
            return last
        _kept.recording = None
        last.close()
    opened = OpenRecording(audio)
    _kept.recording = opened
    return opened


def _segment(planned: Planned) -> Segment:
    utterance = planned.utterance
    return Segment(utterance.offset_seconds, utterance.duration_seconds, utterance.channel)


def _limit(planned: Planned, task: ShardTask) -> Limit:
    return Limit(
        task.options.max_seconds,
        task.options.long_audio,
        f"crop/{task.options.seed}/{planned.utterance.key}",
        planned.item.window,
        planned.item.num_windows,
    )


def _refuse_too_short(waveform: Waveform, features: ComputedSpec) -> None:
    """Refuse audio without a single frame."""
    if len(waveform.samples) < features.min_samples:
        raise AudioError(
            "too_short",
            f"{len(waveform.samples)} samples at {features.sample_rate} Hz where a frame "
            f"needs {features.min_samples}",
        )
