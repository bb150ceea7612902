"""``gmmpipe import`` of Kaldi's ``feats.scp``, written by kaldiio."""

import json
import os
import sys
from itertools import islice
from pathlib import Path

import kaldiio
import numpy as np
import pytest

from gmmpipe import FeatureStore, ImportOptions, import_frames
from gmmpipe.errors import ManifestError
from helpers.processes import run, run_gmmpipe
from tests.importing.test_fairseq import frames_of


@pytest.mark.parametrize("compression", [None, 2, 3, 5])
def test_matrices_come_back(tmp_path: Path, compression: int | None) -> None:
    random = np.random.default_rng(2)
    given = {f"utt{n}": random.normal(size=(9 + n, 6)).astype("f4") for n in range(5)}
    folder = tmp_path / "source"
    folder.mkdir()
    scp = folder / "feats.scp"
    kaldiio.save_ark(str(folder / "a.ark"), given, scp=str(scp), compression_method=compression)
    expected = {name: np.asarray(values) for name, values in kaldiio.load_scp(str(scp)).items()}
    first = scp.read_text().splitlines()[0].split()[1]
    scp.write_text(scp.read_text() + f"part {first}[2:4]\n")
    import_frames(ImportOptions(folder, tmp_path / "store", dtype="float32"))
    found = frames_of(tmp_path / "store")
    assert len(found) == 6
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name][1], values)
    np.testing.assert_array_equal(found["part"][1], expected["utt0"][2:5])


def test_commands_are_never_run_and_pickles_never_read(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    values = np.ones((4, 3), "f4")
    kaldiio.save_ark(str(folder / "a.ark"), {"good": values}, scp=str(folder / "feats.scp"))
    whole = (folder / "a.ark").read_bytes()
    (folder / "cut.ark").write_bytes(whole[:-5])
    kaldiio.save_ark(str(folder / "p.ark"), {"p": {"a": 1}}, write_function="pickle")
    with (folder / "feats.scp").open("a") as file:
        file.write(f"in touch {tmp_path}/ran |\n")
        file.write(f"out | touch {tmp_path}/ran\n")
        file.write("cut cut.ark:5\npickle p.ark:2\ngone gone.ark:5\ngood a.ark:5\n")
    import_frames(ImportOptions(folder, tmp_path / "store", max_reject_fraction=0.9))
    assert not (tmp_path / "ran").exists()
    lines = (tmp_path / "store/rejects.jsonl").read_text().splitlines()
    assert [row["reason"] for row in map(json.loads, lines)] == [
        "unsafe_path",
        "unsafe_path",
        "truncated",
        "undecodable",
        "not_found",
        "duplicate_id",
    ]


@pytest.mark.parametrize("source", ["feats.scp", "a.ark", "*.ark", ".", "arks"])
def test_files_patterns_and_folders_are_sources(source: str, tmp_path: Path, store: Path) -> None:
    given = {
        utt.key: utt.features.numpy() for utt in islice(FeatureStore.open(store).utterances(), 9)
    }
    folder = tmp_path / "source"
    folder.mkdir()
    ark = folder / "a.ark"
    if source == "arks":  # a folder of archives alone
        kaldiio.save_ark(str(ark), given)
    else:
        kaldiio.save_ark(
            str(ark), {k: v.astype("f8") for k, v in given.items()}, str(folder / "feats.scp")
        )
    named = folder if source in (".", "arks") else folder / source
    run_gmmpipe("import", named, "--output_dir", tmp_path / "out", "--format", "zarr")
    found = sorted(
        FeatureStore.open(tmp_path / "out").utterances(), key=lambda utt: utt.metadata["line"]
    )
    assert [utt.metadata["id"] for utt in found] == list(given)
    for utt in found:
        np.testing.assert_array_equal(utt.features, given[utt.metadata["id"]])
    assert run_gmmpipe("verify", tmp_path / "out").returncode == 0


def test_what_lies_before_damage_in_an_archive_is_kept(tmp_path: Path) -> None:
    values = np.ones((4, 3), "f4")
    kaldiio.save_ark(str(tmp_path / "a.ark"), dict.fromkeys("abc", values))
    whole = (tmp_path / "a.ark").read_bytes()
    (tmp_path / "a.ark").write_bytes(whole[:-5])
    import_frames(ImportOptions(tmp_path / "a.ark", tmp_path / "out", max_reject_fraction=0.5))
    assert frames_of(tmp_path / "out").keys() == {"a", "b"}
    (reject,) = map(json.loads, (tmp_path / "out/rejects.jsonl").read_text().splitlines())
    assert (reject["manifest"], reject["line"], reject["reason"]) == ("a.ark", 3, "truncated")


@pytest.mark.parametrize("name", ["text.ark", "feats.scp", "x.len", "feats.txt", "gone.ark"])
def test_what_is_no_source_is_said_in_one_line(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    if name == "text.ark":
        kaldiio.save_ark(str(folder / name), {"a": np.ones((2, 2))}, text=True)
    elif name in ("feats.scp", "x.len"):
        os.mkfifo(folder / name)
    elif name == "feats.txt":
        (folder / name).touch()
    done = run_gmmpipe("import", folder / name, "--output_dir", tmp_path / "out", check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert str(folder / name) in line
    assert not (tmp_path / "out").exists()


def test_a_folder_of_two_kinds_is_refused(tmp_path: Path) -> None:
    for name in ("feats.scp", "x.len", "y.npy"):
        (tmp_path / name).touch()
    said = r"kaldi by its feats\.scp or fairseq by its x\.len or npy by its y\.npy"
    with pytest.raises(ManifestError, match=said):
        import_frames(ImportOptions(tmp_path, tmp_path.parent / "out"))


def test_without_kaldiio_the_extra_is_named(tmp_path: Path) -> None:
    kaldiio.save_ark(str(tmp_path / "a.ark"), {"a": np.ones((2, 2))})
    code = (
        "import sys; sys.modules['kaldiio'] = None; sys.argv[1:] = "
        f"['import', {str(tmp_path / 'a.ark')!r}, '--output_dir', {str(tmp_path / 'out')!r}];"
        "from gmmpipe.cli import main; main()"
    )
    done = run([sys.executable, "-c", code], check=False)
    assert 'pip install "gmmpipe[kaldi]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_places_that_cannot_be_are_rejects_and_a_blank_line_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    values = np.ones((4, 3), "f4")
    scp = folder / "feats.scp"
    kaldiio.save_ark(str(folder / "a.ark"), {"good": values}, scp=str(scp))
    scp.write_text(
        scp.read_text() + "far a.ark:99999999999999999999999\nodd a.ark:5[0:1,0:1,0:1]\n"
        "still a.ark:5[0:2:0]\n"
    )
    import_frames(ImportOptions(folder, tmp_path / "store", max_reject_fraction=0.9))
    lines = (tmp_path / "store/rejects.jsonl").read_text().splitlines()
    reasons = [row["reason"] for row in map(json.loads, lines)]
    assert reasons == ["undecodable", "wrong_shape", "wrong_shape"]
    scp.write_text(scp.read_text() + "\n")
    with pytest.raises(ManifestError, match=r"feats\.scp: line 5 is not: name, place"):
        import_frames(ImportOptions(folder, tmp_path / "other"))


def test_an_archive_may_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    kaldiio.save_ark(str(folder / "a.ark"), {"good": np.ones((4, 3), "f4")})
    (folder / "a.ark").rename(folder / os.fsdecode(b"\xff.ark"))
    import_frames(ImportOptions(folder, tmp_path / "store"))
    (found,) = FeatureStore.open(tmp_path / "store").utterances()
    assert found.metadata["id"] == "good"


def test_an_array_without_dimensions_is_a_reject(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    np.save(folder / "a.npy", np.ones((3, 0)))
    np.save(folder / "b.npy", np.ones((3, 2)))
    import_frames(ImportOptions(folder, tmp_path / "store", max_reject_fraction=0.9))
    (reject,) = map(json.loads, (tmp_path / "store/rejects.jsonl").read_text().splitlines())
    assert (reject["path"], reject["reason"]) == ("a.npy", "wrong_shape")
