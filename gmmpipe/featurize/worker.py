"""One shard task to one published shard and its sidecar. This is what a worker process runs."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import AudioError
from gmmpipe.features import FeatureConfig
from gmmpipe.featurize.audio import Waveform, header_seconds, load_waveform
from gmmpipe.featurize.line_table import OpenManifests
from gmmpipe.featurize.manifest import (
    ManifestLine,
    Utterance,
    audio_path,
    named_path,
    parse_line,
    window_key,
)
from gmmpipe.featurize.plan import LineTask, ShardTask
from gmmpipe.featurize.stored_audio import encode_flac
from gmmpipe.logmel import LogMel
from gmmpipe.store.feature_store import TORCH_DTYPES
from gmmpipe.store.ledger import Reject, Tally
from gmmpipe.store.schema import SHARD_SUFFIXES, Dtype, ShardRow, Sidecar, shard_stem
from gmmpipe.store.shard_files import open_writer

_log_mel = lru_cache(maxsize=1)(LogMel)


class _Ledger:
    """The lines of a shard that gave no features, and how long they claim to be."""

    def __init__(self) -> None:
        self.rejects: list[Reject] = []
        self.seconds = 0.0

    def add(self, planned: LineTask, path: str, error: AudioError, seconds: float = 0.0) -> None:
        line = planned.line
        reject = Reject(
            manifest=line.manifest.name,
            line=line.number,
            path=path,
            reason=error.reason,
            detail=error.detail,
            ordinal=line.ordinal,
            num_windows=planned.num_windows,
        )
        self.rejects.append(reject)
        self.seconds += seconds

    def in_order(self) -> list[Reject]:
        return sorted(self.rejects, key=lambda reject: reject.ordinal)


def make_shard(task: ShardTask) -> Tally:
    """Make and publish one shard; where another process has done so meanwhile, its shard stays.

    Returns:
        What the shard's lines came to.
    """
    sidecar_path = task.output_dir / f"{shard_stem(task.number)}.json"
    shard_path = sidecar_path.with_suffix(SHARD_SUFFIXES[task.options.format])
    if not (sidecar_path.exists() and shard_path.exists()):
        try:
            _publish(task, shard_path, sidecar_path)
        except FileNotFoundError:
            # Whoever finalizes removes all temporaries; then the shard has been published too.
            if not (sidecar_path.exists() and shard_path.exists()):
                raise
    return Sidecar.read(sidecar_path).tally


def _publish(task: ShardTask, shard_path: Path, sidecar_path: Path) -> None:
    ledger = _Ledger()
    seconds_kept = seconds_cropped = 0.0
    with open_writer(shard_path, task.features.n_mels, task.options.dtype) as writer:
        for utterance, planned in sorted(_utterances(task, ledger), key=lambda pair: pair[0].key):
            path = audio_path(utterance.wav_path, planned.line, task.base_path)
            try:
                waveform = load_waveform(
                    utterance,
                    path,
                    task.features.sample_rate,
                    task.options,
                    planned.window,
                    planned.num_windows,
                )
                frames = compute_frames(waveform, task.features, task.options.dtype)
            except AudioError as error:
                seconds = utterance.duration_seconds or header_seconds(path)
                if planned.num_windows > 1:  # this window's share
                    longest = task.options.max_seconds
                    seconds = min(max(0.0, seconds - planned.window * longest), longest)
                ledger.add(planned, utterance.wav_path, error, seconds)
                continue
            metadata = _metadata(utterance, planned.line, waveform, frames, task.features)
            audio = None
            if task.options.store_audio == "flac":
                audio, scale = encode_flac(waveform, task.features.sample_rate)
                metadata["audio_scale"] = scale
            writer.add(utterance.key, metadata, frames, audio)
            seconds_kept += waveform.kept_seconds
            seconds_cropped += waveform.cropped_seconds
        index, num_bytes, sha256 = writer.finish()
    rejects = ledger.in_order()
    num_frames = int(index.num_frames.sum())
    tally = Tally(
        lines=sum(planned.window == 0 for planned in task.lines),
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


def _utterances(task: ShardTask, ledger: _Ledger) -> Iterator[tuple[Utterance, LineTask]]:
    """The task's lines that name an utterance; the others go to the ledger."""
    manifests = OpenManifests()
    for planned in task.lines:
        raw = manifests.line_at(planned.line.manifest, planned.byte_offset)
        try:
            utterance = parse_line(raw, planned.line)
        except AudioError as error:
            ledger.add(planned, named_path(raw), error)
            continue
        if planned.duplicate:
            twin = AudioError("duplicate_id", f"an earlier line has the key {utterance.key}")
            path = audio_path(utterance.wav_path, planned.line, task.base_path)
            seconds = utterance.duration_seconds or header_seconds(path)
            ledger.add(planned, utterance.wav_path, twin, seconds)
            continue
        if planned.num_windows > 1:
            utterance = replace(utterance, key=window_key(utterance.key, planned.window))
        yield utterance, planned
    manifests.close()


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
    frames = _log_mel(features)(waveform.samples)
    if not math.isfinite(frames.sum()):
        raise AudioError(
            "non_finite", "the features overflow: the samples are far beyond full scale"
        )
    return np.ascontiguousarray(frames.to(TORCH_DTYPES[dtype]).numpy())


def _metadata(
    utterance: Utterance,
    line: ManifestLine,
    waveform: Waveform,
    frames: NDArray[Any],
    features: FeatureConfig,
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
        "sample_rate": features.sample_rate,
        "offset": waveform.start_seconds,
    }
    for name in ("resampler", "audio_scale"):
        metadata.pop(name, None)  # the manifest's would pass for ours
    if waveform.resampler == "soxr":
        metadata["resampler"] = waveform.resampler
    return metadata
