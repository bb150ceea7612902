"""`gmmpipe evaluate` against scikit-learn in float64, on real speech and digital silence."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.stats import entropy
from sklearn.mixture import GaussianMixture
from sklearn.mixture._gaussian_mixture import _estimate_gaussian_parameters

from gmmpipe import FeatureConfig, FeatureStore, GradientGMM
from gmmpipe.apply.evaluate import NO_FLOOR, evaluate
from gmmpipe.errors import CheckpointError, StoreError
from helpers.damage import flip_in_frames
from helpers.making import CORPUS, alone, fit_here, make_store
from helpers.processes import root_cause, run, torchrun
from helpers.results import read_json_lines

KEYS = [
    *("frames", "nll", "nll_stderr", "alive", "usage_perplexity"),
    *("posterior_entropy", "max_posterior", "em_gap", "uncertain_share", "usage_entropy"),
    "label_agreement",
]
ALONE = alone()


@pytest.fixture(scope="module")
def silent_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store a fifth of whose frames are digital silence."""
    folder = tmp_path_factory.mktemp("silence")
    soundfile.write(folder / "silence.wav", np.zeros(10 * 16000), 16000)
    speech = [
        {**line, "wav_path": str(CORPUS / line["wav_path"])}
        for line in read_json_lines(CORPUS / "manifest.jsonl")[:12]
    ]
    lines = [{"audio_filepath": "silence.wav"}, *speech]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return make_store(folder / "m.jsonl", folder / "store")


def starts_of(store: FeatureStore) -> np.ndarray:
    """The first frame of each utterance, by reading all of them."""
    return np.cumsum([0, *(len(utt.features) for utt in store.utterances())])[:-1]


def reference(
    gmm: GradientGMM, frames: torch.Tensor, floor: float, starts: np.ndarray
) -> dict[str, float]:
    """What evaluate should say, by scikit-learn's own E- and M-step in float64."""
    x, before = frames.double().numpy(), gmm.to_sklearn()
    scores, posteriors = before.score_samples(x), before.predict_proba(x)
    labels = posteriors.argmax(1)
    counts = np.bincount(labels)
    later = np.setdiff1d(np.arange(1, len(x)), starts)
    after = GaussianMixture(gmm.K, covariance_type="diag")
    totals, after.means_, variances = _estimate_gaussian_parameters(x, posteriors, 0.0, "diag")
    after.weights_ = totals / totals.sum()
    after.covariances_ = np.maximum(variances, floor)
    after.precisions_cholesky_ = 1 / np.sqrt(after.covariances_)
    return {
        "frames": len(x),
        "nll": -scores.mean(),
        "nll_stderr": scores.std(ddof=1) / math.sqrt(len(x)),
        "alive": np.count_nonzero(counts),
        "usage_perplexity": math.exp(entropy(counts)),
        "posterior_entropy": entropy(posteriors, axis=1).mean(),
        "max_posterior": posteriors.max(1).mean(),
        "em_gap": after.score(x) - scores.mean(),
        "uncertain_share": (entropy(posteriors, axis=1, base=2) > 1).mean(),
        "usage_entropy": entropy(counts) / math.log(gmm.K),
        "label_agreement": (labels[later] == labels[later - 1]).mean(),
    }


def check(store: Path, gmm: Path, floor: float, max_frames: int | None = None) -> dict[str, Any]:
    """Evaluate, compare with the reference, and return what was said."""
    got = evaluate(str(store), gmm, max_frames, ALONE).to_json()
    opened = FeatureStore.open(store)
    frames = opened.read_frames(0, max_frames or opened.num_frames)
    expected = reference(GradientGMM.load(gmm), frames, floor, starts_of(opened))
    assert list(got) == KEYS
    assert got == pytest.approx(expected, abs=1e-5)
    return got


def test_a_fitted_model_on_speech(store, fitted) -> None:
    got = check(store, fitted, floor=0.1)
    assert got["alive"] == 16
    assert 1 < got["usage_perplexity"] < 16
    assert got["posterior_entropy"] > 1e-3
    assert 1e-3 < got["em_gap"] < 5
    assert 0 < got["uncertain_share"] < 0.5
    assert 0.5 < got["usage_entropy"] < 1


def test_silence_under_variances_at_the_floor(silent_store, tmp_path) -> None:
    fit_here(silent_store, tmp_path, target_frames=2000, batch_update_size=2000)
    gmm = GradientGMM.load(tmp_path / "gmm.pt")
    opened = FeatureStore.open(silent_store)
    frames = opened.read_frames(0, opened.num_frames)
    silence = frames.amax(1) < -13.8
    assert silence.float().mean() > 0.15
    at_floor = gmm.log_vars[gmm.assign(frames[silence]).unique()].exp()
    assert at_floor.max() < 0.1 + 1e-6
    check(silent_store, tmp_path / "gmm.pt", floor=0.1)


def test_dead_and_dying_components(store, fitted, tmp_path) -> None:
    """Counts of every size down to 0: an EM step may throw the weakest onto single frames."""
    gmm = GradientGMM.load(fitted)
    frames = FeatureStore.open(store).read_frames(0, 700)
    far = frames.mean(0) + torch.linspace(0.5, 60, 48)[:, None] * frames.std(0)
    means = torch.cat([gmm.means, far])
    log_vars = torch.cat([gmm.log_vars, torch.zeros(48, 80)])
    counts = GradientGMM(means, log_vars, torch.zeros(64) - math.log(64)).soft_assign(frames).sum(0)
    assert ((counts > 1e-30) & (counts < 1e-3)).any(), "some are dying"
    assert (counts == 0).any(), "some are dead"
    model = GradientGMM(means, log_vars, torch.full((64,), -math.log(64)), gmm.info)
    model.save(tmp_path / "gmm.pt")
    check(store, tmp_path / "gmm.pt", floor=0.1, max_frames=700)


def test_a_model_from_scikit_learn_has_no_floor_and_no_features(store, frames, tmp_path) -> None:
    fitted = GaussianMixture(6, covariance_type="diag", max_iter=50, random_state=0)
    GradientGMM.from_sklearn(fitted.fit(frames[:3000].numpy())).save(tmp_path / "gmm.pt")
    check(store, tmp_path / "gmm.pt", floor=NO_FLOOR)


def test_at_a_maximum_of_the_likelihood_the_gap_closes(store, frames, tmp_path) -> None:
    converged = GaussianMixture(3, covariance_type="diag", max_iter=500, tol=1e-9, random_state=0)
    GradientGMM.from_sklearn(converged.fit(frames.numpy())).save(tmp_path / "gmm.pt")
    assert abs(evaluate(str(store), tmp_path / "gmm.pt", None, ALONE).em_gap) < 1e-4


def test_max_frames_takes_the_first_and_one_frame_will_do(store, fitted) -> None:
    assert check(store, fitted, floor=0.1, max_frames=1234)["frames"] == 1234
    one = evaluate(str(store), fitted, 1, ALONE).to_json()
    assert (one["frames"], one["alive"], one["usage_perplexity"]) == (1, 1, 1.0)
    assert one["nll_stderr"] == 0.0
    assert all(math.isfinite(value) for value in one.values())


def test_zarr_and_tar_give_the_same(store, fitted, tmp_path) -> None:
    zarr = make_store(CORPUS, tmp_path / "zarr", utterances_per_shard=16, format="zarr")
    assert evaluate(str(zarr), fitted, None, ALONE) == evaluate(str(store), fitted, None, ALONE)


def test_two_ranks_print_what_one_finds_once(store, fitted) -> None:
    command = ["evaluate", str(store), "--gmm_path", str(fitted), "--json", "--max_frames", "8k"]
    two = json.loads(run([*torchrun(2, "-m", "gmmpipe"), *command]).stdout)
    assert list(two) == KEYS
    assert two == pytest.approx(evaluate(str(store), fitted, 8000, ALONE).to_json(), rel=1e-9)


def test_people_get_lines(store, fitted, invoke) -> None:
    done = invoke("evaluate", store, "--gmm-path", fitted, "--max-frames", 100)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == KEYS
    assert "Traceback" not in done.stderr


def test_a_model_of_other_features_is_refused_naming_what_differs(fitted, tmp_path, invoke) -> None:
    other = make_store(CORPUS, tmp_path / "other", features=FeatureConfig(n_mels=40, n_fft=512))
    done = invoke("evaluate", other, "--gmm_path", fitted, status=1)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"{fitted}: fitted to other features" in line
    assert "n_fft is 400 there and 512 in the store" in line
    assert "n_mels is 80 there and 40 in the store" in line


def test_a_model_of_another_dimension_is_refused(store, tmp_path) -> None:
    GradientGMM(torch.zeros(2, 7), torch.zeros(2, 7), torch.zeros(2)).save(tmp_path / "gmm.pt")
    with pytest.raises(CheckpointError, match=r"gmm\.pt: its D is 7, but .* 80"):
        evaluate(str(store), tmp_path / "gmm.pt", None, ALONE)


def test_what_is_no_model_or_no_store_is_refused(store, fitted, tmp_path) -> None:
    (tmp_path / "other.pt").write_bytes(b"neither")
    with pytest.raises(CheckpointError, match=r"other\.pt"):
        evaluate(str(store), tmp_path / "other.pt", None, ALONE)
    with pytest.raises(StoreError, match="nowhere"):
        evaluate(str(tmp_path / "nowhere"), fitted, None, ALONE)


def test_a_model_that_is_not_finite_is_refused(store, fitted, tmp_path) -> None:
    gmm = GradientGMM.load(fitted)
    gmm.means[3] = math.nan
    gmm.save(tmp_path / "gmm.pt")
    with pytest.raises(CheckpointError, match=r"gmm\.pt: .*not finite"):
        evaluate(str(store), tmp_path / "gmm.pt", 50, ALONE)


@pytest.mark.parametrize("missing", [[], ["--max_frames", "0"], ["--gmm_path", "nowhere.pt"]])
def test_wrong_usage(missing, store, invoke) -> None:
    invoke("evaluate", store, *missing, status=2)


def test_a_shard_with_a_flipped_byte_is_named_and_ends_all_ranks(store_copy, fitted) -> None:
    path = flip_in_frames(store_copy, shard=3)
    with pytest.raises(StoreError, match=f"{path}: utterance"):
        evaluate(str(store_copy), fitted, None, ALONE)
    arguments = ["evaluate", str(store_copy), "--gmm_path", str(fitted)]
    done = run([*torchrun(2, "-m", "gmmpipe"), *arguments], check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: {path}: utterance" in done.stderr
    assert f"StoreError: {path}: utterance" in root_cause(done.stderr)


def test_a_missing_shard_is_said_before_anything_is_read(store_copy, fitted) -> None:
    (store_copy / "shard-000002.tar").unlink()
    with pytest.raises(StoreError, match=r"shard-000002\.tar"):
        evaluate(str(store_copy), fitted, 10, ALONE)
