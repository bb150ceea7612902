"""JSONL in all its spellings: endings, compression, and the folders that hold them."""

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from gmmpipe import FeatureStore
from gmmpipe.errors import ManifestError
from gmmpipe.featurization.forecast import forecast
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import digest_manifests
from gmmpipe.sources.find import find_manifests
from helpers.making import make_store, read_speech
from helpers.results import file_bytes, read_json_lines

LINES = b'{"audio_filepath": "a.wav", "id": "x"}\r\n\n{bad\n{"path": "a.wav", "offset": 0.5}'
PRETTY = b'{\n  "path": "a.wav",\n  "id": "pretty"\n}\n'
ARRAY = b'[\n{"path": "a.wav"},\n{"path": "a.wav"}\n]\n'
SIDECAR = b'{"speaker": "ann", "voice_activity": [[0.0, 1.5]]}\n'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of one second of real speech."""
    (tmp_path / "data").mkdir()
    soundfile.write(tmp_path / "data" / "a.wav", *read_speech(1.0))
    return tmp_path / "data"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


ENDINGS = (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz")


@pytest.mark.parametrize("named", [True, False], ids=["file", "folder"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_gives_the_same_frames_and_the_lines_of_the_users_file(
    ending: str, named: bool, data: Path, tmp_path: Path
) -> None:
    path = write(data / f"m{ending}", LINES)
    store = make_store(path if named else data, tmp_path / "out", shuffle=False)
    found = {utt.metadata["line"]: utt for utt in FeatureStore.open(store).utterances()}
    assert {line: utt.key for line, utt in found.items()} == {1: "x", 4: "0000000004-a"}
    assert {utt.metadata["manifest"] for utt in found.values()} == {path.name}
    assert found[1].features[27:48].equal(found[4].features[2:23])
    (reject,) = read_json_lines(store / "rejects.jsonl")
    assert (reject["manifest"], reject["line"], reject["reason"]) == (path.name, 3, "bad_json")
    assert {p.name for p in store.iterdir()} == {
        *("store.json", "rejects.jsonl", "shard-000000.tar", "shard-000000.json")
    }


def test_a_store_does_not_depend_on_how_its_manifest_is_compressed(
    data: Path, tmp_path: Path
) -> None:
    stores = []
    for level in (1, 9):
        half = len(LINES) // 2
        members = (gzip.compress(part, level) for part in (LINES[:half], LINES[half:]))
        (data / "m.jsonl.gz").write_bytes(b"".join(members))
        stores.append(file_bytes(make_store(data, tmp_path / str(level))))
    assert stores[0] == stores[1]


def test_a_folder_of_jsonl_files_is_read_by_those_alone(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(data / "b.jsonl", LINES)
    write(data / "a.jsonl", LINES)
    before = digest_manifests(find_manifests(str(data)))
    for name, content in [
        *(("pretty.json", PRETTY), ("array.json", ARRAY), ("a.json", SIDECAR)),
        *(("one.json", LINES), ("c.ndjson", LINES), ("d.jsonl.gz", LINES), (".h.jsonl", LINES)),
    ]:
        write(data / name, content)
    assert caplog.messages == []
    manifests = find_manifests(str(data))
    assert digest_manifests(manifests) == before
    assert [manifest.name for manifest in manifests] == ["a.jsonl", "b.jsonl"]
    (warning,) = caplog.messages
    assert "its .jsonl files alone are read, not c.ndjson and 1 more" in warning


def test_a_folder_without_jsonl_files_is_read_by_what_looks_like_them(data: Path) -> None:
    for name, content in [
        *(("pretty.json", PRETTY), ("array.json", ARRAY), ("a.json", SIDECAR), ("e.json", b"")),
        *(("one.json", b"\xef\xbb\xbf\n" + LINES), ("c.ndjson", b""), ("d.jsonl.gz", LINES)),
        *((".h.ndjson", LINES), ("x.jsonl.bz2", LINES), ("two.json.gz", LINES)),
    ]:
        write(data / name, content)
    names = [manifest.name for manifest in find_manifests(str(data))]
    assert names == ["c.ndjson", "d.jsonl.gz", "one.json", "two.json.gz"]


@pytest.mark.parametrize("name", ["b.jsonl", "b.ndjson", "b.jsonl.gz"])
def test_a_manifest_that_links_to_nothing_is_not_passed_over(name: str, data: Path) -> None:
    write(data / "a.jsonl", LINES)
    (data / name).symlink_to("/not/there.jsonl")
    with pytest.raises(ManifestError, match=rf"^{data / name}: a link to a file that does not ex"):
        find_manifests(str(data))


@pytest.mark.parametrize("content", [PRETTY, ARRAY, SIDECAR, b"", b"\xff\xfe", b"[" * 5000])
def test_other_json_is_no_manifest_where_it_is_named(content: bytes, data: Path) -> None:
    path = write(data / "m.json", content)
    with pytest.raises(ManifestError, match=rf"^{path}: neither .* a \.json of one object a line"):
        find_manifests(str(path))


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-9],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:],
        lambda whole: whole + b"garbage",
        lambda whole: b"no gzip at all",
    ],
    ids=["no end", "half", "flipped", "garbage behind", "no gzip"],
)
@pytest.mark.parametrize("name", ["m.jsonl.gz", "m.json.gz"])
def test_a_damaged_gz_is_one_line_that_names_it(
    damage: Callable[[bytes], bytes], name: str, data: Path, tmp_path: Path
) -> None:
    path = data / name
    path.write_bytes(damage(gzip.compress(LINES * 50)))
    with pytest.raises(ManifestError) as error:
        make_store(path, tmp_path / "out")
    assert str(error.value).startswith(f"{path}: damaged: ")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("out/**/*.jsonl"))


@pytest.mark.parametrize("name", ["m.jsonl", "m.jsonl.gz"])
def test_the_rejects_of_a_store_are_no_manifest_of_its_folder(name: str, data: Path) -> None:
    write(data / name, LINES)
    rejects = write(data / "rejects.jsonl", LINES)
    for entry in (str(data), f"{data},{rejects}"):
        assert [m.name for m in find_manifests(entry, ignored=rejects)] == [name]
    elsewhere = data / "sub" / "rejects.jsonl"
    assert len(find_manifests(str(rejects), ignored=elsewhere)) == 1


def test_a_line_without_end_in_a_gz_takes_no_memory(data: Path) -> None:
    path = write(data / "m.jsonl.gz", bytes(1 << 27))
    with pytest.raises(ManifestError, match=rf"^{path}: a line of 67108864 bytes or more"):
        digest_manifests(find_manifests(str(path)))


def test_a_dry_run_of_a_gz_writes_nothing(data: Path, tmp_path: Path) -> None:
    options = FeaturizeOptions(str(write(data / "m.jsonl.gz", LINES)), tmp_path / "out")
    assert forecast(options).utterances == 2
    assert not (tmp_path / "out").exists()


def test_a_changed_gz_is_another_manifest(data: Path, tmp_path: Path) -> None:
    path = write(data / "m.jsonl.gz", LINES)
    before = digest_manifests(find_manifests(str(path)))
    write(path, LINES + b"\n")
    assert digest_manifests(find_manifests(str(path))) != before


def test_a_new_store_in_an_old_ones_place_leaves_no_lines_behind(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from gmmpipe.featurization.job import featurize

    caplog.set_level(logging.INFO)
    write(data / "m.jsonl.gz", LINES)
    store = make_store(data, tmp_path / "out")
    options = FeaturizeOptions(
        str(data), store, overwrite=True, seed=1, num_workers=1, max_reject_fraction=1.0
    )
    featurize(options)
    whole = make_store(data, tmp_path / "whole", seed=1)
    assert file_bytes(store) == file_bytes(whole)
    assert json.loads((store / "store.json").read_text())["plan"]["seed"] == 1
