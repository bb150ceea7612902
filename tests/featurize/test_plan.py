"""Which line goes into which shard is decided by the manifests, the seed and nothing else."""

import json
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from conftest import CORPUS, file_bytes, make_store, read_speech, save_plan
from gmmpipe import FeatureConfig, FeatureStore
from gmmpipe.errors import StoreError
from gmmpipe.featurize.manifest import find_manifests
from gmmpipe.featurize.options import FeaturizeOptions
from gmmpipe.featurize.plan import Plan, digest_manifests

WriteManifest = Callable[..., Path]


def lines_by_shard(data_dir: object, output_dir: Path, **options: object) -> list[list[int]]:
    plan = save_plan(FeaturizeOptions(data_dir=str(data_dir), output_dir=output_dir, **options))
    tasks = [plan.task(number, output_dir, None) for number in range(plan.num_shards)]
    return [[planned.line.ordinal for planned in task.lines] for task in tasks]


def test_without_shuffle_shards_follow_the_manifest(tmp_path: Path) -> None:
    shards = lines_by_shard(CORPUS, tmp_path, shuffle=False, utterances_per_shard=20)
    assert shards == [list(range(1, 21)), list(range(21, 41)), list(range(41, 57))]


def test_a_shuffle_spreads_every_line_once_and_changes_with_the_seed(tmp_path: Path) -> None:
    plans = [
        lines_by_shard(CORPUS, tmp_path, seed=seed, utterances_per_shard=20) for seed in (0, 1)
    ]
    for shards in plans:
        assert [len(shard) for shard in shards] == [20, 20, 16]
        assert sorted(line for shard in shards for line in shard) == list(range(1, 57))
        assert all(max(shard) - min(shard) > 28 for shard in shards)
    assert plans[0] != plans[1]


def test_the_digest_covers_names_contents_and_order_but_not_the_place(tmp_path: Path) -> None:
    def digest(*files: tuple[str, str]) -> str:
        for name, text in files:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        names = ",".join(str(tmp_path / name) for name, _ in files)
        return digest_manifests(find_manifests(names))[0]

    a, b = ("1/a.jsonl", '{"path":"x"}\n'), ("1/b.jsonl", '{"path":"y"}\n')
    moved = [("2/deeper/a.jsonl", a[1]), ("2/b.jsonl", b[1])]
    assert digest(a, b) == digest(*moved)
    others = [
        digest(a, b),
        digest(b, a),
        digest(a),
        digest(a, ("1/c.jsonl", b[1])),
        digest(a, ("1/b.jsonl", '{"path":"z"}\n')),
        digest(("1/a.jsonl", a[1] + b[1]), ("1/b.jsonl", "")),
    ]
    assert len(set(others)) == len(others)


def test_a_published_plan_is_read_back_as_it_was(tmp_path: Path) -> None:
    options = FeaturizeOptions(
        str(CORPUS), tmp_path, features=FeatureConfig(n_mels=40), utterances_per_shard=9
    )
    plan = save_plan(options)
    again = Plan.load(tmp_path / "plan.npz", find_manifests(str(CORPUS)))
    assert (again.options, again.features) == (plan.options, plan.features)
    tasks = [[p.task(n, tmp_path, None) for n in range(p.num_shards)] for p in (plan, again)]
    assert tasks[0] == tasks[1]


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    save_plan(FeaturizeOptions(str(CORPUS), tmp_path))
    path = tmp_path / "plan.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreError, match=r"plan\.npz: not a plan.*--overwrite"):
        Plan.load(path, [])


def test_more_manifests_than_files_may_be_open_are_fine(tmp_path: Path) -> None:
    # A manifest a speaker is common; 1024 open files are the usual limit.
    soundfile.write(tmp_path / "a.wav", *read_speech(0.1))
    for number in range(80):
        line = {"path": "a.wav", "id": f"k{number % 79}"}
        (tmp_path / f"{number:03d}.jsonl").write_text(json.dumps(line) + "\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        store = make_store(tmp_path, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(FeatureStore.open(store)) == 79


def test_the_same_input_elsewhere_gives_the_same_bytes(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    lines = (CORPUS / "manifest.jsonl").read_text().splitlines()[:12]
    (tmp_path / "data").symlink_to(CORPUS)
    stores = []
    for place in ("here", "elsewhere/with/a/longer/name"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "m.jsonl").write_text("\n".join(lines) + "\n")
        stores.append(
            make_store(folder / "m.jsonl", folder / "out", base_path=tmp_path / "data", seed=7)
        )
    assert file_bytes(stores[0]) == file_bytes(stores[1])


LIES = {
    "of other lines": {"line_number": np.arange(1, 4)},
    "of another dtype": {"byte_offset": np.zeros(56)},
    "of no manifest": {"manifest_index": np.full(56, 7, np.int32)},
    "of endless windows": {"num_windows": np.full(56, 2**31 - 1, np.int32)},
    "of negative windows": {"num_windows": np.full(56, -1, np.int32)},
    "of a place before the file": {"byte_offset": np.full(56, -5)},
    "of a row twice": {"order": np.zeros(56, np.int64)},
    "of a row beyond": {"order": np.arange(56) + 1},
    "of no text": {"identity": np.arange(3)},
    "of objects": {"order": np.array([print], dtype=object)},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_plan_that_cannot_be_is_named(lie: str, tmp_path: Path) -> None:
    save_plan(FeaturizeOptions(str(CORPUS), tmp_path))
    path = tmp_path / "plan.npz"
    arrays = {**np.load(path), **LIES[lie]}
    np.savez(path, **arrays)
    with pytest.raises(StoreError, match=r"plan\.npz: not a plan.*--overwrite"):
        Plan.load(path, find_manifests(str(CORPUS)))


@pytest.mark.parametrize("kind", ["packed", "a huge shape"])
def test_a_plan_takes_no_more_memory_than_its_file(kind: str, tmp_path: Path) -> None:
    save_plan(FeaturizeOptions(str(CORPUS), tmp_path))
    path = tmp_path / "plan.npz"
    if kind == "packed":
        np.savez_compressed(path, **{**np.load(path), "order": np.zeros(1 << 24, np.int64)})
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        members["order.npy"] = members["order.npy"].replace(b"(56,)", b"(5600000000000,)")
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError, match=r"plan\.npz: not a plan"):
        Plan.load(path, [])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"
