"""``gmmpipe import`` of Kaldi's ``feats.scp``, written by kaldiio."""

import json
from pathlib import Path

import kaldiio
import numpy as np
import pytest

from gmmpipe import ImportOptions, import_frames
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
        "undecodable",
        "undecodable",
        "not_found",
        "duplicate_id",
    ]
