#!/usr/bin/env python
"""Are a JEPA's targets the same from the label store, from the shards, and from the waveform?

Compares every frame's stored label with `GradientGMM.assign`, and, on a store made with
``--store_audio flac``, the posteriors of `LogMel` frames of each waveform with those of the stored
frames. Stored frames are rounded to float16; rounding the others likewise tells how much of a
difference that is.

    gmmpipe label STORE --gmm_path GMM --output_dir LABELS --top_k 8
    python pipelines/benchmark/jepa_targets.py --data_dir STORE --gmm_path GMM --labels LABELS
"""

import argparse

import torch
from common import add_row

from gmmpipe import FeatureStore, GradientGMM, LabelStore
from gmmpipe.features.log_mel import LogMel
from gmmpipe.store.shard_reader import ShardReader


def main() -> None:
    parser = argparse.ArgumentParser(description="labels, shards and waveforms compared")
    parser.add_argument("--data_dir", required=True, help="a feature store")
    parser.add_argument("--gmm_path", required=True)
    parser.add_argument("--labels", required=True, help="its label store")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store, gmm = FeatureStore.open(options.data_dir), GradientGMM.load(options.gmm_path)
    compare_labels(store, gmm, LabelStore.open(options.labels))
    if all(shard.has_audio for shard in store.shards):
        compare_waveforms(store, gmm)


def compare_labels(store: FeatureStore, gmm: GradientGMM, labels: LabelStore) -> None:
    labels.check_source(store)
    frames = differing = 0
    for number, shard in enumerate(store.shards):
        reader, stored = ShardReader(shard), labels.open_shard(number)
        for position in range(len(reader.index.keys)):
            found = stored.read_utterance(position).labels
            wanted = gmm.assign(reader.read_frames(position))
            frames += len(wanted)
            differing += int((found != wanted).sum())
    add_row("stored labels that are not those of assign", "frames", differing)
    print(f"labels: {frames} frames, of which {differing} differ from assign")


def compare_waveforms(store: FeatureStore, gmm: GradientGMM) -> None:
    log_mel = LogMel(store.features)
    frames = equal = agreeing = 0
    variation = rounded_variation = largest = 0.0
    for shard in store.shards:
        reader = ShardReader(shard)
        for position in range(len(reader.index.keys)):
            stored = reader.read_frames(position)
            made = log_mel(reader.read_waveform(position))
            rounded = made.to(shard.dtype).float()
            there, here, like = map(gmm.soft_assign, (stored, made, rounded))
            frames += len(stored)
            equal += int((rounded == stored).all(1).sum())
            agreeing += int((there.argmax(1) == here.argmax(1)).sum())
            variation += 0.5 * float((there - here).abs().sum(dtype=torch.float64))
            rounded_variation += 0.5 * float((there - like).abs().sum(dtype=torch.float64))
            largest = max(largest, float((there - like).abs().max()))
    print(f"waveforms: {frames} frames, {equal / frames:.4%} equal to the stored ones once rounded")
    add_row("frames of the waveform equal to the stored", "%", 100 * equal / frames, better="more")
    print(f"labels that agree without rounding: {agreeing / frames:.4%}")
    print(f"total variation of the posteriors, mean: {variation / frames:.1e} without rounding,")
    print(
        f"  {rounded_variation / frames:.1e} with it, where no posterior differs by {largest:.1e}"
    )


if __name__ == "__main__":
    main()
