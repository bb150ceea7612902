"""A line that gives no features is counted, and says why; it never stops the others."""

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from gmmpipe import FeatureStore
from gmmpipe.store.rejects import REJECT_REASONS
from helpers.making import make_store, read_speech
from helpers.processes import run_gmmpipe
from helpers.results import read_json_lines

Line = dict[str, Any] | str
WriteManifest = Callable[..., Path]


def speech(path: Path, seconds: float = 2.0, rate: int = 16000, **options: Any) -> Line:
    soundfile.write(path, read_speech(seconds)[0], rate, **options)
    return {"path": path.name}


def samples(path: Path, values: np.ndarray, rate: int = 16000) -> Line:
    soundfile.write(path, values, rate, subtype="FLOAT")
    return {"path": path.name}


def cut(path: Path, **options: Any) -> Line:
    """A file that ends at an odd byte somewhere after its middle."""
    line = speech(path, **options)
    os.truncate(path, path.stat().st_size * 6 // 10 | 1)
    return line


def content(path: Path, data: bytes) -> Line:
    path.write_bytes(data)
    return {"path": path.name}


def fifo(path: Path) -> Line:
    os.mkfifo(path)  # opening it would wait for ever
    return {"path": path.name}


def a_socket(path: Path) -> Line:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return {"path": path.name}


def link(path: Path, target: str) -> Line:
    path.symlink_to(target)
    return {"path": path.name}


def spoilt(value: float) -> np.ndarray:
    values = read_speech(1.0)[0].copy()
    values[5000] = value
    return values


def huge_claim(path: Path) -> Line:
    """A RIFF header of 40 bytes that claims 1.6 GB of audio."""
    header = b"RIFF" + struct.pack("<I", 1_600_000_036) + b"WAVEfmt "
    fmt = struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    return content(path, header + fmt + b"data" + struct.pack("<I", 1_600_000_000) + bytes(3200))


SECOND = {"path": "good.wav"}
CASES: dict[str, tuple[str, Callable[[Path], Line]]] = {
    "no json": ("bad_json", lambda d: "wav_path: a.wav"),
    "id of another type": ("bad_json", lambda d: {**SECOND, "id": ["a"]}),
    "no path": ("missing_path", lambda d: {"text": "hello"}),
    "pipe:": ("unsafe_path", lambda d: {"path": "pipe:touch run"}),
    "command": ("unsafe_path", lambda d: {"path": "touch run |"}),
    "command with a blank behind": ("unsafe_path", lambda d: {"path": "touch run | "}),
    "command from the left": ("unsafe_path", lambda d: {"path": "| touch run"}),
    "http": ("unsafe_path", lambda d: {"path": "http://127.0.0.1/a.wav"}),
    "file URL": ("unsafe_path", lambda d: {"path": f"file://{d}/good.wav"}),
    "s3": ("unsafe_path", lambda d: {"path": "s3://bucket/a.wav"}),
    "standard input": ("unsafe_path", lambda d: {"path": "-"}),
    "NUL": ("unsafe_path", lambda d: {"path": "good.wav\0"}),
    "no file": ("not_found", lambda d: {"path": "none.wav"}),
    "below a file": ("not_found", lambda d: {"path": "good.wav/a.wav"}),
    "broken link": ("not_found", lambda d: link(d / "l.wav", "none.wav")),
    "no possible name": ("not_found", lambda d: '{"path": "\\ud800.wav"}'),
    "folder": ("not_a_regular_file", lambda d: {"path": "."}),
    "device": ("not_a_regular_file", lambda d: {"path": "/dev/zero"}),
    "link to a device": ("not_a_regular_file", lambda d: link(d / "l.wav", "/dev/zero")),
    "FIFO": ("not_a_regular_file", lambda d: fifo(d / "f.wav")),
    "socket": ("not_a_regular_file", lambda d: a_socket(d / "s.wav")),
    # Root may read any file: an endless link and a name too long fail for everybody.
    "endless link": ("unreadable", lambda d: link(d / "l.wav", "l.wav")),
    "name too long": ("unreadable", lambda d: {"path": "x" * 300}),
    "random bytes": (
        "undecodable",
        lambda d: content(d / "r.wav", np.random.default_rng(0).bytes(9999)),
    ),
    "empty file": ("undecodable", lambda d: content(d / "e.flac", b"")),
    "text": ("undecodable", lambda d: content(d / "t.wav", b"RIFF of words\n" * 99)),
    "cut wav": ("truncated", lambda d: cut(d / "c.wav")),
    "cut float wav": ("truncated", lambda d: cut(d / "c.wav", subtype="FLOAT")),
    "cut flac": ("truncated", lambda d: cut(d / "c.flac")),
    "cut aiff": ("truncated", lambda d: cut(d / "c.aiff")),
    "cut au": ("truncated", lambda d: cut(d / "c.au")),
    "cut w64": ("truncated", lambda d: cut(d / "c.w64")),
    "cut rf64": ("truncated", lambda d: cut(d / "c.rf64", format="RF64")),
    "cut sphere": ("truncated", lambda d: cut(d / "c.sph", format="NIST", subtype="PCM_16")),
    "huge claim": ("truncated", lambda d: huge_claim(d / "h.wav")),
    "cut ogg with a duration": ("truncated", lambda d: {**cut(d / "c.ogg"), "duration": 2.0}),
    "duration beyond the file": ("truncated", lambda d: {**SECOND, "duration": 5.0}),
    "segment beyond the file": ("truncated", lambda d: {**SECOND, "offset": 1.0, "duration": 9.0}),
    "too short": ("too_short", lambda d: samples(d / "s.wav", spoilt(0)[:319])),
    "too short once resampled": (
        "too_short",
        lambda d: samples(d / "s.wav", spoilt(0)[:159], 8000),
    ),
    "no samples at 8 kHz": ("too_short", lambda d: samples(d / "s.wav", np.zeros(0), 8000)),
    "no samples": ("too_short", lambda d: samples(d / "s.wav", np.zeros(0))),
    "segment too short": ("too_short", lambda d: {**SECOND, "offset": 0.5, "duration": 0.01}),
    "NaN": ("non_finite", lambda d: samples(d / "n.wav", spoilt(np.nan))),
    "infinity": ("non_finite", lambda d: samples(d / "n.wav", spoilt(-np.inf))),
    "beyond all scales": ("non_finite", lambda d: samples(d / "n.wav", spoilt(1e30))),
    "2 kHz": ("unsupported_rate", lambda d: speech(d / "r.wav", rate=2000)),
    "192,001 Hz": ("unsupported_rate", lambda d: speech(d / "r.wav", rate=192_001)),
    "negative offset": ("bad_offset", lambda d: {**SECOND, "offset": -0.5}),
    "offset at the end": ("bad_offset", lambda d: {**SECOND, "offset": 2.0}),
    "offset beyond any file": ("bad_offset", lambda d: {**SECOND, "offset": 1e300}),
    "offset whose sample overflows": ("bad_offset", lambda d: {**SECOND, "offset": 1e308}),
    "offset beyond a float": ("bad_offset", lambda d: {**SECOND, "offset": 10**400}),
    "offset in words": ("bad_offset", lambda d: {**SECOND, "offset": "one"}),
    "offset true": ("bad_offset", lambda d: {**SECOND, "offset": True}),
    "offset NaN": ("bad_offset", lambda d: {**SECOND, "offset": float("nan")}),
    "duration infinite": ("bad_offset", lambda d: {**SECOND, "duration": float("inf")}),
    "end before its start": ("bad_offset", lambda d: {**SECOND, "start": 1.0, "end": 0.5}),
    "start and offset": ("bad_offset", lambda d: {**SECOND, "start": 0.5, "offset": 1.0}),
    "end and duration": ("bad_offset", lambda d: {**SECOND, "end": 1.5, "duration": 1.0}),
    "part of a channel": ("bad_json", lambda d: {**SECOND, "channel": 0.5}),
    "negative channel": ("bad_json", lambda d: {**SECOND, "channel": -1}),
    "negative channel as text": ("bad_json", lambda d: {**SECOND, "channel": "-1"}),
    "channel that is not there": ("bad_json", lambda d: {**SECOND, "channel": 1}),
    "id twice": ("duplicate_id", lambda d: {**SECOND, "id": "good"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_line_is_rejected_with_its_reason_and_the_good_ones_stay(
    case: str, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    reason, make_line = CASES[case]
    good = {**speech(tmp_path / "good.wav"), "id": "good"}
    bad = make_line(tmp_path)
    path = write_manifest(good, "", bad, {**good, "id": "last"})
    store = make_store(path, tmp_path / "out")

    (reject,) = read_json_lines(store / "rejects.jsonl")
    assert set(reject) == {"manifest", "line", "path", "reason", "detail"}
    assert (reject["manifest"], reject["line"]) == ("manifest.jsonl", 3)
    assert reject["reason"] == reason
    assert reject["path"] == (bad["path"] if isinstance(bad, dict) and "path" in bad else "") or (
        case == "no possible name"
    )
    assert reject["detail"]
    assert str(tmp_path) not in reject["detail"]

    totals = json.loads((store / "store.json").read_text())["totals"]
    assert totals["rejects_by_reason"] == {reason: 1}
    assert (totals["lines"], totals["utterances"], totals["rejects"]) == (3, 2, 1)
    assert sorted(u.key for u in FeatureStore.open(store).utterances()) == ["good", "last"]
    assert not (tmp_path / "run").exists()  # no command was run


def test_the_cases_cover_every_reason_of_this_version() -> None:
    assert {reason for reason, _ in CASES.values()} == set(REJECT_REASONS) - {
        "too_long",
        "wrong_shape",  # of an import
    }


def test_of_lines_with_one_key_the_first_stays_wherever_the_others_stand(tmp_path: Path) -> None:
    speech(tmp_path / "a.wav")
    unsafe = "a b"
    derived = "a_b-c8687a08aa"
    (tmp_path / "1.jsonl").write_text(
        f'{{"path": "a.wav", "id": "{unsafe}"}}\n{{"path": "a.wav", "id": "x"}}\n'
    )
    (tmp_path / "2.jsonl").write_text(
        f'{{"path": "a.wav", "id": "x"}}\n{{"path": "a.wav", "id": "{derived}"}}\n'
        '{"path": "a.wav", "id": "0000000006-a"}\n{"path": "a.wav"}\n{"path": "a.wav"}\n'
    )
    store = make_store(tmp_path, tmp_path / "out", utterances_per_shard=2)
    rejects = read_json_lines(store / "rejects.jsonl")
    assert {r["reason"] for r in rejects} == {"duplicate_id"}
    assert sorted((r["manifest"], r["line"]) for r in rejects) == [
        ("2.jsonl", 1),
        ("2.jsonl", 2),
        ("2.jsonl", 4),
    ]


def test_rejects_are_listed_by_shard_and_line_and_hours_count_what_headers_say(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    speech(tmp_path / "a.wav", 2.0)
    lines = [{"path": "a.wav"}, {"path": "a.wav", "offset": 3}, {"path": "-"}, {"path": "a.wav"}]
    store = make_store(write_manifest(*lines, {"path": "gone", "duration": 5.5}), tmp_path / "out")
    assert [r["line"] for r in read_json_lines(store / "rejects.jsonl")] == [2, 3, 5]
    totals = json.loads((store / "store.json").read_text())["totals"]
    assert totals["seconds_kept"] == 4.0
    assert totals["seconds_rejected"] == 2.0 + 5.5  # the first by its header
    assert totals["seconds_in"] == 11.5


def test_a_store_that_is_replaced_may_have_rejects(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    speech(tmp_path / "a.wav", 2.0)
    manifest, out = write_manifest({"path": "a.wav"}, {"path": "gone"}), tmp_path / "out"
    arguments = ["--data_dir", manifest, "--output_dir", out, "--max_reject_fraction", 1]
    arguments += ["--num_workers", 1, "--overwrite"]
    done = run_gmmpipe("featurize", *arguments)
    assert "rejects: 1 of 2 lines" in done.stderr
    assert [r["line"] for r in read_json_lines(out / "rejects.jsonl")] == [2]
