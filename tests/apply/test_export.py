"""`gmmpipe export`: each format as the other side reads it, equal to `assign` in manifest order."""

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import lhotse
import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import torch

from gmmpipe import FeatureStore, GradientGMM, export
from gmmpipe.apply.export_formats import FORMATS
from gmmpipe.apply.label import label
from gmmpipe.apply.options import ExportOptions, LabelOptions
from gmmpipe.errors import GmmpipeError, StoreError
from helpers.damage import flip
from helpers.external import write
from helpers.making import CORPUS, alone, make_store
from helpers.processes import killed_after
from helpers.results import file_bytes

EARLIER = Path(__file__).parent.parent / "store" / "earlier"


def export_here(labels: Path, form: str, out: Path, **options: Any) -> Path:
    """Do what `gmmpipe export` does, within this process."""
    export(ExportOptions(labels=labels, format=form, output_dir=out, **options))
    return out


def label_here(store: Path, gmm: Path, out: Path, **options: Any) -> Path:
    label(LabelOptions(store=store, gmm_path=gmm, output_dir=out, **options), alone())
    return out


@pytest.fixture(scope="module", params=["tar", "zarr"])
def case(request: Any, fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Labels of two manifests with rejects amid, windows, and ids of every kind; what to expect.

    The names are such that the second manifest has lines of lower numbers and keys.
    """
    folder = tmp_path_factory.mktemp(f"export-{request.param}")
    lines = [json.loads(line) for line in (CORPUS / "manifest.jsonl").read_text().splitlines()]
    ids = ["zz", 17, "mit Leer zeichen", "übung", None, "a/b"]
    for number, line in enumerate(lines):
        line.pop("id", None)
        if (name := ids[number % 6]) is not None:
            line["id"] = f"{name}{number}" if isinstance(name, str) else name * 1000 + number
    lines[5]["wav_path"] = lines[40]["wav_path"] = "nowhere.flac"
    texts = [json.dumps(line) + "\n" for line in lines]
    (folder / "z.jsonl").write_text("".join(texts[:30]))
    (folder / "a.jsonl").write_text("".join(texts[30:]))
    both = f"{folder / 'z.jsonl'},{folder / 'a.jsonl'}"
    options = {"base_path": CORPUS, "utterances_per_shard": 16, "format": request.param}
    windows = {"long_audio": "split", "max_seconds": 2.0}
    store = make_store(both, folder / "store", **options, **windows)
    labels = label_here(store, fitted, folder / "labels", top_k=3)
    gmm = GradientGMM.load(fitted)
    utterances = list(FeatureStore.open(store).utterances())
    ordered = sorted(
        utterances,
        key=lambda u: (
            u.metadata.get("ordinal", u.metadata["line"]),
            u.metadata["offset"],
        ),
    )
    assert [u.key for u in utterances] != [u.key for u in ordered]
    assert {u.metadata["wav_path"] for u in ordered} == {
        line["wav_path"] for line in lines if line["wav_path"] != "nowhere.flac"
    }
    paths = [line["wav_path"] for line in lines if line["wav_path"] != "nowhere.flac"]
    assert list(dict.fromkeys(u.metadata["wav_path"] for u in ordered)) == paths
    return labels, ordered, [gmm.assign(u.features).tolist() for u in ordered]


def names_of(ordered: list[Any]) -> list[str]:
    def name(utterance: Any) -> str:
        key, identifier = utterance.key, utterance.metadata["id"]
        number = re.search("-w[0-9]{5}$", key)
        return key if identifier is None else identifier + (number[0] if number else "")

    assert any("-w0000" in u.key for u in ordered)
    return [name(u) for u in ordered]


def test_km_passes_fairseqs_checks(case, tmp_path) -> None:
    labels, ordered, expected = case
    out = export_here(labels, "km", tmp_path / "km", base_path=CORPUS)
    root, *rows = (out / "labels.tsv").read_text().splitlines()
    lines = [line.rstrip() for line in (out / "labels.km").read_text().splitlines()]
    assert len(lines) == len(rows)
    assert [[int(word) for word in line.split()] for line in lines] == expected
    for row, line, utterance in zip(rows, lines, ordered, strict=True):
        path, samples = row.strip().split("\t")
        assert (Path(root) / path).is_file()
        assert path == utterance.metadata["wav_path"]
        assert abs(int(samples) / 16000 - len(line.split()) / 50) <= 0.1
    assert (out / "dict.km.txt").read_text() == "".join(f"{n} 1\n" for n in range(16))
    stated = json.loads((out / "km.json").read_text())
    assert (stated["frame_rate"], stated["num_classes"]) == (50.0, 16)
    assert stated["utterances"] == len(ordered)


def test_km_of_whole_files_names_their_samples(store, fitted, tmp_path, invoke) -> None:
    labels = label_here(store, fitted, tmp_path / "labels")
    out = tmp_path / "km"
    done = invoke(*("export", labels, "--format", "km", "--output_dir", out, "--base_path", CORPUS))
    assert "only a part" not in done.stderr
    root, *rows = (out / "labels.tsv").read_text().splitlines()
    for row in rows:
        path, samples = row.split("\t")
        header = soundfile.info(f"{root}/{path}")  # torchaudio puts the two together so
        if header.samplerate == 16000:
            assert header.frames == int(samples)
    done = invoke("export", labels, "--format", "km", "--output_dir", out, "--base_path", CORPUS)
    assert "is finished already: nothing to do" in done.stderr
    done = invoke("export", labels, "--format", "km", "--output_dir", out, status=1)
    assert "another export is here (base_path differ)" in " ".join(done.stderr.split())
    invoke("export", labels, "--format", "km", "--output_dir", out, "--overwrite")
    assert (out / "labels.tsv").read_text().startswith(".\n")


def test_kaldi_has_one_word_a_name(case, tmp_path) -> None:
    labels, ordered, expected = case
    out = export_here(labels, "kaldi", tmp_path / "kaldi")
    rows = [line.split(" ") for line in (out / "text").read_text().splitlines()]
    assert [[int(word) for word in row[1:]] for row in rows] == expected
    names = zip(names_of(ordered), [u.key for u in ordered], strict=True)
    assert [row[0] for row in rows] == [key if " " in name else name for name, key in names]
    assert len({row[0] for row in rows}) == len(rows)
    counts = dict(line.split() for line in (out / "utt2num_frames").read_text().splitlines())
    assert counts == {row[0]: str(len(row) - 1) for row in rows}


def test_units_are_json_lines(case, tmp_path) -> None:
    labels, ordered, expected = case
    out = export_here(labels, "units", tmp_path / "units")
    rows = [json.loads(line) for line in (out / "units.jsonl").read_text().splitlines()]
    names = names_of(ordered)
    assert rows == [{"id": i, "units": u} for i, u in zip(names, expected, strict=True)]


def test_lhotse_reads_the_cuts_and_their_audio(case, tmp_path) -> None:
    labels, ordered, expected = case
    out = export_here(labels, "lhotse", tmp_path / "cuts", base_path=CORPUS)
    cuts = list(lhotse.load_manifest(out / "cuts.jsonl.gz"))
    assert [cut.id for cut in cuts] == names_of(ordered)
    assert [cut.custom["labels"] for cut in cuts] == expected
    for cut, utterance in zip(cuts[:12], ordered, strict=False):
        audio = cut.load_audio()
        seconds = audio.shape[1] / cut.sampling_rate
        assert seconds == pytest.approx(utterance.metadata["num_samples"] / 16000, abs=1e-3)


def test_parquet_has_the_top_k_too(case, tmp_path) -> None:
    labels, ordered, expected = case
    out = export_here(labels, "parquet", tmp_path / "p")
    table = pyarrow.parquet.read_table(out / "labels.parquet").to_pydict()
    assert table["id"] == names_of(ordered)
    assert table["labels"] == expected
    for ids, probs, single in zip(table["topk_ids"], table["topk_probs"], expected, strict=True):
        assert [of_frame[0] for of_frame in ids] == single
        assert np.array(probs).shape == (len(single), 3)


def test_all_formats_side_by_side_are_the_same_bytes_again(case, tmp_path) -> None:
    for form in FORMATS:
        export_here(case[0], form, tmp_path / "one")
        export_here(case[0], form, tmp_path / "two")
    assert file_bytes(tmp_path / "one") == file_bytes(tmp_path / "two")
    with gzip.open(tmp_path / "one" / "cuts.jsonl.gz") as lines:
        assert len(lines.readlines()) == len(case[1])


def test_many_parts_are_the_same_bytes(case, tmp_path, monkeypatch) -> None:
    one = export_here(case[0], "units", tmp_path / "one")
    monkeypatch.setattr("gmmpipe.apply.export_order._PART_BYTES", 20_000)
    assert file_bytes(export_here(case[0], "units", tmp_path / "many")) == file_bytes(one)


def test_a_damaged_shard_is_named_and_nothing_appears(case, tmp_path, invoke) -> None:
    labels = Path(shutil.copytree(case[0], tmp_path / "labels"))
    flip(labels / "shard-000001.tar", 2000)
    flip(labels / "shard-000001.tar", (labels / "shard-000001.tar").stat().st_size // 2)
    done = invoke(
        *("export", labels, "--format", "units", "--output_dir", tmp_path / "o"), status=1
    )
    assert "shard-000001.tar" in done.stderr
    assert file_bytes(tmp_path / "o") == {}


def test_a_kill_at_any_rename_leaves_an_export_that_a_rerun_makes_whole(case, tmp_path) -> None:
    whole = file_bytes(export_here(case[0], "km", tmp_path / "whole"))
    for operations in range(1, 100):
        out = tmp_path / f"o{operations}"
        killed = killed_after(operations, lambda out=out: export_here(case[0], "km", out))
        export_here(case[0], "km", out)
        assert {n: b for n, b in file_bytes(out).items() if not n.startswith(".")} == whole
        if not killed:
            break
    assert operations > 6


def test_what_no_export_made_is_left_alone(case, tmp_path) -> None:
    (tmp_path / "text").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="text: in the way"):
            export_here(case[0], "kaldi", tmp_path, overwrite=overwrite)
    assert (tmp_path / "text").read_text() == "mine"


def test_labels_of_earlier_versions_need_their_store(case, tmp_path) -> None:
    version = EARLIER / "with_checksums"
    with pytest.raises(StoreError, match="give the feature store that it labels as --data_dir"):
        export_here(version / "labels", "units", tmp_path / "o")
    other = make_store(CORPUS, tmp_path / "other")
    with pytest.raises(StoreError, match="the labels of another feature store"):
        export_here(version / "labels", "units", tmp_path / "o", data_dir=other)
    out = export_here(version / "labels", "units", tmp_path / "o", data_dir=version / "tar")
    assert len((out / "units.jsonl").read_text().splitlines()) == 4


def test_frames_without_audio_have_units_but_no_km(tmp_path) -> None:
    store, gmm = write(tmp_path / "store", 39), tmp_path / "gmm.pt"
    zeros = torch.zeros(4, 39)
    GradientGMM(torch.randn(4, 39), zeros, zeros[:, 0]).save(gmm)
    labels = label_here(store, gmm, tmp_path / "labels")
    out = export_here(labels, "units", tmp_path / "o")
    rows = [json.loads(line) for line in (out / "units.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [u.key for u in FeatureStore.open(store).utterances()]
    with pytest.raises(GmmpipeError, match="--format km needs its audio"):
        export_here(labels, "km", tmp_path / "o")
