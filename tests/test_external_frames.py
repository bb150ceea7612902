"""Frames that another program made, of any dimension, through all that follows the store."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.special import logsumexp
from scipy.stats import norm

from gmmpipe import FeatureStore, GradientGMM, LabelStore
from gmmpipe.apply.evaluate import evaluate
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.cli import cli
from gmmpipe.errors import CheckpointError, OptionError, StoreError
from gmmpipe.jepa import JEPABatches
from helpers.external import DIMS, LAYER, utterances, write
from helpers.making import alone, fit_here
from helpers.results import read_metrics
from pipelines.jepa.options import JEPAOptions
from pipelines.jepa.trainer import Trainer

ALONE = alone()
FIT: dict[str, Any] = {
    "K": 4,
    "target_frames": 600,
    "batch_update_size": 300,
    "n_sgd_steps": 8,
    "sgd_batch_size": 64,
    "save_every": 300,
}


def gmmpipe(*arguments: object) -> str:
    """What a command prints."""
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def words(printed: str) -> list[list[str]]:
    """Each line's words."""
    return [line.split() for line in printed.splitlines()]


@pytest.fixture(scope="module", params=[(dim, kind) for dim in DIMS for kind in ("tar", "zarr")])
def external(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of each dimension and each kind of shard, and a mixture fitted to it."""
    (dim, kind), folder = request.param, tmp_path_factory.mktemp("external")
    store = write(folder / "store", dim, format=kind)
    fit_here(store, folder / "fit", eval_data_dir=str(store), **FIT)
    return store, folder / "fit" / "gmm.pt"


def nll_in_float64(gmm: GradientGMM, frames: np.ndarray) -> np.ndarray:
    """-ln p(x) of each frame, by the definition."""
    means, deviations = gmm.means.double().numpy(), (gmm.log_vars.double() / 2).exp().numpy()
    densities = [norm.logpdf(frames, *one).sum(1) for one in zip(means, deviations, strict=True)]
    return -logsumexp(gmm.log_weights.double().numpy() + np.stack(densities, 1), axis=1)


def test_a_mixture_is_fitted_evaluated_and_applied(external, tmp_path: Path) -> None:
    path, gmm_path = external
    store, gmm = FeatureStore.open(path), GradientGMM.load(gmm_path)
    frames = store.read_frames(0, store.num_frames)
    assert gmm.dim == store.dim == frames.shape[1]
    assert gmm.info["features"] == {
        **store.features.to_json(),
        "fingerprint": store.features.fingerprint,
    }
    expected = nll_in_float64(gmm, frames.double().numpy())
    got = evaluate(str(path), gmm_path, None, ALONE)
    assert got.frames == len(frames)
    assert got.nll == pytest.approx(expected.mean(), rel=1e-9)
    assert got.nll_stderr == pytest.approx(expected.std(ddof=1) / len(frames) ** 0.5, rel=1e-6)
    torch.testing.assert_close(
        -gmm.score_samples(frames).double(), torch.from_numpy(expected), rtol=1e-6, atol=1e-3
    )
    assert read_metrics(gmm_path.parent)["eval_nll"][-1] == pytest.approx(expected.mean(), rel=1e-5)

    options = LabelOptions(store=path, gmm_path=gmm_path, output_dir=tmp_path / "labels", top_k=2)
    label(options, ALONE)
    labels = LabelStore.open(tmp_path / "labels")
    labels.check_source(store)
    for number, shard in enumerate(store.shards):
        for position, key in enumerate(shard.sidecar().index.keys):
            own = dict(utterances(store.dim))[key].astype(np.float16)
            found = labels.read_utterance(shard=number, position=position)
            assert torch.equal(found.labels, gmm.assign(torch.from_numpy(own).float()))
    assert ["finished:", "yes"] in words(gmmpipe("inspect", tmp_path / "labels"))


def test_batches_have_features_and_no_log_mels(external) -> None:
    path, gmm_path = external
    whole = dict(utterances(FeatureStore.open(path).dim))
    seen = []
    for batch in JEPABatches(path, gmm_path, batch_size=4, seed=1):
        assert batch.kind == "external"
        assert batch.features.shape[1] == len(next(iter(whole.values()))[0])
        for row, key in enumerate(batch.keys):
            own = torch.from_numpy(whole[key].astype(np.float16)).float()
            assert torch.equal(batch["features"][row, :, : len(own)].t(), own)
        assert batch.targets.shape == (*batch.mask.shape, 4)
        assert not hasattr(batch, "log_mel")
        with pytest.raises(KeyError, match=r"of kind external, not log-mels: read batch\.features"):
            batch["log_mel"]
        seen += batch.keys
    assert sorted(seen) == sorted(whole)


def test_the_store_says_what_it_holds_and_is_verified(external) -> None:
    path, gmm_path = external
    store = FeatureStore.open(path)
    found = json.loads(gmmpipe("inspect", path, "--json"))
    assert (found["kind"], found["utterances"], found["finished"]) == ("feature store", 14, True)
    assert found["features"] == {
        "kind": "external",
        "dim": store.dim,
        "frame_rate": 50.0,
        "description": LAYER,
    }
    assert found["hours"] == pytest.approx(store.num_frames / 50 / 3600, abs=1e-6)
    lines = words(gmmpipe("inspect", path))
    for line in (["kind:", "external"], ["dim:", f"{store.dim:,}"], ["layer:", "6"]):
        assert line in lines
    assert json.loads(gmmpipe("inspect", gmm_path, "--json"))["features"]["kind"] == "external"
    gmmpipe("verify", path)


def test_fit_numbers_frames_of_several_stores_through(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"part-{seed}", 39, seed=seed) for seed in (0, 1)]
    joined = FeatureStore.open(f"{parts[0]},{parts[1]}")
    assert len(joined) == 28
    fit_here(f"{parts[0]},{parts[1]}", tmp_path / "fit", **FIT)
    assert GradientGMM.load(tmp_path / "fit" / "gmm.pt").dim == 39


def test_frames_of_another_fingerprint_are_refused(tmp_path: Path, fitted: Path) -> None:
    store = write(tmp_path / "store", 80)
    fit_here(store, tmp_path / "fit", **FIT)
    gmm_path = tmp_path / "fit" / "gmm.pt"
    others = {
        "description is {'layer': 6, 'model': 'encoder'} there and {'layer': 7} in the store": {
            "description": {"layer": 7}
        },
        r"frame_rate is 50\.0 there and 25\.0 in the store": {"frame_rate": 25},
    }
    for number, (message, options) in enumerate(others.items()):
        other = write(tmp_path / f"other-{number}", 80, **options)
        with pytest.raises(CheckpointError, match=f"fitted to other features: {message}"):
            evaluate(str(other), gmm_path, None, ALONE)
        with pytest.raises(CheckpointError, match=message):
            JEPABatches(other, gmm_path)
        with pytest.raises(StoreError, match=r"its features \(fingerprint \w+\) are not those of"):
            FeatureStore.open(f"{store},{other}")
    with pytest.raises(CheckpointError, match="kind is log_mel there and external in the store"):
        evaluate(str(store), fitted, None, ALONE)


def test_an_unfinished_store_is_described_as_far_as_it_is(tmp_path: Path) -> None:
    store = write(tmp_path / "store", 39)
    (store / "store.json").rename(store / "reopened.json")
    (store / "shard-000001.tar").unlink()
    found = json.loads(gmmpipe("inspect", store, "--json"))
    assert (found["finished"], found["features"]["kind"]) == (False, "external")


def test_a_jepa_hears_the_frames_but_not_a_waveform_that_nobody_has(tmp_path: Path) -> None:
    store = write(tmp_path / "store", 39)
    fit_here(store, tmp_path / "fit", **FIT)
    small = {"max_steps": 3, "batch_size": 4, "dim": 16, "layers": 1, "heads": 2, "num_workers": 0}
    options = {"predictor_layers": 1, "log_every": 1, "device": "cpu", **small}
    gmm_path, out = tmp_path / "fit" / "gmm.pt", tmp_path / "jepa"
    Trainer(JEPAOptions(str(store), out, gmm_path, **options), ALONE).run()
    assert len((out / "metrics.tsv").read_text().splitlines()) == 4
    with pytest.raises(OptionError, match="--input wav needs audio, and frames of kind external"):
        Trainer(JEPAOptions(str(store), out, gmm_path, input="wav", **options), ALONE)
    with pytest.raises(StoreError, match="frames of kind external have no audio beside them"):
        JEPABatches(store, wav=True)
