"""One shard task to one published shard and its sidecar. This is what a worker process runs."""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gmmpipe.errors import AudioError
from gmmpipe.features import FeatureConfig
from gmmpipe.featurize.audio import Waveform, header_seconds, load_waveform
from gmmpipe.featurize.manifest import ManifestLine, Utterance, named_path, parse_line
from gmmpipe.featurize.plan import OpenManifests, ShardTask
from gmmpipe.files import atomic_file
from gmmpipe.logmel import LogMel
from gmmpipe.store.schema import (
    SHARD_SUFFIXES,
    Dtype,
    Reject,
    ShardRow,
    Sidecar,
    Tally,
    shard_stem,
)
from gmmpipe.store.tar_shard import TarShardWriter

_TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32}
_log_mel = lru_cache(maxsize=1)(LogMel)


class _Ledger:
    """The lines of a shard that gave no features, and how long they claim to be."""

    def __init__(self) -> None:
        self.rejects: list[tuple[int, Reject]] = []
        self.seconds = 0.0

    def add(self, line: ManifestLine, path: str, error: AudioError, seconds: float = 0.0) -> None:
        reject = Reject(line.manifest.name, line.number, path, error.reason, error.detail)
        self.rejects.append((line.ordinal, reject))
        self.seconds += seconds

    def in_order(self) -> list[Reject]:
        return [reject for _, reject in sorted(self.rejects, key=lambda pair: pair[0])]


def make_shard(task: ShardTask) -> Tally:
    """Make and publish one shard; where another process has done so meanwhile, its shard stays.

    Returns:
        What the shard's lines came to.
    """
    sidecar_path = task.output_dir / f"{shard_stem(task.number)}.json"
    if not sidecar_path.exists():
        _publish(task, sidecar_path)
    return Sidecar.read(sidecar_path).tally


def _publish(task: ShardTask, sidecar_path: Path) -> None:
    shard_path = sidecar_path.with_suffix(SHARD_SUFFIXES[task.options.format])
    ledger = _Ledger()
    seconds_kept = seconds_cropped = 0.0
    with atomic_file(shard_path) as file:
        writer = TarShardWriter(file)
        for utterance, line in sorted(_utterances(task, ledger), key=lambda pair: pair[0].key):
            path = audio_path(utterance.wav_path, line, task.base_path)
            try:
                waveform = load_waveform(
                    utterance,
                    path,
                    task.features.sample_rate,
                    task.options.max_seconds,
                    task.options.seed,
                )
                frames = compute_frames(waveform, task.features, task.options.dtype)
            except AudioError as error:
                seconds = utterance.duration_seconds or header_seconds(path)
                ledger.add(line, utterance.wav_path, error, seconds)
                continue
            writer.add(utterance.key, _metadata(utterance, line, waveform, frames, task), frames)
            seconds_kept += waveform.kept_seconds
            seconds_cropped += waveform.cropped_seconds
        index, num_bytes, sha256 = writer.finish()
    rejects = ledger.in_order()
    num_frames = int(index.num_frames.sum())
    tally = Tally(
        lines=len(task.lines),
        utterances=len(index.keys),
        rejects=len(rejects),
        frames=num_frames,
        bytes=num_bytes,
        seconds_kept=seconds_kept,
        seconds_cropped=seconds_cropped,
        seconds_rejected=ledger.seconds,
        rejects_by_reason=dict(Counter(reject.reason for reject in rejects)),
    )
    row = ShardRow(shard_path.name, len(index.keys), num_frames, num_bytes, sha256)
    Sidecar(row, index, Tally.total([tally]), rejects).write(sidecar_path)


def _utterances(task: ShardTask, ledger: _Ledger) -> Iterator[tuple[Utterance, ManifestLine]]:
    """The task's lines that name an utterance; the others go to the ledger."""
    manifests = OpenManifests()
    for planned in task.lines:
        raw = manifests.line_at(planned.line.manifest, planned.byte_offset)
        try:
            utterance = parse_line(raw, planned.line)
        except AudioError as error:
            ledger.add(planned.line, named_path(raw), error)
            continue
        if planned.duplicate:
            twin = AudioError("duplicate_id", f"an earlier line has the key {utterance.key}")
            ledger.add(planned.line, utterance.wav_path, twin, utterance.duration_seconds or 0.0)
            continue
        yield utterance, planned.line
    manifests.close()


def audio_path(wav_path: str, line: ManifestLine, base_path: Path | None) -> Path:
    """Where a manifest's audio path points: relative ones start at `base_path` or the manifest."""
    return (base_path or line.manifest.path.parent) / wav_path


def compute_frames(waveform: Waveform, features: FeatureConfig, dtype: Dtype) -> NDArray[Any]:
    """Log-mel frames of a waveform in the stored dtype, [T, D], C order.

    Raises:
        AudioError: too_short, or non_finite where the energies overflow.
    """
    num_samples = len(waveform.samples)
    if num_samples < features.min_samples:
        raise AudioError(
            "too_short",
            f"{num_samples} samples at {features.sample_rate} Hz where a frame needs "
            f"{features.min_samples}",
        )
    frames = _log_mel(features)(waveform.samples).to(_TORCH_DTYPES[dtype])
    if not torch.isfinite(frames).all():
        raise AudioError(
            "non_finite", "the features overflow: the samples are far beyond full scale"
        )
    return np.ascontiguousarray(frames.numpy())


def _metadata(
    utterance: Utterance,
    line: ManifestLine,
    waveform: Waveform,
    frames: NDArray[Any],
    task: ShardTask,
) -> dict[str, Any]:
    metadata = {
        **utterance.carried,
        "key": utterance.key,
        "id": utterance.id,
        "wav_path": utterance.wav_path,
        "manifest": line.manifest.name,
        "line": line.number,
        "num_frames": len(frames),
        "num_samples": len(waveform.samples),
        "sample_rate": task.features.sample_rate,
        "offset": waveform.start_seconds,
    }
    if waveform.resampler == "soxr":
        metadata["resampler"] = waveform.resampler
    return metadata
