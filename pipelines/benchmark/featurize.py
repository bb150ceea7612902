#!/usr/bin/env python
"""CPU time of stage 1 an hour of audio, against a plain loop and against lhotse.

All in one process, on the same files, in turn, with the median of the runs. The corpora are made
from the given manifests: their files as they are where the format fits, else converted. The plain
loop is soundfile, torchaudio.functional.resample, torchaudio's MelSpectrogram and webdataset's
TarWriter; lhotse is compute_and_store_features with Fbank and lilcom. Each rival runs with one
torch thread, as gmmpipe's workers do, and again with as many as torch takes by default.

    python pipelines/benchmark/featurize.py --data_dir MANIFESTS [--runs 5]
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
import webdataset as wds
from common import add_row, is_installed

from gmmpipe.audio.resample import resample
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import digest_manifests, make_plan
from gmmpipe.featurization.worker import make_shard
from gmmpipe.sources.find import find_manifests

MAX_SECONDS = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of stage 1 an hour of audio")
    parser.add_argument("--data_dir", required=True, help="folders of, or, manifests")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--files", type=int, default=150, help="of each corpus, at most")
    options = parser.parse_args()
    threads = torch.get_num_threads()
    rivals = {
        "gmmpipe": Rival(run_gmmpipe, 1),
        "plain": Rival(run_plain, 1),
        f"plain, {threads} threads": Rival(run_plain, threads),
    }
    if is_installed("lhotse") and is_installed("lilcom"):
        rivals["lhotse"] = Rival(run_lhotse, 1)
        rivals[f"lhotse, {threads} threads"] = Rival(run_lhotse, threads)
    print(f"CPU seconds an hour of audio, median of {options.runs} runs, and gmmpipe's share of it")
    print(f"{'corpus':12} {'hours':>6}" + "".join(f" {name:>18}" for name in rivals))
    with tempfile.TemporaryDirectory() as folder:
        for name, files in make_corpora(options, Path(folder)).items():
            hours = sum(soundfile.info(file).duration for file in files) / 3600
            times = measure(files, rivals, options.runs, Path(folder) / "out")
            medians = [statistics.median(times[rival]) / hours for rival in rivals]
            cells = [f"{median:9.2f} = 1/{median / medians[0]:4.2f}" for median in medians]
            print(f"{name:12} {hours:6.3f}" + "".join(f" {cell:>18}" for cell in cells), flush=True)
            for rival, median in zip(list(rivals)[1:], medians[1:], strict=True):
                add_row(name, "CPU s an hour of audio", medians[0], rival, median)


@dataclass(frozen=True)
class Rival:
    """A way to make features of files in a folder, and how many torch threads it is given."""

    run: Callable[[list[Path], Path], None]
    threads: int


def measure(
    files: list[Path], rivals: dict[str, Rival], runs: int, out: Path
) -> dict[str, list[float]]:
    """CPU seconds of each rival, run in turn; the first turn warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(runs + 1):
        for name, rival in rivals.items():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            torch.set_num_threads(rival.threads)
            began = time.process_time()
            rival.run(files, out)
            if number:
                times[name].append(time.process_time() - began)
    return times


def make_corpora(options: argparse.Namespace, folder: Path) -> dict[str, list[Path]]:
    """Files of each kind, made from real speech."""
    speech: dict[str, list[Path]] = {"flac": [], "ogg": []}
    for manifest in find_manifests(options.data_dir):
        for text in manifest.path.read_text(encoding="utf-8").splitlines():
            path = manifest.path.parent / json.loads(text)["wav_path"]
            info = soundfile.info(path)
            if info.duration < MAX_SECONDS:
                if info.format == "FLAC" and info.samplerate == 16000:
                    speech["flac"].append(path)
                elif info.format == "OGG":
                    speech["ogg"].append(path)
    flac, ogg = (speech[name][:: max(1, len(speech[name]) // options.files)] for name in speech)
    converted: dict[str, list[Path]] = {"wav 16k": [], "wav 8k": []}
    for number, path in enumerate(flac):
        samples, rate = soundfile.read(path, dtype="float32")
        for name, new_rate in (("wav 16k", 16000), ("wav 8k", 8000)):
            target = folder / f"{name.replace(' ', '-')}-{number:05d}.wav"
            changed, _ = resample(torch.from_numpy(samples), rate, new_rate)
            soundfile.write(target, changed.numpy().clip(-1, 1), new_rate, subtype="PCM_16")
            converted[name].append(target)
    quarter = max(1, len(flac) // 4)
    mixed = [*flac[:quarter], *ogg[: 2 * quarter], *converted["wav 8k"][:quarter]]
    return {"flac 16k": flac, **converted, "ogg 22/44k": ogg, "mixed": mixed}


def run_gmmpipe(files: list[Path], out: Path) -> None:
    """Stage 1, with its plan, in this process."""
    manifest = out / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"path": str(file)}) + "\n" for file in files))
    options = FeaturizeOptions(data_dir=str(manifest), output_dir=out)
    manifests = find_manifests(options.data_dir)
    plan = make_plan(
        manifests, options.features, options.plan_options(*digest_manifests(manifests))
    )
    for number in range(plan.num_shards):
        tally = make_shard(plan.task(number, out, None))
        assert tally.rejects == 0, tally.rejects_by_reason


def run_plain(files: list[Path], out: Path) -> None:
    """What one would write in an afternoon."""
    mel = torchaudio.transforms.MelSpectrogram(16000, n_fft=400, hop_length=320, n_mels=80)
    with wds.TarWriter(str(out / "shard.tar")) as writer:
        for number, file in enumerate(files):
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
            waveform = torch.from_numpy(samples).mean(1)
            waveform = torchaudio.functional.resample(waveform, rate, 16000)
            frames = torch.log(mel(waveform) + 1e-6)[:, : len(waveform) // 320]
            array = frames.T.contiguous().numpy().astype(np.float16)
            meta = {"path": str(file), "num_frames": len(array)}
            writer.write({"__key__": f"{number:010d}", "logmel.npy": array, "json": meta})


def run_lhotse(files: list[Path], out: Path) -> None:
    """lhotse's own loop: Fbank features in lilcom files."""
    from lhotse import CutSet, Fbank, FbankConfig, LilcomChunkyWriter, Recording

    recordings = [Recording.from_file(file, recording_id=str(n)) for n, file in enumerate(files)]
    cuts = CutSet.from_cuts(recording.to_cut() for recording in recordings).resample(16000)
    extractor = Fbank(FbankConfig(num_mel_bins=80, frame_shift=0.02))
    cuts.compute_and_store_features(
        extractor, storage_path=out / "feats", num_jobs=1, storage_type=LilcomChunkyWriter
    )


if __name__ == "__main__":
    main()
