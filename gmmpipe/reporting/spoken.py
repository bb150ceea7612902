"""The few utterances of a sample that a report shows: frames, components and sound."""

import base64
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise

import numpy as np
import soundfile
from numpy.typing import NDArray

from gmmpipe.features.spec import ComputedSpec
from gmmpipe.randomness import sample
from gmmpipe.reporting.sample import Sample, SampledUtterance, Usage
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.shard_reader import ShardReader

NUM_SHOWN = 5
MAX_SECONDS = 10.0
_GOOD_SECONDS = (2.0, 15.0)


@dataclass(frozen=True)
class Spoken:
    """An utterance, or its first `MAX_SECONDS`.

    Args:
        key: in the store.
        seconds: what is shown.
        is_cut: whether there is more.
        frames: float32 [T, D].
        labels: the most likely component of each frame, int64 [T].
        largest: its posterior, float64 [T].
        flac: the same seconds as a FLAC file; None where the store has no audio.
    """

    key: str
    seconds: float
    is_cut: bool
    frames: NDArray[np.float32]
    labels: NDArray[np.int64]
    largest: NDArray[np.float64]
    flac: bytes | None

    @property
    def audio_uri(self) -> str | None:
        """The sound as a data URI."""
        if self.flac is None:
            return None
        return f"data:audio/flac;base64,{base64.b64encode(self.flac).decode()}"

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Ranges [first, beyond) of neighbouring frames with one component."""
        edges = np.flatnonzero(np.diff(self.labels)) + 1
        bounds = [0, *edges.tolist(), len(self.labels)]
        return list(pairwise(bounds))

    @property
    def mean_run_seconds(self) -> float:
        """How long a component stays the most likely one."""
        return self.seconds / len(self.runs)

    @property
    def num_components(self) -> int:
        """How many components are the most likely one of some frame."""
        return len(np.unique(self.labels))


def choose(store: FeatureStore, drawn: Sample, usage: Usage) -> list[Spoken]:
    """Utterances of a sample, of as many shards as possible, from 2 to 15 s where there are such.

    Raises:
        StoreError: the audio of one is damaged.
    """
    rate = store.features.frame_rate
    low, high = _GOOD_SECONDS
    turns: dict[int, int] = {}
    ranked = []
    order = sample(len(drawn.utterances), len(drawn.utterances), "report", "shown")
    for place, number in enumerate(order.tolist()):
        utterance = drawn.utterances[number]
        is_good = low <= utterance.num_frames / rate <= high
        turn = turns.get(utterance.shard, 0)
        turns[utterance.shard] = turn + is_good
        ranked.append((not is_good, turn, place, utterance))
    chosen = sorted(ranked, key=lambda entry: entry[:3])[:NUM_SHOWN]
    return [_of(store, drawn, usage, utterance) for *_, utterance in chosen]


def _of(store: FeatureStore, drawn: Sample, usage: Usage, utterance: SampledUtterance) -> Spoken:
    rate = store.features.frame_rate
    count = min(utterance.num_frames, max(1, round(MAX_SECONDS * rate)))
    part = slice(utterance.first, utterance.first + count)
    index = store.shards[utterance.shard].sidecar().index
    return Spoken(
        key=utterance.key,
        seconds=count / rate,
        is_cut=count < int(index.num_frames[utterance.position]),
        frames=drawn.frames[part].numpy(),
        labels=usage.labels[part],
        largest=usage.largest[part],
        flac=_flac(store, utterance, count),
    )


def _flac(store: FeatureStore, utterance: SampledUtterance, num_frames: int) -> bytes | None:
    shard, spec = store.shards[utterance.shard], store.features
    if not (shard.has_audio and isinstance(spec, ComputedSpec)):
        return None
    waveform = ShardReader(shard).read_waveform(utterance.position)
    samples = waveform[: num_frames * spec.hop_length].numpy()
    buffer = BytesIO()
    loudest = max(1.0, float(np.abs(samples).max(initial=0.0)))
    soundfile.write(buffer, samples / loudest, spec.sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
