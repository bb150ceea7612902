"""The utterances of a shard's lines, and the lines that gave none."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gmmpipe.audio.opener import Recording, header_seconds
from gmmpipe.errors import AudioError
from gmmpipe.featurization.plan import PlanItem, ShardTask
from gmmpipe.sources.lines import OpenManifests
from gmmpipe.sources.utterance import ParsedLine, Utterance, recording_of, window_key
from gmmpipe.store.rejects import Reject


@dataclass(frozen=True)
class Planned:
    """An utterance of the task, or one window of it, and the recording that it is in."""

    utterance: Utterance
    item: PlanItem
    recording: Recording


class Rejects:
    """The lines of a shard that gave no features, and how long they claim to be."""

    def __init__(self, task: ShardTask) -> None:
        self._max_seconds = task.options.max_seconds
        self._rejects: list[Reject] = []
        self.seconds = 0.0

    def add_line(self, item: PlanItem, path: str, error: AudioError) -> None:
        """Reject a line; `path` is what it gives, if anything."""
        line = item.line
        reject = Reject(
            manifest=line.manifest.name,
            line=line.number,
            path=path,
            reason=error.reason,
            detail=error.detail,
            ordinal=line.ordinal,
            num_windows=item.num_windows,
        )
        self._rejects.append(reject)

    def add(self, planned: Planned, error: AudioError) -> None:
        """Reject an utterance, or a window of it."""
        utterance, item = planned.utterance, planned.item
        seconds = utterance.duration_seconds or header_seconds(planned.recording)
        if item.num_windows > 1:  # this window's share
            seconds = min(max(0.0, seconds - item.window * self._max_seconds), self._max_seconds)
        self.seconds += seconds
        self.add_line(item, utterance.wav_path, error)

    def add_if_repeat(self, planned: Planned) -> bool:
        """Reject an utterance whose key an earlier line has; returns whether it is one."""
        if planned.item.duplicate:
            detail = f"an earlier line has the key {planned.utterance.key}"
            self.add(planned, AudioError("duplicate_id", detail))
        return planned.item.duplicate

    def in_order(self) -> list[Reject]:
        """The rejects in the order of their lines."""
        return sorted(self._rejects, key=lambda reject: reject.ordinal)


def planned_utterances(task: ShardTask, rejected: Rejects) -> Iterator[Planned]:
    """The utterances that the task's lines name, those that repeat a key too.

    Lines that name none are rejected. No audio is opened.
    """
    with OpenManifests() as files:
        for item in task.items:
            line = item.line
            parsed = ParsedLine(files.line_at(line.manifest, item.byte_offset))
            try:
                utterance = parsed.utterance(line.ordinal)
            except AudioError as error:
                rejected.add_line(item, parsed.path, error)
                continue
            recording = recording_of(utterance, line, task.base_path)
            if item.num_windows > 1 and not item.duplicate:
                utterance = replace(utterance, key=window_key(utterance.key, item.window))
            yield Planned(utterance, item, recording)
