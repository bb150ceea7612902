"""Stores and fits, made within the tests' own process: no workers to wait for."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from helpers.processes import ROOT

CORPUS = ROOT / "pipelines" / "demo" / "corpus"
"""The demo corpus: 56 files of real speech and their manifest.jsonl."""
SMALL_FIT: dict[str, Any] = {
    "K": 16,
    "target_frames": 8000,
    "batch_update_size": 4000,
    "n_sgd_steps": 40,
    "sgd_batch_size": 512,
    "save_every": 4000,
}
"""A fit of two updates on the demo store, well under a second of work."""


def alone() -> Any:
    """The world of one rank, on the CPU."""
    import torch

    from gmmpipe.run.world import World

    return World(0, 1, torch.device("cpu"))


def corpus_part(path: Path, count: int) -> Path:
    """The first lines of the demo corpus's manifest as `path`; the audio stays in `CORPUS`."""
    lines = (CORPUS / "manifest.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:count]))
    return path


def compressed_corpus(folder: Path) -> Path:
    """The demo corpus's manifest as a ``.jsonl.gz`` in `folder`; its audio stays in `CORPUS`."""
    path = folder / "manifest.jsonl.gz"
    path.write_bytes(gzip.compress((CORPUS / "manifest.jsonl").read_bytes(), mtime=0))
    return path


def read_speech(seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Real 16 kHz speech from the demo corpus, as float64 samples, and its rate."""
    names = sorted((CORPUS / "ru-festvox").glob("*.flac"))
    parts = [soundfile.read(name)[0] for name in names]
    samples = np.concatenate(parts)
    return samples[: int(seconds * 16000)] if seconds else samples, 16000


def without_xing(data: bytes) -> bytes:
    """An MP3 as encoders leave it that write to a pipe: the first frame is a Xing header's."""
    at = max(data.find(b"Xing"), data.find(b"Info"))
    assert 0 < at < 60
    return data[data.index(data[:2], at) :]


def make_store(data_dir: object, output_dir: Path, **options: Any) -> Path:
    """Do what ``gmmpipe featurize`` does, within this process: no workers to wait for.

    Options are those of `FeaturizeOptions`; any fraction of rejects is allowed unless given.
    """
    from gmmpipe.featurization.job import featurize
    from gmmpipe.featurization.options import FeaturizeOptions
    from gmmpipe.featurization.worker import make_shard

    options = {"max_reject_fraction": 1.0, **options}
    chosen = FeaturizeOptions(data_dir=str(data_dir), output_dir=output_dir, **options)
    plan = save_plan(chosen)
    for number in range(plan.num_shards):
        make_shard(plan.task(number, output_dir, chosen.base_path))
    featurize(chosen)  # finds every shard made
    return output_dir


def save_plan(options: Any) -> Any:
    """Publish the plan of a featurize job, as its first seconds do, and return it."""
    from gmmpipe.featurization.plan import digest_manifests, make_plan
    from gmmpipe.sources.find import find_manifests
    from gmmpipe.sources.lines import with_plain_lines
    from gmmpipe.sources.registry import is_streamed

    manifests = with_plain_lines(
        find_manifests(options.data_dir), options.output_dir / "plan.lines"
    )
    wanted = options.plan_options(
        *digest_manifests(manifests), is_streamed=any(map(is_streamed, manifests))
    )
    plan = make_plan(manifests, options.features, wanted, options.base_path)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    plan.save(options.output_dir / "plan.npz")
    return plan


def fit_arguments(store: object, output_dir: Path, **changes: Any) -> list[str]:
    """The arguments of `gmmpipe fit` for `SMALL_FIT` with some options changed or added."""
    options = {"data_dir": store, "output_dir": output_dir, **SMALL_FIT, **changes}
    return ["fit", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]


def fit_here(store: object, output_dir: Path, world: Any = None, **changes: Any) -> Any:
    """Do what `gmmpipe fit` does, within this process; options as for `fit_arguments`."""
    from gmmpipe.fitting.options import FitOptions
    from gmmpipe.fitting.trainer import fit

    chosen = {"data_dir": str(store), "output_dir": output_dir, **SMALL_FIT, **changes}
    return fit(FitOptions(**chosen), world or alone())
