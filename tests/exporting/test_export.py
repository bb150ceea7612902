"""`gmmpipe export`: each form as its reader reads it, equal to `assign`, in manifest order."""

import gzip
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import lhotse
import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import torch

from gmmpipe import (
    ClaimError,
    ExportOptions,
    FeatureStore,
    FeatureStoreWriter,
    GradientGMM,
    LabelOptions,
    LabelStore,
    OptionError,
    StoreError,
    export,
    label,
)
from gmmpipe.claim import claim_folder
from gmmpipe.jepa import JEPABatches
from gmmpipe.store.documents import write_document
from helpers.making import CORPUS, make_store, read_speech
from helpers.processes import GMMPIPE, ROOT, Started, wait_until
from helpers.results import file_bytes

EARLIER = ROOT / "tests" / "store" / "earlier"
CHECKED = EARLIER / "with_checksums"
IDS = {1: "ein Satz", 2: "zwölf", 3: 17, 5: "a-w00003"}
FORMATS = ["km", "kaldi", "units", "lhotse", "parquet"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two manifests whose names are not in the order of their lines' keys, with rejects inside."""
    folder = tmp_path_factory.mktemp("data")
    lines = [json.loads(line) for line in (CORPUS / "manifest.jsonl").read_text().splitlines()]
    for number, given in IDS.items():
        lines[number]["id"] = given
    lines[2] |= {"text": "ein Text", "speaker": "s1", "language": "de"}
    lines[4] = {"wav_path": "nowhere.flac"}
    lines[9] = {"wav_path": "nowhere.flac"}
    for name, part in (("z.jsonl", lines[:8]), ("b.jsonl", lines[8:20])):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in part))
    return folder


@pytest.fixture(scope="module", params=["tar", "zarr"])
def made(
    request: Any, data_dir: Path, fitted: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A shuffled store with split windows, and its labels."""
    folder = tmp_path_factory.mktemp(request.param)
    sources = f"{data_dir / 'z.jsonl'},{data_dir / 'b.jsonl'}"
    options = {"utterances_per_shard": 7, "long_audio": "split", "max_seconds": 2.0}
    store = make_store(sources, folder / "store", format=request.param, base_path=CORPUS, **options)
    label(LabelOptions(store, fitted, folder / "labels", top_k=3))
    return store, folder / "labels"


def expected(store: Path, gmm: Path) -> list[tuple[dict[str, Any], list[int]]]:
    """The JSON and the labels of each utterance in the order of the lines, from the features."""
    opened, mixture = FeatureStore.open(store), GradientGMM.load(gmm)
    found = sorted(
        opened.utterances(),
        key=lambda u: (u.metadata.get("ordinal", u.metadata["line"]), u.metadata["offset"]),
    )
    return [(u.metadata, mixture.assign(u.features).tolist()) for u in found]


def write(labels: Path, out: Path, form: str, **options: Any) -> Path:
    info = export(ExportOptions(labels, form, out, **options))
    document = json.loads((out / "labels.json").read_text())
    assert (document["frame_rate"], document["num_classes"]) == (50.0, 16)
    assert (document["utterances"], document["frames"]) == (info.utterances, info.frames)
    assert {path.name for path in out.iterdir()} == {"labels.json", *info.files}
    return out


def names(rows: list[tuple[dict[str, Any], list[int]]]) -> list[str]:
    """What the utterances are called: by the words of docs/labels.md."""
    called = []
    for values, _ in rows:
        window = re.search(r"-w\d{5}$", values["key"])
        is_window = window and values["id"] != values["key"]
        name = f"{values['id']}{window[0] if is_window else ''}"
        called.append(name if values["id"] else values["key"])
    return called


def test_the_store_has_all_that_the_order_could_fail_on(made, fitted) -> None:
    rows = expected(made[0], fitted)
    keys = [values["key"] for values, _ in rows]
    assert sum(key.endswith("-w00001") for key in keys) > 3
    assert keys != sorted(keys)
    assert any("ordinal" in values for values, _ in rows)
    stored = [u.key for u in FeatureStore.open(made[0]).utterances()]
    assert stored != keys
    lines = [values.get("ordinal", values["line"]) for values, _ in rows]
    assert not {5, 10}.issubset(lines)
    assert len(set(lines)) in (18, 19)


def test_km_passes_the_checks_of_fairseq(data_dir, fitted, tmp_path) -> None:
    """Whole files, as it needs; the rules are those of fairseq's hubert_dataset.py."""
    store = make_store(data_dir, tmp_path / "store", utterances_per_shard=5, base_path=CORPUS)
    label(LabelOptions(store, fitted, tmp_path / "labels"))
    out = write(tmp_path / "labels", tmp_path / "km", "km", base_path=CORPUS)
    rows = expected(store, fitted)
    with open(out / "labels.tsv") as file:
        root = file.readline().strip()
        items = [line.strip().split("\t") for line in file]
    assert all(len(item) == 2 for item in items)
    with open(out / "labels.km") as file:
        labels = [[int(word) for word in line.rstrip().split()] for line in file]
    assert labels == [found for _, found in rows]
    assert len(labels) == len(items) == 18
    for (path, samples), found, (values, _) in zip(items, labels, rows, strict=True):
        assert Path(f"{root}/{path}").samefile(CORPUS / values["wav_path"])
        assert abs(int(samples) / 16000 - len(found) / 50) <= 0.1
    assert (out / "dict.km.txt").read_text() == "".join(f"{n} 1\n" for n in range(16))


@pytest.mark.parametrize(
    ("paths", "base_path", "root", "written"),
    [
        (["/a/b.wav", "/c.wav"], None, "/", ["a/b.wav", "c.wav"]),
        (["b.wav", "d/c.wav"], None, ".", ["b.wav", "d/c.wav"]),
        (["b.wav", "d/c.wav"], "/data", "/data", ["b.wav", "d/c.wav"]),
        (["b.wav", "/c.wav"], "/data", "/", ["data/b.wav", "c.wav"]),
    ],
    ids=["absolute", "relative", "prefixed", "both"],
)
def test_the_root_of_the_list(paths, base_path, root, written, tmp_path) -> None:
    labels = labels_of(
        tmp_path, [{"wav_path": p, "num_samples": 3200, "line": n + 1} for n, p in enumerate(paths)]
    )
    out = tmp_path / "km"
    export(ExportOptions(labels, "km", out, base_path=base_path))
    found = (out / "labels.tsv").read_text().splitlines()
    assert found == [root, *(f"{path}\t3200" for path in written)]


def labels_of(folder: Path, metadata: list[dict[str, Any]]) -> Path:
    """A label store of utterances of 10 frames with the metadata that a program gave."""
    generator = np.random.default_rng(0)
    with FeatureStoreWriter(
        folder / "store", dim=2, frame_rate=50, utterances_per_shard=3
    ) as writer:
        for number, values in enumerate(metadata):
            writer.add(f"k{number}", generator.normal(size=(10, 2)), values)
    GradientGMM(torch.eye(2), torch.zeros(2, 2), torch.zeros(2)).save(folder / "gmm.pt")
    label(LabelOptions(folder / "store", folder / "gmm.pt", folder / "labels"))
    return folder / "labels"


@pytest.mark.parametrize("path", ["a\tb.wav", "a\nb.wav", " a.wav"])
def test_a_path_that_the_list_cannot_hold_is_an_error(path, tmp_path) -> None:
    labels = labels_of(tmp_path, [{"wav_path": path}])
    with pytest.raises(StoreError, match=r"utterance k0: labels\.tsv cannot hold its path"):
        export(ExportOptions(labels, "km", tmp_path / "km"))
    assert not [*(tmp_path / "km").iterdir()]


def test_parts_of_files_are_counted_in_a_warning(made, tmp_path, caplog) -> None:
    export(ExportOptions(made[1], "km", tmp_path / "km"))
    windows = sum("-w0" in u.key for u in FeatureStore.open(made[0]).utterances())
    count = windows - ("a-w00003" in {u.key for u in FeatureStore.open(made[0]).utterances()})
    assert f"but {count} of " in caplog.text


def test_kaldi_text_is_words_behind_a_name_that_is_one(made, fitted, tmp_path) -> None:
    out, rows = write(made[1], tmp_path / "kaldi", "kaldi"), expected(made[0], fitted)
    lines = [line.split() for line in (out / "text").read_text().splitlines()]
    assert [[int(word) for word in words] for _, *words in lines] == [found for _, found in rows]
    called = [
        values["key"] if " " in name else name
        for name, (values, _) in zip(names(rows), rows, strict=True)
    ]
    assert [line[0] for line in lines] == called
    assert len(set(called)) == len(called)
    counts = (out / "utt2num_frames").read_text().splitlines()
    assert counts == [f"{name} {len(found)}" for name, (_, found) in zip(called, rows, strict=True)]


def test_names_that_are_not_unique_become_keys(tmp_path) -> None:
    labels = labels_of(tmp_path, [{"id": "x"}, {"id": "y"}, {"id": "x"}, {"id": 7}])
    export(ExportOptions(labels, "units", tmp_path / "units"))
    rows = [json.loads(line) for line in (tmp_path / "units/units.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["k0", "k1", "k2", "k3"]


def test_units_are_lists(made, fitted, tmp_path) -> None:
    out, rows = write(made[1], tmp_path / "units", "units"), expected(made[0], fitted)
    found = [json.loads(line) for line in (out / "units.jsonl").read_text().splitlines()]
    assert found == [
        {"id": name, "units": units} for name, (_, units) in zip(names(rows), rows, strict=True)
    ]


def test_lhotse_reads_cuts_and_their_audio(made, fitted, tmp_path) -> None:
    out = write(made[1], tmp_path / "cuts", "lhotse", base_path=CORPUS)
    rows = expected(made[0], fitted)
    cuts = list(lhotse.load_manifest(out / "cuts.jsonl.gz"))
    assert [cut.id for cut in cuts] == names(rows)
    assert [cut.labels for cut in cuts] == [found for _, found in rows]
    for cut, (values, found) in zip(cuts, rows, strict=True):
        lhotse.validate(cut)
        audio = cut.load_audio()
        assert audio.shape[1] == cut.num_samples > 0
        assert abs(audio.shape[1] / cut.sampling_rate - len(found) / 50) < 0.1
        assert cut.start == pytest.approx(values["offset"])
    (spoken,) = {s.text: s for cut in cuts for s in cut.supervisions if s.text}.values()
    assert (spoken.text, spoken.speaker, spoken.language) == ("ein Text", "s1", "de")
    again = write(made[1], tmp_path / "again", "lhotse", base_path=CORPUS)
    assert (again / "cuts.jsonl.gz").read_bytes() == (out / "cuts.jsonl.gz").read_bytes()
    assert gzip.decompress((out / "cuts.jsonl.gz").read_bytes()).isascii()


def test_lhotse_gets_the_rate_and_channels_of_the_file_itself(tmp_path, caplog) -> None:
    speech = read_speech(1.0)[0]
    soundfile.write(tmp_path / "two.wav", np.stack([speech, -speech], 1), 8000)
    values = {"sample_rate": 16000, "num_samples": 3200, "offset": 0.5}
    metadata = [
        {**values, "wav_path": "two.wav"},
        {**values, "wav_path": "two.wav", "channel": 1},
        {**values, "wav_path": "gone.wav"},
        {**values, "wav_path": "a.tar#two.wav"},
    ]
    labels = labels_of(tmp_path, metadata)
    out = tmp_path / "cuts"
    export(ExportOptions(labels, "lhotse", out, base_path=tmp_path))
    both, second, gone, member = lhotse.load_manifest(out / "cuts.jsonl.gz")
    assert (both.channel, both.sampling_rate, both.recording.num_samples) == ([0, 1], 8000, 16000)
    assert np.abs(both.load_audio().mean(0)).max() < 1e-6
    assert np.abs(second.load_audio() + both.load_audio()[0]).max() < 1e-4
    assert (second.start, second.duration, second.load_audio().shape) == (0.5, 0.2, (1, 1600))
    assert (gone.sampling_rate, gone.recording.num_samples) == (16000, 8000 + 3200)
    assert not member.has_recording
    assert len(member.labels) == 10
    assert "1 of 4 cuts have no recording" in caplog.text


def test_the_conversion_for_icefall_gives_what_it_reads(made, fitted, tmp_path) -> None:
    """icefall's HubertDataset splits the text `kmeans` of a cut."""
    out = write(made[1], tmp_path / "cuts", "lhotse", base_path=CORPUS)
    page = (ROOT / "docs" / "labels.md").read_text()
    (code,) = re.findall(r"```python\n(import lhotse.*?)```", page, re.DOTALL)
    for name in ("cuts.jsonl.gz", "train.jsonl.gz"):
        code = code.replace(f'"lhotse/{name}"', f'"{out / name}"')
    exec(code, {})
    cuts = lhotse.load_manifest(out / "train.jsonl.gz")
    found = [[int(item) for item in cut.custom["kmeans"].split()] for cut in cuts]
    assert found == [labels for _, labels in expected(made[0], fitted)]


def test_parquet_has_the_labels_and_the_top_k(made, fitted, tmp_path) -> None:
    out, rows = write(made[1], tmp_path / "parquet", "parquet"), expected(made[0], fitted)
    table = pyarrow.parquet.read_table(out / "labels.parquet")
    columns = table.to_pydict()
    assert columns["id"] == names(rows)
    assert columns["labels"] == [found for _, found in rows]
    assert columns["num_frames"] == [len(found) for _, found in rows]
    assert str(table.schema.field("labels").type.value_type) == "uint16"
    mixture = GradientGMM.load(fitted)
    features = {u.key: u.features for u in FeatureStore.open(made[0]).utterances()}
    for at, (values, _) in enumerate(rows):
        top = mixture.soft_assign(features[values["key"]]).topk(3, dim=1)
        assert np.array_equal(columns["topk_probs"][at], top.values.half().float())
        assert [ids[0] for ids in columns["topk_ids"][at]] == columns["labels"][at]
    said = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    assert (said["frame_rate"], said["num_classes"], said["top_k"]) == ("50.0", "16", "3")


def test_without_lines_the_order_is_that_of_the_shards(tmp_path) -> None:
    labels = labels_of(tmp_path, [{} for _ in range(7)])
    export(ExportOptions(labels, "units", tmp_path / "units"))
    rows = [json.loads(line) for line in (tmp_path / "units/units.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"k{n}" for n in range(7)]


def test_finished_another_and_overwritten(made, tmp_path, invoke) -> None:
    out = tmp_path / "out"
    arguments = ("export", made[1], "--output_dir", out, "--format")
    invoke(*arguments, "units")
    before = file_bytes(out)
    assert "is finished already: nothing to do" in invoke(*arguments, "units").stderr
    refused = invoke(*arguments, "kaldi", status=1).stderr
    assert "format is units there and kaldi here" in refused
    assert file_bytes(out) == before
    (out / "mine.txt").write_text("mine")
    invoke(*arguments, "kaldi", "--overwrite")
    assert {p.name for p in out.iterdir()} == {"labels.json", "text", "utt2num_frames", "mine.txt"}


def test_two_exports_at_once_are_refused(made, tmp_path) -> None:
    with (
        claim_folder(tmp_path / "o", "", "another", alone=True),
        pytest.raises(ClaimError, match="in use by process"),
    ):
        export(ExportOptions(made[1], "units", tmp_path / "o"))


def test_labels_for_a_jepa_are_those_that_are_exported(made, tmp_path) -> None:
    out = write(made[1], tmp_path / "units", "units")
    lines = (out / "units.jsonl").read_text().splitlines()
    exported = sorted(json.loads(line)["units"] for line in lines)
    batches = JEPABatches(made[0], labels=made[1], batch_size=4)
    found = [
        ids[:length, 0].tolist()
        for batch in batches
        for ids, length in zip(batch.topk_ids, batch.lengths.tolist(), strict=True)
    ]
    assert len(found) > 10
    assert all(labels in exported for labels in found)


def test_strangers_are_never_touched(made, tmp_path) -> None:
    for name in ("text", "labels.json"):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(StoreError, match=f"{name}: "):
                export(ExportOptions(made[1], "kaldi", out, overwrite=overwrite))
        assert file_bytes(out) == {name: b"mine"}
    with pytest.raises(StoreError, match="holds a store of labels"):
        export(ExportOptions(made[1], "kaldi", made[1]))


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_shard_is_named_and_nothing_is_published(made, form, tmp_path, invoke) -> None:
    labels = Path(shutil.copytree(made[1], tmp_path / "labels"))
    shard = LabelStore.open(labels).shards[1]
    content = bytearray(shard.path.read_bytes())
    content[int(shard.sidecar().index.byte_offset[2])] ^= 1
    shard.path.write_bytes(content)
    done = invoke("export", labels, "--format", form, "--output_dir", tmp_path / "o", status=1)
    assert "shard-000001.tar: utterance" in done.stderr
    assert not [*(tmp_path / "o").iterdir()]


def test_a_killed_export_is_made_anew(fitted, store, tmp_path, start: Started) -> None:
    labels, out = tmp_path / "labels", tmp_path / "out"
    label(LabelOptions(store, fitted, labels))
    whole = write(labels, tmp_path / "whole", "km")
    command = [*GMMPIPE, "export", str(labels), "--format", "km", "--output_dir", str(out)]
    process = start(command)
    wait_until(lambda: out.is_dir() and any(out.iterdir()), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (out / "labels.json").exists():  # else it was faster than the signal
        assert not [*out.glob("labels*")] or (out / ".export.json").exists()
    export(ExportOptions(labels, "km", out))
    assert file_bytes(out) == file_bytes(whole)


def test_killed_while_files_get_their_names(fitted, store, tmp_path) -> None:
    """The state between the first name and the last document, made by hand."""
    labels, out = tmp_path / "labels", tmp_path / "out"
    label(LabelOptions(store, fitted, labels))
    whole = file_bytes(write(labels, out, "km"))
    (out / "labels.json").unlink()
    (out / "labels.km").write_text("half")
    with pytest.raises(StoreError, match="nothing says that an export"):
        export(ExportOptions(labels, "km", out))
    listed = {"format_version": 1, "files": ["labels.km", "labels.tsv", "dict.km.txt", "../x"]}
    write_document(out / ".export.json", listed)
    export(ExportOptions(labels, "km", out))
    assert file_bytes(out) == whole


@pytest.mark.parametrize("version", [EARLIER, CHECKED], ids=lambda path: path.name)
def test_labels_of_earlier_versions_need_their_features(version, store, tmp_path) -> None:
    out, labels = tmp_path / "units", version / "labels"
    with pytest.raises(StoreError, match=r"earlier version.*--data_dir"):
        export(ExportOptions(labels, "units", out))
    with pytest.raises(StoreError, match="the labels of another feature store"):
        export(ExportOptions(labels, "units", out, data_dir=store))
    export(ExportOptions(labels, "units", out, data_dir=version / "tar"))
    rows = [json.loads(line)["units"] for line in (out / "units.jsonl").read_text().splitlines()]
    opened = LabelStore.open(labels)
    stored = {
        key: opened.read_utterance(number, at).labels.tolist()
        for number, shard in enumerate(opened.shards)
        for at, key in enumerate(shard.sidecar().index.keys)
    }
    wanted = sorted(
        FeatureStore.open(version / "tar").utterances(), key=lambda u: u.metadata["line"]
    )
    assert rows == [stored[u.key] for u in wanted]


def test_a_base_path_has_a_meaning_only_with_paths(made, tmp_path) -> None:
    with pytest.raises(OptionError, match="--base_path has no meaning for --format units"):
        ExportOptions(made[1], "units", tmp_path, base_path=CORPUS)
