"""--shuffle_by recordings: the same utterances, read recording by recording."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from gmmpipe import FeatureStore
from gmmpipe.audio import decoder
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.slow_segments import warn_of_slow_segments
from helpers.making import make_store, read_speech, save_plan
from helpers.processes import GMMPIPE, Started, run_gmmpipe, wait_until
from helpers.results import file_bytes, read_json_lines

SECONDS = 40
NAMES = ["a.wav", "b.flac", "c.flac", "d.ogg", "e.opus", "f.mp3"]
"""Of these c.flac states no length, as one that was written to a pipe."""
OPTIONS = {"utterances_per_shard": 10, "max_seconds": 2.0, "shuffle_by": "recordings"}


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long recordings of each format with segments, some overlapping, and lines of no use."""
    folder = tmp_path_factory.mktemp("talks")
    samples = np.resize(read_speech()[0], SECONDS * 16000)
    opus: dict[str, Any] = {"format": "OGG", "subtype": "OPUS"}
    lines = []
    for name in NAMES:
        soundfile.write(folder / name, samples, 16000, **(opus if name == "e.opus" else {}))
        random = np.random.default_rng(len(lines))
        starts = [
            0.0,
            0.0,
            1.0,
            *random.uniform(2, SECONDS - 3, 9).round(3).tolist(),
            SECONDS - 1.5,
        ]
        lines += [
            {"path": name, "id": f"{name[0]}{n}", "offset": start, "duration": 1.5}
            for n, start in enumerate(starts)
        ]
        lines.append({"path": name, "id": f"{name[0]}-crop", "offset": 1.0, "duration": 30.0})
        lines.append({"path": name, "offset": SECONDS + 1.0, "duration": 1.0})
    content = bytearray((folder / "c.flac").read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    (folder / "c.flac").write_bytes(content)
    lines += [{"path": "none.wav"}, {"path": "a.wav", "id": "a0"}, {"id": "without"}]
    lines += [{"path": "a.wav", "offset": 3.0, "duration": 0.001}]
    np.random.default_rng(0).shuffle(lines)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "manifest.jsonl").write_text(text)
    return folder


def contents(store: Path) -> dict[str, tuple[np.ndarray, dict]]:
    return {u.key: (u.features.numpy(), u.metadata) for u in FeatureStore.open(store).utterances()}


@pytest.mark.parametrize("options", [{}, {"long_audio": "split"}, {"store_audio": "flac"}])
def test_it_has_the_utterances_and_rejects_of_a_store_by_utterances(
    options: dict, talks: Path, tmp_path: Path
) -> None:
    stores = {
        by: make_store(talks, tmp_path / by, **{**OPTIONS, **options, "shuffle_by": by})
        for by in ("utterances", "recordings")
    }
    expected, found = contents(stores["utterances"]), contents(stores["recordings"])
    assert found.keys() == expected.keys()
    for key, (frames, metadata) in expected.items():
        assert found[key][1] == metadata
        # An MP3 that is decoded from its front differs by roundings; by 2^-10 in float16.
        tolerance = 2e-2 if metadata["wav_path"] == "f.mp3" else 0
        np.testing.assert_allclose(found[key][0], frames, rtol=0, atol=tolerance, err_msg=key)
    rejects = [
        sorted(read_json_lines(store / "rejects.jsonl"), key=lambda reject: reject["line"])
        for store in stores.values()
    ]
    assert rejects[0] == rejects[1] != []
    totals = [json.loads((store / "store.json").read_text())["totals"] for store in stores.values()]
    for total in totals:
        del total["bytes"]  # padding of tars that hold other utterances
    assert totals[0] == totals[1]
    for store in stores.values():
        for shard in FeatureStore.open(store).shards:
            assert list(shard.sidecar().index.keys) == sorted(shard.sidecar().index.keys)


@pytest.mark.parametrize("long_audio", ["crop", "split"])
def test_workers_and_a_kill_make_the_same_bytes(
    long_audio: Any, talks: Path, tmp_path: Path, start: Started
) -> None:
    store = make_store(talks, tmp_path / "here", **OPTIONS, long_audio=long_audio)
    folder = tmp_path / "store"
    flags = [f"--{name}={value}" for name, value in OPTIONS.items()]
    flags += ["--max_reject_fraction=1", f"--long_audio={long_audio}", "--num_workers=2"]
    command = ["featurize", "--data_dir", str(talks), "--output_dir", str(folder), *flags]
    process = start([*GMMPIPE, *command])
    wait_until(lambda: list(folder.glob("shard-*.json")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run_gmmpipe(*command)
    assert file_bytes(folder) == file_bytes(store)


@pytest.mark.parametrize("name", ["c.flac", "f.mp3"])
def test_windows_of_all_shards_are_decoded_once(
    name: str,
    talks: Path,
    tmp_path: Path,
    write_manifest: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = write_manifest({"path": str(talks / name)})
    expected = make_store(manifest, tmp_path / "a", **OPTIONS, long_audio="split", dtype="float32")
    decoded = []
    read = decoder.OneWayFile.read

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        block = read(self, *args, **options)
        decoded.append(len(block))
        return block

    monkeypatch.setattr(decoder.OneWayFile, "read", counted)
    options: Any = {**OPTIONS, "dtype": "float32", "long_audio": "split", "shuffle": False}
    found = make_store(manifest, tmp_path / "b", **options)
    # In its shards in order, and once more to count the samples of the FLAC for the plan.
    times = 2 if name == "c.flac" else 1
    assert sum(decoded) <= (times + 0.1) * SECONDS * 16000
    assert contents(found).keys() == contents(expected).keys()


@pytest.mark.parametrize(
    ("name", "options", "warns"),
    [
        ("f.mp3", {}, True),
        ("f.MP3", {"long_audio": "split"}, True),
        ("f.mp3", {"shuffle_by": "recordings"}, False),
        ("b.flac", {}, False),
        ("early.mp3", {}, False),
    ],
)
def test_a_warning_names_the_way_that_is_faster_for_segments_of_mp3s(
    name: str,
    options: dict[str, Any],
    warns: bool,
    tmp_path: Path,
    write_manifest: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    latest = 10.0 if name == "early.mp3" else 3600.0
    offsets = np.linspace(0, latest, 300).tolist()
    lines = [{"path": name, "offset": start, "duration": 6.0} for start in offsets]
    chosen: Any = {"max_reject_fraction": 1.0, "num_workers": 1, "max_seconds": 6.0, **options}
    task = save_plan(
        FeaturizeOptions(
            data_dir=str(write_manifest("{broken", *lines)), output_dir=tmp_path / "store", **chosen
        )
    ).task(0, tmp_path / "store", None)
    warn_of_slow_segments(task)
    found = [record for record in caplog.messages if "--shuffle_by recordings" in record]
    assert len(found) == warns
    assert all("lie 30 minutes from" in text for text in found)
