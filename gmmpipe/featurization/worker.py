"""What a worker process runs: a shard task to a published shard and its sidecar.

Utterances are loaded one by one, transformed some at a time, and written one by one, sorted by key.
They are loaded in that order too, or recording by recording.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gmmpipe.audio.flac import encode_flac
from gmmpipe.audio.waveform import Waveform
from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.features.spec import ComputedSpec, FrameTransform
from gmmpipe.featurization.loading import load_by_key, load_by_recording
from gmmpipe.featurization.plan import ShardTask
from gmmpipe.featurization.planned import Planned, Rejects
from gmmpipe.featurization.spool import Sample, sorted_by_key
from gmmpipe.store.names import shard_name
from gmmpipe.store.read_ranges import TORCH_DTYPES
from gmmpipe.store.rejects import Tally
from gmmpipe.store.schema import FeatureIdentity
from gmmpipe.store.shard_kinds import shard_file
from gmmpipe.store.sidecar import Sidecar

BATCH_SAMPLES = 5 << 18
"""How many samples, over all transform windows, are transformed together: a minute, 10 MB."""


@lru_cache(maxsize=1)
def _transform_of(features: ComputedSpec) -> FrameTransform:
    """The transform of the last spec is kept for the shards that follow."""
    return features.make_transform()


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
    rejected = Rejects(task)
    seconds_kept = seconds_cropped = seconds_unstated = 0.0
    cancelled = unstated = 0
    (column,) = FeatureIdentity(task.features, task.options).columns
    with shard_file(shard_path).open_writer([column]) as writer:
        for sample in _samples(task, rejected, shard_path):
            writer.add(sample.key, {column.name: sample.frames}, sample.metadata, sample.audio)
            seconds_kept += sample.kept_seconds
            seconds_cropped += sample.cropped_seconds
            seconds_unstated += sample.unstated_seconds
            cancelled += sample.cancels
            unstated += sample.unstated_seconds > 0
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


def _samples(task: ShardTask, rejected: Rejects, shard_path: Path) -> Iterator[Sample]:
    """The samples of a task, sorted by key, in whatever order they are read."""
    if task.options.shuffle_by == "recordings":
        return sorted_by_key(_make(load_by_recording(task, rejected), task, rejected), shard_path)
    return _make(load_by_key(task, rejected), task, rejected)


def _make(
    loaded: Iterable[tuple[Planned, Waveform]], task: ShardTask, rejected: Rejects
) -> Iterator[Sample]:
    """The samples of utterances, in their order."""
    for batch in _in_batches(loaded, task.features):
        for planned, waveform, frames in _compute(batch, task, rejected):
            metadata = _metadata(planned, waveform, frames, task.features)
            audio = None
            if task.options.store_audio == "flac":
                audio, scale = encode_flac(waveform, task.features.sample_rate)
                metadata["audio_scale"] = scale
            yield Sample(
                planned.utterance.key,
                frames,
                metadata,
                audio,
                waveform.kept_seconds,
                waveform.cropped_seconds,
                waveform.cancels,
                waveform.unstated_seconds if planned.item.window == 0 else 0.0,
            )


def _in_batches(
    loaded: Iterable[tuple[Planned, Waveform]], features: ComputedSpec
) -> Iterator[list[tuple[Planned, Waveform]]]:
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
    batch: Sequence[tuple[Planned, Waveform]], task: ShardTask, rejected: Rejects
) -> Iterator[tuple[Planned, Waveform, NDArray[Any]]]:
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
    planned: Planned, waveform: Waveform, frames: NDArray[Any], features: ComputedSpec
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
    for name in ("ordinal", "resampler", "audio_scale"):
        metadata.pop(name, None)  # a manifest's field of this name would pass for the store's
    if line.ordinal != line.number:  # several manifests: where the line stands among all of theirs
        metadata["ordinal"] = line.ordinal
    if waveform.resampler == "soxr":
        metadata["resampler"] = waveform.resampler
    return metadata
