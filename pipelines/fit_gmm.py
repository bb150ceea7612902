#!/usr/bin/env python
"""Manifests to a mixture in one command, with the original research script's options.

    python pipelines/fit_gmm.py --data_dir MANIFESTS --output_dir OUT
    torchrun --nproc_per_node 8 pipelines/fit_gmm.py --data_dir MANIFESTS --output_dir OUT

Under torchrun the ranks share the featurizing, then fit together. The features stay, and are used
again by the next run and by a JEPA.
"""

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

# Installed or not: a script's own folder is on the path, its checkout is not.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gmmpipe.cli.common import ANY_DASHES, job_options, run_job
from gmmpipe.cli.from_dataclass import build, parameters
from gmmpipe.features.log_mel_spec import LogMelSpec
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.fitting.options import FitOptions
from gmmpipe.run.stop import stop_signals_held

log = logging.getLogger("gmmpipe")
LONGEST_FEATURIZING = 30 * 86400.0
"""Seconds: ranks that have done their share wait for the others."""
OPTIONS = (
    *parameters(FeaturizeOptions, ("data_dir", "base_path", "max_seconds")),
    *parameters(LogMelSpec, ("sample_rate", "hop_length", "n_mels")),
    *parameters(
        FitOptions,
        (
            *("output_dir", "K", "target_frames", "batch_update_size", "max_samples"),
            *("n_sgd_steps", "sgd_batch_size", "lr", "save_every", "resume"),
        ),
    ),
)
"""The options that the original script has too; its --sgd_batch_size was per rank."""


@click.command(params=[*OPTIONS], context_settings=ANY_DASHES)
@click.option(
    "--feature_dir",
    type=click.Path(),
    help="The feature store to write, or to use if it is finished.",
    show_default="OUTPUT_DIR/features",
)
@click.option(
    "--batch_size", type=int, default=64, show_default=True, help="Accepted; has no effect here."
)
@job_options
def main(debug: bool, feature_dir: str | None, batch_size: int, **values: Any) -> None:
    """Featurize manifests of audio and fit a Gaussian mixture to the frames."""
    given = click.get_current_context().get_parameter_source("batch_size")

    def job() -> None:
        with stop_signals_held():
            from gmmpipe.fitting.trainer import fit
            from gmmpipe.run.world import open_world

        if given == ParameterSource.COMMANDLINE:
            log.info("--batch_size has no effect: decoding needs no batches here")
        store = Path(feature_dir or Path(values["output_dir"], "features"))
        features = FeaturizeOptions(
            data_dir=values.pop("data_dir"),
            output_dir=store,
            base_path=values.pop("base_path"),
            max_seconds=values.pop("max_seconds"),
            features=build(LogMelSpec, values),
        )
        mixture = FitOptions(data_dir=str(store), **values)
        with open_world("auto", meeting_timeout=LONGEST_FEATURIZING) as world:
            make_features(features, world)
            fit(mixture, world)

    run_job(job, debug)


def make_features(wanted: FeaturizeOptions, world: Any) -> None:
    """Make the store; a finished one is used as it is."""
    if not world.on_first_rank(lambda: is_finished(wanted)):
        featurize_on_all_ranks(wanted, world)


def featurize_on_all_ranks(wanted: FeaturizeOptions, world: Any) -> None:
    """Make the store, each rank its slice of the shards."""
    from gmmpipe.featurization.job import featurize

    processes = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    mine = replace(wanted, num_workers=max(1, processes))
    if world.size > 1:
        part = replace(mine, task_index=world.rank, num_tasks=world.size)
        world.on_each_rank(lambda: featurize(part))  # it also waits until all slices are done
    world.on_first_rank(lambda: featurize(mine))


def is_finished(wanted: FeaturizeOptions) -> bool:
    """Whether the store is there, and holds these frames of this data; its layout may be another.

    Raises:
        StoreError: it is there, but holds something else.
    """
    from gmmpipe.errors import StoreError
    from gmmpipe.featurization.plan import digest_manifests
    from gmmpipe.sources.find import find_manifests
    from gmmpipe.store.names import STORE_FILE
    from gmmpipe.store.schema import FeatureIdentity
    from gmmpipe.store.store_info import StoreInfo

    path = wanted.output_dir / STORE_FILE
    if not path.exists():
        return False
    made = StoreInfo.read(path, FeatureIdentity).identity
    digest, _ = digest_manifests(find_manifests(wanted.data_dir, wanted.source_kind))
    plan = [getattr(made.plan, name, None) for name in ("max_seconds", "manifest_sha256")]
    there = (made.features, *plan)
    names = ("features", "max_seconds", "manifests")
    here = (wanted.features, wanted.max_seconds, digest)
    differing = [name for name, a, b in zip(names, there, here, strict=True) if a != b]
    if differing:
        raise StoreError(
            f"{wanted.output_dir}: made with other {' and '.join(differing)}; choose another "
            "--feature_dir or --output_dir"
        )
    log.info("using the features in %s", wanted.output_dir)
    return True


if __name__ == "__main__":
    main(prog_name="fit_gmm.py")
