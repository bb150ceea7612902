"""``--dry_run``: what a store would hold, by the manifests and some headers alone."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from gmmpipe.audio.opener import header_seconds
from gmmpipe.errors import AudioError
from gmmpipe.featurization.folder import manifests_beside
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import Plan, digest_manifests, make_plan
from gmmpipe.randomness import permutation
from gmmpipe.sources.lines import OpenManifests, with_plain_lines
from gmmpipe.sources.manifest import ManifestLine
from gmmpipe.sources.utterance import ParsedLine, Utterance, recording_of

PROBED_HEADERS = 500
_SAMPLE_OVERHEAD_BYTES = 2 * 512 + 1024 + 256
"""What a sample in a tar takes beside its frames: two headers, its JSON, and padding."""


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
        StoreError: the store would overwrite one.
    """
    output = options.output_dir.absolute()
    found = manifests_beside(output, options.data_dir, options.source_kind)
    wanted = options.plan_options(*digest_manifests(found))
    with TemporaryDirectory() as folder:
        manifests = with_plain_lines(found, Path(folder))
        plan = make_plan(manifests, options.features, wanted, options.base_path)
        utterances, seconds = _expect(plan, options)
    features = options.features
    frames = int(seconds * features.frame_rate)
    frame_bytes = features.dim * np.dtype(options.dtype).itemsize
    return Forecast(
        utterances=utterances,
        shards=plan.num_shards,
        frames=frames,
        bytes=frames * frame_bytes + utterances * _SAMPLE_OVERHEAD_BYTES,
        hours=round(seconds / 3600, 4),
    )


def _expect(plan: Plan, options: FeaturizeOptions) -> tuple[int, float]:
    """How many utterances a plan has, and an estimate of the seconds that are kept of them."""
    index = plan.index
    utterances, stated, unstated = 0, 0.0, []
    with OpenManifests() as files:

        def utterance_at(at: int) -> tuple[Utterance, ManifestLine]:
            line = index.line(plan.manifests, at)
            raw = files.line_at(line.manifest, int(index.byte_offset[at]))
            return ParsedLine(raw).utterance(line.ordinal), line

        for at in np.flatnonzero(~index.duplicate).tolist():
            try:
                utterance, _ = utterance_at(at)
            except AudioError:
                continue
            utterances += int(index.num_windows[at])
            if utterance.duration_seconds is not None:
                stated += _kept_seconds(utterance.duration_seconds, options)
            else:
                unstated.append(at)
        draw = permutation(len(unstated), "headers")[:PROBED_HEADERS].tolist()
        probed = 0.0
        for number in draw:
            utterance, line = utterance_at(unstated[number])
            recording = recording_of(utterance, line, options.base_path)
            length = header_seconds(recording) - (utterance.offset_seconds or 0.0)
            probed += _kept_seconds(length, options)
    return utterances, stated + (probed / len(draw) * len(unstated) if draw else 0.0)


def _kept_seconds(seconds: float, options: FeaturizeOptions) -> float:
    """What is kept of an utterance this long."""
    if options.long_audio == "split" or seconds <= options.max_seconds:
        return max(0.0, seconds)
    return options.max_seconds if options.long_audio == "crop" else 0.0
