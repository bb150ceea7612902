"""Files are there whole or not at all, and JSON is the same bytes every time."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gmmpipe.files import (
    atomic_file,
    canonical_json,
    remove,
    temporaries,
    temporary_path,
    write_atomic,
)
from helpers.processes import ROOT


def test_canonical_json_is_sorted_ascii_without_spaces() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é\ud800"}) == '{"a":"\\u00e9\\ud800","b":[1,2.5]}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_is_not_json(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": [value]})


def test_a_file_appears_only_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["data"]


def test_an_error_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "data"
    write_atomic(path, b"old")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"new", None])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["data"]


def test_a_killed_writer_leaves_the_old_file_and_a_temporary_that_can_be_removed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data"
    write_atomic(path, b"old")
    code = (
        "import os, signal, sys, pathlib\nfrom gmmpipe.files import atomic_file\n"
        "with atomic_file(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (left,) = temporaries(tmp_path)
    remove(left)
    assert os.listdir(tmp_path) == ["data"]


def test_temporary_names_never_repeat_and_stay_in_the_folder(tmp_path: Path) -> None:
    names = {temporary_path(tmp_path / "data") for _ in range(100)}
    assert len(names) == 100
    assert {name.parent for name in names} == {tmp_path}
