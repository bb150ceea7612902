"""``--dry_run``: what a store would hold, by the manifests and some headers alone."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from gmmpipe.audio.opener import header_seconds
from gmmpipe.errors import AudioError
from gmmpipe.featurization.folder import manifests_beside, say_shuffle_by
from gmmpipe.featurization.manifest_index import ManifestIndex, index_manifests
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.randomness import permutation
from gmmpipe.sources.lines import OpenManifests, with_plain_lines
from gmmpipe.sources.manifest import Manifest
from gmmpipe.sources.utterance import ParsedLine, recording_of

PROBED_HEADERS = 500
_SAMPLE_OVERHEAD_BYTES = 2 * 512 + 1024 + 256
"""What a sample in a tar takes beside its frames: two headers, its JSON, and padding."""
_NO_UTTERANCE, _UNSTATED = -1.0, float("nan")
"""In the place of a length."""


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
    say_shuffle_by(options, found)
    with TemporaryDirectory() as folder:
        manifests = with_plain_lines(found, Path(folder))
        lengths = _Lengths()
        window_seconds = options.max_seconds if options.long_audio == "split" else None
        index = index_manifests(manifests, options.base_path, window_seconds, [lengths.add])
        num_items = int(index.num_windows.sum())
        options.refuse_empty(num_items)
        utterances, seconds = lengths.expect(manifests, index, options)
    features = options.features
    frames = int(seconds * features.frame_rate)
    frame_bytes = features.dim * np.dtype(options.dtype).itemsize
    return Forecast(
        utterances=utterances,
        shards=-(-num_items // options.utterances_per_shard),
        frames=frames,
        bytes=frames * frame_bytes + utterances * _SAMPLE_OVERHEAD_BYTES,
        hours=round(seconds / 3600, 4),
    )


class _Lengths:
    """How long each line says that its utterance is."""

    def __init__(self) -> None:
        self._seconds = array("d")

    def add(self, manifest_index: int, parsed: ParsedLine, key: str | None) -> None:
        """Take note of the next planned line."""
        try:
            seconds = _NO_UTTERANCE if key is None else parsed.times()[1]
        except AudioError:
            seconds = _NO_UTTERANCE
        self._seconds.append(_UNSTATED if seconds is None else seconds)

    def expect(
        self, manifests: Sequence[Manifest], index: ManifestIndex, options: FeaturizeOptions
    ) -> tuple[int, float]:
        """How many utterances there are, and an estimate of the seconds that are kept of them."""
        seconds = np.where(index.duplicate, _NO_UTTERANCE, np.frombuffer(self._seconds))
        utterances = int(index.num_windows[seconds != _NO_UTTERANCE].sum())
        stated = float(_kept_seconds(seconds[seconds >= 0], options).sum())
        unstated = np.flatnonzero(np.isnan(seconds))
        draw = unstated[permutation(len(unstated), "headers")[:PROBED_HEADERS]]
        if len(draw):
            probed = np.array(_header_lengths(draw.tolist(), manifests, index, options))
            stated += float(_kept_seconds(probed, options).mean()) * len(unstated)
        return utterances, stated


def _header_lengths(
    lines: list[int],
    manifests: Sequence[Manifest],
    index: ManifestIndex,
    options: FeaturizeOptions,
) -> list[float]:
    """How long the utterances of planned lines are by the headers of their files, in seconds."""
    lengths = []
    with OpenManifests() as files:
        for at in lines:
            line = index.line(manifests, at)
            raw = files.line_at(line.manifest, int(index.byte_offset[at]))
            utterance = ParsedLine(raw).utterance(line.ordinal)
            recording = recording_of(utterance, line, options.base_path)
            lengths.append(header_seconds(recording) - (utterance.offset_seconds or 0.0))
    return lengths


def _kept_seconds(seconds: NDArray[np.float64], options: FeaturizeOptions) -> NDArray[np.float64]:
    """What is kept of utterances that are so long."""
    if options.long_audio == "split":
        return np.maximum(seconds, 0.0)
    longest = options.max_seconds
    beyond = longest if options.long_audio == "crop" else 0.0
    return np.where(seconds <= longest, np.maximum(seconds, 0.0), beyond)
