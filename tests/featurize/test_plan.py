"""Which line goes into which shard is decided by the manifests, the seed and nothing else."""

import io
import json
import os
import re
import resource
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from gmmpipe import FeatureConfig, FeatureStore
from gmmpipe.errors import ManifestError, StoreError
from gmmpipe.featurization.job import featurize
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import Plan, digest_manifests
from gmmpipe.featurization.worker import make_shard
from gmmpipe.sources.find import find_manifests
from helpers.making import CORPUS, corpus_part, make_store, read_speech, save_plan
from helpers.results import file_bytes

WriteManifest = Callable[..., Path]


def lines_by_shard(data_dir: object, output_dir: Path, **options: object) -> list[list[int]]:
    plan = save_plan(FeaturizeOptions(data_dir=str(data_dir), output_dir=output_dir, **options))
    tasks = [plan.task(number, output_dir, None) for number in range(plan.num_shards)]
    return [[item.line.ordinal for item in task.items] for task in tasks]


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
    with pytest.raises(StoreError, match=r"plan\.npz: not a plan.*move it away"):
        Plan.load(path, [])


def changed(name: str, at: int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][at] = value

    return change


def replaced(name: str, make: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = make(arrays[name])

    return change


def identity(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    def change_text(text: Any) -> Any:
        values = json.loads(str(text))
        change(values)
        return np.array(json.dumps(values))

    return replaced("identity", change_text)


LIES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "manifest beyond the last": ("manifest beyond", changed("manifest_index", 3, 1)),
    "manifest below 0": ("manifest beyond", changed("manifest_index", 3, -1)),
    "line 0": ("out of order", changed("line_number", 0, 0)),
    "line beyond what its place allows": ("out of order", changed("line_number", -1, 1 << 40)),
    "line twice": ("out of order", changed("line_number", 5, 5)),
    "place below 0": ("beyond its manifest", changed("byte_offset", 0, -1)),
    "place beyond the manifest": ("beyond its manifest", changed("byte_offset", -1, 1 << 40)),
    "places out of order": ("out of order", changed("byte_offset", 9, 4000)),
    "windows without number": ("of more than 1", changed("num_windows", 0, 1 << 30)),
    "no windows": ("of no windows", changed("num_windows", 0, 0)),
    "order that leaves its range": ("another order", changed("order", 0, 1 << 40)),
    "order that has a row twice": ("another order", replaced("order", lambda a: a * 0)),
    "order of another seed": ("another order", replaced("order", lambda a: a[::-1])),
    "short order": ("another order", replaced("order", lambda a: a[:-1])),
    "short column": ("55, 56.* lines", replaced("byte_offset", lambda a: a[:-1])),
    "no lines": (
        r"manifest_index is float64 \[0\]",
        lambda arrays: arrays.update(dict.fromkeys(COLUMNS, EMPTY)),
    ),
    "another dtype": ("float64", replaced("byte_offset", lambda a: a.astype(float))),
    "objects": ("object", replaced("order", lambda a: np.array([None] * 3))),
    "another shape": ("28, 2", replaced("order", lambda a: a.reshape(28, 2))),
    "more manifests": ("of 2 manifests", replaced("first_ordinal", lambda a: np.array([0, 9]))),
    "no order": ("order", lambda arrays: arrays.pop("order")),
    "no identity": ("identity", lambda arrays: arrays.pop("identity")),
    "identity in numbers": ("identity is float64", replaced("identity", lambda a: np.zeros(4))),
    "identity of no JSON": ("Expecting", replaced("identity", lambda a: np.array("{"))),
    "identity nested deeply": ("Recursion", replaced("identity", lambda a: np.array("[" * 99999))),
    "identity of a list": ("TypeError", replaced("identity", lambda a: np.array("[1]"))),
    "option of another type": ("seed is '0'", identity(lambda v: v["options"].update(seed="0"))),
    "option that is not there": ("lines", identity(lambda v: v["options"].pop("lines"))),
    "option of a later version": (
        "another version of gmmpipe: it knows 'lufs'",
        identity(lambda v: v["options"].update(lufs=-23)),
    ),
    "monstrous feature": ("n_fft", identity(lambda v: v["features"].update(n_fft=10**9))),
}
COLUMNS = ("manifest_index", "line_number", "byte_offset", "num_windows", "duplicate", "order")
EMPTY = np.zeros(0)


@pytest.fixture(scope="module")
def plan_arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plan")
    save_plan(FeaturizeOptions(str(CORPUS), folder))
    with np.load(folder / "plan.npz") as arrays:
        return dict(arrays)


def assert_refused(path: Path, words: str) -> None:
    """The job ends with one line that names the plan, and has made nothing."""
    options = FeaturizeOptions(str(CORPUS), path.parent, num_workers=1)
    with pytest.raises(StoreError) as refusal:
        featurize(options)
    message = str(refusal.value)
    assert re.match(rf"{path}: .*{words}", message)
    assert "\n" not in message
    assert len(message) < 500
    assert {other.name for other in path.parent.iterdir()} == {"plan.npz"}


@pytest.mark.parametrize("lie", LIES)
def test_a_plan_that_lies_is_named(lie: str, plan_arrays: dict[str, Any], tmp_path: Path) -> None:
    words, change = LIES[lie]
    arrays = dict(plan_arrays)
    change(arrays)
    np.savez(tmp_path / "plan.npz", **arrays)
    assert_refused(tmp_path / "plan.npz", f"not a plan of this store: .*{words}.*move it away")


def test_a_zip_bomb_is_no_plan(plan_arrays: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "plan.npz"
    np.savez_compressed(path, **{**plan_arrays, "order": np.zeros(1 << 22, dtype=np.int64)})
    assert path.stat().st_size < 1 << 17
    assert_refused(path, "is compressed.*move it away")


@pytest.mark.parametrize("claim", [1 << 40, -8, 57], ids=["huge", "negative", "one too many"])
def test_a_size_that_the_file_does_not_have_is_not_believed(
    claim: int, plan_arrays: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "plan.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in plan_arrays.items():
            member = io.BytesIO()
            shape = (claim,) if name == "byte_offset" else array.shape
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            archive.writestr(f"{name}.npy", member.getvalue() + array.tobytes())
    assert_refused(path, "byte_offset of .* bytes.*move it away")


def test_a_directory_of_sizes_that_lies_is_not_believed(
    plan_arrays: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "plan.npz"
    np.savez(path, **plan_arrays)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")  # of the first member, the identity
    struct.pack_into("<II", content, entry + 20, 1 << 31, 1 << 31)
    path.write_bytes(content)
    assert_refused(path, "identity of .* bytes in a file of.*move it away")


def test_every_flipped_byte_of_a_plan_is_noticed_or_does_no_harm(
    plan_arrays: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "plan.npz"
    np.savez(path, **plan_arrays)
    content = path.read_bytes()
    manifests = find_manifests(str(CORPUS))
    whole = Plan.load(path, manifests)
    for at in np.random.default_rng(0).integers(0, len(content), 400):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(at) % 8
        path.write_bytes(flipped)
        with suppress(StoreError):
            plan = Plan.load(path, manifests)
            tasks = [p.task(0, tmp_path, None) for p in (plan, whole)]
            assert tasks[0] == tasks[1]


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link to /dev/zero", "link to itself", "text"])
def test_what_is_no_file_of_a_plan_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.npz"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no zip file")
    else:
        path.symlink_to("/dev/zero" if "zero" in kind else path)
    assert_refused(path, "(cannot be read|not a plan)")


@pytest.mark.parametrize("change", ["shrinks", "goes", "gets a line in front"])
def test_a_manifest_that_changes_in_use_is_named(
    change: str, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", *read_speech(0.1))
    path = write_manifest(*[{"path": "a.wav"}] * 4)
    options = FeaturizeOptions(str(path), tmp_path / "out", utterances_per_shard=2)
    plan = save_plan(options)
    content = path.read_bytes()
    if change == "shrinks":
        os.truncate(path, len(content) // 2)
    elif change == "goes":
        path.unlink()
    else:
        path.write_bytes(b'{"path": "other.wav"}\n' + content)
    tasks = [plan.task(number, tmp_path / "out", None) for number in range(plan.num_shards)]
    with pytest.raises(ManifestError, match=rf"^{path}: (changed while|cannot be read)"):
        list(map(make_shard, tasks))
    if change != "goes":
        with pytest.raises(StoreError, match="another manifest: manifest_sha256"):
            featurize(options)


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


def test_the_same_input_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(CORPUS)
    stores = []
    for place in ("here", "elsewhere/with/a/longer/name"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        manifest = corpus_part(folder / "m.jsonl", 12)
        options = {"base_path": tmp_path / "data", "seed": 7}
        stores.append(make_store(manifest, folder / "out", **options))
    assert file_bytes(stores[0]) == file_bytes(stores[1])
