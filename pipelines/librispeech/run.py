#!/usr/bin/env python
"""Unpacked LibriSpeech to a mixture, labels and the .km files of HuBERT's trainers.

    python pipelines/librispeech/run.py --librispeech_dir LibriSpeech --output_dir OUT
    torchrun --nproc_per_node 8 pipelines/librispeech/run.py --librispeech_dir ... --output_dir OUT

Run it again, and each stage goes on where it was. docs/librispeech.md says what OUT holds then.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

# Installed or not: a script's own folder is on the path, its checkout is not.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from gmmpipe.cli import cli
from gmmpipe.cli.common import ANY_DASHES, job_options, run_job
from gmmpipe.cli.from_dataclass import build, parameters
from gmmpipe.errors import GmmpipeError, OptionError
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.fitting.options import FitOptions
from gmmpipe.run.stop import stop_signals_held
from pipelines.fit_gmm import LONGEST_FEATURIZING, featurize_on_all_ranks
from pipelines.librispeech.corpus import find_subsets, write_manifest

LONGEST_SECONDS = 40.0
"""Longer than any utterance of LibriSpeech: its labels are to be those of whole files."""
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
OF_THE_FIT = (
    *("K", "target_frames", "batch_update_size", "n_sgd_steps", "sgd_batch_size"),
    *("save_every", "model", "seed", "device"),
)


def names(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    """Comma-separated names."""
    return None if value is None else [part for part in value.split(",") if part]


@click.command(params=parameters(FitOptions, OF_THE_FIT), context_settings=ANY_DASHES)
@click.option(
    "--librispeech_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The folder with train-clean-100 and the others.",
)
@click.option(
    "--output_dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where everything goes.",
)
@click.option(
    "--subsets",
    callback=names,
    show_default="all train-*",
    help="Comma-separated, to fit and label.",
)
@click.option(
    "--valid_subsets",
    callback=names,
    show_default="all dev-*",
    help="Comma-separated, for eval_nll, and labelled too; '' for none.",
)
@job_options
def main(
    librispeech_dir: Path,
    output_dir: Path,
    subsets: list[str] | None,
    valid_subsets: list[str] | None,
    debug: bool,
    **values: Any,
) -> None:
    """Featurize unpacked LibriSpeech, fit a mixture, label all frames, and write .km files."""

    def job() -> None:
        chosen = {
            "train": find_subsets(librispeech_dir, subsets, "train-"),
            "valid": find_subsets(librispeech_dir, valid_subsets, "dev-"),
        }
        if not chosen["train"]:
            raise OptionError(f"{librispeech_dir}: no train-* folder; name others in --subsets")
        parts = {part: found for part, found in chosen.items() if found}
        if both := set(chosen["train"]) & set(chosen["valid"]):
            raise OptionError(f"{', '.join(sorted(both))}: in --subsets and in --valid_subsets")
        run(librispeech_dir.absolute(), output_dir, parts, values)

    run_job(job, debug)


def run(corpus: Path, out: Path, parts: dict[str, list[str]], fit_values: dict[str, Any]) -> None:
    """All stages, on all ranks; each finds what an earlier run has finished.

    Args:
        corpus: the folder with the subsets.
        out: where everything goes.
        parts: the subsets of ``train`` and, where there is one, of ``valid``.
        fit_values: options of the fit by their names.
    """
    with stop_signals_held():
        from gmmpipe.apply.label import label
        from gmmpipe.apply.options import LabelOptions
        from gmmpipe.exporting.job import export
        from gmmpipe.exporting.options import ExportOptions
        from gmmpipe.fitting.trainer import fit
        from gmmpipe.run.world import open_world

    device = fit_values["device"]
    with open_world(device, meeting_timeout=LONGEST_FEATURIZING) as world:
        stores = {part: out / "features" / part for part in parts}
        for part, subsets in parts.items():
            manifest = out / "manifests" / f"{part}.jsonl"
            world.on_first_rank(lambda s=subsets, m=manifest: write_manifest(corpus, s, m))
            wanted = FeaturizeOptions(
                data_dir=str(manifest),
                output_dir=stores[part],
                base_path=corpus,
                max_seconds=LONGEST_SECONDS,
            )
            featurize_on_all_ranks(wanted, world)
        places = {
            "data_dir": str(stores["train"]),
            "output_dir": out / "fit",
            "eval_data_dir": str(stores["valid"]) if "valid" in parts else None,
            "resume": "auto",
        }
        fit(build(FitOptions, {**fit_values, **places}), world)
        for part, store in stores.items():
            labels, km = out / "labels" / part, out / "km" / part
            gmm_path = out / "fit" / "gmm.pt"
            label(LabelOptions(store=store, gmm_path=gmm_path, output_dir=labels), world)
            wanted_km = ExportOptions(labels, "km", km, base_path=corpus)
            world.on_first_rank(lambda wanted=wanted_km: export(wanted))
        # Last, because it may lack an extra, and nothing else needs it.
        world.on_first_rank(lambda: report(out, stores["train"]))


def report(out: Path, store: Path) -> None:
    """Show the fit as a page, where gmmpipe has the command for that.

    Raises:
        GmmpipeError: the command failed.
    """
    if "report" not in cli.list_commands(click.Context(cli)):
        logging.getLogger("gmmpipe").info("this gmmpipe has no command report: left out")
        return
    command = ["report", str(out / "fit"), "--data_dir", str(store)]
    # The command is alone: without torchrun's variables it does not wait for other ranks.
    alone = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    done = subprocess.run([sys.executable, "-m", "gmmpipe", *command], env=alone, check=False)
    if done.returncode:
        raise GmmpipeError(f"gmmpipe {' '.join(command)} failed")


if __name__ == "__main__":
    main(prog_name="run.py")
