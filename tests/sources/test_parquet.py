"""Parquet files: what becomes of their columns, which bytes are read, and what is refused."""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from gmmpipe import FeatureStore
from gmmpipe.audio.member import Member
from gmmpipe.audio.opener import open_audio
from gmmpipe.audio.parquet_file import AudioParquet
from gmmpipe.audio.parquet_rows import _Reader, open_row
from gmmpipe.audio.waveform import Limit, load_waveform
from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources.find import find_manifests
from gmmpipe.sources.parquet import Parquet
from helpers.kinds.made import corpus_lines
from helpers.kinds.parquets import AUDIO, write_parquet
from helpers.making import make_store
from helpers.processes import ROOT, one_thread, run_gmmpipe

LIMIT = Limit(30.0)


def audio(number: int = 0) -> dict[str, Any]:
    path = Path(corpus_lines()[number]["wav_path"])
    return {"bytes": path.read_bytes(), "path": path.name}


def cells(count: int) -> list[dict[str, Any]]:
    """Cells that are no audio, but unlike each other."""
    draw = np.random.default_rng(0)
    return [{"audio": {"bytes": draw.bytes(3000 + n), "path": f"{n}.wav"}} for n in range(count)]


def translated(path: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    passed_over = Counter[str]()
    return [json.loads(line) for line in Parquet().translate(path, passed_over)], passed_over


def test_plain_columns_are_carried_and_others_passed_over(tmp_path: Path) -> None:
    row = {
        "audio": audio(),
        "id": "a",
        "text": "café",
        "snr": float("nan"),
        "age": 7,
        "is_native": True,
        "accent": None,
        "words": ["a", "b"],
    }
    path = write_parquet(tmp_path / "a.parquet", [row, {**row, "id": "b", "accent": "gb"}])
    lines, passed_over = translated(path)
    first = {"audio_path": row["audio"]["path"], "wav_path": "a.parquet#0", "id": "a"}
    start, count = lines[0].pop("archive_range")
    assert lines[1].pop("archive_range") == [start, count]
    assert row["audio"]["bytes"][:4] in path.read_bytes()[start : start + count]
    assert lines[0] == {**first, "text": "café", "age": 7, "is_native": True}
    assert lines[1]["accent"] == "gb"
    assert passed_over == {"column words": 1}


def test_times_in_a_longer_recording_are_no_segment_of_the_row(tmp_path: Path) -> None:
    row = {"audio": audio(), "id": "a", "begin_time": 410.5, "end_time": 420.0, "duration": None}
    write_parquet(tmp_path / "a.parquet", [row])
    store = FeatureStore.open(make_store(tmp_path / "a.parquet", tmp_path / "store"))
    (utterance,) = store.utterances()
    assert utterance.metadata["times_in_source"] == {"begin_time": 410.5, "end_time": 420.0}
    assert utterance.metadata["offset"] == 0.0
    assert utterance.metadata["wav_path"] == "a.parquet#0"


def test_a_row_without_bytes_names_a_file(tmp_path: Path) -> None:
    lines = corpus_lines()
    name = os.path.relpath(lines[1]["wav_path"], tmp_path)
    only_path, nothing = {"bytes": None, "path": name}, {"bytes": None, "path": None}
    rows = [{"audio": audio(0)}, {"audio": only_path}, {"audio": nothing}, {"audio": None}]
    write_parquet(tmp_path / "mixed.parquet", [{**row, "id": str(n)} for n, row in enumerate(rows)])
    write_parquet(tmp_path / "paths.parquet", [{"audio": only_path, "id": "1", "start": 0.5}])
    (line,), _ = translated(tmp_path / "paths.parquet")
    assert line == {"wav_path": name, "id": "1", "start": 0.5}
    mixed = make_store(tmp_path / "mixed.parquet", tmp_path / "store")
    assert [u.key for u in FeatureStore.open(mixed).utterances()] == ["0", "1"]
    rejects = [json.loads(line) for line in (mixed / "rejects.jsonl").read_text().splitlines()]
    assert [(r["path"], r["reason"]) for r in rejects] == [
        ("mixed.parquet#2", "missing_path"),
        ("mixed.parquet#3", "missing_path"),
    ]
    expected = load_waveform(lines[1]["wav_path"], 16000, LIMIT).samples
    row = Member(str(tmp_path / "mixed.parquet"), "1")
    assert load_waveform(row, 16000, LIMIT).samples.equal(expected)


def test_translation_reads_no_bytes_of_audio(tmp_path: Path) -> None:
    rows = [{**cell, "id": str(n)} for n, cell in enumerate(cells(40))]
    path = write_parquet(tmp_path / "a.parquet", rows, row_group_size=10, compression="none")
    before, _ = translated(path)
    content = path.read_bytes()
    for row in rows:
        content = content.replace(row["audio"]["bytes"], bytes(len(row["audio"]["bytes"])))
    path.write_bytes(content)
    assert translated(path)[0] == before
    assert len(before) == 40


def test_audio_of_another_size_gives_other_lines(tmp_path: Path) -> None:
    rows = [{**cell, "id": str(n)} for n, cell in enumerate(cells(4))]
    before, _ = translated(write_parquet(tmp_path / "a.parquet", rows))
    rows[2]["audio"]["bytes"] += b"more"
    after, _ = translated(write_parquet(tmp_path / "a.parquet", rows))
    assert [line["id"] for line in after] == [line["id"] for line in before]
    assert after != before


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd"},
        {"data_page_version": "2.0", "row_group_size": 7},
        {"write_page_index": True, "data_page_size": 4000, "write_batch_size": 1},
        {"use_dictionary": False, "write_page_checksum": True},
        {"write_statistics": False},
    ],
    ids=str,
)
def test_rows_are_read_in_any_order(options: dict[str, Any], tmp_path: Path) -> None:
    rows = cells(30)
    path = write_parquet(tmp_path / "a.parquet", rows, **options)
    reader = _Reader()
    for number in [*range(30), 3, 29, 4, 4, 20, 10, 11]:
        content, _ = reader.row(str(path), str(number))
        assert bytes(content) == rows[number]["audio"]["bytes"]
    parquet = AudioParquet(path)
    largest = parquet.largest_page_bytes(0, ["audio.bytes"])
    parquet.close()
    assert 3000 < largest < 31 * 3100


@pytest.mark.parametrize("name", ["30", "-1", "1.0", "", "x", "٣", "9" * 40])
def test_a_row_that_is_not_there_is_a_reject(name: str, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", cells(30))
    with pytest.raises(AudioError, match="not_found: its parquet file: no such row"):
        open_row(Member(str(path), name))


def test_a_manifest_may_name_a_row(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"audio": audio(0)}, {"audio": audio(1)}])
    (tmp_path / "m.jsonl").write_text('{"wav_path": "a.parquet#1", "id": "x"}\n')
    (utterance,) = FeatureStore.open(
        make_store(tmp_path / "m.jsonl", tmp_path / "store")
    ).utterances()
    assert utterance.key == "x"
    with open_audio(corpus_lines()[1]["wav_path"]) as file:
        assert utterance.metadata["num_samples"] == file.frames


def test_huge_pages_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = {"bytes": bytes(20_000_000), "path": "huge.wav"}
    rows = [{"audio": audio(), "id": "good"}, {"audio": huge, "id": "huge"}]
    path = write_parquet(tmp_path / "a.parquet", rows, row_group_size=1, compression="zstd")
    monkeypatch.setattr("gmmpipe.audio.parquet_rows.MOST_PAGE_BYTES", 10_000_000)
    store = make_store(path, tmp_path / "store")
    assert [u.key for u in FeatureStore.open(store).utterances()] == ["good"]
    (reject,) = (store / "rejects.jsonl").read_text().splitlines()
    assert json.loads(reject)["reason"] == "undecodable"
    assert "a page of 20000" in json.loads(reject)["detail"]
    texts = [{"audio": audio(), "text": "a" * 70_000_000}]
    path = write_parquet(tmp_path / "b.parquet", texts, compression="zstd")
    with pytest.raises(ManifestError, match=r"b.parquet: a page of 7\d+ bytes of text"):
        translated(path)


@pytest.mark.parametrize("name", ["cut.parquet", "text.parquet", "empty.parquet"])
def test_what_is_no_parquet_file_is_named(name: str, tmp_path: Path) -> None:
    whole = write_parquet(tmp_path / "a.parquet", cells(30)).read_bytes()
    content = {"cut.parquet": whole[:-100], "text.parquet": b"text " * 100, "empty.parquet": b""}
    (tmp_path / name).write_bytes(content[name])
    done = run_gmmpipe("manifest", tmp_path / name, check=False)
    assert done.returncode == 1
    assert f"{name}: damaged: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_without_one_column_of_audio_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(ManifestError, match=r"text.parquet: no column of audio"):
        translated(tmp_path / "text.parquet")
    kinds = pa.schema([("clean", AUDIO), ("noisy", AUDIO)])
    pq.write_table(pa.Table.from_pylist([], kinds), tmp_path / "two.parquet")
    with pytest.raises(ManifestError, match=r"several columns of audio.*clean, noisy"):
        translated(tmp_path / "two.parquet")


def test_damage_is_said_in_a_line_or_passes(tmp_path: Path) -> None:
    rows = [{**cell, "id": str(n)} for n, cell in enumerate(cells(12))]
    whole = write_parquet(tmp_path / "a.parquet", rows, row_group_size=4).read_bytes()
    draw = np.random.default_rng(1)
    for number in range(150):
        damaged = bytearray(whole)
        reach = 3000 if draw.random() < 0.7 else len(whole)
        for at in draw.integers(0, reach, size=draw.integers(1, 8)):
            damaged[-1 - at] = draw.integers(256)
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(damaged)
        try:
            list(Parquet().translate(path, Counter()))
        except ManifestError as error:
            assert "\n" not in str(error)  # noqa: PT017
        for row in range(12):
            try:
                os.close(open_row(Member(str(path), str(row))))
            except AudioError as error:
                assert "\n" not in error.detail  # noqa: PT017


def test_text_that_is_not_utf8_is_replaced(tmp_path: Path) -> None:
    text = pa.array([b"caf\xe9", b"b"]).view(pa.string())
    table = pa.table({"audio": pa.array([audio(0), audio(1)], AUDIO), "text": text})
    pq.write_table(table, tmp_path / "a.parquet")
    lines, _ = translated(tmp_path / "a.parquet")
    assert [line["text"] for line in lines] == ["caf\ufffd", "b"]


def test_of_a_folder_the_topmost_files_are_read(tmp_path: Path) -> None:
    for name in ("deep/en/b.parquet", "deep/a.parquet", "deep/.hidden.parquet", "deep/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [m.name for m in find_manifests(str(tmp_path / "deep"))] == ["a.parquet"]
    (found,) = find_manifests(str(tmp_path))
    assert found.name == "deep/a.parquet"
    assert found.kind == "parquet"
    assert Parquet().find(tmp_path).passed_over == ["deep/.hidden.parquet", "deep/x.txt"]


def test_without_pyarrow_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"audio": audio()}])
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "pyarrow.py").write_text("raise ImportError('none here')\n")
    where = os.pathsep.join([str(hidden), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = ("featurize", "--data_dir", path, "--output_dir", tmp_path / "store")
    done = run_gmmpipe(*command, check=False, env={**one_thread(), "PYTHONPATH": where})
    assert done.returncode == 1
    assert done.stderr.endswith('a.parquet: it needs pyarrow: pip install "gmmpipe[parquet]"\n')
    assert "Traceback" not in done.stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(AudioError, match=r"undecodable: .*gmmpipe\[parquet\]"):
        _without_cache(path)


def _without_cache(path: Path) -> None:
    copy = path.with_name("copy.parquet")
    copy.write_bytes(path.read_bytes())
    open_row(Member(str(copy), "0"))


def test_the_survey_counts_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{**cell, "duration": 1.5} for cell in cells(30)])
    done = run_gmmpipe("manifest", tmp_path / "a.parquet", "--json")
    (found,) = json.loads(done.stdout)["sources"]
    assert (found["kind"], found["utterances"], found["hours"]) == ("parquet", 30, 0.0125)


def test_its_rows_can_be_written_as_a_manifest(tmp_path: Path) -> None:
    rows = [{"audio": audio(n), "id": f"u{n}", "text": "a"} for n in range(3)]
    path = write_parquet(tmp_path / "a.parquet", rows)
    manifest = tmp_path / "made" / "m.jsonl"
    run_gmmpipe("manifest", path, "--output", manifest)
    direct, written = (
        FeatureStore.open(make_store(source, tmp_path / name))
        for source, name in ((path, "direct"), (manifest, "written"))
    )
    for one, other in zip(direct.utterances(), written.utterances(), strict=True):
        assert one.key == other.key
        assert one.features.equal(other.features)


def test_rows_of_mp3_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, rate = soundfile.read(corpus_lines()[0]["wav_path"])
    soundfile.write(tmp_path / "a.mp3", samples, rate)
    content = (tmp_path / "a.mp3").read_bytes()
    rows = [{"audio": {"bytes": content, "path": "a.mp3"}, "id": f"{n}"} for n in range(8)]
    path = write_parquet(tmp_path / "a.parquet", rows)
    begun = []
    batches = AudioParquet.batches

    def counted(*arguments: Any, **named: Any) -> Any:
        begun.append(arguments)
        return batches(*arguments, **named)

    monkeypatch.setattr(AudioParquet, "batches", counted)
    for number in range(8):
        with open_audio(Member(str(path), str(number))) as file:
            assert file.format == "MP3"
    assert len(begun) == 1  # one row group, from front to end
