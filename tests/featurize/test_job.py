"""A store is resumed, refused or finished: the rules of running featurize again."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from gmmpipe import FeatureConfig, FeatureStore
from gmmpipe.errors import ManifestError, OptionError, StoreError
from gmmpipe.featurization.job import featurize
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.worker import make_shard
from helpers.making import CORPUS, make_store, read_speech, save_plan
from helpers.results import file_bytes, read_json_lines

WriteManifest = Callable[..., Path]

CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1}, "seed is 0 there and 1 here"),
    ({"shuffle": False}, "shuffle is True there and False here"),
    ({"dtype": "float32"}, "dtype is float16 there and float32 here"),
    ({"max_seconds": 4.0}, "max_seconds is 15.0 there and 4.0 here"),
    ({"utterances_per_shard": 8}, "utterances_per_shard is 1024 there and 8 here"),
    ({"features": FeatureConfig(n_mels=79)}, "n_mels is 80 there and 79 here"),
    ({"features": FeatureConfig(hop_length=160)}, "hop_length is 320 there and 160 here"),
]


@pytest.fixture
def lines(tmp_path: Path, write_manifest: WriteManifest) -> Callable[..., Path]:
    """Writes a manifest of so many good lines and so many bad ones."""
    soundfile.write(tmp_path / "good.wav", *read_speech(0.1))

    def write(good: int, bad: int = 0) -> Path:
        return write_manifest(*[{"path": "good.wav"}] * good, *[{"path": "none.wav"}] * bad)

    return write


def finish_later(data_dir: Path, output_dir: Path, **options: Any) -> FeaturizeOptions:
    """A job whose shards are all made, but that nobody has finalized: it needs no workers."""
    chosen = FeaturizeOptions(str(data_dir), output_dir, **options)
    plan = save_plan(chosen)
    for number in range(plan.num_shards):
        make_shard(plan.task(number, output_dir, None))
    return chosen


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[message for _, message in CHANGES])
def test_a_store_of_other_options_is_refused_naming_what_differs(
    finished: bool, change: dict[str, Any], message: str, lines: WriteManifest, tmp_path: Path
) -> None:
    options = finish_later(lines(3), tmp_path / "out")
    if finished:
        featurize(options)
    before = file_bytes(tmp_path / "out")
    with pytest.raises(StoreError, match=message) as refusal:
        featurize(replace(options, **change))
    assert str(tmp_path / "out") in str(refusal.value)
    assert "--overwrite" in str(refusal.value)
    assert file_bytes(tmp_path / "out") == before


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
def test_a_store_of_another_manifest_is_refused(
    finished: bool, lines: WriteManifest, tmp_path: Path
) -> None:
    options = finish_later(lines(3), tmp_path / "out")
    if finished:
        featurize(options)
    lines(4)
    with pytest.raises(StoreError, match=r"manifest_sha256 .* lines is 3 there and 4 here"):
        featurize(options)


def test_running_a_finished_job_again_touches_nothing(
    lines: WriteManifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = finish_later(lines(3), tmp_path / "out")
    info = featurize(options)
    before = times(tmp_path)
    caplog.set_level(logging.INFO)
    assert featurize(options) == info
    assert "finished already: nothing to do" in caplog.text
    assert times(tmp_path) == before


def test_what_a_kill_after_store_json_leaves_is_tidied_by_the_next_run(
    lines: WriteManifest, tmp_path: Path
) -> None:
    # store.json is published, then the plan and temporaries go: a kill may fall in between.
    options = finish_later(lines(3), tmp_path / "out")
    shutil.copy(tmp_path / "out" / "plan.npz", tmp_path / "plan.npz")
    featurize(options)
    whole = file_bytes(tmp_path / "out")
    shutil.copy(tmp_path / "plan.npz", tmp_path / "out" / "plan.npz")
    (tmp_path / "out" / ".tmp-host-1-0123abcd-shard-000000.tar").write_bytes(b"half")
    featurize(options)
    assert file_bytes(tmp_path / "out") == whole


def test_a_shard_without_its_sidecar_is_made_again_to_the_same_bytes(
    lines: WriteManifest, tmp_path: Path
) -> None:
    options = FeaturizeOptions(str(lines(5)), tmp_path / "out", utterances_per_shard=2)
    plan = save_plan(options)
    task = plan.task(1, tmp_path / "out", None)
    tally = make_shard(task)
    before = file_bytes(tmp_path / "out")
    (tmp_path / "out" / "shard-000001.json").unlink()
    (tmp_path / "out" / "shard-000001.tar").write_bytes(b"half a shard")
    assert make_shard(task) == tally
    assert file_bytes(tmp_path / "out") == before


def test_a_shard_that_another_process_published_stays(lines: WriteManifest, tmp_path: Path) -> None:
    options = FeaturizeOptions(str(lines(2)), tmp_path / "out")
    task = save_plan(options).task(0, tmp_path / "out", None)
    tally = make_shard(task)
    before = times(tmp_path / "out")
    assert make_shard(task) == tally
    assert times(tmp_path / "out") == before


def test_shards_without_a_plan_are_not_guessed_about(lines: WriteManifest, tmp_path: Path) -> None:
    options = finish_later(lines(2), tmp_path / "out")
    (tmp_path / "out" / "plan.npz").unlink()
    with pytest.raises(StoreError, match="holds shards but no plan; use --overwrite"):
        featurize(options)


def test_overwrite_leaves_nothing_of_the_old_store_and_all_else(tmp_path: Path) -> None:
    fresh = make_store(CORPUS, tmp_path / "fresh", utterances_per_shard=30)
    make_store(CORPUS, tmp_path / "out", utterances_per_shard=10, seed=5)
    (tmp_path / "out" / ".tmp-host-1-0123abcd-shard-000000.tar").write_bytes(b"half")
    strangers = {"shard-1.flac": b"audio", "shard-000009.zarr/data": b"?", "notes.txt": b"mine"}
    for name, content in strangers.items():
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content)
    options = FeaturizeOptions(str(CORPUS), tmp_path / "out", utterances_per_shard=30)
    featurize(replace(options, overwrite=True, num_workers=1))
    assert file_bytes(tmp_path / "out") == {**file_bytes(fresh), **strangers}


@pytest.mark.parametrize(
    ("bad", "limit", "allowed"), [(1, 0.1, True), (2, 0.1, False), (1, 0, False)]
)
def test_exactly_more_rejects_than_the_limit_are_refused(
    bad: int, limit: float, allowed: bool, lines: WriteManifest, tmp_path: Path
) -> None:
    options = finish_later(lines(10 - bad, bad), tmp_path / "out", max_reject_fraction=limit)
    if not allowed:
        message = rf"{bad} of 10 lines were rejected \({bad} not_found\), more than .* {limit}"
        with pytest.raises(StoreError, match=message):
            featurize(options)
        left = file_bytes(tmp_path / "out")
        assert {"plan.npz", "rejects.jsonl", "shard-000000.tar", "shard-000000.json"} == set(left)
        assert len(read_json_lines(tmp_path / "out" / "rejects.jsonl")) == bad
        options = replace(options, max_reject_fraction=1.0)
    info = featurize(options)
    assert (info.tally.utterances, info.tally.rejects) == (10 - bad, bad)
    whole = make_store(options.data_dir, tmp_path / "at_once")
    assert file_bytes(tmp_path / "out") == file_bytes(whole)


def test_without_any_usable_audio_there_is_no_store(lines: WriteManifest, tmp_path: Path) -> None:
    options = finish_later(lines(0, 4), tmp_path / "out", max_reject_fraction=1.0)
    with pytest.raises(StoreError, match=r"no usable audio: 4 of 4 .* \(4 not_found\)"):
        featurize(options)
    assert not (tmp_path / "out" / "store.json").exists()


@pytest.mark.parametrize("text", ["", "\n \r\n"])
def test_an_empty_manifest_is_no_usable_audio(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_bytes(text.encode())
    with pytest.raises(ManifestError, match="no usable audio"):
        featurize(FeaturizeOptions(str(tmp_path), tmp_path / "out"))


@pytest.mark.parametrize("max_seconds", [0.0199, float("inf"), float("nan")])
def test_a_longest_utterance_that_makes_no_sense_is_wrong_usage(
    max_seconds: float, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="max_seconds"):
        FeaturizeOptions(str(CORPUS), tmp_path, max_seconds=max_seconds)


def test_the_summary_tells_hours_and_rejects(
    tmp_path: Path, write_manifest: WriteManifest, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "a.wav", *read_speech(18.0))
    path = write_manifest({"path": "a.wav"}, {"path": "none.wav", "duration": 36}, "{")
    options = finish_later(path, tmp_path / "out", max_seconds=9.0, max_reject_fraction=1.0)
    caplog.set_level(logging.INFO)
    featurize(options)
    words = " ".join(caplog.text.split())
    assert "0.015 in, 0.0025 kept, 0.0025 cropped away, 0.01 rejected" in words
    assert "rejects: 2 of 3 lines" in words
    assert "bad_json 1" in words
    assert "not_found 1" in words
    assert "lost 17 % of the audio" in words


def test_an_input_folder_that_is_read_only_is_not_written_to(tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(CORPUS / "en-cards", data)
    (data / "m.jsonl").write_text(
        "".join(json.dumps({"path": path.name}) + "\n" for path in sorted(data.glob("*.flac")))
    )
    for path in data.iterdir():
        path.chmod(0o444)
    data.chmod(0o555)
    before = times(data), data.stat().st_mtime_ns
    make_store(data, tmp_path / "out")
    assert (times(data), data.stat().st_mtime_ns) == before  # holds for root too
    data.chmod(0o755)


def test_samples_tell_where_their_lines_stand_among_those_of_all_manifests(tmp_path: Path) -> None:
    manifests = [tmp_path / "b.jsonl", tmp_path / "a.jsonl"]
    texts = (CORPUS / "manifest.jsonl").read_text().splitlines(keepends=True)
    manifests[0].write_text("".join(texts[:3]))
    manifests[1].write_text("\n" + "".join(texts[3:5]))  # a blank line counts
    data_dir = ",".join(map(str, manifests))
    store = FeatureStore.open(make_store(data_dir, tmp_path / "store", base_path=CORPUS))
    found = {(u.metadata["manifest"], u.metadata["line"]): u.metadata for u in store.utterances()}
    ordinals = {place: metadata.get("ordinal") for place, metadata in found.items()}
    assert ordinals == {
        **{("b.jsonl", number): None for number in (1, 2, 3)},
        **{("a.jsonl", number): 3 + number for number in (2, 3)},
    }
