"""Held-out frames: what is scored, and that the table of metrics never mixes two sets of them."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gmmpipe import FeatureConfig, FeatureStore, GradientGMM
from gmmpipe.errors import StoreError
from gmmpipe.fitting.held_out import HeldOut
from helpers.damage import flip_in_frames
from helpers.making import CORPUS, alone, fit_here, make_store
from helpers.results import assert_same_fit, read_metrics

ONE_RANK = alone()


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of every fifth utterance; not to be changed."""
    folder = tmp_path_factory.mktemp("held_out")
    lines = (CORPUS / "manifest.jsonl").read_text().splitlines()
    (folder / "some.jsonl").write_text("\n".join(lines[::5]) + "\n")
    return make_store(folder / "some.jsonl", folder / "store", base_path=CORPUS)


@pytest.fixture(scope="module")
def evaluated(store: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of two updates with held-out frames; not to be changed."""
    folder = tmp_path_factory.mktemp("evaluated") / "fit"
    fit_here(store, folder, eval_data_dir=str(held_out))
    return folder


def mean_nll(model: Path, store: Path) -> float:
    opened = FeatureStore.open(store)
    frames = opened.read_frames(0, opened.num_frames)
    return -float(GradientGMM.load(model).score_samples(frames).double().mean())


def test_eval_nll_is_what_the_model_says_of_the_held_out_frames(evaluated, held_out) -> None:
    header = (evaluated / "metrics.tsv").read_text().splitlines()[0]
    assert header.split("\t")[17:] == ["eval_nll"]
    models = [evaluated / name for name in ("gmm_ckpt_0.004M.pt", "gmm.pt")]
    expected = [mean_nll(model, held_out) for model in models]
    assert read_metrics(evaluated)["eval_nll"] == pytest.approx(expected, abs=1e-5)
    assert expected[0] != expected[1]


def test_the_fit_itself_does_not_depend_on_what_it_is_evaluated_on(
    evaluated, store, tmp_path
) -> None:
    fit_here(store, tmp_path)
    here, there = (
        torch.load(folder / "gmm.pt", weights_only=True) for folder in (tmp_path, evaluated)
    )
    assert torch.equal(here["resume"]["flat"], there["resume"]["flat"])
    assert read_metrics(tmp_path)["nll"] == read_metrics(evaluated)["nll"]


def test_no_more_than_the_first_200_000_frames_are_read(store, frames) -> None:
    """Of 24 times the store: 205,464 frames."""
    features = FeatureStore.open(store).features
    held = HeldOut.read(",".join([str(store)] * 24), features, ONE_RANK)
    assert held.num_frames == len(held.frames) == 200_000
    assert held.frames.dtype == torch.float16
    assert torch.equal(held.frames[-1].float(), frames[(200_000 - 1) % len(frames)])


def test_other_features_are_refused_before_anything_is_written(store, tmp_path) -> None:
    other = make_store(CORPUS, tmp_path / "other", features=FeatureConfig(n_fft=512))
    with pytest.raises(StoreError, match=f"{other}.*fingerprint"):
        fit_here(store, tmp_path / "out", eval_data_dir=str(other))
    assert not (tmp_path / "out").exists()


def test_a_corrupt_held_out_store_is_named_before_anything_is_written(
    store, store_copy, tmp_path
) -> None:
    path = flip_in_frames(store_copy, shard=1, utterance=2)
    with pytest.raises(StoreError, match=path.name):
        fit_here(store, tmp_path / "out", eval_data_dir=str(store_copy))
    assert not (tmp_path / "out").exists()


def test_a_resumed_fit_has_the_whole_column(evaluated, store, held_out, tmp_path) -> None:
    checkpoint = str(evaluated / "gmm_ckpt_0.004M.pt")
    fit_here(store, tmp_path, resume=checkpoint, eval_data_dir=str(held_out))
    assert_same_fit(evaluated, tmp_path)


def test_updates_that_were_not_evaluated_have_no_number(evaluated, store, held_out, tmp_path):
    """Without held-out frames for an update, then with them again."""
    folder = Path(shutil.copytree(evaluated, tmp_path / "copy"))
    fit_here(store, folder, resume="auto", target_frames=12_000)
    first = read_metrics(evaluated)["eval_nll"]
    assert read_metrics(folder)["eval_nll"] == pytest.approx([*first, math.nan], nan_ok=True)
    fit_here(store, folder, resume="auto", target_frames=16_000, eval_data_dir=str(held_out))
    last = mean_nll(folder / "gmm.pt", held_out)
    expected = [*first, math.nan, last]
    assert read_metrics(folder)["eval_nll"] == pytest.approx(expected, nan_ok=True, abs=1e-5)
    assert np.loadtxt(folder / "metrics.tsv", skiprows=1).shape == (4, 18)


def test_the_column_may_begin_late(store, held_out, tmp_path) -> None:
    fit_here(store, tmp_path)
    fit_here(store, tmp_path, resume="auto", target_frames=12_000, eval_data_dir=str(held_out))
    assert [math.isnan(value) for value in read_metrics(tmp_path)["eval_nll"]] == [
        True,
        True,
        False,
    ]


def test_other_held_out_frames_begin_the_column_afresh(evaluated, store, tmp_path, caplog) -> None:
    """Numbers of two stores in one column would be read as one curve."""
    folder = Path(shutil.copytree(evaluated, tmp_path / "copy"))
    fit_here(store, folder, resume="auto", target_frames=12_000, eval_data_dir=str(store))
    assert "--eval_data_dir" in caplog.text
    values = read_metrics(folder)["eval_nll"]
    assert [math.isnan(value) for value in values] == [True, True, False]
    assert values[2] == pytest.approx(mean_nll(folder / "gmm.pt", store), abs=1e-5)
