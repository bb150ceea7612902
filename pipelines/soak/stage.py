"""What the faults are tried on: a little corpus, and all that is made from it, whole and begun."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import soundfile

from pipelines.soak.child import adopt_orphans, command, kill_all, run
from pipelines.soak.operations import killed_after

CORPUS = Path(__file__).resolve().parent.parent / "demo" / "corpus"
FIT = {
    "K": 4,
    "target_frames": 720,
    "batch_update_size": 240,
    "n_sgd_steps": 12,
    "sgd_batch_size": 96,
    "save_every": 240,
    "seed": 1,
}
"""A fit of three updates and checkpoints, some tenths of a second of work."""


class Stage:
    """A folder with the little corpus and what was made from it; nothing in it may be changed.

    Args:
        folder: empty or not there.
    """

    def __init__(self, folder: Path) -> None:
        import_all()
        adopt_orphans()
        self.folder = folder
        self.corpus = folder / "corpus"
        self.trial = folder / "trial"
        self.trial.mkdir(parents=True)
        self._write_corpus()
        for kind in ("tar", "zarr"):
            self.make(self.featurize(folder / kind, format=kind))
            for index in (0, 1):
                begun = self.featurize(folder / f"{kind} begun", format=kind)
                self.make([*begun, "--task_index", index, "--num_tasks", 3])
        self.store = folder / "tar"
        self.model = folder / "fit" / "gmm.pt"
        self.make(self.fit(folder / "fit"))
        begun = Path(shutil.copytree(folder / "fit", folder / "fit begun"))
        (begun / "gmm.pt").unlink()
        sorted(begun.glob("gmm_ckpt_*"))[-1].unlink()
        self.make(self.label(folder / "labels"))
        job = command(*self.label(folder / "labels begun"))
        ended = run(
            killed_after(
                job, lambda: len(list((folder / "labels begun").glob("shard-*.json"))) == 2
            )
        )
        assert ended.status == -9, ended

    def _write_corpus(self) -> None:
        self.corpus.mkdir()
        paths = sorted(CORPUS.rglob("*.flac"), key=lambda p: (soundfile.info(p).duration, str(p)))
        sources = paths[:11]
        lines: list[dict[str, Any]] = []
        for number, source in enumerate(sources):
            shutil.copyfile(source, self.corpus / source.name)
            line = {
                "id": f"utt{number}",
                "wav_path": source.name,
                "speaker": f"s{number % 3}",
                "n": number,
            }
            lines.append(line)
        lines[3]["wav_path"] = "not-there.flac"
        self.manifest = self.corpus / "manifest.jsonl"
        self.manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def featurize(self, output_dir: Path, **changes: Any) -> list[object]:
        """The arguments that make the store."""
        options = {"utterances_per_shard": 4, "store_audio": "flac", "num_workers": 1}
        return [
            "featurize",
            "--data_dir",
            self.corpus,
            "--output_dir",
            output_dir,
            "--max_reject_fraction",
            0.5,
            *_flags({**options, **changes}),
        ]

    def fit(self, output_dir: Path, store: Path | None = None, **changes: Any) -> list[object]:
        """The arguments that make the fit."""
        places = {"data_dir": store or self.store, "output_dir": output_dir}
        return ["fit", *_flags({**places, **FIT, **changes})]

    def label(
        self, output_dir: Path, store: Path | None = None, gmm: Path | None = None, **changes: Any
    ) -> list[object]:
        """The arguments that make the label store."""
        options = {"gmm_path": gmm or self.model, "output_dir": output_dir, "top_k": 2, **changes}
        return ["label", store or self.store, *_flags(options)]

    def make(self, arguments: list[object]) -> None:
        """Run a command that must not fail."""
        ended = run(command(*arguments))
        assert ended.status == 0, ended

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder, the same path each time, so that no result depends on it."""
        folder = self.trial / "here"
        folder.mkdir()
        try:
            yield folder
        finally:
            kill_all()
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():  # pragma: no cover
                raise RuntimeError(f"{folder} cannot be removed")


Arguments = Callable[[Stage, Path], list[object]]
"""The arguments of a command, from the stage and the output folder."""


def featurizing(**changes: Any) -> Arguments:
    """The arguments that make the store, with some options changed or added."""
    return lambda stage, out: stage.featurize(out, **changes)


def labelling(**changes: Any) -> Arguments:
    """The same for the label store."""
    return lambda stage, out: stage.label(out, **changes)


def _flags(options: dict[str, Any]) -> list[object]:
    given = {name: value for name, value in options.items() if value is not None}
    return [
        part
        for name, value in given.items()
        for part in ([f"--{name}"] if value is True else [f"--{name}", value])
    ]


@cache
def import_all() -> None:
    """Import what children need once, before they are forked, and start no thread."""
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    import sklearn.mixture  # noqa: F401
    import zarr  # noqa: F401

    import gmmpipe.apply.evaluate
    import gmmpipe.apply.label
    import gmmpipe.cli.common
    import gmmpipe.featurization.job
    import gmmpipe.featurization.worker
    import gmmpipe.fitting.trainer
    import gmmpipe.jepa  # noqa: F401
