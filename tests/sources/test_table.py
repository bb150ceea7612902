"""Tables: what their cells become, how they are told apart, and what is wrong with them."""

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gmmpipe import FeatureStore
from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources.find import find_manifests, find_sources
from gmmpipe.sources.lines import read_lines
from gmmpipe.sources.manifest import Manifest
from gmmpipe.sources.utterance import ParsedLine
from helpers.making import CORPUS, make_store
from helpers.results import read_json_lines

SPEECH = CORPUS / "en-cards" / "001.flac"
COMMON_VOICE = b"client_id\tpath\tsentence\tup_votes\tage\n"


def lines_of(manifest: Manifest) -> dict[int, Any]:
    """What is on each line that is not blank, by its number."""
    lines = enumerate(read_lines(manifest), start=1)
    return {number: json.loads(raw) for number, (_, raw) in lines if raw != b"\n"}


def table(path: Path, content: bytes, kind: str = "auto") -> dict[int, Any]:
    """The lines of a table of this content."""
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    (manifest,) = find_manifests(str(path), kind)
    assert manifest.kind == "table"
    return lines_of(manifest)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"path,id,text\na.wav,x,hello\nb.wav,y,\n"),
        ("t.CSV", b"path,id,text\na.wav,x,hello\nb.wav,y,\n"),
        ("t.csv", b"\xef\xbb\xbfpath,id,text\r\na.wav,x,hello\r\nb.wav,y,\r\n"),
        ("t.csv", b'"path","id","text"\n"a.wav","x","hello"\n"b.wav","y",""'),
        ("t.csv", b"path;id;text\na.wav;x;hello\nb.wav;y;\n"),
        ("t.csv", b"path|id|text\na.wav|x|hello\nb.wav|y|\n"),
        ("t.csv", b"path\tid\ttext\na.wav\tx\thello\nb.wav\ty\t\n"),
        ("t.csv.gz", b" path , id,text\na.wav,x,hello\nb.wav,y,,,\n"),
        ("t.tsv", b"path\tid\ttext\na.wav\tx\thello\nb.wav\ty\t\n"),
        ("t.tsv.gz", b"path\tid\ttext\r\na.wav\tx\thello\r\nb.wav\ty\t\r\n"),
        ("t.tsv", b'"path"\t"id"\t"text"\n"a.wav"\t"x"\t"hello"\n"b.wav"\t"y"\t""\n'),
        ("t.tsv", b"\tpath\tid\ttext\n0\ta.wav\tx\thello\n1\tb.wav\ty\t\n"),
    ],
)
def test_columns_are_the_fields_of_a_manifest(name: str, content: bytes, tmp_path: Path) -> None:
    assert table(tmp_path / name, content) == {
        2: {"path": "a.wav", "id": "x", "text": "hello"},
        3: {"path": "b.wav", "id": "y", "text": ""},
    }


def test_a_row_of_several_lines_has_the_number_of_its_first(tmp_path: Path) -> None:
    content = b'path,text\na.wav,"two\nlines, and ""quotes"""\n\n   \nb.wav,one\n'
    lines = table(tmp_path / "t.csv", content)
    assert lines[2] == {"path": "a.wav", "text": 'two\nlines, and "quotes"'}
    assert lines[6] == {"path": "b.wav", "text": "one"}
    assert lines.keys() <= {2, 5, 6}


def test_quotes_of_a_tsv_are_plain_characters(tmp_path: Path) -> None:
    content = COMMON_VOICE + b'c\ta.mp3\t"Yes," she said.\t2\t\nc\tb.mp3\t"No.\t2\t\n'
    lines = table(tmp_path / "t.tsv", content)
    assert [line["sentence"] for line in lines.values()] == ['"Yes," she said.', '"No.']


def test_segments_channels_and_ids_of_a_table_are_those_of_a_manifest(tmp_path: Path) -> None:
    content = b"audio,start,end,channel,utt_id\ntalk.wav,1.5,4,1,7\ntalk.wav,9,8,0,8\nt.wav,,,,\n"
    lines = [json.dumps(line).encode() for line in table(tmp_path / "t.csv", content).values()]
    utterance = ParsedLine(lines[0]).utterance(1)
    assert (utterance.offset_seconds, utterance.duration_seconds) == (1.5, 2.5)
    assert (utterance.channel, utterance.id) == (1, "7")
    with pytest.raises(AudioError, match="bad_offset"):
        ParsedLine(lines[1]).utterance(2)
    utterance = ParsedLine(lines[2]).utterance(3)
    assert (utterance.offset_seconds, utterance.channel, utterance.id) == (None, None, None)


def test_bad_rows_are_rejects_of_their_lines(tmp_path: Path) -> None:
    shutil.copy(SPEECH, tmp_path / "a.flac")
    (tmp_path / "t.tsv").write_bytes(
        b"path\ttext\na.flac\tgood\na.flac\ttoo\tmany\ncaf\xe9.flac\tlatin-1\n\tno path\n"
        b"a\0.flac\tNUL\npipe:cat a.flac\tcommand\ngone.flac\na.flac\n"
    )
    store = make_store(tmp_path / "t.tsv", tmp_path / "store")
    assert {u.metadata["line"] for u in FeatureStore.open(store).utterances()} == {2, 9}
    rejects = read_json_lines(store / "rejects.jsonl")
    assert [reject["detail"] for reject in rejects[:2]] == [
        "a row of 3 cells under a header of 2",
        "a row that is not UTF-8",
    ]
    assert {reject["line"]: reject["reason"] for reject in rejects} == {
        3: "bad_json",
        4: "bad_json",
        5: "missing_path",
        6: "unsafe_path",
        7: "unsafe_path",
        8: "not_found",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'path,text\na.wav,"never closed\nb.wav,x\n', "line 2: a quote that is not closed"),
        (b"path,text\na.wav,x\nb.wav," + b"y" * 200_000, "line 3: field larger than"),
        (b"path,path\na.wav,x\n", "two columns have the name path"),
        (b"path,text\na.wav,x\rb.wav,y\n", "line 2: new-line character"),
    ],
)
def test_a_broken_table_is_named_with_its_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=f"t.csv: {message}"):
        table(tmp_path / "t.csv", content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b""),
        ("t.csv", b"\n"),
        ("t.csv", b"a.wav,hello\n"),
        ("t.csv", "path,text\na.wav,x\n".encode("utf-16")),
        ("t.csv", b"\x00\xff" * 5000),
        ("t.tsv", b"path,text\na.wav,x\n"),
        ("t.tsv", b"sentence_id\tsentence\n1\thello\n"),
        ("t.txt", b"path\ttext\na.wav\tx\n"),
        ("t.csv", b'"' + b"x" * 200_000),
    ],
)
def test_what_is_no_table_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=r"nor another source: .*table \(a \.csv or \.tsv"):
        find_manifests(str(tmp_path / name))


def test_a_damaged_gz_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"path\n" + b"a.wav\n" * 9)[:-12])
    with pytest.raises(ManifestError, match=r"t\.csv\.gz: damaged"):
        lines_of(find_manifests(str(tmp_path / "t.csv.gz"))[0])


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of Common Voice whose first clip is missing."""
    (tmp_path / "clips").mkdir()
    shutil.copy(SPEECH, tmp_path / "clips" / "b.mp3")
    return tmp_path


ROWS = COMMON_VOICE + b"c\ta.mp3\thi\t2\t\nc\tb.mp3\tho\t2\t\nc\tclips/c.mp3\t\t\t\nc\t\t\t\t\n"


def test_clips_of_common_voice_are_looked_for_where_they_lie(clips: Path) -> None:
    def paths() -> list[str]:
        return [line["path"] for line in table(clips / "train.tsv", ROWS).values()]

    assert paths() == ["clips/a.mp3", "clips/b.mp3", "clips/c.mp3", ""]
    shutil.copy(SPEECH, clips / "b.mp3")
    assert paths() == ["a.mp3", "b.mp3", "clips/c.mp3", ""]
    shutil.rmtree(clips / "clips")
    assert paths() == ["a.mp3", "b.mp3", "clips/c.mp3", ""]


def test_tables_of_one_folder_of_common_voice_are_not_read_together(clips: Path) -> None:
    (clips / "clip_durations.tsv").write_bytes(b"clip\tduration[ms]\na.mp3\t7\n")
    (clips / "train.tsv").write_bytes(ROWS)
    (source,) = find_sources(str(clips))
    assert [manifest.name for manifest in source.manifests] == ["train.tsv"]
    assert source.passed_over == ["clip_durations.tsv"]
    (clips / "validated.tsv").write_bytes(ROWS)
    with pytest.raises(ManifestError, match=r"more than once: name one of train\.tsv, validated"):
        find_manifests(str(clips))
    assert find_manifests(str(clips / "validated.tsv"))[0].kind == "table"
    assert find_manifests(str(clips), "folder")[0].kind == "folder"


def test_a_folder_of_tables_is_read_in_order_but_after_manifests(tmp_path: Path) -> None:
    shutil.copy(SPEECH, tmp_path / "a.flac")
    for name in ("b.csv", "a.tsv", "notes.txt"):
        (tmp_path / name).write_text("path\na.flac\n")
    (source,) = find_sources(str(tmp_path))
    assert [(m.kind, m.name) for m in source.manifests] == [("table", "a.tsv"), ("table", "b.csv")]
    assert source.passed_over == ["a.flac", "notes.txt"]
    (tmp_path / "m.jsonl").write_text('{"path": "a.flac"}\n')
    assert [m.kind for m in find_manifests(str(tmp_path))] == ["jsonl"]
    assert [m.kind for m in find_manifests(str(tmp_path), "table")] == ["table", "table"]


def test_vox_populi_and_mls_name_their_audio_by_the_id(tmp_path: Path) -> None:
    header = b"id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\n"
    row = b"20140121-0900-PLENARY-9-de_20140121-10:32:41_8\tJa\tja\t33\ttrain\tmale\n"
    lines = table(tmp_path / "asr_train.tsv", header + row + b"\tx\ty\t\t\t\n")
    identifier = "20140121-0900-PLENARY-9-de_20140121-10:32:41_8"
    assert lines[2]["wav_path"] == f"2014/{identifier}.ogg"
    assert (lines[2]["id"], lines[2]["speaker_id"]) == (identifier, "33")
    assert "wav_path" not in lines[3]
    lines = table(tmp_path / "transcripts.txt", b"1_2_000003\tein text\r\n\nno id\n")
    assert lines == {
        1: {
            "wav_path": "audio/1/2/1_2_000003.flac",
            "id": "1_2_000003",
            "speaker": "1",
            "text": "ein text",
        },
        3: {"gmmpipe_refusal": ["bad_json", "no id of MLS before a tab"]},
    }
    os.makedirs(tmp_path / "audio" / "1" / "2")
    shutil.copy(SPEECH, tmp_path / "audio" / "1" / "2" / "1_2_000003.opus")
    lines = table(tmp_path / "transcripts.txt", b"1_2_000003\tein text\n")
    assert lines[1]["wav_path"].endswith(".opus")
    with pytest.raises(ManifestError, match="nor another source"):
        table(tmp_path / "transcripts.txt", b"a transcript of something else\n")
