"""What a long job says while it runs: a bar on a terminal, lines elsewhere."""

import os
import pty
import re
import subprocess
import termios
from pathlib import Path

import pytest

from gmmpipe.store.store_info import read_store_info
from helpers.making import CORPUS, corpus_part, fit_arguments
from helpers.processes import GMMPIPE, one_thread, run_gmmpipe
from helpers.results import read_metrics


def on_a_terminal(*arguments: object) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 200))
    command = [*GMMPIPE, *map(str, arguments)]
    with subprocess.Popen(command, stderr=theirs, env=one_thread()) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                written += os.read(ours, 4096)
            except OSError:  # the terminal's other side is closed
                break
    os.close(ours)
    assert process.returncode == 0
    return written.decode()


def last(pattern: str, written: str) -> list[str]:
    """The groups of a pattern where it stands last."""
    found = re.findall(pattern, written)
    assert found, written
    return found[-1]


def test_a_featurize_says_how_much_audio_is_done_how_fast_and_what_was_rejected(
    tmp_path: Path,
) -> None:
    manifest = corpus_part(tmp_path / "m.jsonl", 9)
    with open(manifest, "a") as lines:
        lines.write('{"wav_path": "nowhere.wav"}\n')
    options = ["--utterances_per_shard", 5, "--num_workers", 1, "--base_path", CORPUS]
    store = tmp_path / "store"
    written = on_a_terminal(*("featurize", "--data_dir", manifest, "--output_dir", store), *options)
    pattern = r"2/2 .*, ([\d.]+) hours of audio at ([\d.]+) times real time, 1 rejects"
    hours, speed = last(pattern, written)
    sums = read_store_info(store / "store.json")
    assert float(hours) == pytest.approx(sums.tally.seconds_kept / 3600, rel=1e-3)
    assert float(speed) > 0


def test_a_fit_says_its_nll_its_speed_and_the_time_left(store, tmp_path: Path) -> None:
    arguments = fit_arguments(store, tmp_path / "fit")
    lines = run_gmmpipe(*arguments).stderr.splitlines()
    progress = [line for line in lines if line.startswith("fit: ")]
    number = r"[\d.e+]+"
    for line, nll in zip(progress, read_metrics(tmp_path / "fit")["nll"], strict=True):
        assert re.fullmatch(
            rf"fit: \d+ of 8000 frames, {number} frames/s, \d\d:\d\d left; "
            rf"nll {nll:.4f}, \d+ alive",
            line,
        )
    assert "00:00 left" in progress[-1]
    assert "alive" in on_a_terminal(*fit_arguments(store, tmp_path / "again"))
