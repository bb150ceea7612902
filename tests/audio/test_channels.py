"""Several channels to one; and files that are not what their manifest says."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gmmpipe import FeatureStore
from gmmpipe.errors import AudioError
from gmmpipe.sources.line_fields import channel_of
from gmmpipe.store.rejects import Tally
from gmmpipe.store.schema import pick
from helpers.making import make_store, read_speech
from helpers.processes import run_gmmpipe

WriteManifest = Callable[..., Path]


def totals(store: Path) -> dict:
    return json.loads((store / "store.json").read_text())["totals"]


@pytest.fixture
def stereo(tmp_path: Path) -> np.ndarray:
    """Two unlike channels of speech, [S, 2], 2 s, as both.wav holds them."""
    samples = np.stack([read_speech(2.0)[0], read_speech(4.0)[0][32000:]], 1)
    integers = np.round(samples * 32767).astype(np.int16)
    soundfile.write(tmp_path / "both.wav", integers, 16000)
    return integers


@pytest.mark.parametrize("store_audio", ["none", "flac"])
def test_a_channel_in_the_manifest_is_that_one_alone(
    store_audio: str, stereo: np.ndarray, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", stereo[:, number], 16000)
    lines = [
        {"path": "0.wav", "id": "left"},
        {"path": "1.wav", "id": "right"},
        {"path": "both.wav", "id": "a", "channel": 0},
        {"path": "both.wav", "id": "b", "channel": 1},
        {"path": "both.wav", "id": "c", "channel": "1", "offset": 0.5, "duration": 1.0},
        {"path": "1.wav", "id": "d", "offset": 0.5, "duration": 1.0},
        {"path": "both.wav", "id": "mean", "channel": None},
    ]
    store = make_store(write_manifest(*lines), tmp_path / "out", store_audio=store_audio)
    found = {utt.key: utt for utt in FeatureStore.open(store).utterances()}
    for one, other in (("left", "a"), ("right", "b"), ("d", "c")):
        assert torch.equal(found[one].features, found[other].features)
    assert not torch.equal(found["mean"].features, found["a"].features)
    assert found["b"].metadata["channel"] == 1
    assert totals(store)["cancelled"] == 0


@pytest.mark.parametrize("channel", ["left", "TED talks", "", "1st", "nan", [1], {"a": 1}, True])
def test_a_channel_that_is_no_number_is_carried_and_picks_none(
    channel: object, stereo: np.ndarray, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    lines = [{"path": "both.wav", "id": "mean"}, {"path": "both.wav", "channel": channel}]
    store = make_store(write_manifest(*lines), tmp_path / "out")
    mean, found = sorted(FeatureStore.open(store).utterances(), key=lambda utt: utt.key != "mean")
    assert torch.equal(found.features, mean.features)
    assert found.metadata["channel"] == channel


@pytest.mark.parametrize(
    ("value", "number"), [(1.0, 1), ("1.0", 1), (" 1 ", 1), ("0", 0), (-0.0, 0)]
)
def test_a_channel_is_a_whole_number_or_its_text(value: object, number: int) -> None:
    assert channel_of(value) == number


@pytest.mark.parametrize("value", [-1, "-1", 0.5, "1.5", "1e999", 10**400])
def test_a_channel_that_is_another_number_is_a_reject(value: object) -> None:
    with pytest.raises(AudioError, match="not an integer from 0") as error:
        channel_of(value)
    assert error.value.reason == "bad_json"


def test_channels_that_cancel_are_counted_over_all_workers_and_warned_of(
    stereo: np.ndarray, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    left = stereo[:, :1] / 32768.0
    kinds = {
        "opposite": np.hstack([left, -left]),
        "nearly": np.hstack([left, -0.9 * left]),  # 26 dB
        "four": np.hstack([left, -left, left, -left]),
        "less": np.hstack([left, -0.5 * left]),  # 10 dB
        "one": np.hstack([left, 0 * left]),
        "silent": np.zeros((32000, 2)),
        "alike": np.hstack([left, left]),
    }
    for name, samples in kinds.items():
        subtype = "FLOAT" if name == "four" else "PCM_16"
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000, subtype=subtype)
    lines = [{"path": f"{name}.wav"} for name in kinds]
    path = write_manifest(*lines, {"path": "opposite.wav", "channel": 0})
    store = tmp_path / "out"
    done = run_gmmpipe(
        *("featurize", "--data_dir", path, "--output_dir", store),
        *("--utterances_per_shard", 3, "--num_workers", 2),
    )
    assert totals(store)["cancelled"] == 3
    assert "3 utterances lose more than 20 dB by the mean of their channels" in done.stderr


def test_ordinary_stereo_is_not_warned_of(
    stereo: np.ndarray, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    store = make_store(write_manifest({"path": "both.wav"}), tmp_path / "out")
    assert totals(store)["cancelled"] == 0


@pytest.mark.parametrize("long_audio", ["crop", "split"])
def test_files_longer_than_their_duration_are_counted_and_the_meaning_said(
    long_audio: str,
    write_manifest: WriteManifest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    soundfile.write(tmp_path / "a.wav", *read_speech(6.0))
    lines = [
        {"path": "a.wav", "duration": 4.0},
        {"path": "a.wav", "duration": "3.5"},
        {"path": "a.wav", "duration": 5.6},  # within half a second
        {"path": "a.wav", "duration": 4.0, "offset": 0},
        {"path": "a.wav", "duration": 4.0, "start": 1.0, "end": 5.0},
        {"path": "a.wav", "duration": -1},
        {"path": "a.wav"},
    ]
    options = {"utterances_per_shard": 2, "max_seconds": 3.0, "long_audio": long_audio}
    with caplog.at_level(logging.WARNING):
        store = make_store(write_manifest(*lines), tmp_path / "out", **options)
    assert totals(store)["unstated"] == 2
    assert totals(store)["seconds_unstated"] == 2.0 + 2.5
    assert "2 files are longer than the duration in their manifest, by 0.00125 hours" in caplog.text
    meaning = "counts as cropped away" if long_audio == "split" else "the whole file is meant"
    assert meaning in caplog.text
    kept = {utterance.metadata["line"] for utterance in FeatureStore.open(store).utterances()}
    assert kept == set(range(1, 8))


def test_a_sidecar_made_before_these_were_counted_says_none(
    stereo: np.ndarray, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    store = make_store(write_manifest({"path": "both.wav"}), tmp_path / "out")
    document = json.loads((store / "shard-000000.json").read_text())["tally"]
    for name in ("cancelled", "unstated", "seconds_unstated"):
        del document[name]
    tally = Tally.total([pick(Tally, document), Tally(cancelled=2, seconds_unstated=1.5)])
    assert (tally.cancelled, tally.unstated, tally.seconds_unstated) == (2, 0, 1.5)
