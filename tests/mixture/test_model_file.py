"""Damaged and hostile model files: one error that names the file, and no more memory than it."""

import os
import random
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from gmmpipe import GradientGMM
from gmmpipe.errors import CheckpointError
from gmmpipe.mixture.model_file import read_model
from helpers.results import same_bits


@pytest.fixture
def saved(fitted: Path, tmp_path: Path) -> Path:
    """A copy of a model file, in a folder of its own."""
    path = tmp_path / "gmm.pt"
    path.write_bytes(fitted.read_bytes())
    return path


@pytest.mark.parametrize("seed", range(4))
def test_bits_flipped_anywhere_are_noticed_or_make_no_difference(seed, saved) -> None:
    draws, whole = random.Random(seed), saved.read_bytes()
    content = read_model(saved)
    for _ in range(150):
        damaged = bytearray(whole)
        # Of 60 kB that a checksum protects, the ends hold the archive's own tables.
        place = draws.choice(
            [draws.randrange(len(whole)), draws.randrange(len(whole) - 2000, len(whole))]
        )
        damaged[place] ^= 1 << draws.randrange(8)
        saved.write_bytes(damaged if draws.random() < 0.9 else damaged[:place])
        said = ""
        try:
            assert same_bits(read_model(saved), content), place
        except CheckpointError as error:
            said = str(error)
        assert not said or said.startswith(f"{saved}: "), place
        assert "\n" not in said


@pytest.mark.parametrize(
    "change",
    [
        {"means": torch.zeros(1).expand(1_000_000, 80)},
        {"info": [torch.zeros(1).expand(10**9)]},
        {"weights": torch.full((16,), 0.5)},
        {"weights": torch.full((16,), torch.nan)},
        {"covariances": torch.ones(16, 80)},
        {"covariances": torch.ones(16)},
        {"covariances": "ones"},
        {"means": torch.zeros(16, 80, dtype=torch.int64)},
        {"means": torch.full((16, 80), torch.inf)},
        {"log_vars": torch.full((16, 80), 1e4)},
    ],
    ids=lambda change: "+".join(change),
)
def test_values_that_are_no_mixture_are_refused_by_name(change, saved) -> None:
    torch.save({**torch.load(saved, weights_only=True), **change}, saved)
    with pytest.raises(CheckpointError, match=f"^{saved}: "):
        GradientGMM.load(saved)


def test_a_part_that_calls_itself_a_folder_is_refused(saved) -> None:
    """One bit of the archive's table, under no checksum: torch would read nothing of the part."""
    whole = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        entry = whole.index(b"PK\x01\x02", archive.start_dir + 46)
    damaged = bytearray(whole)
    damaged[entry + 38] ^= 0x10
    saved.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=f"^{saved}: .*folder"):
        read_model(saved)


class Bytes:
    """Unpickles as a bytearray of any size."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (6_000_000_000,)


def test_a_compressed_file_is_refused(saved) -> None:
    with zipfile.ZipFile(saved) as archive:
        parts = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    with pytest.raises(CheckpointError, match=f"^{saved}: .*compressed"):
        read_model(saved)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_link_to_zeros(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def ask_for_bytes(path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "seed": Bytes()}, path)


def claim_a_large_storage(path: Path) -> None:
    """The pickle says that a storage has 4e9 elements, and that the tensor uses them all."""
    with zipfile.ZipFile(path) as archive:
        parts = {member.filename: archive.read(member) for member in archive.infolist()}
    (pickled,) = (name for name in parts if name.endswith("data.pkl"))
    # K * D = 16 * 80 = 1280 as BININT2; 4e9 as LONG1.
    large = b"\x8a\x05" + (4_000_000_000).to_bytes(5, "little")
    assert b"M\x00\x05" in parts[pickled]
    parts[pickled] = parts[pickled].replace(b"M\x00\x05", large)
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


LOAD = """
import resource, sys
from gmmpipe import GradientGMM
from gmmpipe.errors import CheckpointError

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    GradientGMM.load(sys.argv[1])
except CheckpointError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


@pytest.mark.parametrize(
    "spoil",
    [make_fifo, make_link_to_zeros, make_folder, ask_for_bytes, claim_a_large_storage],
)
def test_what_would_never_end_or_take_all_memory_is_refused_at_once(spoil, saved) -> None:
    spoil(saved)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(saved)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30)),
    )
    kilobytes, said = done.stdout.split(" ", 1)
    assert said.startswith(f"{saved}: ")
    assert int(kilobytes) < 300_000
