"""``gmmpipe manifest`` says what sources hold, and writes them as one plain manifest."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from gmmpipe import FeatureStore
from helpers.making import CORPUS, compressed_corpus, make_store
from helpers.results import read_json_lines

Invoke = Callable[..., Result]
BAD = ('{"path": "a.wav", "id": "n"', '{"id": "n"}', '{"path": "a.wav", "start": -1, "id": "n"}')


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of two compressed manifests, of good lines and bad ones, and another file."""
    corpus = (CORPUS / "manifest.jsonl").read_text().splitlines()
    good = [{**json.loads(line), "audio_filepath": ""} for line in corpus[:12]]
    for number in (3, 4, 5):
        good[number].update(offset=0.25, duration=0.5)
    good[6].update(id="n", channel=0)
    lines = [*map(json.dumps, good[:4]), "", *BAD, *map(json.dumps, good[4:7])]
    data = tmp_path / "mixed"
    data.mkdir()
    (data / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (data / "b.ndjson").write_text("\n".join(map(json.dumps, good[7:])))
    (data / "notes.txt").touch()
    return data


def said(result: Result) -> list[dict[str, Any]]:
    sources: list[dict[str, Any]] = json.loads(result.stdout)["sources"]
    return sources


def test_sources_as_json(mixed: Path, tmp_path: Path, invoke: Invoke) -> None:
    corpus, other = said(invoke("manifest", f"{compressed_corpus(tmp_path)},{mixed}", "--json"))
    assert corpus.pop("source") == str(tmp_path / "manifest.jsonl.gz")
    first = corpus.pop("first")
    assert corpus == {
        "kind": "jsonl",
        "manifests": 1,
        "lines": 56,
        "utterances": 56,
        "stated": 56,
        "hours": 0.04768,
        "passed_over_files": {},
        "passed_over_lines": {},
    }
    assert [example["line"] for example in first] == [1, 2, 3]
    assert first[0] == {
        "key": "0000000001-001",
        "manifest": "manifest.jsonl.gz",
        "line": 1,
        "path": str(tmp_path / "en-cards/001.flac"),
        "offset_seconds": None,
        "duration_seconds": 1.095375,
        "channel": None,
    }
    assert (other["manifests"], other["lines"], other["utterances"]) == (2, 15, 11)
    assert other["first"][2]["key"] == "0000000059-003"
    assert other["passed_over_files"] == {".txt": 1}
    # The line without a usable time has the id first, so that it is what the later one repeats.
    assert other["passed_over_lines"] == {
        "bad_json": 1,
        "bad_offset": 1,
        "duplicate_id": 1,
        "missing_path": 1,
    }


def test_sources_as_lines(mixed: Path, invoke: Invoke) -> None:
    (mixed / "b.ndjson").write_text('{"path": "x.wav", "offset": 1.5, "channel": "1"}\n')
    lines = invoke(
        "manifest", f"{mixed}/{{b.ndjson,a.jsonl.gz}}", "--base_path", "/data"
    ).stdout.splitlines()
    assert lines[:5] == [
        f"source: {mixed}/{{b.ndjson,a.jsonl.gz}}",
        *("kind: jsonl", "manifests: 2", "lines: 11", "utterances: 7"),
    ]
    assert lines[5].startswith("hours: 0.00")
    assert lines[5].endswith(", stated by 6 utterances")
    assert lines[6] == "first: b.ndjson line 1: 0000000001-x: /data/x.wav, from 1.5 s, channel 1"
    assert lines[9:] == [
        "lines passed over: 1 bad_json, 1 bad_offset, 1 duplicate_id, 1 missing_path"
    ]


def test_what_it_writes_has_absolute_paths_whatever_is_given(
    tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.jsonl").write_text('{"path": "a.wav"}\n{"path": "/b.wav"}\n')
    for options, folder in (((), tmp_path), (("--base_path", "audio"), tmp_path / "audio")):
        invoke("manifest", "m.jsonl", "--output", "o/o.jsonl", *options)
        paths = [line["wav_path"] for line in read_json_lines(Path("o/o.jsonl"))]
        assert paths == [str(folder / "a.wav"), "/b.wav"]


def test_what_a_terminal_would_obey_is_escaped(tmp_path: Path, invoke: Invoke) -> None:
    names = [r"\u001b[31m\n", "\\ud800", "é"]
    (tmp_path / "m.jsonl").write_text("\n".join(f'{{"path": "/{name}.wav"}}' for name in names))
    lines = invoke("manifest", tmp_path / "m.jsonl").stdout.splitlines()
    paths = [line.rpartition(": ")[2] for line in lines if line.startswith("first: ")]
    assert paths == [r"/\x1b[31m\n.wav", r"/\ud800.wav", "/é.wav"]


def stored(store: Path) -> dict[str, tuple[bytes, float]]:
    """Each utterance's frames, and where in its file they begin, by key."""
    return {
        utt.key: (utt.features.numpy().tobytes(), utt.metadata["offset"])
        for utt in FeatureStore.open(store).utterances()
    }


def test_what_it_writes_gives_the_same_frames(mixed: Path, tmp_path: Path, invoke: Invoke) -> None:
    output = tmp_path / "elsewhere" / "all.jsonl"
    options = ("--base_path", CORPUS, "--output", output)
    (source,) = said(invoke("manifest", mixed, *options, "--json"))
    assert len(output.read_bytes().split(b"\n")) == 16 + 1
    lines = [json.loads(line) for line in output.read_bytes().split(b"\n") if line]
    assert len(lines) == source["utterances"] == 11
    assert all(Path(line["wav_path"]).is_file() for line in lines)
    # Crops lie where the key says: a line without an id has its number over all lines in it.
    short = {"max_seconds": 0.4, "shuffle": False}
    before = make_store(mixed, tmp_path / "before", base_path=CORPUS, **short)
    after = make_store(output, tmp_path / "after", **short)
    assert stored(before) == stored(after)
    assert len(stored(after)) == 11
    reasons = sorted(reject["reason"] for reject in read_json_lines(before / "rejects.jsonl"))
    assert reasons == sorted(source["passed_over_lines"])


@pytest.mark.parametrize(
    ("sources", "options", "status", "message"),
    [
        ("none", (), 1, "error: none: no such manifest or folder"),
        ("mixed/notes.txt", (), 1, "error: mixed/notes.txt: neither a folder nor a .jsonl file"),
        ("bad.jsonl", (), 1, "error: bad.jsonl: no line names an utterance (1 bad_json, 1 missing"),
        ("bad.jsonl", ("--output", "o.jsonl"), 1, "error: bad.jsonl: no line names an utterance ("),
        ("empty.jsonl", (), 1, "error: empty.jsonl: no line names an utterance"),
        ("torn.jsonl.gz", ("--output", "o.jsonl"), 1, "torn.jsonl.gz: damaged: "),
        ("good.jsonl", ("--output", "good.jsonl"), 2, "is one of the manifests that are read"),
        (".", ("--output", "o.jsonl"), 2, "lies in a folder that is read as a source"),
        (
            "good.jsonl",
            ("--output", "mixed/../good.jsonl"),
            2,
            "one of the manifests that are read",
        ),
        ("mixed", ("--output", "link/o.jsonl"), 2, "lies in a folder that is read as a source"),
        ("good.jsonl", ("--output", "o.json"), 2, "o.json does not end in .jsonl"),
        ("good.jsonl", ("--source_kind", "tape"), 2, "'tape' is not one of 'auto', 'jsonl'"),
        (" , ", (), 2, "no path is given"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    sources: str,
    options: tuple[str, ...],
    status: int,
    message: str,
    mixed: Path,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(mixed.parent)
    Path("good.jsonl").write_text('{"path": "a.wav"}\n')
    Path("bad.jsonl").write_text("\n".join(BAD[:2]))
    Path("empty.jsonl").touch()
    Path("link").symlink_to("mixed")
    Path("torn.jsonl.gz").write_bytes(gzip.compress(b'{"path": "a.wav"}\n' * 99)[:-8])
    there = {path.name for path in Path().iterdir()}
    result = invoke("manifest", sources, *options, status=status)
    assert result.stdout == ""
    assert message in " ".join(result.stderr.split())
    if status == 1:
        assert len(result.stderr.splitlines()) == 1
    assert {path.name for path in Path().iterdir()} == there
