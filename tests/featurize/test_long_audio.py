"""--long_audio: crop keeps one window, split keeps all of it, skip rejects it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gmmpipe import FeatureStore, LogMel
from gmmpipe.errors import StoreError
from gmmpipe.featurization.forecast import forecast
from gmmpipe.featurization.job import featurize
from gmmpipe.featurization.options import FeaturizeOptions
from helpers.making import make_store, read_speech, save_plan
from helpers.processes import run_gmmpipe
from helpers.results import file_bytes, read_json_lines

SECONDS = 2.0


@pytest.fixture
def speech(tmp_path: Path) -> np.ndarray:
    """11.3 s of real speech, as long.wav holds it; short.wav is its first second."""
    samples, rate = read_speech(11.3)
    integers = np.round(samples * 32767).astype(np.int16)
    soundfile.write(tmp_path / "long.wav", integers, rate)
    soundfile.write(tmp_path / "short.wav", integers[:16000], rate)
    return integers.astype(np.float32) / 32768


def totals(folder: Path) -> dict:
    return json.loads((folder / "store.json").read_text())["totals"]


@pytest.mark.parametrize("line", [{"path": "long.wav"}, {"path": "long.wav", "duration": 11.3}])
def test_split_keeps_all_audio_in_consecutive_windows(
    line: dict, speech: np.ndarray, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    manifest = write_manifest({"id": "talk", **line}, {"id": "word", "path": "short.wav"})
    options = {"max_seconds": SECONDS, "dtype": "float32", "utterances_per_shard": 4}
    folder = make_store(manifest, tmp_path / "store", long_audio="split", **options)
    store = FeatureStore.open(folder)
    assert [shard.row.utterances for shard in store.shards] == [4, 3]
    utterances = {utt.key: utt for utt in store.utterances()}
    assert sorted(utterances) == [*(f"talk-w{n:05d}" for n in range(6)), "word"]
    log_mel = LogMel(store.features)
    for number in range(6):
        window = torch.from_numpy(speech[number * 32000 : (number + 1) * 32000])
        utt = utterances[f"talk-w{number:05d}"]
        assert (utt.metadata["offset"], utt.metadata["id"]) == (number * SECONDS, "talk")
        assert torch.equal(utt.features, log_mel(window))
    found = totals(folder)
    assert (found["lines"], found["rejects"], found["seconds_cropped"]) == (2, 0, 0.0)
    assert found["seconds_kept"] == pytest.approx(12.3, abs=1e-3)


def test_a_split_line_is_one_reject_only_when_all_its_windows_fail(
    speech: np.ndarray, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    # Of 4.005 s, the last window holds 80 samples: too few for a frame.
    soundfile.write(tmp_path / "tail.wav", speech[:64080], 16000)
    (tmp_path / "noise.wav").write_bytes(b"not audio" * 99)
    manifest = write_manifest(
        {"path": "tail.wav", "duration": 4.005},
        {"path": "noise.wav", "duration": 9.0},
        {"path": "short.wav"},
    )
    options = {"max_seconds": SECONDS, "long_audio": "split", "utterances_per_shard": 1}
    folder = make_store(manifest, tmp_path / "store", **options)
    found = totals(folder)
    assert (found["lines"], found["rejects"], found["utterances"]) == (3, 1, 3)
    assert found["rejects_by_reason"] == {"undecodable": 1}
    assert [reject["line"] for reject in read_json_lines(folder / "rejects.jsonl")] == [2]
    assert set(read_json_lines(folder / "rejects.jsonl")[0]) == {
        *("manifest", "line", "path", "reason", "detail")
    }
    (folder / "store.json").rename(tmp_path / "store.json")  # so it stands before it is finished
    unfinished = json.loads(run_gmmpipe("inspect", folder, "--json").stdout)
    assert (unfinished["finished"], unfinished["lines"], unfinished["rejects"]) == (False, 3, 1)


def test_an_id_that_is_another_lines_window_key_gives_way(
    speech: np.ndarray, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    manifest = write_manifest(
        {"id": "a-w00001", "path": "short.wav"},
        {"id": "a", "path": "long.wav"},
        {"id": "b-w00001", "path": "short.wav"},
    )
    options = {"max_seconds": SECONDS, "long_audio": "split"}
    folder = make_store(manifest, tmp_path / "store", **options)
    assert totals(folder)["rejects_by_reason"] == {"duplicate_id": 1}
    keys = [utt.key for utt in FeatureStore.open(folder).utterances()]
    assert len(set(keys)) == len(keys) == 7
    assert "b-w00001" in keys


def test_skip_rejects_what_is_too_long(
    speech: np.ndarray, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    manifest = write_manifest({"path": "long.wav"}, {"path": "short.wav"})
    options = {"max_seconds": SECONDS, "long_audio": "skip"}
    folder = make_store(manifest, tmp_path / "store", **options)
    assert totals(folder)["rejects_by_reason"] == {"too_long": 1}
    assert totals(folder)["seconds_rejected"] == pytest.approx(11.3, abs=1e-3)
    assert [utt.metadata["wav_path"] for utt in FeatureStore.open(folder).utterances()] == [
        "short.wav"
    ]


def test_a_crop_that_loses_much_names_split(
    speech: np.ndarray,
    tmp_path: Path,
    write_manifest: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_store(write_manifest({"path": "long.wav"}), tmp_path / "store", max_seconds=SECONDS)
    assert "--long_audio split" in caplog.text


def test_lines_of_manifests_with_one_name_are_told_apart(
    speech: np.ndarray, tmp_path: Path
) -> None:
    lines = [
        {"path": "missing.wav", "duration": 3.0},
        {"path": "gone.wav", "duration": 3.0},
        {"path": str(tmp_path / "short.wav")},
    ]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "m.jsonl").write_text(text)
    data_dir = f"{tmp_path / 'a'},{tmp_path / 'b'}"
    folder = make_store(data_dir, tmp_path / "s", max_seconds=SECONDS, long_audio="split")
    assert (totals(folder)["lines"], totals(folder)["rejects"]) == (6, 4)
    assert len(read_json_lines(folder / "rejects.jsonl")) == 4


def test_a_duration_in_milliseconds_plans_no_more_windows_than_there_is_audio(
    speech: np.ndarray, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    manifest = write_manifest({"path": "long.wav", "duration": 11300}, {"path": "short.wav"})
    options = FeaturizeOptions(str(manifest), tmp_path / "s", max_seconds=2.0, long_audio="split")
    assert save_plan(options).index.num_windows.tolist() == [6, 1]


def test_a_plan_made_again_from_changed_audio_is_refused(
    speech: np.ndarray, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    manifest = write_manifest({"path": "long.wav"}, {"path": "short.wav"}, {"path": "none.wav"})
    options = {"max_seconds": SECONDS, "long_audio": "split", "max_reject_fraction": 0.5}
    folder = make_store(manifest, tmp_path / "s", **options)
    soundfile.write(tmp_path / "short.wav", speech[:80000], 16000)
    again = FeaturizeOptions(str(manifest), folder, retry_rejected=True, **options)
    before = file_bytes(folder)
    with pytest.raises(StoreError, match="changed their lengths"):
        featurize(again)
    assert file_bytes(folder) == before  # refused before anything is touched


def test_windows_of_no_whole_number_of_samples_keep_all_audio(
    speech: np.ndarray, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    soundfile.write(tmp_path / "odd.wav", speech[:56984], 8000)
    options = {"max_seconds": 0.71231, "long_audio": "split"}
    folder = make_store(write_manifest({"path": "odd.wav"}), tmp_path / "s", **options)
    found = totals(folder)
    assert (found["utterances"], found["seconds_kept"]) == (10, 56984 / 8000)
    assert found["seconds_cropped"] == 0.0


def test_retrying_with_other_options_is_refused_before_anything_is_removed(
    speech: np.ndarray, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    manifest = write_manifest({"path": "long.wav"}, {"path": "none.wav"})
    folder = make_store(manifest, tmp_path / "s", max_seconds=SECONDS)
    before = file_bytes(folder)
    other = FeaturizeOptions(str(manifest), folder, retry_rejected=True, max_seconds=5.0)
    with pytest.raises(StoreError, match="max_seconds"):
        featurize(other)
    assert file_bytes(folder) == before


@pytest.mark.parametrize("long_audio", ["crop", "split", "skip"])
def test_the_forecast_knows_what_becomes_of_long_audio(
    long_audio: str, speech: np.ndarray, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    manifest = write_manifest({"path": "long.wav"}, {"path": "short.wav", "duration": 1.0})
    options = {"max_seconds": SECONDS, "long_audio": long_audio}
    expected = forecast(FeaturizeOptions(str(manifest), tmp_path / "none", **options))
    folder = make_store(manifest, tmp_path / "s", **options)
    assert expected.frames == pytest.approx(totals(folder)["frames"], rel=0.02)
    assert expected.hours == pytest.approx(totals(folder)["seconds_kept"] / 3600, abs=1e-4)
