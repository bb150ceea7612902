"""Whatever reads a store, labels or a model, each as a job that gives back all its values."""

import hashlib
import io
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from pipelines.soak.child import Job, command, file_bytes, library
from pipelines.soak.stage import Stage

Reader = Callable[[Stage, Path, Path, Path], Job]
"""From a stage, a folder to read, the damaged file in it and an empty folder, to what reads it."""


def inspect(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``gmmpipe inspect``."""
    return command("inspect", folder, "--json")


def utterances(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``FeatureStore.utterances``."""

    def job() -> Any:
        from gmmpipe import FeatureStore

        store = FeatureStore.open(folder)
        return [(u.key, u.features.numpy().tobytes(), u.metadata) for u in store.utterances()]

    return library(job)


def batches(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``JEPABatches`` with waveforms."""
    return _batches(folder, stage.model, None)


def _batches(store: Path, gmm: Path | None, labels: Path | None) -> Job:
    def job() -> Any:
        import torch

        from gmmpipe.jepa import JEPABatches

        digest = hashlib.sha256()
        for batch in JEPABatches(store, gmm, labels=labels, batch_size=4, wav=True):
            for name, value in sorted(vars(batch).items()):
                stored = (
                    value.numpy().tobytes()
                    if isinstance(value, torch.Tensor)
                    else str(value).encode()
                )
                digest.update(name.encode() + stored)
        return digest.hexdigest()

    return library(job)


def evaluate(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``gmmpipe evaluate`` on the store."""
    return command("evaluate", folder, "--gmm_path", stage.model, "--json")


def label(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``gmmpipe label`` of the store."""
    return _leaving(command(*stage.label(out, store=folder)), out)


def fit(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``gmmpipe fit`` on the store."""
    return _leaving_fit(command(*stage.fit(out, store=folder)), out)


def resume(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """The command that made the store, once more."""
    options = {"format": "zarr"} if list(folder.glob("shard-*.zarr")) else {}
    return command(*stage.featurize(folder, **options))


def repair(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``gmmpipe verify --repair``, and the command that made the store."""
    again = (
        command(*stage.label(folder))
        if folder.name == "labels"
        else resume(stage, folder, path, out)
    )

    def job() -> Any:
        try:
            with redirect_stderr(io.StringIO()):  # that it found the damage is no news
                command("verify", folder, "--repair")()
        except SystemExit:
            again()
        return file_bytes(folder)

    return job


def read_labels(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``LabelStore.read`` of every shard."""

    def job() -> Any:
        from gmmpipe.store.label_store import LabelStore

        store = LabelStore.open(folder)
        read = [store.read(n, 0, shard.row.frames) for n, shard in enumerate(store.shards)]
        return [
            [x.numpy().tobytes() for x in (r.labels, r.topk_ids, r.topk_probs) if x is not None]
            for r in read
        ]

    return library(job)


def label_batches(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``JEPABatches`` whose targets are the labels."""
    return _batches(stage.store, None, folder)


def label_again(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """The command that made the label store, once more."""
    return command(*stage.label(folder))


def fit_on(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``fit --resume auto`` in the folder."""
    return _leaving_fit(command(*stage.fit(folder, resume="auto")), folder)


def fit_further(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``fit --resume auto`` with more frames."""
    return _leaving_fit(command(*stage.fit(folder, resume="auto", target_frames=960)), folder)


def fit_from(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``fit --resume CHECKPOINT`` into another folder."""
    checkpoint = path if path.suffix == ".pt" else folder / "gmm_ckpt_0.00024M.pt"
    return _leaving_fit(command(*stage.fit(out, resume=checkpoint)), out)


def load_model(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``GradientGMM.load`` of the damaged file."""

    def job() -> Any:
        from gmmpipe import GradientGMM

        model = GradientGMM.load(path)
        return [(name, b.numpy().tobytes()) for name, b in model.named_buffers()], model.info

    return library(job)


def evaluate_model(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``gmmpipe evaluate`` with the damaged file."""
    return command("evaluate", stage.store, "--gmm_path", path, "--json")


def label_with_model(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``gmmpipe label`` with the damaged file; the store says which bytes it had, and may."""
    made = _leaving(command(*stage.label(out, gmm=path)), out)
    return lambda: {name: data for name, data in made().items() if name.endswith(".tar")}


def inspect_model(stage: Stage, folder: Path, path: Path, out: Path) -> Job:
    """``gmmpipe inspect`` of the damaged file."""
    return command("inspect", path, "--json")


def _leaving(job: Job, out: Path) -> Job:
    def both() -> Any:
        job()
        return file_bytes(out)

    return both


def _leaving_fit(job: Job, out: Path) -> Job:
    def both() -> Any:
        job()
        return fit_result(out)

    return both


def fit_result(folder: Path) -> Any:
    """What a fit is judged by: the last bit of its model, its state and its metrics."""
    import torch

    content = torch.load(folder / "gmm.pt", weights_only=True)
    return plain(content), (folder / "metrics.tsv").read_bytes()


def plain(value: Any) -> Any:
    """A model file's content with bytes for tensors, to be compared."""
    import torch

    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return value


OF_FEATURES: dict[str, Reader] = {
    "inspect": inspect,
    "utterances": utterances,
    "JEPABatches": batches,
    "evaluate": evaluate,
    "label": label,
    "fit": fit,
    "featurize": resume,
    "repair": repair,
}
OF_LABELS: dict[str, Reader] = {
    "inspect": inspect,
    "LabelStore": read_labels,
    "JEPABatches": label_batches,
    "label": label_again,
    "repair": repair,
}
OF_MODELS: dict[str, Reader] = {
    "load model": load_model,
    "evaluate model": evaluate_model,
    "label with model": label_with_model,
    "inspect model": inspect_model,
}
OF_FITS: dict[str, Reader] = {"fit": fit_on, "fit further": fit_further, "fit elsewhere": fit_from}
