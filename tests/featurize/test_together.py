"""Two jobs on one output folder at the same moment, and a job after one that went wrong."""

import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from gmmpipe.claim import claim_folder, identity_of
from gmmpipe.errors import ClaimError, StoreError
from gmmpipe.featurization.job import featurize, open_folder
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.worker import make_shard
from gmmpipe.files import canonical_json
from helpers.making import CORPUS, compressed_corpus, make_store, read_speech, save_plan
from helpers.processes import ROOT, one_thread
from helpers.results import file_bytes


def start(folder: Path, kind: str, *more: object, data_dir: Path = CORPUS) -> subprocess.Popen[str]:
    options = ("--utterances_per_shard", 8, "--format", kind, "--num_workers", 1)
    command = ("featurize", "--data_dir", data_dir, "--output_dir", folder, *options, *more)
    return subprocess.Popen(
        [sys.executable, "-m", "gmmpipe", *map(str, command)],
        stderr=subprocess.PIPE, text=True, cwd=ROOT, env=one_thread(),
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "compressed"), [("tar", False), ("zarr", True)])
def test_the_same_command_twice_works_together(kind: str, compressed: bool, tmp_path: Path) -> None:
    # Whoever finishes first removes the lines of a compressed manifest, under the other's hands.
    data_dir = compressed_corpus(tmp_path) if compressed else CORPUS
    base = ("--base_path", CORPUS)
    running = [start(tmp_path / "out", kind, *base, data_dir=data_dir) for _ in range(2)]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    options = {"base_path": CORPUS, "utterances_per_shard": 8, "format": kind}
    whole = make_store(data_dir, tmp_path / "whole", **options)
    assert file_bytes(tmp_path / "out") == file_bytes(whole)


def test_of_two_that_differ_exactly_one_goes_on(tmp_path: Path) -> None:
    running = [start(tmp_path / "out", "tar", "--seed", seed) for seed in (0, 1)]
    said = [process.communicate()[1] for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 1], said
    refused = said[codes.index(1)].splitlines()
    assert len(refused) == 1
    assert f"process {running[codes.index(0)].pid} on " in refused[0]
    seed = codes.index(0)
    whole = make_store(CORPUS, tmp_path / "whole", utterances_per_shard=8, seed=seed)
    assert file_bytes(tmp_path / "out") == file_bytes(whole)


def unfinished(manifest: Path, folder: Path, base_path: Path, **more: Any) -> FeaturizeOptions:
    options = FeaturizeOptions(
        str(manifest), folder, base_path=base_path, utterances_per_shard=4, num_workers=1, **more
    )
    plan = save_plan(options)
    for number in range(plan.num_shards):
        make_shard(plan.task(number, folder, base_path))
    return options


@pytest.fixture
def few(tmp_path: Path) -> Path:
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join((CORPUS / "manifest.jsonl").read_text().splitlines()[:6]) + "\n")
    return path


def test_a_job_waits_for_nobody_who_must_be_alone(few: Path, tmp_path: Path) -> None:
    options = unfinished(few, tmp_path / "out", CORPUS)
    with claim_folder(tmp_path / "out", "", "gmmpipe verify --repair", alone=True):
        before = file_bytes(tmp_path / "out")
        for change in ({}, {"overwrite": True}, {"retry_rejected": True}):
            with pytest.raises(ClaimError, match=r"verify --repair"):
                featurize(replace(options, **change))
        assert file_bytes(tmp_path / "out") == before


def test_a_claim_of_another_host_is_named_with_the_way_out(few: Path, tmp_path: Path) -> None:
    options = unfinished(few, tmp_path / "out", CORPUS)
    claim = tmp_path / "out" / ".claim-elsewhere-7-00000000"
    holder = {"host": "elsewhere", "pid": 7, "started": 1, "since": "2026-01-01T00:00:00+00:00"}
    claim.write_text(canonical_json({**holder, "what": "gmmpipe featurize", "identity": "other"}))
    with pytest.raises(ClaimError, match=rf"process 7 on elsewhere since 2026.*delete {claim}"):
        featurize(options)
    claim.unlink()
    featurize(options)


def test_where_nothing_was_usable_the_right_base_path_tries_again(
    few: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    options = unfinished(few, tmp_path / "out", wrong)
    with pytest.raises(StoreError, match="no usable audio") as refused:
        featurize(options)
    found = re.search(r"m\.jsonl line (\d): not_found: .*; tried (\S+)$", str(refused.value))
    assert found
    line = json.loads(few.read_text().splitlines()[int(found[1]) - 1])
    assert found[2] in {str(wrong / str(value)) for value in line.values()}
    featurize(replace(options, base_path=CORPUS))
    whole = make_store(few, tmp_path / "whole", base_path=CORPUS, utterances_per_shard=4)
    assert file_bytes(tmp_path / "out") == file_bytes(whole)


def identity(options: FeaturizeOptions) -> str:
    return identity_of(open_folder(options).wanted.to_json())


def test_a_slice_tries_its_own_shards_again_beside_another(few: Path, tmp_path: Path) -> None:
    options = unfinished(few, tmp_path / "out", tmp_path / "wrong", num_tasks=2, task_index=0)
    with (
        claim_folder(tmp_path / "out", identity(options), "slice 0"),
        pytest.raises(StoreError, match="4 of 6 lines were rejected"),  # those of slice 0
    ):
        featurize(replace(options, base_path=CORPUS, task_index=1))
    featurize(replace(options, base_path=CORPUS, task_index=0))
    whole = make_store(few, tmp_path / "whole", base_path=CORPUS, utterances_per_shard=4)
    assert file_bytes(tmp_path / "out") == file_bytes(whole)


def test_only_a_path_that_this_run_tried_is_named(few: Path, tmp_path: Path) -> None:
    options = unfinished(few, tmp_path / "out", tmp_path / "wrong", num_tasks=2, task_index=1)
    with pytest.raises(StoreError, match="no usable audio") as refused:
        featurize(replace(options, base_path=tmp_path / "also wrong"))
    assert "tried " not in str(refused.value)


def test_the_path_of_the_right_one_of_two_manifests_of_one_name_is_named(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.jsonl").write_text('\n{"path": "none.wav"}\n' * 2)
    data_dir = f"{tmp_path / 'a'},{tmp_path / 'b'}"
    options = FeaturizeOptions(
        data_dir, tmp_path / "out", num_workers=1, shuffle=False, utterances_per_shard=9
    )
    with pytest.raises(StoreError, match=f"line 2: .*; tried {tmp_path / 'a' / 'none.wav'}$"):
        featurize(options)


def long_lines(folder: Path) -> Path:
    """A manifest of relative paths whose files split into several windows each."""
    folder.mkdir()
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", read_speech(7.0 + number)[0], 16000)
    path = folder.parent / "long.jsonl"
    path.write_text("".join(f'{{"path": "{number}.wav"}}\n' for number in range(3)))
    return path


@pytest.mark.parametrize(("made", "overwrite"), [(True, False), (False, False), (True, True)])
def test_windows_are_planned_again_with_the_right_base_path(
    made: bool, overwrite: bool, tmp_path: Path
) -> None:
    manifest, split = long_lines(tmp_path / "right"), {"long_audio": "split", "max_seconds": 2.0}
    options = unfinished(manifest, tmp_path / "out", tmp_path / "wrong", **split)
    if not made:
        for path in (tmp_path / "out").glob("shard-*"):
            path.unlink()
    if overwrite:  # killed in the middle
        (tmp_path / "out").rename(tmp_path / ".next")
        (tmp_path / "out").mkdir()
        (tmp_path / ".next").rename(tmp_path / "out" / ".next")
    featurize(replace(options, base_path=tmp_path / "right", overwrite=overwrite))
    whole = make_store(
        manifest, tmp_path / "w", base_path=tmp_path / "right", utterances_per_shard=4, **split
    )
    assert file_bytes(tmp_path / "out") == file_bytes(whole)


def test_windows_are_not_planned_again_under_another_process(tmp_path: Path) -> None:
    manifest = long_lines(tmp_path / "right")
    options = unfinished(
        manifest, tmp_path / "out", tmp_path / "wrong", long_audio="split", max_seconds=2.0
    )
    before = file_bytes(tmp_path / "out")
    with (
        claim_folder(tmp_path / "out", "", "another slice", alone=True),
        pytest.raises(ClaimError, match="another slice"),
    ):
        featurize(replace(options, base_path=tmp_path / "right", task_index=0, num_tasks=2))
    assert file_bytes(tmp_path / "out") == before


def test_rejects_of_an_earlier_run_are_said_to_be(
    few: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few.write_text(few.read_text() + '{"path": "none.wav"}\n')
    options = unfinished(few, tmp_path / "out", CORPUS, max_reject_fraction=0.0)
    with pytest.raises(StoreError, match="1 rejects are of an earlier run; --retry_rejected"):
        featurize(options)
    featurize(replace(options, max_reject_fraction=1.0))
    caplog.set_level(logging.INFO)
    featurize(options)
    assert "its 1 rejects are of an earlier run; --retry_rejected" in caplog.text


def test_a_store_among_its_manifests_takes_no_rejects_for_one(few: Path, tmp_path: Path) -> None:
    options = unfinished(tmp_path, tmp_path, CORPUS)
    info = featurize(options)
    assert featurize(options) == info
    (tmp_path / "rejects.jsonl").rename(tmp_path / "kept")
    (tmp_path / "own").mkdir()
    mine = tmp_path / "own" / "rejects.jsonl"
    mine.write_text(few.read_text())
    with pytest.raises(StoreError, match=r"rejects\.jsonl: the store's own would overwrite it"):
        featurize(FeaturizeOptions(str(tmp_path / "own"), tmp_path / "own", base_path=CORPUS))
    assert mine.read_text() == few.read_text()
