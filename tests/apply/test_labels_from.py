"""`evaluate --labels_from`: classes that samples carry, against scikit-learn's own counts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import homogeneity_score
from sklearn.metrics.cluster import contingency_matrix

from gmmpipe import FeatureStore, FeatureStoreWriter, GradientGMM
from gmmpipe.apply.evaluate import evaluate
from gmmpipe.errors import StoreError
from helpers.making import CORPUS, alone, fit_here, make_store
from helpers.processes import run, torchrun

ALONE = alone()
NAMES = ["class_purity", "cluster_purity", "normalized_mutual_information"]


def expected_of(classes: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    table = contingency_matrix(classes, labels)
    return {
        "labelled_frames": len(classes),
        "classes": len(np.unique(classes)),
        "class_purity": table.max(0).sum() / table.sum(),
        "cluster_purity": table.max(1).sum() / table.sum(),
        "normalized_mutual_information": homogeneity_score(classes, labels),
    }


def check(store: Path, gmm: Path, field: str, classes: list[Any], **options: Any) -> dict[str, Any]:
    """Compare with the class of each frame in the store's order, None where there is none."""
    found = evaluate(str(store), gmm, options.get("max_frames"), ALONE, field).to_json()
    frames = FeatureStore.open(store).read_frames(0, len(classes))
    labels = GradientGMM.load(gmm).assign(frames).numpy()
    known = np.array([value is not None for value in classes])
    names = np.array([str(value) for value in classes])
    expected = expected_of(names[known], labels[known])
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    return found


def of_utterances(store: Path, field: str) -> list[Any]:
    found: list[Any] = []
    for utt in FeatureStore.open(store).utterances():
        found += [utt.metadata.get(field)] * len(utt.features)
    return found


@pytest.mark.parametrize("field", ["speaker", "lang", "sr"])
def test_a_value_of_an_utterance_is_the_class_of_its_frames(field, store, fitted) -> None:
    found = check(store, fitted, field, of_utterances(store, field))
    assert 1 < found["classes"] < 20
    assert 0 < found["normalized_mutual_information"] < 1
    assert all(0 < found[name] < 1 for name in NAMES)


def test_the_first_frames_alone_and_other_kinds_of_shards(store, fitted, tmp_path) -> None:
    classes = of_utterances(store, "speaker")
    found = check(store, fitted, "speaker", classes[:5000], max_frames=5000)
    zarr = make_store(CORPUS, tmp_path / "zarr", format="zarr", utterances_per_shard=16)
    assert evaluate(str(zarr), fitted, 5000, ALONE, "speaker").to_json() == found


def test_two_ranks_find_what_one_does(store, fitted) -> None:
    command = ["evaluate", str(store), "--gmm_path", str(fitted), "--json", "--labels_from", "lang"]
    two = json.loads(run([*torchrun(2, "-m", "gmmpipe"), *command]).stdout)
    one = evaluate(str(store), fitted, None, ALONE, "lang").to_json()
    assert list(two) == list(one)
    assert two == pytest.approx(one, rel=1e-9)


@pytest.fixture(scope="module")
def phones(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of real frames whose samples carry classes a frame, or times; and its mixture."""
    folder = tmp_path_factory.mktemp("phones")
    with FeatureStoreWriter(
        folder / "store", dim=80, frame_rate=50.0, utterances_per_shard=8
    ) as writer:
        for number, utt in enumerate(FeatureStore.open(store).utterances()):
            length = len(utt.features)
            metadata = {
                "phones": [f"p{t // 7 % 5}" for t in range(length)],
                "times": [[1.0, 1.1, "a"], [1.1, 1.5, "b"], [1.6, 99.0, 3]],
                "offset": 1.0,
            }
            if number % 5 == 0:
                metadata = {"speaker": "silent"}
            writer.add(utt.key, utt.features, metadata)
    fit_here(folder / "store", folder / "fit")
    return folder / "store", folder / "fit" / "gmm.pt"


def test_a_list_has_the_class_of_each_frame(phones) -> None:
    classes: list[Any] = []
    for utt in FeatureStore.open(phones[0]).utterances():
        classes += utt.metadata.get("phones", [None] * len(utt.features))
    assert check(*phones, "phones", classes)["classes"] == 5


def test_times_are_those_of_the_centres_of_frames(phones) -> None:
    # 50 frames a second, from second 1 on: 1.1 is frame 5, 1.5 frame 25, 1.6 frame 30.
    whole = ["a"] * 5 + ["b"] * 20 + [None] * 5 + [3] * 10_000
    classes: list[Any] = []
    for utt in FeatureStore.open(phones[0]).utterances():
        length = len(utt.features)
        classes += whole[:length] if "times" in utt.metadata else [None] * length
    assert check(*phones, "times", classes)["classes"] == 3


def test_what_is_no_class_is_refused(phones, tmp_path, store, fitted, invoke) -> None:
    with pytest.raises(StoreError, match=r"--labels_from phone: no sample .*offset, phones, sp"):
        evaluate(*map(str, phones[:1]), phones[1], None, ALONE, "phone")
    with FeatureStoreWriter(tmp_path / "store", dim=80, frame_rate=50.0) as writer:
        frames = FeatureStore.open(store).read_frames(0, 30)
        fields = {
            "phones": ["a"] * 29,
            "times": [[0, "x", "a"]],
            "ever": [[0, "inf", "a"]],
            "no": {},
        }
        writer.add("short", frames, fields)
    gmm = GradientGMM.load(fitted)
    gmm.info.pop("features")
    gmm.save(tmp_path / "gmm.pt")
    for field, said in (
        ("phones", "29 classes for 30 frames"),
        ("times", "could not convert string to float"),
        ("ever", "cannot convert float infinity"),
        ("no", "{} is no class"),
    ):
        arguments = ["--gmm_path", tmp_path / "gmm.pt", "--labels_from", field]
        done = invoke("evaluate", tmp_path / "store", *arguments, status=1)
        (line,) = done.stderr.splitlines()
        assert f"utterance short: --labels_from {field}: {said}" in line


def test_classes_of_no_frame_that_is_read_are_refused(tmp_path, store) -> None:
    frames = FeatureStore.open(store).read_frames(0, 60)
    with FeatureStoreWriter(tmp_path / "store", dim=80, frame_rate=50.0) as writer:
        writer.add("a", frames[:30], {})
        writer.add("b", frames[30:], {"speaker": "x", "times": [[5.0, 6.0, "late"]]})
    fit_here(tmp_path / "store", tmp_path / "fit", K=1)
    arguments = str(tmp_path / "store"), tmp_path / "fit" / "gmm.pt"
    for field, max_frames in (("speaker", 30), ("times", None)):
        with pytest.raises(StoreError, match=f"{field}: no frame that is read has a class"):
            evaluate(*arguments, max_frames, ALONE, field)
    assert evaluate(*arguments, 31, ALONE, "speaker").to_json()["labelled_frames"] == 1
