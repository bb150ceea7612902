"""NeMo's tarred manifests, which are of the kind ``tar``."""

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from gmmpipe import FeatureStore
from gmmpipe.sources.find import find_sources
from gmmpipe.sources.registry import kind_named
from helpers.kinds.archives import add, nemo_tarred
from helpers.kinds.made import corpus_lines
from helpers.making import make_store
from helpers.results import read_json_lines

AUDIO = Path(corpus_lines(1)[0]["wav_path"])


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(raw) for raw in kind_named("tar").translate(path, Counter())]


def write(path: Path, lines: list[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(text + "\n" for text in texts))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in range(2):
        with tarfile.open(tmp_path / f"audio_{shard}.tar", "w") as tar:
            add(tar, f"data_{shard}{AUDIO.suffix}", AUDIO.read_bytes())
            add(tar, f"a-sub1{AUDIO.suffix}", b"a name of its own")
    return tmp_path


def test_a_folder_is_read_by_the_manifest_of_all_shards(tmp_path: Path) -> None:
    folder = Path(nemo_tarred(tmp_path).data_dir)
    write(folder / "other_manifest.json", [{"audio_filepath": "a.wav", "shard_id": 0}])
    (folder / "metadata.yaml").write_text("")
    (source,) = find_sources(str(folder))
    assert [manifest.name for manifest in source.manifests] == ["tarred_audio_manifest.json"]
    assert {manifest.kind for manifest in source.manifests} == {"tar"}
    assert source.passed_over == ["metadata.yaml", "other_manifest.json"]


def test_manifests_of_one_shard_each_lie_below_their_tars(folder: Path) -> None:
    for shard in range(2):
        line = {"audio_filepath": f"data_{shard}{AUDIO.suffix}", "shard_id": shard}
        write(folder / "sharded_manifests" / f"manifest_{shard}.json", [line])
    sources = find_sources(str(folder / "sharded_manifests" / "manifest__OP_0..1_CL_.json"))
    assert [manifest.kind for manifest in sources[0].manifests] == ["tar", "tar"]
    (line,) = lines_of(sources[0].manifests[1].path)
    assert line["wav_path"] == f"../audio_1.tar#data_1{AUDIO.suffix}"
    assert find_sources(str(folder / "sharded_manifests"))[0].manifests == [
        *sources[0].manifests,
    ]
    store = make_store(folder / "sharded_manifests", folder / "store")
    assert len(FeatureStore.open(store)) == 2


def test_segments_of_one_file(folder: Path) -> None:
    names = [f"data_0{AUDIO.suffix}", f"data_0-sub1{AUDIO.suffix}", f"data_0-sub2{AUDIO.suffix}"]
    segments = [
        {"audio_filepath": name, "shard_id": 0, "offset": 0.25 * number, "duration": 0.5}
        for number, name in enumerate(names)
    ]
    path = write(folder / "m.json", segments)
    loose = [
        {"wav_path": str(AUDIO), "offset": line["offset"], "duration": 0.5} for line in segments
    ]
    expected = make_store(write(folder / "l" / "loose.jsonl", loose), folder / "expected")
    found = FeatureStore.open(make_store(path, folder / "store")).utterances()
    utterances = sorted(found, key=lambda each: each.key)
    originals = sorted(FeatureStore.open(expected).utterances(), key=lambda each: each.key)
    for one, other in zip(utterances, originals, strict=True):
        np.testing.assert_array_equal(one.features.numpy(), other.features.numpy())
    assert [each.metadata["audio_filepath"] for each in utterances] == names
    assert soundfile.info(AUDIO).duration > 1.0
    own = write(folder / "m.json", [{"audio_filepath": f"a-sub1{AUDIO.suffix}", "shard_id": 1}])
    assert lines_of(own)[0]["wav_path"] == f"audio_1.tar#a-sub1{AUDIO.suffix}"


def test_lines_that_name_nothing_are_rejects(folder: Path) -> None:
    name = f"data_0{AUDIO.suffix}"
    path = write(
        folder / "m.json",
        [
            {"audio_filepath": name, "shard_id": 0},
            {"audio_filepath": name, "shard_id": 1},
            {"audio_filepath": name, "shard_id": 7},
            {"audio_filepath": name},
            {"audio_filepath": name, "shard_id": "0"},
            {"shard_id": 0},
            "no JSON",
            "",
        ],
    )
    store = make_store(path, folder / "store")
    rejects = {each["line"]: each["reason"] for each in read_json_lines(store / "rejects.jsonl")}
    assert rejects == {
        **dict.fromkeys((2, 3, 4, 5), "not_found"),
        6: "missing_path",
        7: "bad_json",
    }
    assert len(FeatureStore.open(store)) == 1


def test_a_manifest_without_tars_is_a_plain_one(tmp_path: Path) -> None:
    line = {"audio_filepath": str(AUDIO), "shard_id": 0}
    (source,) = find_sources(str(write(tmp_path / "m.json", [line])))
    assert source.manifests[0].kind == "jsonl"
