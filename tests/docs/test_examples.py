"""The Python examples of the pages run, each page from top to bottom, and do what it says."""

import re
from pathlib import Path
from typing import Any

import pytest

from gmmpipe import ExportOptions, FeatureStore, GradientGMM, LabelOptions, export, label
from helpers.making import alone
from helpers.processes import ROOT
from pipelines.jepa.options import JEPAOptions
from pipelines.jepa.trainer import Trainer


@pytest.fixture(scope="module")
def results(store: Path, fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands of the pages make: store, fit, labels, cuts and jepa."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "store").symlink_to(store)
    (folder / "fit").symlink_to(fitted.parent)
    label(LabelOptions(store, fitted, folder / "labels", top_k=2))
    export(ExportOptions(folder / "labels", "lhotse", folder / "lhotse"))
    small = {"max_steps": 1, "dim": 16, "layers": 1, "heads": 1, "num_workers": 0, "device": "cpu"}
    Trainer(JEPAOptions(str(store), folder / "jepa", fitted, **small), alone()).run()
    return folder


def run_examples(page: str) -> dict[str, Any]:
    """Run a page's examples in the current folder; the names that they have defined."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("{000000..000099}", "{000000..000003}")
    names: dict[str, Any] = {}
    for example in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M):
        exec(compile(example, page, "exec"), names)
    return names


def test_the_readme(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results)
    names = run_examples("README.md")
    assert names["targets"].shape == (len(names["utt"].features), 16)
    assert (names["log_mel"].dtype, names["log_mel"].shape[1]) == ("float16", 80)


def test_labels(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results)
    found = run_examples("docs/labels.md")["found"]
    assert found.topk_ids.shape == found.topk_probs.shape == (len(found.labels), 2)


def test_the_jepa(
    results: Path,
    audio_stores: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its store has audio."""
    (tmp_path / "store").symlink_to(audio_stores["tar"])
    for name in ("fit", "jepa"):
        (tmp_path / name).symlink_to(results / name)
    monkeypatch.chdir(tmp_path)
    names = run_examples("docs/jepa.md")
    batch = names["batch"]
    assert batch.targets.shape == (*batch.mask.shape, 16)
    assert [len(frames) for frames in names["heard"]] == batch.lengths.tolist()
    assert batch.features is batch.log_mel or batch.features.equal(batch.log_mel)


def test_frames_of_your_own(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").symlink_to(store)
    monkeypatch.chdir(tmp_path)
    run_examples("docs/frames.md")
    log_mels, layer = FeatureStore.open("store"), FeatureStore.open("layer6")
    assert (len(layer), layer.num_frames, layer.dim) == (len(log_mels), log_mels.num_frames, 256)
    assert layer.features.kind == "external"
    paths = {utt.key: utt.metadata["wav_path"] for utt in log_mels.utterances()}
    assert {utt.key: utt.metadata["wav_path"] for utt in layer.utterances()} == paths


def test_what_the_python_page_names_is_there(store: Path, fitted: Path) -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    tables = text.split("## Mixtures and stores")[1].split("## Errors")[0].split("| | gives |")[1:]
    for thing, table in zip(
        (GradientGMM.load(fitted), FeatureStore.open(store)), tables, strict=True
    ):
        names = re.findall(r"`(?:gmm|store|GradientGMM|FeatureStore|)\.(\w+)", table)
        assert len(names) >= 6
        assert [name for name in names if not hasattr(thing, name)] == []
