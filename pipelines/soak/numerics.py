"""Audio and mixtures at the edges: everything finite, nothing below the floor, sklearn agrees."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipelines.soak.child import command, library, run
from pipelines.soak.stage import Stage
from pipelines.soak.verdict import Outcome, held, refused

RATE = 16000
Samples = NDArray[np.float64]


def _speech(stage: Stage) -> list[Samples]:
    return [soundfile.read(path)[0] for path in sorted(stage.corpus.glob("*.flac"))[:3]]


def _noise(seconds: float, scale: float) -> Samples:
    return scale * np.random.Generator(np.random.Philox(7)).standard_normal(int(seconds * RATE))


AUDIO: dict[str, Callable[[Stage], list[Samples]]] = {
    "silence": lambda stage: [np.zeros(RATE), np.zeros(2 * RATE)],
    "constants": lambda stage: [np.full(RATE, 0.5), np.full(RATE, -1.0)],
    "one utterance": lambda stage: _speech(stage)[:1],
    "speech": _speech,
    "amplitudes of 1e30": lambda stage: [*_speech(stage), 1e30 * _speech(stage)[0]],
    "amplitudes of 1e15": lambda stage: [*_speech(stage), 1e15 * _speech(stage)[0]],
    "denormals": lambda stage: [1e-41 * _speech(stage)[0], 1e-39 * np.ones(RATE)],
    "frames repeated": lambda stage: (
        [0.1 * np.tile(np.sin(np.arange(320) * 2 * np.pi / 80), 100)] * 2
    ),
    "two clusters far apart": lambda stage: [np.zeros(RATE), _noise(1, 1.0)],
    "silence among speech": lambda stage: [np.concatenate([np.zeros(RATE), *_speech(stage)])],
    "single samples": lambda stage: [np.eye(1, RATE, 5000)[0], -np.eye(1, RATE, 9000)[0]],
}
SIZES: dict[str, Callable[[int], int]] = {
    "K = 1": lambda frames: 1,
    "K = 2": lambda frames: 2,
    "K near N": lambda frames: frames - 1,
    "K = N": lambda frames: frames,
}


def fit_edge(stage: Stage, rng: random.Random, audio: str = "", size: str = "") -> Outcome:
    """Featurize, fit and evaluate at an edge; options other than those given are drawn."""
    audio = audio or rng.choice(list(AUDIO))
    size = size or rng.choice(list(SIZES))
    options = {
        "optimizer": rng.choice(["adam", "em"]),
        "init": rng.choice(["kmeans", "kmeans++", "random"]),
        "var_floor": rng.choice([0.1, 0.1, 1e-3, 1e-6, "1%"]),
        "lr": rng.choice([1e-2, 1e-2, 1.0, 1e3, 1e30]),
        "seed": rng.randrange(1000),
    }
    words = f"{audio}, {size}, {options}"
    with stage.scratch() as scratch:
        store = scratch / "store"
        waves = AUDIO[audio](stage)
        fault = _featurize(scratch, waves, store, rejects=audio == "amplitudes of 1e30")
        if fault:
            return held(words, fault)
        frames = json.loads((store / "store.json").read_bytes())["totals"]["frames"]
        K = min(SIZES[size](frames), 300)  # noqa: N806
        sizes = {"K": K, "target_frames": 2 * frames, "batch_update_size": frames}
        steps = {"n_sgd_steps": 10, "sgd_batch_size": 64, "save_every": None}
        arguments = stage.fit(scratch / "fit", store=store, **{**sizes, **steps, **options})
        ended = run(command(*arguments))
        if ended.status != 0:
            fault = ended.fault() if options["lr"] > 1 else f"{ended.excess} {ended.stderr[-500:]}"
            return refused(words, fault)
        judged = run(library(lambda: _fault_of_fit(scratch / "fit", store)))
        if judged.status != 0 or judged.value:
            return held(words, judged.value or judged.stderr[-500:])
        ended = run(command("evaluate", store, "--gmm_path", scratch / "fit" / "gmm.pt", "--json"))
        if ended.status != 0:
            return held(words, f"evaluate: {ended.stderr[-500:]}")
        return held(words, _fault_of_evaluation(json.loads(ended.stdout)))


def _featurize(scratch: Path, waves: list[Samples], store: Path, rejects: bool) -> str:
    lines = []
    for number, samples in enumerate(waves):
        soundfile.write(
            scratch / f"{number}.wav", samples.astype(np.float32), RATE, subtype="FLOAT"
        )
        lines.append(json.dumps({"wav_path": f"{number}.wav"}))
    (scratch / "m.jsonl").write_text("\n".join(lines))
    options = ["--max_reject_fraction", 1, "--dtype", "float32"]
    ended = run(
        command("featurize", "--data_dir", scratch / "m.jsonl", "--output_dir", store, *options)
    )
    if ended.status != 0:
        return f"featurize: {ended.stderr[-500:]}"
    found = json.loads((store / "store.json").read_bytes())["totals"]["rejects"]
    return "" if found == int(rejects) else f"{found} rejects"


def _fault_of_fit(folder: Path, store: Path) -> str:
    """What is not finite, below the floor, or other than scikit-learn's float64 has it."""
    import torch

    from gmmpipe import FeatureStore, GradientGMM

    model = GradientGMM.load(folder / "gmm.pt")
    for name, value in model.named_buffers():
        if not torch.isfinite(value).all():
            return f"{name} is not finite"
    if (model.covariances.double() < model.var_floor).any():
        return f"a variance is below {model.var_floor}"
    if not np.isfinite(np.loadtxt(folder / "metrics.tsv", skiprows=1)).all():
        return "metrics.tsv holds what is not finite"
    opened = FeatureStore.open(store)
    frames = opened.read_frames(0, opened.num_frames)
    if not torch.isfinite(frames).all():
        return "frames are not finite"
    oracle = model.to_sklearn()
    x = frames.double().numpy()
    scores = np.abs(oracle.score_samples(x) - model.score_samples(frames).double().numpy())
    # float32 is what scores come in: beyond 10^4 nats its own rounding is more than 1e-3.
    allowed = np.maximum(1e-3, 2e-7 * np.abs(oracle.score_samples(x)))
    if (scores > allowed).any():
        return f"a score is {scores.max()} nats from scikit-learn's"
    posteriors = np.abs(oracle.predict_proba(x) - model.soft_assign(frames).double().numpy())
    if posteriors.max() > 1e-4:
        return f"a posterior is {posteriors.max()} from scikit-learn's"
    return ""


def _fault_of_evaluation(values: dict[str, Any]) -> str:
    if not all(np.isfinite(value) for value in values.values()):
        return f"evaluate says {values}"
    # An exact EM step never raises the likelihood's negative, but for rounding.
    if values["em_gap"] < -1e-6 * max(1.0, abs(values["nll"])):
        return f"an exact EM step made it worse: em_gap is {values['em_gap']}"
    return ""
