#!/usr/bin/env python
"""CPU time of log-mels, of MFCCs, and of torchaudio's own MFCCs, an hour of audio.

Real speech, 20 waveforms at a time, as stage 1 has them; one torch thread. All take turns, and the
median of the runs counts. torchaudio gets one waveform at a time, because padding would change its
frames. At the end: how far the MFCCs are from torchaudio's, and what float16 makes of them.

    python pipelines/benchmark/frame_kinds.py --store STORE_WITH_AUDIO [--runs 9] [--n_mels 80]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice

import torch
import torchaudio
from common import add_row
from torch import Tensor

from gmmpipe import FeatureStore, LogMelSpec, MfccSpec
from gmmpipe.store.shard_reader import ShardReader

TOGETHER = 20


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of kinds of frames")
    parser.add_argument("--store", required=True, help="made with --store_audio flac, 16 kHz")
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--n_mels", type=int, default=80)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    waveforms = read_waveforms(options.store, options.utterances)
    hours = sum(map(len, waveforms)) / 16000 / 3600
    log_mel = LogMelSpec(n_mels=options.n_mels).make_transform()
    mfcc = MfccSpec(n_mels=options.n_mels).make_transform()
    rivals = {
        "log-mel": batched(log_mel.frames_of),
        "mfcc": batched(mfcc.frames_of),
        "torchaudio": torchaudio_mfcc(mfcc.config),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(options.runs + 1):  # the first turn warms up
        for name, rival in rivals.items():
            began = time.process_time()
            rival(waveforms)
            if number:
                seconds[name].append(time.process_time() - began)
    usual = statistics.median(seconds["log-mel"])
    print(f"{hours:.3f} hours; CPU seconds an hour of audio, and times of log-mel's")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:12}{median / hours:8.2f}{median / usual:8.2f}")
    per_hour = {name: statistics.median(times) / hours for name, times in seconds.items()}
    rival = ("torchaudio", per_hour["torchaudio"])
    add_row("MFCC", "CPU s an hour of audio", per_hour["mfcc"], *rival)
    frames = torch.cat(rivals["mfcc"](waveforms))
    apart = (frames - torch.cat(rivals["torchaudio"](waveforms))).abs()
    rounding = (frames - frames.half().float()).abs()
    print(f"from torchaudio's frames: at most {apart.max():.1e}, mean {apart.mean():.1e}")
    print(f"rounding to float16:      at most {rounding.max():.1e}, mean {rounding.mean():.1e}")


Rival = Callable[[list[Tensor]], list[Tensor]]


def read_waveforms(store: str, count: int) -> list[Tensor]:
    """The first waveforms of a store."""
    readers = [ShardReader(shard) for shard in FeatureStore.open(store).shards]
    places = ((reader, n) for reader in readers for n in range(len(reader.index.keys)))
    return [reader.read_waveform(n) for reader, n in islice(places, count)]


def batched(frames_of: Rival) -> Rival:
    """The transform, given some waveforms at a time."""

    def run(waveforms: list[Tensor]) -> list[Tensor]:
        starts = range(0, len(waveforms), TOGETHER)
        return [f for start in starts for f in frames_of(waveforms[start : start + TOGETHER])]

    return run


def torchaudio_mfcc(spec: MfccSpec) -> Rival:
    """torchaudio's transforms, as one would write it in a loop."""
    sizes = {"n_fft": spec.n_fft, "hop_length": spec.hop_length, "n_mels": spec.n_mels}
    mfcc = torchaudio.transforms.MFCC(spec.sample_rate, spec.n_mfcc, melkwargs=sizes)

    def run(waveforms: list[Tensor]) -> list[Tensor]:
        found = []
        for waveform in waveforms:
            orders = [mfcc(waveform)]
            for _ in range(spec.deltas):
                orders.append(torchaudio.functional.compute_deltas(orders[-1]))
            found.append(torch.cat(orders).t()[: len(waveform) // spec.hop_length])
        return found

    return run


if __name__ == "__main__":
    main()
