"""What a worker process runs: a shard task to a published shard and its sidecar.

Utterances are taken in the order of their keys. They are loaded one by one, transformed some at a
time, and written one by one.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gmmpipe.audio.flac import encode_flac
from gmmpipe.audio.opener import Recording, header_seconds
from gmmpipe.audio.waveform import Limit, Segment, Waveform, load_waveform
from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.features.spec import ComputedSpec, FrameTransform
from gmmpipe.featurization.plan import PlanItem, ShardTask
from gmmpipe.sources.lines import OpenManifests
from gmmpipe.sources.utterance import ParsedLine, Utterance, recording_of, window_key
from gmmpipe.store.names import shard_name
from gmmpipe.store.read_ranges import TORCH_DTYPES
from gmmpipe.store.rejects import Reject, Tally
from gmmpipe.store.schema import FeatureIdentity
from gmmpipe.store.shard_kinds import shard_file
from gmmpipe.store.sidecar import Sidecar

BATCH_SAMPLES = 5 << 18
"""How many samples, over all transform windows, are transformed together: a minute, 10 MB."""


@lru_cache(maxsize=1)
def _transform_of(features: ComputedSpec) -> FrameTransform:
    """The transform of the last spec is kept for the shards that follow."""
    return features.make_transform()


@dataclass(frozen=True)
class _Planned:
    """An utterance of the task, or one window of it, and the recording that it is in."""

    utterance: Utterance
    item: PlanItem
    recording: Recording


class _Rejects:
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

    def add(self, planned: _Planned, error: AudioError) -> None:
        """Reject an utterance, or a window of it."""
        utterance, item = planned.utterance, planned.item
        seconds = utterance.duration_seconds or header_seconds(planned.recording)
        if item.num_windows > 1:  # this window's share
            seconds = min(max(0.0, seconds - item.window * self._max_seconds), self._max_seconds)
        self.seconds += seconds
        self.add_line(item, utterance.wav_path, error)

    def in_order(self) -> list[Reject]:
        """The rejects in the order of their lines."""
        return sorted(self._rejects, key=lambda reject: reject.ordinal)


def make_shard(task: ShardTask) -> Tally:
    """Make and publish one shard; where another process has done so meanwhile, its shard stays.

    Returns:
        What the shard's lines came to.
    """
    shard_path = task.output_dir / shard_name(task.number, task.options.format)
    sidecar_path = shard_path.with_suffix(".json")

    def is_published() -> bool:
        return sidecar_path.exists() and shard_path.exists()

    if not is_published():
        try:
            return _publish(task, shard_path, sidecar_path)
        except (FileNotFoundError, ManifestError):
            # Whoever finishes the store removes all temporaries, and the lines of manifests that
            # were translated for it; the shard has been published by then.
            if not is_published():
                raise
    return Sidecar.read(sidecar_path, "features").tally


def _publish(task: ShardTask, shard_path: Path, sidecar_path: Path) -> Tally:
    rejected = _Rejects(task)
    seconds_kept = seconds_cropped = seconds_unstated = 0.0
    cancelled = unstated = 0
    (column,) = FeatureIdentity(task.features, task.options).columns
    with shard_file(shard_path).open_writer([column]) as writer:
        for batch in _in_batches(_load(task, rejected), task.features):
            for planned, waveform, frames in _compute(batch, task, rejected):
                metadata = _metadata(planned, waveform, frames, task.features)
                audio = None
                if task.options.store_audio == "flac":
                    audio, scale = encode_flac(waveform, task.features.sample_rate)
                    metadata["audio_scale"] = scale
                writer.add(planned.utterance.key, {column.name: frames}, metadata, audio)
                seconds_kept += waveform.kept_seconds
                seconds_cropped += waveform.cropped_seconds
                cancelled += waveform.cancels
                if waveform.unstated_seconds and planned.item.window == 0:
                    unstated += 1
                    seconds_unstated += waveform.unstated_seconds
        sidecar = writer.finish()
    row = sidecar.row
    rejects = rejected.in_order()
    sums = Tally(
        lines=sum(item.window == 0 for item in task.items),
        utterances=row.utterances,
        rejects=len(rejects),
        frames=row.frames,
        bytes=row.bytes,
        seconds_kept=seconds_kept,
        seconds_cropped=seconds_cropped,
        seconds_rejected=rejected.seconds,
        rejects_by_reason=dict(Counter(reject.reason for reject in rejects)),
        cancelled=cancelled,
        unstated=unstated,
        seconds_unstated=seconds_unstated,
    )
    tally = Tally.total([sums])  # which rounds its seconds
    replace(sidecar, tally=tally, rejects=rejects).write(sidecar_path)
    return tally


def _load(task: ShardTask, rejected: _Rejects) -> Iterator[tuple[_Planned, Waveform]]:
    """The task's utterances with audio, in the order of their keys; the others are rejected."""
    features = task.features
    for planned in sorted(_utterances(task, rejected), key=lambda planned: planned.utterance.key):
        utterance, item = planned.utterance, planned.item
        segment = Segment(utterance.offset_seconds, utterance.duration_seconds, utterance.channel)
        limit = Limit(
            task.options.max_seconds,
            task.options.long_audio,
            f"crop/{task.options.seed}/{utterance.key}",
            item.window,
            item.num_windows,
        )
        try:
            waveform = load_waveform(planned.recording, features.sample_rate, limit, segment)
            if len(waveform.samples) < features.min_samples:
                raise AudioError(
                    "too_short",
                    f"{len(waveform.samples)} samples at {features.sample_rate} Hz where a frame "
                    f"needs {features.min_samples}",
                )
        except AudioError as error:
            rejected.add(planned, error)
        else:
            yield planned, waveform


def _utterances(task: ShardTask, rejected: _Rejects) -> Iterator[_Planned]:
    """The utterances that the task's lines name; the other lines are rejected."""
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
            if item.duplicate:
                repeat = AudioError("duplicate_id", f"an earlier line has the key {utterance.key}")
                rejected.add(_Planned(utterance, item, recording), repeat)
                continue
            if item.num_windows > 1:
                utterance = replace(utterance, key=window_key(utterance.key, item.window))
            yield _Planned(utterance, item, recording)


def _in_batches(
    loaded: Iterable[tuple[_Planned, Waveform]], features: ComputedSpec
) -> Iterator[list[tuple[_Planned, Waveform]]]:
    """The utterances in batches, each of enough samples for one transform."""
    batch, num_frames = [], 0
    for planned, waveform in loaded:
        batch.append((planned, waveform))
        num_frames += features.num_frames(len(waveform.samples))
        if num_frames * features.n_fft >= BATCH_SAMPLES:
            yield batch
            batch, num_frames = [], 0
    if batch:
        yield batch


def _compute(
    batch: Sequence[tuple[_Planned, Waveform]], task: ShardTask, rejected: _Rejects
) -> Iterator[tuple[_Planned, Waveform, NDArray[Any]]]:
    """The batch with frames [T, D] in the stored dtype; what overflows is rejected."""
    transform, dtype = _transform_of(task.features), TORCH_DTYPES[task.options.dtype]
    computed = transform.frames_of([waveform.samples for _, waveform in batch])
    for (planned, waveform), frames in zip(batch, computed, strict=True):
        if math.isfinite(frames.sum()):  # a sum is not if one of its terms is not; and cheaper
            yield planned, waveform, frames.to(dtype).numpy()
        else:
            detail = "the features overflow: the samples are far beyond full scale"
            rejected.add(planned, AudioError("non_finite", detail))


def _metadata(
    planned: _Planned, waveform: Waveform, frames: NDArray[Any], features: ComputedSpec
) -> dict[str, Any]:
    utterance, line = planned.utterance, planned.item.line
    metadata = {
        **utterance.carried,
        "key": utterance.key,
        "id": utterance.id,
        "wav_path": utterance.wav_path,
        "manifest": line.manifest.name,
        "line": line.number,
        "num_frames": len(frames),
        "num_samples": len(waveform.samples),
        "sample_rate": features.sample_rate,
        "offset": waveform.start_seconds,
    }
    for name in ("resampler", "audio_scale"):
        metadata.pop(name, None)  # a manifest's field of this name would pass for the store's
    if waveform.resampler == "soxr":
        metadata["resampler"] = waveform.resampler
    return metadata
