"""What is done with a model on fake CUDA: nothing mixes devices, and answers stay there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.apply.evaluate import evaluate
from gmmpipe.apply.label_shard import label_frames, make_label_shard
from gmmpipe.jepa import JEPABatch
from gmmpipe.jepa.targets import MixtureTargets, mixture_targets
from gmmpipe.mixture.measures import EvaluationSums
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.store.schema import LabelIdentity
from pipelines.benchmark.fake_cuda import CUDA, Counts, counted, fake_cuda
from pipelines.benchmark.fake_fit import WORLD
from pipelines.jepa.checkpoint import TrainState
from pipelines.jepa.evaluation import EvaluationSample
from pipelines.jepa.model import Sizes
from pipelines.jepa.options import JEPAOptions
from pipelines.jepa.targets import mixture_moments
from pipelines.jepa.trainer import Trainer

K, D = 64, 80


@pytest.fixture
def counts() -> Iterator[Counts]:
    with fake_cuda() as counts:
        yield counts


def on_cuda(*tensors: Tensor) -> bool:
    return all(tensor.device == CUDA for tensor in tensors)


def a_model() -> GradientGMM:
    zeros = torch.zeros(K, D, device=CUDA)
    return GradientGMM.of(Mixture(zeros, zeros.clone(), zeros[:, 0].clone()))


ANSWERS: dict[str, Callable[[GradientGMM, Tensor], Tensor]] = {
    "assign": GradientGMM.assign,
    "soft_assign": GradientGMM.soft_assign,
    "soft_assign tempered": lambda gmm, frames: gmm.soft_assign(frames, 0.5),
    "score_samples": GradientGMM.score_samples,
}


@pytest.mark.parametrize("shape", [(40_000, D), (2, D, 500), (0, D)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_model_answers_on_the_device_without_waiting(
    answer: Any, dtype: torch.dtype, shape: tuple[int, ...], counts: Counts
) -> None:
    gmm, frames = a_model(), torch.zeros(shape, dtype=dtype, device=CUDA)
    found: list[Tensor] = []
    asked = counted(lambda: found.append(answer(gmm, frames)), counts)
    assert on_cuda(*found)
    assert not asked.waits
    assert not asked.copies


def test_a_model_moves_between_devices_and_to_other_forms(counts: Counts) -> None:
    gmm = a_model()
    assert on_cuda(*gmm.buffers(), *vars(gmm.mixture).values())
    content = gmm.to_dict()
    assert {v.device.type for v in content.values() if isinstance(v, Tensor)} == {"cpu"}
    back = GradientGMM.from_dict(content)
    assert {buffer.device.type for buffer in back.buffers()} == {"cpu"}
    assert on_cuda(*back.to(CUDA).buffers())
    assert on_cuda(*GradientGMM.of(back.mixture).buffers())
    as_sklearn = gmm.to_sklearn()
    assert as_sklearn.means_.shape == (K, D)
    assert on_cuda(*GradientGMM.from_sklearn(as_sklearn).to(CUDA).buffers())


@pytest.mark.parametrize("form", ["gmmpipe", "sjepa"])
def test_a_model_is_saved_from_the_device(
    form: str, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, Any]] = []  # tensors without data cannot be written
    monkeypatch.setattr(
        "gmmpipe.mixture.gradient_gmm.write_model", lambda _, content: written.append(content)
    )
    a_model().save("gmm.pt", form)
    tensors = [value for value in written[0].values() if isinstance(value, Tensor)]
    assert len(tensors) >= 3
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_a_model_is_loaded_to_the_device(gmm_path: Path, store: Path, counts: Counts) -> None:
    gmm = GradientGMM.load(gmm_path, CUDA)
    assert on_cuda(*gmm.buffers())
    assert gmm.var_floor == 0.1
    # Loader processes compute on the CPU.
    targets = mixture_targets(gmm, FeatureStore.open(store), 1.0, 2)
    assert {buffer.device.type for buffer in targets.gmm.buffers()} == {"cpu"}


@pytest.mark.parametrize("top_k", [None, 8])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_labels_come_back_from_the_device(
    top_k: int | None, temperature: float, counts: Counts
) -> None:
    frames = torch.zeros(1000, D, device=CUDA)
    made = LabelIdentity("0" * 64, "0" * 64, K, top_k, temperature)
    arrays, left_out = label_frames(a_model(), frames, made)
    assert {name: array.shape for name, array in arrays.items()} == {
        column.name: (1000, column.width) for column in made.columns
    }
    assert (left_out > 0) == (top_k is not None)


def test_a_shard_is_labelled_and_a_store_evaluated(
    store: Path, gmm_path: Path, tmp_path: Path, counts: Counts
) -> None:
    gmm = GradientGMM.load(gmm_path, CUDA)
    made = LabelIdentity("0" * 64, "0" * 64, gmm.K, 2, 1.0)
    make_label_shard(FeatureStore.open(store).shards[0], tmp_path, gmm, made)
    assert len(list(tmp_path.iterdir())) == 2
    evaluation = evaluate(str(store), gmm_path, 5000, WORLD, labels_from="lang")
    assert evaluation.frames == 5000


def test_an_evaluation_adds_frames_without_waiting(counts: Counts) -> None:
    sums = EvaluationSums.zeros(K, D, CUDA)
    frames, mixture = torch.zeros(1000, D, device=CUDA), a_model().mixture
    asked = counted(lambda: sums.add(frames, mixture), counts)
    assert asked.kernels
    assert not asked.waits
    assert not asked.copies


@pytest.mark.parametrize("top_k", [None, 8])
def test_targets_of_a_jepa_are_made_on_the_device(top_k: int | None, counts: Counts) -> None:
    targets = MixtureTargets(a_model(), 0.5, top_k)._targets(0, torch.zeros(300, D, device=CUDA))
    assert len(targets) == (1 if top_k is None else 2)
    assert on_cuda(*targets.values())


class FakeTrainer(Trainer):
    """What `Trainer` needs for a step, without a store."""

    def __init__(self, signal: str) -> None:
        self.options = JEPAOptions("store", Path("jepa"), Path("gmm.pt"), input=signal)
        self.world = WORLD
        sizes = Sizes(D, K, input=signal, dim=32, layers=1, heads=2, conv_dim=8)
        self.state = TrainState.begin(sizes, 0, mixture_moments(a_model()), CUDA)


def a_batch(**targets: Tensor) -> JEPABatch:
    padding = torch.zeros(3, 50, dtype=torch.bool)
    features, lengths = torch.zeros(3, D, 50), torch.full((3,), 50)
    batch = JEPABatch(0, ["a", "b", "c"], "log_mel", features, lengths, padding, padding, **targets)
    return batch.pin_memory()


def fill_gradients(loss: Tensor, module: torch.nn.Module) -> None:
    assert loss.requires_grad
    assert on_cuda(loss)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)


@pytest.mark.parametrize("signal", ["features", "wav"])
@pytest.mark.parametrize("top_k", [None, 8])
def test_a_step_of_a_jepa_is_taken_on_the_device(
    signal: str, top_k: int | None, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It draws again until all values are within bounds, and here no value ever is.
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda parameter, **_: parameter)
    trainer = FakeTrainer(signal)
    targets = {"targets": torch.zeros(3, 50, K)}
    if top_k is not None:
        ids = torch.zeros(3, 50, top_k, dtype=torch.int64)
        targets = {"topk_ids": ids, "topk_probs": torch.zeros(3, 50, top_k)}
    batch = a_batch(wav=torch.zeros(3, 16_000), **targets)
    sending = counted(lambda: batch.to(CUDA, non_blocking=True), counts)
    assert not sending.copies
    assert sending.sent.total() >= 6
    state = trainer.state
    # Autograd's own way back asks the driver which devices there are; a gradient lies where its
    # parameter does.
    monkeypatch.setattr(Tensor, "backward", lambda loss: fill_gradients(loss, state.jepa))
    trainer._step(batch.to(CUDA))
    moments = [value["exp_avg"] for value in state.optimizer.state.values()]
    assert on_cuda(*state.jepa.parameters(), *state.target.parameters(), *moments)
    assert state.running.values.device.type == "cpu"
    sample = EvaluationSample([batch.to(CUDA)])
    assert set(sample.measure(state.jepa)) == {"usage_entropy", "effective_rank", "feature_std"}
    content = state.to_dict({})
    TrainState.begin(state.jepa.sizes, 0, mixture_moments(a_model()), CUDA).load(content)


def test_a_mask_a_list_and_a_copy_are_noticed(counts: Counts) -> None:
    frames = torch.zeros(10, D, device=CUDA)
    assert counted(lambda: frames[frames[:, 0] > 0], counts).waits == {"mask": 1}
    assert counted(lambda: (frames > 0).nonzero(), counts).waits == {"nonzero": 1}
    assert counted(lambda: torch.bincount(frames[0].long()), counts).waits == {"bincount": 1}
    assert counted(lambda: frames.tolist(), counts).waits == {"tolist": 1}
    assert counted(lambda: frames[0, 0] > 0 and None, counts).waits == {"_local_scalar_dense": 1}
    assert counted(lambda: frames[torch.arange(3)], counts).copies == {"index": 1}


def test_a_copy_is_waited_for_unless_it_is_of_pinned_memory_and_non_blocking(
    counts: Counts,
) -> None:
    there, here = torch.zeros(10, D, device=CUDA), torch.zeros(10, D)
    pinned = torch.empty(10, D, pin_memory=True)
    assert counted(there.cpu, counts).copies == {"aten._to_copy": 1}
    for host, non_blocking in ((here, False), (here, True), (pinned, False)):
        asked = counted(lambda h=host, n=non_blocking: there.copy_(h, non_blocking=n), counts)
        assert asked.copies == {"aten.copy_": 1}
        assert not asked.sent
    for host in (pinned, pinned[1:], here.pin_memory()):
        asked = counted(lambda h=host: h.to(CUDA, non_blocking=True), counts)
        assert asked.sent == {"aten._to_copy": 1}
        assert not asked.copies
