"""``--dry_run``: what a store would come to, from the manifests and some headers alone."""

from dataclasses import dataclass

import numpy as np

from gmmpipe.audio.sound_file import header_seconds
from gmmpipe.errors import AudioError
from gmmpipe.featurization.line_table import OpenManifests
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import digest_manifests, make_plan
from gmmpipe.randomness import permutation
from gmmpipe.sources.manifest import (
    ManifestLine,
    Utterance,
    audio_path,
    find_manifests,
    parse_line,
)

PROBED_HEADERS = 500
_SAMPLE_OVERHEAD_BYTES = 2 * 512 + 1024 + 256
"""Of a sample in a tar beside its frames: two headers, its JSON, and what fills the blocks."""


@dataclass(frozen=True)
class Forecast:
    """What a store would hold; frames, bytes and hours are estimates."""

    utterances: int
    shards: int
    frames: int
    bytes: int
    hours: float


def forecast(options: FeaturizeOptions) -> Forecast:
    """Estimate a store without writing anything.

    Lengths are the manifest's own durations; where those are missing, the mean of a random
    sample of the files' headers stands for them.

    Raises:
        ManifestError: there is no manifest, or one cannot be read.
    """
    manifests = find_manifests(options.data_dir)
    wanted = options.plan_options(*digest_manifests(manifests))
    plan = make_plan(manifests, options.features, wanted, options.base_path)
    table, files = plan.table, OpenManifests()

    def utterance_at(at: int) -> tuple[Utterance, ManifestLine]:
        line = table.line(manifests, at)
        return parse_line(files.line_at(line.manifest, int(table.byte_offset[at])), line), line

    utterances, stated, unstated = 0, 0.0, []
    for at in np.flatnonzero(~table.duplicate).tolist():
        try:
            utterance, _ = utterance_at(at)
        except AudioError:
            continue
        utterances += int(table.num_windows[at])
        if utterance.duration_seconds is not None:
            stated += _kept_seconds(utterance.duration_seconds, options)
        else:
            unstated.append(at)
    probed = [unstated[n] for n in permutation(len(unstated), "headers")[:PROBED_HEADERS].tolist()]
    seconds = 0.0
    for at in probed:
        utterance, line = utterance_at(at)
        path = audio_path(utterance.wav_path, line, options.base_path)
        length = header_seconds(path) - (utterance.offset_seconds or 0.0)
        seconds += _kept_seconds(length, options)
    files.close()
    total = stated + (seconds / len(probed) * len(unstated) if probed else 0.0)
    features = options.features
    frames = int(total * features.frame_rate)
    frame_bytes = features.dim * np.dtype(options.dtype).itemsize
    return Forecast(
        utterances=utterances,
        shards=plan.num_shards,
        frames=frames,
        bytes=frames * frame_bytes + utterances * _SAMPLE_OVERHEAD_BYTES,
        hours=round(total / 3600, 4),
    )


def _kept_seconds(seconds: float, options: FeaturizeOptions) -> float:
    """What is kept of an utterance this long."""
    if options.long_audio == "split" or seconds <= options.max_seconds:
        return max(0.0, seconds)
    return options.max_seconds if options.long_audio == "crop" else 0.0
