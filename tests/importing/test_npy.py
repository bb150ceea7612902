"""``gmmpipe import`` of a folder of .npy files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gmmpipe import FeatureStore, FitOptions, GmmpipeError, ImportOptions, fit, import_frames


def write_frames(folder: Path, count: int = 30) -> dict[str, np.ndarray]:
    """Files of random frames in all layouts; the frames by id."""
    random = np.random.default_rng(0)
    kinds = ["<f4", ">f4", "<f8", "<f2", "<i2"]
    frames = {}
    for number in range(count):
        name = f"speaker{number % 3}/utt{number}"
        values = (random.normal(size=(5 + number, 7)) * 10).astype(kinds[number % 5])
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.asfortranarray(values) if number % 2 else values)
        frames[name] = values
    return frames


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def test_frames_come_back_as_they_were(tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "source")
    (tmp_path / "source" / ".hidden.npy").write_bytes(b"")
    store = import_frames(
        ImportOptions(tmp_path / "source", tmp_path / "store", utterances_per_shard=8)
    )
    found = {
        sample["json"]["id"]: sample for shard in store.shards for sample in read_samples(shard)
    }
    assert found.keys() == frames.keys()
    for name, values in frames.items():
        np.testing.assert_array_equal(found[name]["frames"], values.astype(np.float16))
        assert found[name]["json"]["num_frames"] == len(values)
    assert sorted(frames) == sorted(frames, key=lambda n: found[n]["json"]["line"])


def read_samples(shard: object) -> list[dict]:
    import io

    import webdataset as wds

    samples = []
    for sample in wds.WebDataset(str(shard.path), shardshuffle=False):
        (array,) = (value for name, value in sample.items() if name.endswith(".npy"))
        loaded = np.load(io.BytesIO(array))
        samples.append({"json": json.loads(sample["json"]), "frames": loaded})
    return samples


def test_hostile_files_are_rejects(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_frames(source, 5)
    np.save(source / "a-object.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    whole = (source / "speaker0/utt0.npy").read_bytes()
    (source / "b-cut.npy").write_bytes(whole[:-3])
    os.mkfifo(source / "c-fifo.npy")
    np.save(source / "d-flat.npy", np.zeros(4))
    np.save(source / "e-empty.npy", np.zeros((0, 7)))
    np.save(source / "f-nan.npy", np.full((2, 7), np.nan))
    np.save(source / "g-large.npy", np.full((2, 7), 1e6))
    np.save(source / "z-wide.npy", np.zeros((2, 8)))
    (source / "h-text.npy").write_bytes(b"no array")
    options = ImportOptions(source, tmp_path / "store", max_reject_fraction=0.9)
    # 'g-large' is finite, so it is what says D.
    import_frames(options)
    lines = (tmp_path / "store/rejects.jsonl").read_text().splitlines()
    rejects = {row["path"][0]: row["reason"] for row in map(json.loads, lines)}
    assert rejects == {
        "a": "undecodable",
        "b": "truncated",
        "c": "not_a_regular_file",
        "d": "wrong_shape",
        "e": "too_short",
        "f": "non_finite",
        "g": "non_finite",
        "h": "undecodable",
        "z": "wrong_shape",
    }
    with pytest.raises(GmmpipeError, match="max_reject_fraction"):
        import_frames(ImportOptions(source, tmp_path / "strict"))


def test_a_killed_import_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_frames(source, 150)
    import_frames(ImportOptions(source, tmp_path / "whole", utterances_per_shard=1))
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "gmmpipe", "import", str(source), "--output_dir", str(killed)]
    command += ["--utterances_per_shard", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(killed.glob("shard-*.json")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "store.json").exists()
    with pytest.raises(GmmpipeError, match="run the same gmmpipe import command"):
        FeatureStore.open(killed)
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert content(killed) == content(tmp_path / "whole")


def test_other_frames_are_refused_unless_overwritten(tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    write_frames(source, 5)
    import_frames(ImportOptions(source, store))
    write_frames(source, 6)
    with pytest.raises(GmmpipeError, match="source_sha256"):
        import_frames(ImportOptions(source, store))
    made = import_frames(ImportOptions(source, store, overwrite=True))
    import_frames(ImportOptions(source, tmp_path / "fresh"))
    assert content(store) == content(tmp_path / "fresh")
    assert sum(shard.row.utterances for shard in made.shards) == 6


def test_a_fit_runs_on_the_store(tmp_path: Path) -> None:
    write_frames(tmp_path / "source")
    import_frames(ImportOptions(tmp_path / "source", tmp_path / "store"))
    options = FitOptions(
        str(tmp_path / "store"), tmp_path / "fit", K=2, target_frames=500, n_sgd_steps=2
    )
    model = fit(options)
    assert tuple(model.means.shape) == (2, 7)


def test_two_at_once_are_refused_and_a_later_one_finds_it_finished(tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    write_frames(source, 40)
    command = [sys.executable, "-m", "gmmpipe", "import", str(source), "--output_dir", str(store)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0 or ("another" in said and "Traceback" not in said), said
    assert 0 in [process.returncode for process in running]
    import_frames(ImportOptions(source, tmp_path / "alone"))
    assert content(store) == content(tmp_path / "alone")
