"""What a model says on a GPU, against float64 on the CPU: scores, posteriors, labels, targets."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gmmpipe import FeatureStore, GradientGMM, LabelStore
from gmmpipe.apply.evaluate import evaluate
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.jepa import JEPABatches
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.run.world import World
from helpers.exact import Exact
from pipelines.jepa.options import JEPAOptions
from pipelines.jepa.trainer import Trainer

NATS, POSTERIOR = 1e-3, 1e-4
"""How far what is returned may be from float64."""
SILENCE = math.log(1e-6)


@pytest.fixture(scope="module")
def some(frames: Tensor) -> Tensor:
    """Speech, and digital silence, float32 [1200, 80]."""
    return torch.cat([frames[::8][:1000], torch.full((200, 80), SILENCE)])


@pytest.fixture(params=["speech", "at the floor"])
def gmm(request: pytest.FixtureRequest, gmm_path: Path) -> GradientGMM:
    """A fitted mixture; and one of as many means, one in silence, all variances at the floor."""
    fitted = GradientGMM.load(gmm_path)
    if request.param == "speech":
        return fitted
    means, floor = fitted.means.clone(), torch.full_like(fitted.means, math.log(0.1))
    means[0] = SILENCE
    return GradientGMM.of(Mixture(means, floor, fitted.log_weights))


def test_every_answer_is_that_of_float64(gmm, some, device) -> None:
    exact, there, x = Exact.of(some, gmm.mixture), gmm.to(device), some.to(device)
    scores = there.score_samples(x)
    assert scores.device.type == device.type
    assert (scores.cpu() - exact.scores).abs().max() < NATS
    for temperature in (1.0, 3.0):
        posteriors = there.soft_assign(x, temperature)
        assert (posteriors.cpu() - exact.posteriors(temperature)).abs().max() < POSTERIOR
    exact.check_labels(there.assign(x))


def test_batches_of_an_encoder_are_answered_as_their_frames(gmm, some, device) -> None:
    there = gmm.to(device)
    batch = some.reshape(4, 300, 80).transpose(1, 2).to(device)
    assert torch.equal(there.assign(batch), there.assign(some.to(device)))
    difference = there.score_samples(batch) - there.score_samples(some.to(device))
    assert difference.abs().max() < NATS


def test_autocast_and_tf32_change_no_answer(gmm, some, device) -> None:
    there, x = gmm.to(device), some.to(device)
    plain = there.score_samples(x)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            assert torch.equal(there.score_samples(x), plain)
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_model_goes_to_the_device_and_back_unchanged(gmm, device, tmp_path) -> None:
    gmm.to(device).save(tmp_path / "there.pt")
    back = GradientGMM.load(tmp_path / "there.pt", device)
    assert back.means.device.type == device.type
    for name, buffer in gmm.named_buffers():
        assert torch.equal(buffer.cpu(), getattr(back, name).cpu()), name


def test_an_evaluation_is_that_of_float64(store, gmm_path, frames, world) -> None:
    found = evaluate(str(store), gmm_path, None, world)
    exact = Exact.of(frames, GradientGMM.load(gmm_path).mixture)
    posteriors = exact.posteriors()
    entropy = -(posteriors * posteriors.clamp_min(1e-300).log()).sum(1).mean()
    assert found.nll == pytest.approx(-float(exact.scores.mean()), abs=NATS)
    assert found.posterior_entropy == pytest.approx(float(entropy), abs=NATS)
    assert found.max_posterior == pytest.approx(float(posteriors.amax(1).mean()), abs=POSTERIOR)
    assert found.alive == len(exact.labels.unique())
    assert 0 <= found.em_gap < 1


def test_stored_labels_are_those_of_float64(store, gmm_path, frames, world, tmp_path) -> None:
    label(LabelOptions(store, gmm_path, tmp_path / "labels", top_k=4), world)
    opened = LabelStore.open(tmp_path / "labels")
    parts = [opened.read(n, 0, shard.row.frames) for n, shard in enumerate(opened.shards)]
    labels, probs = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("labels", "topk_probs")
    )
    exact = Exact.of(frames, GradientGMM.load(gmm_path).mixture)
    exact.check_labels(labels)
    largest = exact.posteriors().topk(4, dim=1).values
    assert (probs - largest).abs().max() < POSTERIOR + 2**-11, "rounded to float16"


def test_targets_of_a_jepa_are_the_posteriors_of_its_batches(store, gmm_path, device) -> None:
    batch = next(iter(JEPABatches(store, gmm_path, batch_size=4))).to(device)
    there = GradientGMM.load(gmm_path, device).soft_assign(batch.features)
    real = ~batch.padding_mask
    assert batch.targets.device.type == device.type
    assert (batch.targets[real] - there.view_as(batch.targets)[real]).abs().max() < POSTERIOR


def test_steps_of_the_jepa_recipe_are_those_of_a_cpu(store, gmm_path, device, tmp_path) -> None:
    rows = {}
    for place in (torch.device("cpu"), device):
        options = JEPAOptions(
            str(store),
            tmp_path / str(place) / str(len(rows)),
            gmm_path,
            max_steps=4,
            batch_size=4,
            log_every=2,
            num_workers=0,
            dim=16,
            layers=1,
            heads=2,
            predictor_layers=1,
            conv_dim=8,
        )
        trainer = Trainer(options, World(0, 1, place))
        trainer.run()
        rows[place] = trainer.state.metrics
        assert {p.device.type for p in trainer.state.jepa.parameters()} == {place.type}
    one, other = rows.values() if len(rows) > 1 else (*rows.values(), *rows.values())
    for here, there in zip(one, other, strict=True):
        for name in ("jepa_loss", "cluster_loss"):
            assert here[name] == pytest.approx(there[name], rel=1e-2), name


def test_the_store_is_read_as_it_was_written(store, frames) -> None:
    """What all of the above compare with is the store's own."""
    assert FeatureStore.open(store).num_frames == len(frames)
