"""The parts of the JEPA recipe: schedules, measures, model and losses."""

import copy
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.errors import OptionError
from gmmpipe.jepa import Augmentation, JEPABatch, JEPABatches
from pipelines.jepa.evaluation import EvaluationSample
from pipelines.jepa.losses import RunningLosses, loss_sums
from pipelines.jepa.measures import effective_rank, entropy, feature_std
from pipelines.jepa.model import JEPA, FeaturesFrontend, Sizes, WaveformFrontend
from pipelines.jepa.options import JEPAOptions
from pipelines.jepa.schedule import cluster_weight_at, lr_at
from pipelines.jepa.targets import mixture_moments
from pipelines.jepa.trainer import update_target

SIZES = Sizes(input_dim=80, num_components=16, dim=32, layers=2, heads=2, predictor_layers=1)


@pytest.fixture(scope="module")
def gmm(gmm_path) -> GradientGMM:
    return GradientGMM.load(gmm_path)


@pytest.fixture(scope="module")
def batch(store, gmm) -> JEPABatch:
    """Six utterances of unlike lengths."""
    return next(iter(JEPABatches(store, gmm, batch_size=6, window=1, seed=1)))


@pytest.fixture(scope="module")
def jepa(gmm) -> JEPA:
    return JEPA(SIZES, seed=0, moments=mixture_moments(gmm))


@pytest.mark.parametrize("max_steps", [1, 2, 9, 10, 1000])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_hundredth(max_steps: int) -> None:
    rates = [lr_at(step, max_steps, 0.5) for step in range(max_steps)]
    top = math.ceil(max_steps / 10) - 1
    assert rates[top] == max(rates) == 0.5
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0
    if max_steps > 1:
        assert rates[-1] == pytest.approx(0.005)


def test_the_cluster_weight_is_a_line_between_its_ends() -> None:
    weights = [cluster_weight_at(step, 101, 1.0, 0.01) for step in range(101)]
    assert weights == pytest.approx(np.linspace(1.0, 0.01, 101))
    assert cluster_weight_at(0, 1, 1.0, 0.01) == 1.0
    assert {cluster_weight_at(step, 9, 0.0, 0.0) for step in range(9)} == {0.0}


def test_measures_agree_with_numpy_and_scipy() -> None:
    features = np.random.default_rng(0).normal(size=(500, 12)) * np.linspace(0.1, 3, 12) + 7
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    expected = math.exp(scipy.stats.entropy(values))
    here = torch.from_numpy(features)
    assert effective_rank(here) == pytest.approx(expected, rel=1e-12)
    assert effective_rank(here * 1e-6 + 3) == pytest.approx(expected, rel=1e-6)
    assert feature_std(here) == pytest.approx(features.std(0).mean(), rel=1e-12)
    shares = np.random.default_rng(1).random(30)
    assert entropy(torch.from_numpy(shares)) == pytest.approx(scipy.stats.entropy(shares))


def test_measures_know_a_collapse_when_they_see_one() -> None:
    torch.manual_seed(0)
    point, direction, spread = torch.ones(200, 8), torch.randn(8), torch.randn(20_000, 8)
    assert (effective_rank(point), feature_std(point)) == (1.0, 0.0)
    assert effective_rank(torch.randn(200, 1) * direction) == pytest.approx(1.0, abs=1e-4)
    assert effective_rank(spread) > 7.9
    assert entropy(torch.tensor([0.0, 1.0, 0.0])) == 0.0
    assert entropy(torch.full((64,), 0.1)) == pytest.approx(math.log(64))


def test_losses_are_those_of_the_formulas_in_float64(jepa, batch) -> None:
    exact, target = copy.deepcopy(jepa).double(), copy.deepcopy(jepa.encoder).double()
    update_target(target, JEPA(SIZES, seed=5).encoder.double(), 0.5)  # else too near the online
    doubled = vars(batch) | {"features": batch.features.double(), "targets": batch.targets.double()}
    sums = loss_sums(exact, target, JEPABatch(**doubled))

    jepa_sum = cluster_sum = 0.0
    for parameter in (*exact.parameters(), *target.parameters()):
        parameter.requires_grad_(False)
    for row, length in enumerate(batch.lengths.tolist()):
        mask = batch.mask[row : row + 1, :length]
        mel = batch.features[row : row + 1, :, :length].double()
        context = exact.encoder(mel, ~mask)
        predicted = exact.predictor(context, ~mask, mask)
        wanted = target(mel, torch.ones_like(mask))[mask[0]]
        jepa_sum += float(((predicted - wanted) ** 2).sum() / SIZES.dim)
        q = exact.cluster_head(context).softmax(1).numpy()
        p = batch.targets[row, :length][~mask[0]].double().numpy()
        cluster_sum += float(scipy.stats.entropy(p, q, axis=1).sum())
    assert sums.jepa.item() == pytest.approx(jepa_sum, rel=1e-9)
    assert sums.cluster.item() == pytest.approx(cluster_sum, rel=1e-5)  # p are float32 and scaled

    there = copy.deepcopy(target).float()
    rounded = loss_sums(jepa, there, batch)
    assert rounded.jepa.item() == pytest.approx(jepa_sum, rel=1e-4)
    assert rounded.cluster.item() == pytest.approx(cluster_sum, rel=1e-4)


def test_the_marginal_loss_is_that_of_predicting_the_mean_posterior(batch, jepa) -> None:
    visible = ~(batch.padding_mask | batch.mask)
    p = batch.targets[visible].double().numpy()
    running = RunningLosses.empty(16)
    sums = loss_sums(jepa, jepa.encoder, batch)
    counts = [batch.mask.sum(), visible.sum()]
    for _ in range(2):  # twice the same frames: the same means
        parts = torch.stack([sums.jepa, sums.cluster, sums.entropy, *counts]).detach()
        running.add(torch.cat([parts, sums.posteriors]))
    means = running.means()
    expected = scipy.stats.entropy(p, p.mean(0, keepdims=True).repeat(len(p), 0), axis=1).mean()
    assert means["marginal_loss"] == pytest.approx(expected, rel=1e-5)
    assert means["cluster_loss"] == pytest.approx(sums.cluster.item() / len(p), rel=1e-5)
    assert means["jepa_loss"] == pytest.approx(sums.jepa.item() / int(batch.mask.sum()), rel=1e-5)


def test_nothing_of_masked_frames_reaches_predictor_or_cluster_head(jepa, batch) -> None:
    altered = batch.features.clone()
    altered.transpose(1, 2)[batch.mask] += 3.0
    visible = ~(batch.padding_mask | batch.mask)
    before, after = (jepa.encoder(signal, visible) for signal in (batch.features, altered))
    assert torch.equal(before, after)
    real = ~batch.padding_mask
    assert not torch.allclose(jepa.encoder(batch.features, real), jepa.encoder(altered, real))


def test_an_utterance_comes_out_of_a_padded_batch_as_it_does_alone(jepa, batch) -> None:
    real = ~batch.padding_mask
    together = jepa.encoder(batch.features, real).split(batch.lengths.tolist())
    for row, length in enumerate(batch.lengths.tolist()):
        alone = jepa.encoder(
            batch.features[row : row + 1, :, :length], real[row : row + 1, :length]
        )
        assert torch.allclose(alone, together[row], atol=1e-5)


def test_the_front_end_standardises_with_the_moments_of_the_mixture(gmm) -> None:
    frontend = FeaturesFrontend(SIZES)
    frontend.set_moments(*mixture_moments(gmm))
    draws = torch.from_numpy(gmm.to_sklearn().sample(200_000)[0]).float()
    assert torch.allclose(frontend.mean, draws.mean(0), atol=0.05)
    assert torch.allclose(frontend.std, draws.std(0), rtol=0.02)


def test_a_frame_of_the_waveform_front_end_sees_the_window_of_its_log_mel_frame() -> None:
    frontend = WaveformFrontend(Sizes(80, 16, dim=8, conv_dim=4))
    wav = torch.randn(1, 6 * 320, requires_grad=True)
    out = frontend(wav)
    assert out.shape == (1, 6, 8)
    for frame in range(6):
        (gradient,) = torch.autograd.grad(out[0, frame].sum(), wav, retain_graph=True)
        seen = gradient[0].nonzero().squeeze(1)
        assert seen.min() == max(0, 320 * frame - 200)
        assert seen.max() == min(6 * 320, 320 * frame + 200) - 1


def test_parameters_are_a_function_of_the_seed_and_no_two_layers_begin_alike() -> None:
    torch.manual_seed(1)
    one = JEPA(SIZES, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = JEPA(SIZES, seed=3).state_dict(), JEPA(SIZES, seed=4).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    name = "encoder.layers.layers.{}.linear1.weight"
    assert not torch.equal(one[name.format(0)], other[name.format(0)])
    assert not torch.equal(one[name.format(0)], one[name.format(1)])


def test_the_evaluation_sample_is_whole_utterances_each_once(store, jepa) -> None:
    opened = FeatureStore.open(store)
    sample = EvaluationSample.read(opened, jepa, seed=0, num_utterances=20)
    lengths = {utt.key: len(utt.features) for utt in opened.utterances()}
    keys = [key for batch in sample.batches for key in batch.keys]
    assert len(set(keys)) == len(keys)
    assert 16 <= len(keys) <= 24
    features = sample.encode(jepa, jepa.encoder)
    assert features.shape == (sum(lengths[key] for key in keys), 32)
    measures = sample.measure(jepa)
    assert measures["effective_rank"] == effective_rank(features)
    assert 0 < measures["usage_entropy"] <= math.log(16)


def test_a_step_has_one_size(store: Path, gmm_path: Path, tmp_path: Path) -> None:
    options = partial(JEPAOptions, str(store), gmm_path, tmp_path)
    assert options().batch_size == 16
    assert options(max_seconds=20.0).batch_size is None
    with pytest.raises(OptionError, match="--batch_size and --max_seconds are given"):
        options(batch_size=16, max_seconds=20.0)


def test_only_waveforms_are_augmented(store: Path, gmm_path: Path, tmp_path: Path) -> None:
    options = partial(JEPAOptions, str(store), gmm_path, tmp_path)
    assert options().augmentation is None
    assert options(input="wav", mix_prob=0.2).augmentation == Augmentation(0.2, noise_prob=0)
    with pytest.raises(OptionError, match="are of the waveforms of --input wav"):
        options(mix_prob=0.2)
    with pytest.raises(OptionError, match="together above 1"):
        options(input="wav", mix_prob=0.6, noise_prob=0.6)
