"""`gmmpipe label`: the labels of every frame, the same bytes however they are made."""

import hashlib
import io
import json
import math
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from scipy.special import softmax

from gmmpipe import FeatureConfig, FeatureStore, GradientGMM, LabelStore
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.errors import CheckpointError, OptionError, StoreError
from helpers.damage import edit_document, flip, flip_in_frames
from helpers.making import CORPUS, alone, fit_here, make_store
from helpers.processes import root_cause, run, torchrun
from helpers.results import file_bytes

ALONE = alone()


def label_here(store: Path, gmm: Path, out: Path, **options: Any) -> Path:
    """Do what `gmmpipe label` does, within this process."""
    label(LabelOptions(store=store, gmm_path=gmm, output_dir=out, **options), ALONE)
    return out


@pytest.fixture(scope="module")
def labelled(store: Path, fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The label store of the demo store, top 4 at temperature 20; not to be changed."""
    folder = tmp_path_factory.mktemp("labelled") / "labels"
    return label_here(store, fitted, folder, top_k=4, temperature=20.0)


@pytest.fixture
def labelled_copy(labelled: Path, tmp_path: Path) -> Path:
    """A label store that a test may damage."""
    return Path(shutil.copytree(labelled, tmp_path / "labelled_copy"))


def members(shard: Path) -> dict[str, np.ndarray]:
    """The arrays in a shard as a stranger reads them, in order."""
    with tarfile.open(shard, "r:") as archive:
        return {
            m.name: np.load(io.BytesIO(archive.extractfile(m).read()))
            for m in archive
            if m.name.endswith(".npy")
        }


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_labels_are_assign_on_every_frame_key_by_key(kind, store, fitted, tmp_path) -> None:
    if kind == "zarr":
        store = make_store(CORPUS, tmp_path / "zarr", utterances_per_shard=16, format="zarr")
    out = label_here(store, fitted, tmp_path / "labels")
    gmm, opened = GradientGMM.load(fitted), FeatureStore.open(store)
    frames = opened.read_frames(0, opened.num_frames)
    found = {}
    for shard in opened.shards:
        arrays = members(out / f"{shard.path.stem}.tar")
        assert list(arrays) == [f"{key}.labels.npy" for key in shard.sidecar().index.keys]
        found |= arrays
    assert {array.dtype for array in found.values()} == {np.dtype("<u2")}
    together = np.concatenate(list(found.values()))
    assert np.array_equal(together, gmm.assign(frames).numpy())
    for utterance in opened.utterances():
        there = found[f"{utterance.key}.labels.npy"]
        assert np.array_equal(there, gmm.assign(utterance.features).numpy())


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_the_json_of_each_utterance_is_that_of_the_features_byte_by_byte(
    kind, store, fitted, tmp_path
) -> None:
    if kind == "zarr":
        store = make_store(CORPUS, tmp_path / "zarr", utterances_per_shard=16, format="zarr")
    labels = LabelStore.open(label_here(store, fitted, tmp_path / "labels"))
    for shard, beside in zip(labels.shards, FeatureStore.open(store).shards, strict=True):
        keys = shard.sidecar().index.keys
        with tarfile.open(shard.path, "r:") as archive:
            names = archive.getnames()
            assert names[:2] == [f"{keys[0]}.json", f"{keys[0]}.labels.npy"]
            found = [archive.extractfile(f"{key}.json").read() for key in keys]
        assert found == [text.rstrip(b"\n") for text in beside.file.read_json(keys)]
        assert dict(shard.read_metadata()) == dict(beside.read_metadata())


def test_a_flipped_byte_of_its_json_is_found(labelled_copy, invoke) -> None:
    shard = LabelStore.open(labelled_copy).shards[2]
    content = bytearray(shard.path.read_bytes())
    content[content.index(b'"wav_path"') + 3] ^= 1
    shard.path.write_bytes(content)
    with pytest.raises(StoreError, match=f"{shard.path.name}: the JSON of utterance .* is corrupt"):
        list(shard.read_metadata())
    invoke("verify", labelled_copy, status=1)


def test_the_top_k_are_those_of_soft_assign(store, frames, fitted, labelled) -> None:
    posteriors = GradientGMM.load(fitted).soft_assign(frames, temperature=20.0)
    arrays = [members(labelled / f"{s.path.stem}.tar") for s in FeatureStore.open(store).shards]
    names = [name.partition(".")[2] for shard in arrays for name in shard]
    assert names == ["labels.npy", "topk_ids.npy", "topk_probs.npy"] * 56

    def all_of(ending: str) -> np.ndarray:
        return np.concatenate([a for s in arrays for name, a in s.items() if ending in name])

    ids, probs = all_of("topk_ids"), all_of("topk_probs")
    assert (ids.dtype, ids.shape) == (np.dtype("<u2"), (8561, 4))
    assert (probs.dtype, probs.shape) == (np.dtype("<f2"), (8561, 4))
    expected = posteriors.topk(4, dim=1).values
    assert torch.equal(torch.from_numpy(probs), expected.half())
    assert torch.equal(posteriors.gather(1, torch.from_numpy(ids.astype(np.int64))), expected)
    assert np.array_equal(ids[:, 0], all_of("labels"))
    assert probs.sum(1).min() < 0.99, "not renormalised"


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_mass_left_out_is_that_of_scikit_learn(
    temperature, store, frames, fitted, tmp_path
) -> None:
    out = label_here(store, fitted, tmp_path / "l", top_k=2, temperature=temperature)
    reference = GradientGMM.load(fitted).to_sklearn()
    joints = reference._estimate_weighted_log_prob(frames.double().numpy())
    posteriors = np.sort(softmax(joints / temperature, axis=1), axis=1)
    left_out = json.loads((out / "store.json").read_text())["totals"]["left_out_mass"]
    assert left_out > 1e-4
    assert left_out == pytest.approx(posteriors[:, :-2].sum(1).mean(), rel=1e-4)


def test_all_components_leave_nothing_out(store, fitted, tmp_path) -> None:
    out = label_here(store, fitted, tmp_path / "l", top_k=16)
    assert json.loads((out / "store.json").read_text())["totals"]["left_out_mass"] == 0.0


def test_store_json_says_what_the_labels_are_of(store, fitted, labelled) -> None:
    document = json.loads((labelled / "store.json").read_text())
    shards = document.pop("shards")
    assert len(document.pop("checksum")) == 64
    assert 0 < document["totals"].pop("left_out_mass") < 0.1
    assert document == {
        "format_version": 1,
        "kind": "labels",
        "source_sha256": hashlib.sha256((store / "store.json").read_bytes()).hexdigest(),
        "gmm_sha256": hashlib.sha256(fitted.read_bytes()).hexdigest(),
        "K": 16,
        "top_k": 4,
        "temperature": 20.0,
        "features": FeatureStore.open(store).features.to_json(),
        "device": "cpu",
        "totals": {"utterances": 56, "frames": 8561, "bytes": sum(s["bytes"] for s in shards)},
    }
    assert set(file_bytes(labelled)) == {
        "store.json",
        *(f"shard-{n:06d}{end}" for n in range(4) for end in (".tar", ".json")),
    }
    for shard in shards:
        content = (labelled / shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (
            len(content),
            hashlib.sha256(content).hexdigest(),
        )


def test_webdataset_reads_the_labels_beside_the_features(store, labelled) -> None:
    def samples(folder: Path) -> Any:
        urls = str(folder / "shard-{000000..000003}.tar")
        return webdataset.WebDataset(urls, shardshuffle=False).decode()

    pairs = list(zip(samples(store), samples(labelled), strict=True))
    assert len(pairs) == 56
    for features, labels in pairs:
        assert features["__key__"] == labels["__key__"]
        assert features["json"] == labels["json"]
        assert len(features["logmel.npy"]) == len(labels["labels.npy"])
        assert labels["topk_probs.npy"].shape == (len(features["logmel.npy"]), 4)


def test_posteriors_of_zero_and_a_shard_without_utterances(fitted, tmp_path) -> None:
    """Posteriors underflow to 0 at a low temperature; all of a shard's lines may be rejects."""
    lines = (CORPUS / "manifest.jsonl").read_text().splitlines()[:2]
    lines += ['{"wav_path": "nowhere.flac"}'] * 2
    (tmp_path / "m.jsonl").write_text("\n".join(lines) + "\n")
    options = {"base_path": CORPUS, "utterances_per_shard": 2, "shuffle": False}
    store = make_store(tmp_path / "m.jsonl", tmp_path / "store", **options)
    out = label_here(store, fitted, tmp_path / "l", top_k=3, temperature=1e-6)
    labels = LabelStore.open(out)
    assert [shard.row.utterances for shard in labels.shards] == [2, 0]
    found = labels.read(0, 0, labels.num_frames)
    assert torch.equal(found.topk_ids[:, 0], found.labels)
    assert len(found.topk_ids.unique(dim=1).T) == 3
    assert torch.equal(found.topk_probs, torch.tensor([1.0, 0, 0]).expand(len(found.labels), 3))


def test_two_ranks_write_the_same_bytes_and_print_what_is_left_out(
    store, fitted, labelled, tmp_path
) -> None:
    command = ["label", str(store), "--gmm_path", str(fitted), "--output_dir", str(tmp_path / "l")]
    options = ["--top-k", "4", "--temperature", "20"]
    done = run([*torchrun(2, "-m", "gmmpipe"), *command, *options])
    assert file_bytes(tmp_path / "l") == file_bytes(labelled)
    left_out = json.loads((labelled / "store.json").read_text())["totals"]["left_out_mass"]
    assert done.stdout == f"left_out_mass: {left_out}\n"
    assert f"leave out {left_out:.3g} of the mass" in done.stderr


def test_a_finished_store_says_so(store, fitted, labelled, tmp_path, invoke) -> None:
    before = file_bytes(labelled)
    places = ("--gmm_path", fitted, "--output_dir", labelled)
    done = invoke("label", store, *places, "--top_k", 4, "--temperature", "20.0")
    assert "is finished already: nothing to do" in done.stderr
    assert file_bytes(labelled) == before


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
def test_another_plan_is_refused_naming_what_differs(
    finished, store, fitted, labelled_copy, tmp_path
) -> None:
    if not finished:
        (labelled_copy / "store.json").rename(labelled_copy / "plan.json")
        path = labelled_copy / "plan.json"
        edit_document(path, lambda plan: [plan.pop(name) for name in ("totals", "shards")])
    before = file_bytes(labelled_copy)
    fit_here(store, tmp_path / "fit", seed=1)
    other_store = make_store(CORPUS, tmp_path / "other", seed=1)
    right = {"store": store, "gmm": fitted, "top_k": 4, "temperature": 20.0}
    for changes, said in (
        ({"gmm": tmp_path / "fit" / "gmm.pt"}, "gmm_sha256 is .* there and .* here"),
        ({"store": other_store}, "source_sha256 is .* there and .* here"),
        ({"top_k": None}, "top_k is 4 there and None here"),
        ({"top_k": 5, "temperature": 1.0}, "top_k is 4 .* 5 here; temperature is 20.0 .* 1.0 here"),
    ):
        with pytest.raises(StoreError, match=f"{labelled_copy}: .*{said}.*--overwrite"):
            label_here(**{**right, **changes}, out=labelled_copy)
    assert file_bytes(labelled_copy) == before
    out = label_here(store, fitted, labelled_copy, top_k=5, overwrite=True)
    assert file_bytes(out) == file_bytes(label_here(store, fitted, tmp_path / "l", top_k=5))


@pytest.mark.parametrize("state", ["begun", "without shards", "repaired"])
def test_a_store_begun_on_another_device_is_continued_with_a_word(
    state, store, fitted, labelled, labelled_copy, invoke
) -> None:
    document = labelled_copy / "store.json"
    edit_document(document, lambda values: values.update(device="cuda"))
    if state == "repaired":
        flip(labelled_copy / "shard-000001.tar", 5000)
        invoke("verify", labelled_copy, "--repair", status=1)
    else:
        document.rename(plan := labelled_copy / "plan.json")
        edit_document(plan, lambda values: [values.pop(name) for name in ("totals", "shards")])
        for number in range(4 if state == "without shards" else 2):
            (labelled_copy / f"shard-{number:06d}.json").unlink()
    options = ("--gmm_path", fitted, "--output_dir", labelled_copy, "--top_k", 4)
    said = invoke("label", store, *options, "--temperature", 20).stderr
    warned = [line for line in said.splitlines() if "begun on cuda, continued on cpu" in line]
    assert len(warned) == (0 if state == "without shards" else 1)
    expected = {"without shards": "cpu"}.get(state, "cpu, cuda")
    assert LabelStore.open(labelled_copy).plan.device == expected
    shards = {name: b for name, b in file_bytes(labelled).items() if name != "store.json"}
    made = file_bytes(labelled_copy)
    del made["store.json"]
    assert made == shards


def test_a_store_of_two_devices_is_resumed_without_another_word(
    store, fitted, labelled_copy, tmp_path, invoke
) -> None:
    document = labelled_copy / "store.json"
    edit_document(document, lambda values: values.update(device="cpu, cuda"))
    document.rename(plan := labelled_copy / "plan.json")
    edit_document(plan, lambda values: [values.pop(name) for name in ("totals", "shards")])
    (labelled_copy / "shard-000003.json").unlink()
    options = ("--gmm_path", fitted, "--output_dir", labelled_copy, "--top_k", 4)
    assert "warning" not in invoke("label", store, *options, "--temperature", 20).stderr
    assert json.loads(document.read_text())["device"] == "cpu, cuda"
    inspected = json.loads(invoke("inspect", labelled_copy, "--json").stdout)
    assert inspected["device"] == "cpu, cuda"


def test_shards_without_a_plan_need_overwrite_and_what_nothing_names_is_left_alone(
    store, fitted, labelled_copy
) -> None:
    (labelled_copy / "store.json").unlink()
    (labelled_copy / "shard-000002.json").unlink()
    with pytest.raises(StoreError, match="holds shards but no plan; use --overwrite"):
        label_here(store, fitted, labelled_copy, top_k=4)
    with pytest.raises(StoreError, match=r"shard-000002\.tar: in the new store's way"):
        label_here(store, fitted, labelled_copy, overwrite=True)
    (labelled_copy / "shard-000002.tar").unlink()
    label_here(store, fitted, labelled_copy, overwrite=True)


def test_what_an_overwrite_began_goes_or_is_made_anew(
    store, fitted, labelled, labelled_copy, tmp_path
) -> None:
    made = labelled_copy / ".next"
    label_here(store, fitted, made, top_k=2)
    label_here(store, fitted, labelled_copy, top_k=4, temperature=20.0)
    assert not made.exists()
    label_here(store, fitted, made, top_k=2)
    (made / "store.json").write_text("{}")
    label_here(store, fitted, labelled_copy, top_k=2, overwrite=True)
    fresh = label_here(store, fitted, tmp_path / "fresh", top_k=2)
    assert file_bytes(labelled_copy) == file_bytes(fresh)
    made.mkdir()
    (made / "build.json").write_text("mine")
    with pytest.raises(StoreError, match="in the new store's way"):
        label_here(store, fitted, labelled_copy, top_k=4, overwrite=True)
    assert (made / "build.json").exists()


def test_labels_with_wrong_totals_are_repaired(
    store, fitted, labelled, labelled_copy, invoke
) -> None:
    path = labelled_copy / "store.json"
    edit_document(path, lambda values: values["totals"].update(left_out_mass=0.5))
    found = invoke("verify", labelled_copy, "--repair", status=1)
    assert "store.json: its totals are not what its sidecars come to" in found.stderr
    label_here(store, fitted, labelled_copy, top_k=4, temperature=20.0)
    assert file_bytes(labelled_copy) == file_bytes(labelled)


def test_a_feature_store_is_never_overwritten(store, store_copy, fitted) -> None:
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="holds a store of features"):
            label_here(store, fitted, store_copy, overwrite=overwrite)
    (store_copy / "store.json").unlink()
    with pytest.raises(StoreError, match="holds a store of features"):
        label_here(store, fitted, store_copy, overwrite=True)


def test_more_components_than_sixteen_bits_can_number_are_refused(store, tmp_path) -> None:
    for num_components, fits in ((65_537, False), (65_536, True)):
        zeros = torch.zeros(num_components, 80)
        path = tmp_path / "gmm.pt"
        GradientGMM(zeros, zeros, torch.zeros(num_components)).save(path)
        options = LabelOptions(store=store, gmm_path=path, output_dir=tmp_path / "l")
        if fits:
            plan = options.identity(FeatureStore.open(store), GradientGMM.load(path))
            assert num_components == plan.K
        else:
            with pytest.raises(CheckpointError, match=r"gmm\.pt: its K is 65537"):
                label(options, ALONE)
    assert not (tmp_path / "l").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--top_k", "0"], "--top_k"),
        (["--temperature", "0"], "--temperature"),
        (["--temperature", "-1"], "--temperature"),
        (["--top_k", "17"], "--top_k is 17, but .* has K = 16"),
    ],
    ids=["no top", "cold", "colder", "beyond K"],
)
def test_wrong_usage(options, said, store, fitted, tmp_path, invoke) -> None:
    places = ("--gmm_path", fitted, "--output_dir", tmp_path / "l")
    done = invoke("label", store, *places, *options, status=2)
    assert re.search(said, " ".join(done.stderr.split()))
    assert not (tmp_path / "l").exists()


@pytest.mark.parametrize("temperature", [math.nan, math.inf, 0.0])
def test_a_temperature_that_is_none_is_wrong_usage(temperature, store, fitted, tmp_path) -> None:
    with pytest.raises(OptionError, match="--temperature is"):
        label_here(store, fitted, tmp_path / "l", temperature=temperature)


def test_a_model_of_other_features_is_refused(fitted, tmp_path) -> None:
    other = make_store(CORPUS, tmp_path / "other", features=FeatureConfig(n_fft=512))
    with pytest.raises(CheckpointError, match="n_fft is 400 there and 512 in the store"):
        label_here(other, fitted, tmp_path / "l")


def test_a_flipped_byte_is_named_and_what_was_finished_stays(
    store, store_copy, fitted, tmp_path
) -> None:
    """Of two ranks, the one with the good shard ends too, and does not wait for ever."""
    shard = FeatureStore.open(store_copy).shards[3]
    flip_in_frames(store_copy, shard=3, utterance=5)
    out = tmp_path / "l"
    said = f"{shard.path}: utterance {shard.sidecar().index.keys[5]} is corrupt"
    with pytest.raises(StoreError, match=said):
        label_here(store_copy, fitted, out)
    kept = {f"shard-00000{n}{end}" for n in range(3) for end in (".tar", ".json")}
    assert set(file_bytes(out)) == {"plan.json", *kept}

    command = ["label", str(store_copy), "--gmm_path", str(fitted), "--output_dir", str(out)]
    (out / "shard-000001.json").unlink()
    done = run([*torchrun(2, "-m", "gmmpipe"), *command], check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: {said}" in done.stderr
    assert f"StoreError: {said}" in root_cause(done.stderr), "and not the rank that waited for it"
    assert set(file_bytes(out)) == {"plan.json", *kept}

    shutil.copy(store / shard.path.name, shard.path)
    label_here(store_copy, fitted, out)
    assert file_bytes(out) == file_bytes(label_here(store, fitted, tmp_path / "whole"))
