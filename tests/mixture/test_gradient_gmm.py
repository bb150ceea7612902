"""`GradientGMM`: what it returns equals scikit-learn's float64 whatever surrounds it; its file."""

import math
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from gmmpipe import GradientGMM
from gmmpipe.errors import CheckpointError
from gmmpipe.mixture.seeding import seed_mixture
from helpers.processes import one_thread

SILENCE = math.log(1e-6)
FLOOR = math.log(0.1)
METHODS = ("assign", "soft_assign", "score_samples")


@pytest.fixture(scope="module")
def gmm(frames: Tensor) -> GradientGMM:
    return GradientGMM.of(seed_mixture(frames, 32, 0.1, seed=0).mixture)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def silence(count: int) -> Tensor:
    return torch.full((count, 80), SILENCE)


def at_floor(gmm: GradientGMM) -> GradientGMM:
    return GradientGMM(gmm.means, torch.full_like(gmm.log_vars, FLOOR), gmm.log_weights)


def crowded_at_silence(gmm: GradientGMM) -> GradientGMM:
    """Half of the components within a hair of digital silence, all variances at the floor."""
    means = gmm.means.clone()
    means[:16] = silence(16) + 1e-3 * torch.randn(16, 80, generator=generator())
    return GradientGMM(means, torch.full_like(gmm.log_vars, FLOOR), gmm.log_weights)


def near_silence(count: int) -> Tensor:
    return silence(count) + 0.05 * torch.randn(count, 80, generator=generator())


CASES: dict[str, tuple[Callable[[GradientGMM], GradientGMM], Callable[[Tensor], Tensor]]] = {
    "speech": (lambda gmm: gmm, lambda frames: frames),
    "speech, variances at the floor": (at_floor, lambda frames: frames),
    "digital silence, variances at the floor": (at_floor, lambda frames: silence(2500)),
    "digital silence, near-identical components": (crowded_at_silence, lambda _: silence(2500)),
    "almost silence, near-identical components": (crowded_at_silence, lambda _: near_silence(2500)),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_returned_is_that_of_scikit_learn(case, gmm, frames) -> None:
    change, choose = CASES[case]
    model, x = change(gmm), choose(frames)
    reference, wide = model.to_sklearn(), x.double().numpy()
    posteriors = reference.predict_proba(wide)
    assert np.abs(model.score_samples(x).numpy() - reference.score_samples(wide)).max() < 1e-3
    assert np.abs(model.soft_assign(x).numpy() - posteriors).max() < 1e-4
    # Where two components are equally likely to 15 digits, either of them is right.
    labels = model.assign(x).numpy()
    chosen = posteriors[np.arange(len(x)), labels]
    assert (posteriors.max(1) - chosen).max() < 1e-6
    assert (labels == reference.predict(wide)).mean() > 0.999


def test_rows_of_posteriors_sum_to_one_and_shapes_are_those_of_the_contract(gmm, frames) -> None:
    assert gmm.soft_assign(frames).shape == (len(frames), 32)
    assert (gmm.soft_assign(frames).sum(1) - 1).abs().max() < 1e-5
    assert gmm.assign(frames).dtype == torch.int64
    assert gmm.score_samples(frames).shape == (len(frames),)
    assert (gmm.K, gmm.dim) == (32, 80)
    names = {"means", "covariances", "weights", "log_vars", "log_weights"}
    assert dict(gmm.named_buffers()).keys() == names


@pytest.mark.parametrize("temperature", [0.5, 1.0, 30.0])
def test_the_temperature_divides_the_log_joints(temperature, gmm, frames) -> None:
    joints = torch.from_numpy(gmm.to_sklearn()._estimate_weighted_log_prob(frames.double().numpy()))
    expected = torch.softmax(joints / temperature, 1).float()
    assert (gmm.soft_assign(frames, temperature=temperature) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature, gmm, frames) -> None:
    with pytest.raises(ValueError, match="temperature"):
        gmm.soft_assign(frames[:2], temperature=temperature)


@pytest.mark.parametrize("method", METHODS)
def test_batches_are_flattened_time_fastest(method, gmm, frames) -> None:
    batch = frames[:300].reshape(3, 100, 80).transpose(1, 2)  # [B, D, T]
    call = getattr(gmm, method)
    assert torch.equal(call(batch), call(frames[:300]))
    assert torch.equal(call(batch.contiguous()), call(frames[:300]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(80,), (5, 79), (2, 79, 80), (80, 5), (1, 2, 80, 3), ()])
def test_other_shapes_are_refused(method, shape, gmm) -> None:
    with pytest.raises(ValueError, match="80"):
        getattr(gmm, method)(torch.zeros(shape))


@pytest.mark.parametrize(
    "empty", [torch.zeros(0, 80), torch.zeros(0, 80, 7), torch.zeros(2, 80, 0)]
)
def test_no_frames_give_empty_results(empty, gmm) -> None:
    assert gmm.assign(empty).shape == (0,)
    assert gmm.soft_assign(empty).shape == (0, 32)
    assert gmm.score_samples(empty).shape == (0,)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "medium matmul precision": lambda: matmul_precision("medium"),
    "grad mode": torch.enable_grad,
    "inference mode": torch.inference_mode,
    "float64 by default": lambda: default_dtype(torch.float64),
    "float16 by default": lambda: default_dtype(torch.float16),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_results_do_not_depend_on_what_surrounds_the_call(surrounding, method, gmm, frames) -> None:
    model = crowded_at_silence(gmm)
    x = torch.cat([frames[:1500], near_silence(1500)])
    expected = getattr(model, method)(x)
    with SURROUNDINGS[surrounding]():
        # A model made there is no other either.
        again = GradientGMM.of(model.mixture)
        got, of_again = getattr(model, method)(x), getattr(again, method)(x)
    assert got.dtype == expected.dtype
    assert torch.equal(got, expected)
    assert torch.equal(of_again, expected)


@pytest.mark.parametrize("method", METHODS)
def test_inputs_that_require_gradients_make_no_graph(method, gmm, frames) -> None:
    x = frames[:500].clone().requires_grad_()
    got = getattr(gmm, method)(x)
    assert not got.requires_grad
    assert torch.equal(got, getattr(gmm, method)(frames[:500]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_dtype_of_the_same_values_makes_no_difference(dtype, gmm, frames) -> None:
    """Stored frames are float16, so every dtype here holds them exactly."""
    with nullcontext() if dtype == torch.float64 else torch.autocast("cpu", torch.bfloat16):
        for method in METHODS:
            call = getattr(gmm, method)
            assert torch.equal(call(frames.to(dtype)), call(frames))


GROWTH = """
import sys, torch
from gmmpipe import GradientGMM

def peak():  # of this process since it was started; ru_maxrss would begin with its parent's
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

method, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
weights = torch.full((16,), 1 / 16).log()
gmm = GradientGMM(torch.randn(16, 80, generator=draw), torch.zeros(16, 80), weights)
shape = {"frames": (count, 80), "batch": (8, 80, count // 8)}[kind]
x = torch.ones(shape, dtype=torch.float16)
getattr(gmm, method)(torch.ones(4096, 80))  # what a first call loads
before = peak()
out = getattr(gmm, method)(x)
print(peak() - before - out.nbytes)
"""


@pytest.mark.parametrize("kind", ["frames", "batch"])
@pytest.mark.parametrize("method", ["score_samples", "soft_assign"])
def test_memory_is_the_result_and_a_fixed_block(method, kind) -> None:
    """In a process of its own, whose peak memory is nobody else's."""
    count = 800_000  # 128 MB of float16 frames: no copy of them, in any dtype, can hide
    command = [sys.executable, "-c", GROWTH, method, kind, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread(), check=True)
    assert int(done.stdout) < 40e6


def test_to_and_from_scikit_learn_are_inverses(gmm, frames) -> None:
    fitted = GaussianMixture(6, covariance_type="diag", max_iter=5, random_state=0, tol=10.0)
    x = frames[::4].double().numpy()
    fitted.fit(x)
    here = GradientGMM.from_sklearn(fitted)
    back = here.to_sklearn()
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert np.allclose(getattr(back, name), getattr(fitted, name), rtol=2e-6, atol=1e-6), name
    assert np.abs(here.score_samples(frames[::4]).numpy() - fitted.score_samples(x)).max() < 1e-3
    again = GradientGMM.from_sklearn(gmm.to_sklearn())
    torch.testing.assert_close(again.state_dict(), gmm.state_dict(), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_weight_of_zero_is_no_reason_to_warn_and_nothing_is_nan(frames, tmp_path) -> None:
    model = GaussianMixture(3, covariance_type="diag", max_iter=2, random_state=0, tol=1e3)
    model.fit(frames[::8, :5].double().numpy())
    model.weights_ = np.array([0.25, 0.75, 0.0])
    gmm = GradientGMM.from_sklearn(model)
    gmm.save(tmp_path / "gmm.pt")
    gmm = GradientGMM.load(tmp_path / "gmm.pt")
    posteriors = gmm.soft_assign(frames[:50, :5])
    assert posteriors.isfinite().all()
    assert not posteriors[:, 2].any()
    assert gmm.score_samples(frames[:50, :5]).isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_a_temperature_that_is_none_is_refused(temperature, gmm, frames) -> None:
    with pytest.raises(ValueError, match="temperature"):
        gmm.soft_assign(frames[:3], temperature=temperature)


def test_covariances_that_are_not_diagonal_are_refused(frames) -> None:
    full = GaussianMixture(2, covariance_type="full", max_iter=2, random_state=0, tol=1e3)
    full.fit(frames[::8, :5].double().numpy())
    with pytest.raises(ValueError, match="full"):
        GradientGMM.from_sklearn(full)


def test_parameters_whose_shapes_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[K, D\]"):
        GradientGMM(torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(2))


@pytest.fixture
def saved(gmm: GradientGMM, tmp_path: Path) -> Path:
    model = GradientGMM.of(gmm.mixture, info={"seed": 7, "frames": 2**40})
    model.save(tmp_path / "gmm.pt")
    return tmp_path / "gmm.pt"


def test_a_loaded_model_is_the_saved_one(saved, gmm, frames) -> None:
    loaded = GradientGMM.load(saved, device="cpu")
    for name, buffer in gmm.named_buffers():
        assert torch.equal(getattr(loaded, name), buffer), name
    assert torch.equal(loaded.score_samples(frames), gmm.score_samples(frames))
    assert loaded.info == {"seed": 7, "frames": 2**40}
    loaded.save(saved.with_name("again.pt"))
    assert GradientGMM.load(saved.with_name("again.pt")).info == loaded.info


def test_the_file_holds_what_the_contract_says(saved) -> None:
    content = torch.load(saved, weights_only=True)
    shapes = {"means": (32, 80), "covariances": (32, 80), "log_vars": (32, 80)}
    for name, shape in {**shapes, "weights": (32,), "log_weights": (32,)}.items():
        assert content[name].shape == shape
        assert content[name].dtype == torch.float32
    assert type(content["K"]) is int
    assert type(content["dim"]) is int
    assert (content["K"], content["dim"]) == (32, 80)
    assert "format_version" in content
    torch.testing.assert_close(content["covariances"], content["log_vars"].exp())
    torch.testing.assert_close(content["weights"], torch.softmax(content["log_weights"], 0))
    assert content["log_weights"].exp().sum() == pytest.approx(1.0, abs=1e-5)


def test_saving_leaves_no_other_file_and_a_failure_leaves_the_old_one(saved, gmm) -> None:
    before = saved.read_bytes()
    unsaveable = GradientGMM.of(gmm.mixture, info={"x": lambda: None})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        unsaveable.save(saved)
    assert os.listdir(saved.parent) == ["gmm.pt"]
    assert saved.read_bytes() == before


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_by_name(fraction, saved) -> None:
    os.truncate(saved, int(fraction * saved.stat().st_size))
    with pytest.raises(CheckpointError, match=str(saved)):
        GradientGMM.load(saved)


def test_a_flipped_byte_in_any_part_of_the_file_is_refused(saved) -> None:
    whole = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        members = [member for member in archive.infolist() if member.file_size]
    accepted = []
    for member in members:
        # A local header is 30 bytes, the name and the padding, whose lengths it gives.
        header = whole[member.header_offset : member.header_offset + 30]
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        middle = member.header_offset + 30 + lengths + member.file_size // 2
        damaged = bytearray(whole)
        damaged[middle] ^= 0x40
        saved.write_bytes(damaged)
        try:
            GradientGMM.load(saved)
        except CheckpointError:
            continue
        accepted.append(member.filename)
    assert len(members) > 5
    assert accepted == []


@pytest.mark.parametrize(
    "change",
    [
        {"means": [1.0]},
        {"means": torch.zeros(3, 80)},
        {"means": torch.tensor(1.0), "log_vars": torch.tensor(1.0)},
        {"means": torch.zeros(32), "log_vars": torch.zeros(32)},
        {"log_weights": None},
        {"K": 31},
        {"dim": 81},
        {"format_version": 999},
    ],
    ids=lambda change: "+".join(change),
)
def test_content_that_is_no_mixture_is_refused_by_name(change, saved) -> None:
    torch.save({**torch.load(saved, weights_only=True), **change}, saved)
    with pytest.raises(CheckpointError, match=str(saved)):
        GradientGMM.load(saved)


@pytest.mark.parametrize("content", [b"", b"not a model\n", b"PK\x03\x04" + bytes(100)])
def test_a_file_of_another_kind_is_refused_by_name(content, saved) -> None:
    saved.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(saved)):
        GradientGMM.load(saved)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match=str(path)):
            GradientGMM.load(path)


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [lambda x, path: path.write_bytes(pickle.dumps(x)), torch.save])
def test_a_pickle_is_refused_and_not_run(write, tmp_path) -> None:
    sprung = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists(), "the trap should work where it is let"
    sprung.unlink()
    path = tmp_path / "gmm.pt"
    write({"format_version": 1, "means": Trap(sprung)}, path)
    with pytest.raises(CheckpointError, match=str(path)):
        GradientGMM.load(path)
    assert not sprung.exists()


@pytest.mark.parametrize("gone", [[3], [0, 1, 2, 3, 5, 6, 7]])
def test_means_that_ran_away_cost_the_others_no_digits(gone: list[int]) -> None:
    """As a learning rate far too high leaves them: their squares alone would swallow the frames."""
    means = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    means[gone] = 1e22
    means[gone[0]] = 1e24
    log_weights = torch.full((8,), -math.log(8))
    model = GradientGMM(means, torch.full((8, 4), math.log(0.1)), log_weights)
    frames = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    expected = model.to_sklearn().score_samples(frames.double().numpy())
    assert np.allclose(model.score_samples(frames).numpy(), expected, rtol=0, atol=1e-3)
    assert not np.isin(model.assign(frames).numpy(), gone).any()
