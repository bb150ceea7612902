"""--shuffle_by recordings: whole recordings are spread, and the utterances of one stay together."""

import io
import json
import logging
import re
import tracemalloc
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmmpipe import FeatureStore
from gmmpipe.errors import StoreError
from gmmpipe.featurization import plan_file
from gmmpipe.featurization.forecast import forecast
from gmmpipe.featurization.job import featurize, open_folder
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import Plan, PlanItem, digest_manifests
from gmmpipe.sources.find import find_manifests
from gmmpipe.sources.jsonl import JsonLines
from helpers.making import CORPUS, make_store, save_plan
from helpers.results import file_bytes

WriteManifest = Callable[..., Path]

NAMES = [f"en-cards/00{number}.flac" for number in range(1, 6)]
SEGMENTS = [
    {"path": name, "offset": round(0.3 * part, 1), "duration": 0.3, "id": f"{name[-8:-5]}-{part}"}
    for part in (4, 0, 2, 1, 3)
    for name in NAMES
]
"""Of five recordings in turn, those of each in another order than that of time."""


def in_order(plan: Plan) -> list[PlanItem]:
    """All items, in the order of the shards and of the tasks."""
    return [item for n in plan.shards for item in plan.task(n, Path("out"), None).items]


def read(item: PlanItem) -> dict[str, Any]:
    lines = item.line.manifest.path.read_text().splitlines()
    return json.loads(lines[item.line.number - 1])


def planned(manifest: object, folder: Path, **options: Any) -> list[PlanItem]:
    options = {"shuffle_by": "recordings", "utterances_per_shard": 4, **options}
    return in_order(save_plan(FeaturizeOptions(str(manifest), folder / "out", **options)))


def test_a_recording_stays_together_in_time_order(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    manifest = write_manifest(*SEGMENTS)
    orders = []
    for seed in range(4):
        lines = [read(item) for item in planned(manifest, tmp_path, seed=seed)]
        assert sorted(line["id"] for line in lines) == sorted(line["id"] for line in SEGMENTS)
        recordings = [(p, [*of]) for p, of in groupby(lines, lambda line: line["path"])]
        assert len(recordings) == len(NAMES)
        assert all(
            [line["offset"] for line in of] == [0, 0.3, 0.6, 0.9, 1.2] for _, of in recordings
        )
        orders.append([path for path, _ in recordings])
    assert len({*map(tuple, orders)}) == 4
    # Frozen: the stores of earlier versions are resumed in this order.
    assert [NAMES.index(path) for path in orders[0]] == [0, 3, 2, 4, 1]


def test_without_shuffle_the_order_is_that_of_the_manifests(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    items = planned(write_manifest(*SEGMENTS), tmp_path, shuffle=False)
    assert [item.line.number for item in items] == [*range(1, len(SEGMENTS) + 1)]


def test_windows_and_segments_of_a_recording_are_in_time_order_together(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    manifest = write_manifest(
        {"path": "a.wav", "offset": 0, "duration": 40},
        {"path": "b.wav", "duration": 25},
        {"path": "a.wav", "offset": 12.5, "duration": 3},
        {"path": "a.wav", "offset": -1},  # a reject has its place too
    )
    items = planned(manifest, tmp_path, long_audio="split", max_seconds=10.0)
    found = {p: [*of] for p, of in groupby(items, lambda item: read(item)["path"])}
    numbers = {p: [(item.line.number, item.window) for item in of] for p, of in found.items()}
    assert numbers == {
        "a.wav": [(1, 0), (4, 0), (1, 1), (3, 0), (1, 2), (1, 3)],
        "b.wav": [(2, 0), (2, 1), (2, 2)],
    }


@pytest.mark.parametrize("ending", ["tar.gz", "TGZ", "parquet"])
def test_an_archive_that_is_read_as_a_whole_is_a_recording(
    ending: str, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    archives = [f"d#1/{letter}.{ending}" for letter in "abc"]
    lines = [
        {"path": f"{archive}#{member}", "offset": 9 - member}
        for member in range(6)
        for archive in archives
    ]
    items = planned(write_manifest(*lines), tmp_path)
    paths = [read(item)["path"].rpartition("#") for item in items]
    together = [(archive, [*of]) for archive, of in groupby(paths, lambda path: path[0])]
    assert sorted(archive for archive, _ in together) == archives
    assert all([path[2] for path in of] == [*"012345"] for _, of in together)


def test_a_member_that_can_be_read_by_its_place_is_a_recording_itself(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    lines = [{"path": f"{archive}.tar#{n}.wav"} for archive in "abc" for n in range(20)]
    items = planned(write_manifest(*lines), tmp_path)
    archives = [read(item)["path"][0] for item in items]
    assert len([*groupby(archives)]) > 20


def test_the_same_path_in_two_manifests_is_two_recordings(tmp_path: Path) -> None:
    # Relative paths start in the folder of their manifest.
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        lines = [{"path": f"{n}.wav", "offset": t} for n in range(9) for t in range(3)]
        (folder / "m.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    items = planned(",".join(map(str, folders)), tmp_path)
    of = [(item.line.manifest.path, read(item)["path"]) for item in items]
    assert [len([*group]) for _, group in groupby(of)] == [3] * 18


def test_the_order_does_not_depend_on_the_place(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    here = write_manifest(*SEGMENTS)
    there = tmp_path / "elsewhere" / here.name
    there.parent.mkdir()
    there.write_bytes(here.read_bytes())
    digests = [digest_manifests(find_manifests(str(path))) for path in (here, there)]
    assert digests[0] == digests[1]
    options: list[dict[str, Any]] = [{}, {"base_path": CORPUS}]
    orders = [
        [item.line.number for item in planned(path, tmp_path, seed=3, **given)]
        for path, given in zip((here, there), options, strict=True)
    ]
    assert orders[0] == orders[1]


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segments") / "m.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in SEGMENTS))
    return path


BY_RECORDINGS: dict[str, Any] = {
    "base_path": CORPUS,
    "utterances_per_shard": 4,
    "shuffle_by": "recordings",
}


@pytest.fixture(scope="module")
def whole(segments: Path) -> Path:
    return make_store(segments, segments.parent / "whole", **BY_RECORDINGS)


def test_its_frames_are_those_of_a_store_by_utterances(segments: Path, whole: Path) -> None:
    options = {**BY_RECORDINGS, "shuffle_by": "utterances"}
    other = make_store(segments, segments.parent / "other", **options)
    there, here = (
        {utt.key: utt for utt in FeatureStore.open(store).utterances()} for store in (other, whole)
    )
    assert there.keys() == here.keys()
    for key, utterance in there.items():
        torch.testing.assert_close(here[key].features, utterance.features, rtol=0, atol=1e-3)
    plans = [json.loads((store / "store.json").read_text())["plan"] for store in (whole, other)]
    assert plans[0].pop("shuffle_by") == "recordings"
    assert plans[0] == plans[1]  # those by utterances have the documents that they always had


def test_it_is_resumed_to_the_same_bytes_and_refused_to_others(
    segments: Path, whole: Path, tmp_path: Path
) -> None:
    options = FeaturizeOptions(str(segments), tmp_path / "out", num_workers=1, **BY_RECORDINGS)
    for index in range(2):
        sliced = {**BY_RECORDINGS, "task_index": index, "num_tasks": 3, "num_workers": 1}
        assert featurize(FeaturizeOptions(str(segments), tmp_path / "out", **sliced)) is None
    by_default = {**BY_RECORDINGS, "shuffle_by": "auto"}
    with pytest.raises(StoreError, match="shuffle_by is recordings there and utterances here"):
        featurize(FeaturizeOptions(str(segments), tmp_path / "out", **by_default))
    assert featurize(options) is not None
    assert file_bytes(tmp_path / "out") == file_bytes(whole)
    with pytest.raises(StoreError, match="shuffle_by is recordings there and utterances here"):
        featurize(FeaturizeOptions(str(segments), tmp_path / "out", **by_default))


@pytest.mark.parametrize(
    ("asked", "comes_to", "said"),
    [
        ("auto", "recordings", r"m\.jsonl can only be .*--shuffle_by is recordings"),
        ("utterances", "utterances", r"warning: .*m\.jsonl can only be .*anew for every shard"),
        ("recordings", "recordings", ""),
    ],
)
def test_a_source_that_is_streamed_is_shuffled_by_recordings(
    asked: str,
    comes_to: str,
    said: str,
    segments: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(JsonLines, "is_streamed", True)
    options: Any = {**BY_RECORDINGS, "shuffle_by": asked}
    caplog.set_level(logging.INFO)
    for look in (open_folder, forecast):
        caplog.clear()
        found = look(FeaturizeOptions(str(segments), tmp_path / "out", **options))
        assert re.search(said, caplog.text) if said else not caplog.text
        if look is open_folder:
            assert found.plan_options.shuffle_by == comes_to


PLANS: dict[str, dict[str, Any]] = {
    "utterances": {"shuffle_by": "utterances"},
    "recordings": {},
    "manifest order": {"shuffle": False},
    "windows": {"long_audio": "split", "max_seconds": 0.1},
    "windows of utterances": {
        "shuffle_by": "utterances",
        "long_audio": "split",
        "max_seconds": 0.1,
    },
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is read five rows at a time."""
    monkeypatch.setattr(plan_file, "_BLOCK_ROWS", 5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", PLANS)
def test_a_slice_reads_its_own_part_of_a_plan(kind: str, segments: Path, tmp_path: Path) -> None:
    data_dir = f"{segments},{CORPUS}"  # two manifests
    options: Any = {**BY_RECORDINGS, **PLANS[kind]}
    plan = save_plan(FeaturizeOptions(data_dir, tmp_path, **options))
    manifests = find_manifests(data_dir)
    for every in (1, 2, 3, plan.num_shards, plan.num_shards + 1):
        for first in range(every):
            part = Plan.load(tmp_path / "plan.npz", manifests, first, every)
            assert part.num_shards == plan.num_shards
            assert [*part.shards] == [*range(first, plan.num_shards, every)]
            assert len(part.index.line_number) <= len(part.order)
            for shard in part.shards:
                task, whole_task = (p.task(shard, tmp_path, None) for p in (part, plan))
                assert task == whole_task


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("name", "at", "value", "words"),
    [
        ("order", 12, 1 << 40, "beyond the last"),
        ("order", -1, -1, "beyond the last"),
        ("order", 3, "another's", "an item twice"),
        ("order", 3, "a neighbour's", "an item twice"),
        ("line_number", 10, 10, "out of order"),
        ("byte_offset", 15, 1, "out of order"),
        ("num_windows", 20, 2, "more than 1"),
        ("manifest_index", 24, 1, "beyond the last"),
    ],
)
def test_a_plan_that_lies_is_refused_by_every_slice(
    name: str, at: int, value: Any, words: str, segments: Path, tmp_path: Path
) -> None:
    save_plan(FeaturizeOptions(str(segments), tmp_path, **BY_RECORDINGS))
    path = tmp_path / "plan.npz"
    arrays = dict(np.load(path))
    column = arrays[name].copy()
    column[at] = {"another's": column[20], "a neighbour's": column[4]}.get(value, value)
    np.savez(path, **{**arrays, name: column})
    for first in range(3):
        with pytest.raises(StoreError, match=rf"plan\.npz: not a plan of this store: .*{words}"):
            Plan.load(path, find_manifests(str(segments)), first, 3)


@pytest.mark.usefixtures("small_blocks")
def test_a_byte_that_changed_is_found_by_every_slice(segments: Path, tmp_path: Path) -> None:
    save_plan(FeaturizeOptions(str(segments), tmp_path, **BY_RECORDINGS))
    path = tmp_path / "plan.npz"
    content = bytearray(path.read_bytes())
    order = np.load(path)["order"]
    at = content.index(order.tobytes())
    first, second = content[at : at + 8], content[at + 8 : at + 16]
    content[at : at + 16] = second + first  # a permutation still, but another
    path.write_bytes(content)
    for index in range(3):
        with pytest.raises(StoreError, match="not a plan of this store: BadZipFile"):
            Plan.load(path, find_manifests(str(segments)), index, 3)


@pytest.mark.parametrize("shuffle_by", ["utterances", "recordings"])
def test_the_memory_of_a_slice_is_that_of_its_part(shuffle_by: str, tmp_path: Path) -> None:
    lines = io.StringIO()
    lines.writelines(f'{{"path":"{n // 300}","offset":{n % 300}.5}}\n' for n in range(300_000))
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(lines.getvalue())
    save_plan(FeaturizeOptions(str(manifest), tmp_path, shuffle_by=shuffle_by))
    manifests = find_manifests(str(manifest))
    peaks = []
    for every in (1, 100):
        tracemalloc.start()
        plan = Plan.load(tmp_path / "plan.npz", manifests, 0, every)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert plan.task(0, tmp_path, None).number == 0
    assert peaks[1] < peaks[0] / 2
