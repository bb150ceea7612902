"""`--overwrite` puts a whole store in the old one's place, whatever kills it, and nothing else."""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmmpipe import FeatureStoreWriter
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.errors import GmmpipeError, StoreError
from gmmpipe.featurization.job import featurize
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.worker import make_shard
from gmmpipe.store.documents import read_document, write_document
from gmmpipe.store.replace import NEXT_FOLDER, SWAP_FILE, finish_swap
from helpers.damage import flip
from helpers.external import write
from helpers.making import CORPUS, alone, corpus_part, make_store, save_plan
from helpers.processes import killed_after
from helpers.results import file_bytes

STRANGERS = {"shard-1.flac": b"audio", "shard-000123.tar": b"?", "plan.json": b"{}"}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of six files of the demo corpus."""
    return corpus_part(tmp_path_factory.mktemp("few") / "m.jsonl", 6)


def add_strangers(folder: Path) -> None:
    for name, content in STRANGERS.items():
        (folder / name).write_bytes(content)


def without_claims(folder: Path) -> dict[str, bytes]:
    return {n: b for n, b in file_bytes(folder).items() if not n.startswith((".claim-", ".tmp-"))}


def seen(folder: Path) -> dict[str, bytes]:
    """What is not hidden."""
    return {name: data for name, data in file_bytes(folder).items() if not name.startswith(".")}


@pytest.mark.parametrize(("kind", "step"), [("tar", 1), ("zarr", 7)])
def test_a_kill_after_any_file_operation_loses_no_store(
    kind: str, step: int, few: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"base_path": CORPUS}
    old_options = {**options, "format": kind, "utterances_per_shard": 2}
    new_options = {**options, "format": kind, "utterances_per_shard": 3, "seed": 1}
    start, out = make_store(few, tmp_path / "start", **old_options), tmp_path / "out"
    fresh = file_bytes(make_store(few, tmp_path / "fresh", **new_options)) | STRANGERS
    add_strangers(start)
    old = file_bytes(start)
    chosen = FeaturizeOptions(str(few), out, **new_options, overwrite=True)
    made = save_plan(replace(chosen, output_dir=start / NEXT_FOLDER))
    for number in range(made.num_shards):  # all but finished, so that no workers are needed
        make_shard(made.task(number, start / NEXT_FOLDER, CORPUS))
    operations, swaps = 1, 0
    while True:
        shutil.copytree(start, out)
        if not killed_after(operations, lambda: featurize(chosen)):
            break
        if (out / SWAP_FILE).exists():
            swaps += 1
            if swaps % 2:  # any command finishes the swap
                featurize(replace(chosen, overwrite=False))
            else:
                featurize(chosen)
        elif (out / NEXT_FOLDER).exists():
            assert seen(out) == old
            featurize(chosen)
        assert without_claims(out) == fresh, operations
        shutil.rmtree(out)
        operations += step
    assert swaps > 8
    assert file_bytes(out) == fresh


def test_a_kill_after_any_file_operation_loses_no_labels(
    store: Path, fitted: Path, tmp_path: Path
) -> None:
    def job(folder: Path, **options: Any) -> None:
        world = alone()
        label(LabelOptions(store=store, gmm_path=fitted, output_dir=folder, **options), world)

    start, out = tmp_path / "start", tmp_path / "out"
    job(start)
    add_strangers(start)
    (start / "plan.json").unlink()
    job(tmp_path / "fresh", top_k=2)
    fresh = file_bytes(tmp_path / "fresh") | STRANGERS
    del fresh["plan.json"]
    made = Path(shutil.copytree(tmp_path / "fresh", start / NEXT_FOLDER))
    assert made.exists()
    operations, swaps = 1, 0
    while True:
        shutil.copytree(start, out)
        if not killed_after(operations, lambda: job(out, top_k=2, overwrite=True)):
            break
        swaps += (out / SWAP_FILE).exists()
        job(out, top_k=2, overwrite=bool(operations % 2 or (out / NEXT_FOLDER).exists()))
        assert without_claims(out) == fresh, operations
        shutil.rmtree(out)
        operations += 1
    assert swaps > 8
    assert file_bytes(out) == fresh


@pytest.mark.parametrize("bad", ["none usable", "too many rejects"])
def test_the_old_store_stays_where_the_new_one_is_refused(
    bad: str, few: Path, tmp_path: Path
) -> None:
    out = make_store(few, tmp_path / "out", base_path=CORPUS)
    old = file_bytes(out)
    manifest, base_path = few, tmp_path / "elsewhere"
    if bad == "too many rejects":
        manifest, base_path = tmp_path / "m.jsonl", CORPUS
        manifest.write_text(few.read_text() + '{"path": "none.wav"}\n' * 5)
    options = FeaturizeOptions(
        str(manifest), out, base_path=base_path, overwrite=True, num_workers=1
    )
    with pytest.raises(StoreError, match="; the old store is kept"):
        featurize(options)
    assert seen(out) == old
    if bad == "none usable":
        assert file_bytes(out) == old
    else:  # the same command with a higher limit finishes at once
        featurize(replace(options, max_reject_fraction=1.0))
        fresh = make_store(manifest, tmp_path / "fresh", base_path=CORPUS)
        assert file_bytes(out) == file_bytes(fresh)


def name_another(path: Path) -> None:
    values = read_document(path)
    values["shards"][0]["name"] = "../precious"
    write_document(path, values)


def foreign(path: Path) -> None:
    path.write_text(json.dumps({"name": "a shop"}))


@pytest.mark.parametrize("damage", [flip, name_another, foreign])
def test_what_is_not_known_is_not_deleted(
    damage: Callable[[Path], None], few: Path, tmp_path: Path
) -> None:
    out = make_store(few, tmp_path / "out", base_path=CORPUS)
    (tmp_path / "precious").write_bytes(b"mine")
    damage(out / "store.json")
    before = file_bytes(tmp_path)
    with pytest.raises(StoreError, match=r"store\.json.*nothing is deleted"):
        featurize(FeaturizeOptions(str(few), out, base_path=CORPUS, overwrite=True))
    assert file_bytes(tmp_path) == before


def test_a_file_in_the_way_is_named_before_the_work(few: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "shard-000000.tar").write_bytes(b"somebody's samples")
    options = FeaturizeOptions(str(few), tmp_path / "out", base_path=CORPUS, overwrite=True)
    with pytest.raises(StoreError, match=r"shard-000000\.tar: in the new store's way"):
        featurize(options)
    assert file_bytes(tmp_path / "out") == {"shard-000000.tar": b"somebody's samples"}


def test_an_unfinished_store_is_replaced_with_its_half_shards(few: Path, tmp_path: Path) -> None:
    options = FeaturizeOptions(str(few), tmp_path / "out", base_path=CORPUS, num_workers=1)
    plan = save_plan(replace(options, utterances_per_shard=2))
    make_shard(plan.task(0, options.output_dir, CORPUS))
    (tmp_path / "out" / "shard-000001.tar").write_bytes(b"killed before its sidecar")
    featurize(replace(options, overwrite=True))
    fresh = make_store(few, tmp_path / "fresh", base_path=CORPUS)
    assert file_bytes(tmp_path / "out") == file_bytes(fresh)


def test_labels_are_not_replaced_by_features(
    store: Path, fitted: Path, few: Path, tmp_path: Path
) -> None:
    world = alone()
    label(LabelOptions(store=store, gmm_path=fitted, output_dir=tmp_path / "out"), world)
    before = file_bytes(tmp_path / "out")
    options = FeaturizeOptions(str(few), tmp_path / "out", base_path=CORPUS, overwrite=True)
    with pytest.raises(GmmpipeError, match="holds a store of labels"):
        featurize(options)
    assert file_bytes(tmp_path / "out") == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["plan.npz", ".next/build.json", ".next/plan.npz"])
def test_files_under_the_names_of_ours_stay(
    name: str, overwrite: bool, few: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    np.savez(path.with_suffix(".npz"), mine=np.arange(3))
    path.with_suffix(".npz").rename(path)
    (tmp_path / "out" / "rejects.jsonl").write_text("mine")
    before = file_bytes(tmp_path / "out")
    options = FeaturizeOptions(str(few), tmp_path / "out", base_path=CORPUS, overwrite=overwrite)
    with pytest.raises(StoreError, match="use another --output_dir") as refused:
        featurize(options)
    assert "use --overwrite" not in str(refused.value)
    assert file_bytes(tmp_path / "out") == before


def begun(few: Path, out: Path, **options: Any) -> FeaturizeOptions:
    """A store that was killed while it was to replace the one in `out`: all but finished."""
    chosen = FeaturizeOptions(str(few), out, base_path=CORPUS, num_workers=1, **options)
    plan = save_plan(replace(chosen, output_dir=out / NEXT_FOLDER))
    for number in range(plan.num_shards):
        make_shard(plan.task(number, out / NEXT_FOLDER, CORPUS))
    return replace(chosen, overwrite=True)


def test_a_damaged_plan_of_the_new_store_is_made_anew(few: Path, tmp_path: Path) -> None:
    out = make_store(few, tmp_path / "out", base_path=CORPUS)
    options = begun(few, out, seed=1)
    plan = out / NEXT_FOLDER / "plan.npz"
    plan.write_bytes(plan.read_bytes()[:-100])
    featurize(options)
    fresh = make_store(few, tmp_path / "fresh", base_path=CORPUS, seed=1)
    assert file_bytes(out) == file_bytes(fresh)


@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_what_an_overwrite_began_goes_when_the_store_is_finished(
    state: str, few: Path, tmp_path: Path
) -> None:
    out = make_store(few, tmp_path / "out", base_path=CORPUS)
    fresh = file_bytes(out)
    begun(few, out, seed=1)
    if state == "unfinished":
        (out / "store.json").unlink()
        save_plan(FeaturizeOptions(str(few), out, base_path=CORPUS))
    featurize(FeaturizeOptions(str(few), out, base_path=CORPUS))
    assert file_bytes(out) == fresh
    assert not (out / NEXT_FOLDER).exists()


def test_a_foreign_folder_of_that_name_stays_in_a_finished_store(few: Path, tmp_path: Path) -> None:
    out = make_store(few, tmp_path / "out", base_path=CORPUS)
    (out / NEXT_FOLDER).mkdir()
    (out / NEXT_FOLDER / "build.json").write_text("mine")
    featurize(FeaturizeOptions(str(few), out, base_path=CORPUS))
    assert (out / NEXT_FOLDER / "build.json").exists()


def test_a_swap_that_another_process_finishes_meanwhile_is_finished(tmp_path: Path) -> None:
    (tmp_path / SWAP_FILE).touch()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as whoever comes or goes holds it
    with ThreadPoolExecutor(1) as pool:
        finishing = pool.submit(finish_swap, tmp_path, "gmmpipe test")
        while not re.search(rf"-> FLOCK .* {os.getpid()} ", Path("/proc/locks").read_text()):
            assert not finishing.done()
        (tmp_path / SWAP_FILE).unlink()
        os.close(descriptor)
        assert finishing.result()


def test_the_note_of_a_writers_unfinished_store_goes_with_it(few: Path, tmp_path: Path) -> None:
    out = write(tmp_path / "out", 3)
    (out / "store.json").rename(out / "reopened.json")
    with FeatureStoreWriter(tmp_path / "begun", dim=3, frame_rate=50) as writer:
        shutil.copy(tmp_path / "begun" / "plan.json", out)
        writer.add("a", np.ones((2, 3)))
    chosen: dict[str, Any] = {"base_path": CORPUS, "utterances_per_shard": 3}
    fresh = make_store(few, tmp_path / "fresh", **chosen)
    featurize(FeaturizeOptions(str(few), out, **chosen, num_workers=1, overwrite=True))
    assert file_bytes(out) == file_bytes(fresh)
