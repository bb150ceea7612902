"""One JSON of recordings with segments: fields, damage, and memory that does not grow."""

import gzip
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gmmpipe.errors import ManifestError
from gmmpipe.sources import json_stream
from gmmpipe.sources.audios_json import AudiosJson
from gmmpipe.sources.find import find_manifests, find_sources
from gmmpipe.sources.utterance import ParsedLine
from helpers.kinds.audios_json import document_of
from helpers.kinds.made import corpus_lines
from helpers.making import make_store
from helpers.results import read_json_lines


def written(folder: Path, document: Any, name: str = "Corpus.json", **options: Any) -> Path:
    path = folder / name
    content = json.dumps(document, **options).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def lines_of(path: Path, passed_over: Counter[str] | None = None) -> list[Any]:
    counts = Counter[str]() if passed_over is None else passed_over
    return [json.loads(line) for line in AudiosJson().translate(path, counts)]


@pytest.mark.parametrize("name", ["Corpus.json", "Corpus.json.gz"])
@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"separators": (",", ":")}])
def test_what_a_segment_says(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, document_of(corpus_lines(2)), name, **options)
    assert [manifest.kind for manifest in find_manifests(str(path))] == ["audios_json"]
    lines = lines_of(path)
    assert len(lines) == 4
    assert lines[1] == {
        "wav_path": corpus_lines(2)[0]["wav_path"],
        "sid": "utterance-00_S0000001",
        "begin_time": 0.25,
        "end_time": 0.875,
        "text_tn": "WHAT utterance-00 SAYS <PERIOD>",
        "speaker": "speaker-1",
        "subsets": ["{XL}", "{L}"],
        "aid": "utterance-00",
        "category": "News",
        "language": "EN",
        "source": "podcast",
    }
    utterance = ParsedLine(json.dumps(lines[1]).encode()).utterance(1)
    assert (utterance.key, utterance.offset_seconds) == ("utterance-00_S0000001", 0.25)
    assert utterance.duration_seconds == 0.625


def test_wenetspeech(tmp_path: Path) -> None:
    """Its text may be anything; its language is stated nowhere."""
    segment = {"sid": "Y1_S00000", "confidence": 1.0, "begin_time": 0.5, "end_time": 1.5}
    segment |= {"subsets": ["L", "M"], "text": "怎么样这些日子住得还习惯吧"}
    audio = {"aid": "Y1", "duration": 9.0, "md5": "0", "path": "audio/train/Y1.opus"}
    audio |= {"segments": [segment], "tags": ["drama"], "url": "https://x.y/z", "source": "youtube"}
    path = tmp_path / "WenetSpeech.json"
    path.write_text(json.dumps({"audios": [audio]}, ensure_ascii=False), encoding="utf-8-sig")
    (line,) = lines_of(path)
    expected = {**segment, "aid": "Y1", "source": "youtube", "wav_path": "audio/train/Y1.opus"}
    assert line == expected


def test_what_is_no_segment_is_a_reject_or_counted(tmp_path: Path) -> None:
    document = document_of(corpus_lines(2))
    first, second = document["audios"]
    deep = json.loads("[" * 600 + "]" * 600)
    first["segments"] += [7, {"sid": "x", "begin_time": -1, "end_time": 2.0}, {"deep": deep}]
    first["segments"].append({"begin_time": float("nan"), "end_time": 2.0})
    del second["path"]
    document["audios"] += ["audio", {"segments": []}, {"path": "a.wav"}, None]
    path = written(tmp_path, document)
    passed_over = Counter[str]()
    assert len(lines_of(path, passed_over)) == 10
    assert passed_over == {"audio without segments": 2}
    store = make_store(path, tmp_path / "store", max_reject_fraction=1.0)
    rejects = read_json_lines(store / "rejects.jsonl")
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [
        (3, "bad_json"),
        (4, "bad_offset"),
        (5, "bad_json"),
        (6, "bad_offset"),
        (7, "missing_path"),
        (8, "missing_path"),
        (9, "bad_json"),
        (10, "bad_json"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"audios": [{"path": "a.wav", "segments": []}, {"pa', "Unterminated string"),
        (b'{"audios": [{"path": "a.wav", "segments": []}', "no end of a value"),
        (b'{"audios": [{} {}]}', "no ] where one is due"),
        (b'{"audios": [{}', "no end of a value"),
        (b'{"audios": []', "no } where one is due"),
        (b'{"audios": []} {"audios": []}', "more behind the end"),
        (b'{"audios": [], 7: 8}', "a name that is no string|no : where one is due"),
        (b'{"audios": [], "x": 12', "no end of a value"),
        (b'{"audios": ["\xff"]}', "no UTF-8"),
        (b'{"audios": [' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_damage_is_an_error_of_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "Corpus.json"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message) as caught:
        lines_of(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_parts_may_end_anywhere(size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    document = {"n": 12345, "f": -1.5e3, "audios": document_of(corpus_lines(2))["audios"]}
    document["audios"][0]["segments"][0]["text_tn"] = '怎么样 "[{,}]" \\ é'
    path = tmp_path / "Corpus.json"
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    expected = lines_of(path)
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", size)
    assert lines_of(path) == expected


@pytest.mark.parametrize(
    "document",
    [
        {"audios": {}},
        {"audio": []},
        {"path": "a.wav", "other": 1},
        [],
        {"a": "x" * (3 << 20), "audios": []},
    ],
)
def test_other_documents_are_no_such_source(document: Any, tmp_path: Path) -> None:
    assert AudiosJson().find(written(tmp_path, document)) is None


def test_a_folder_is_read_by_such_a_document_and_not_by_its_audio(tmp_path: Path) -> None:
    written(tmp_path, document_of(corpus_lines(2)))
    written(tmp_path, {"version": 1}, "other.json")
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(b"")
    (source,) = find_sources(str(tmp_path))
    names = [(manifest.kind, manifest.name) for manifest in source.manifests]
    assert names == [("audios_json", "Corpus.json")]
    assert source.passed_over == ["other.json"]


def test_memory_does_not_grow_with_the_document(tmp_path: Path) -> None:
    """13 MB are read within a few MB: a recording of them and a part of the text."""
    (audio,) = document_of(corpus_lines(1))["audios"]
    audio["segments"] *= 100
    path = written(tmp_path, {"audios": [audio] * 400})
    size = path.stat().st_size
    assert size > 10 << 20
    tracemalloc.start()
    try:
        count = sum(1 for _ in AudiosJson().translate(path, Counter()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 80_000
    assert peak < 6 << 20


def test_a_recording_of_boundless_length_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(json_stream, "_LONGEST_VALUE", 1 << 12)
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 1 << 8)
    (audio,) = document_of(corpus_lines(1))["audios"]
    audio["segments"] *= 100
    with pytest.raises(ManifestError, match="or more than 4096 characters"):
        lines_of(written(tmp_path, {"audios": [audio]}))
