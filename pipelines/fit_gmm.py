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

from gmmpipe.cli.common import CommaList, FrameCount, Strides, job_options, run_job

log = logging.getLogger("gmmpipe")
LONGEST_FEATURIZING = 30 * 86400.0
"""Seconds: ranks that have done their share wait for the others."""


@click.command(context_settings={"token_normalize_func": lambda token: token.replace("-", "_")})
@click.option("--data_dir", type=CommaList(), required=True, help="Folders of, or, manifests.")
@click.option("--output_dir", type=click.Path(path_type=Path), required=True)
@click.option(
    "--feature_dir", type=click.Path(path_type=Path), help="[default: OUTPUT_DIR/features]"
)
@click.option("--K", "K", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option("--n_mels", type=click.IntRange(min=1), default=80, show_default=True)
@click.option("--sample_rate", type=click.IntRange(min=1), default=16000, show_default=True)
@click.option("--strides", "hop_length", type=Strides(), default="8,8,5", show_default=True)
@click.option("--max_seconds", type=float, default=15.0, show_default=True)
@click.option("--base_path", type=click.Path(path_type=Path))
@click.option("--target_frames", type=FrameCount(), default="100M", show_default=True)
@click.option("--batch_update_size", type=FrameCount(), default="5M", show_default=True)
@click.option("--max_samples", type=FrameCount(), default="50M", show_default=True)
@click.option("--n_sgd_steps", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option(
    "--sgd_batch_size",
    type=FrameCount(),
    default="16384",
    show_default=True,
    help="Over all ranks; the original script's was per rank.",
)
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-2, show_default=True)
@click.option(
    "--batch_size", type=int, default=64, show_default=True, help="Accepted; has no effect here."
)
@click.option("--save_every", type=FrameCount(), default="50M", show_default=True)
@click.option("--resume", help="A checkpoint, or 'auto'.")
@job_options
def main(debug: bool, **options: Any) -> None:
    """Featurize manifests of audio and fit a Gaussian mixture to the frames."""
    given = click.get_current_context().get_parameter_source("batch_size")

    def job() -> None:
        from gmmpipe.features.log_mel_spec import LogMelSpec
        from gmmpipe.featurization.options import FeaturizeOptions
        from gmmpipe.fitting.options import FitOptions
        from gmmpipe.fitting.trainer import fit
        from gmmpipe.run.world import open_world

        del options["batch_size"]
        if given == ParameterSource.COMMANDLINE:
            log.info("--batch_size has no effect: decoding needs no batches here")
        names = ("sample_rate", "hop_length", "n_mels")
        store = options.pop("feature_dir") or options["output_dir"] / "features"
        wanted = FeaturizeOptions(
            data_dir=options.pop("data_dir"),
            output_dir=store,
            base_path=options.pop("base_path"),
            max_seconds=options.pop("max_seconds"),
            features=LogMelSpec(**{name: options.pop(name) for name in names}),
        )
        with open_world("auto", meeting_timeout=LONGEST_FEATURIZING) as world:
            make_features(wanted, world)
            fit(FitOptions(data_dir=str(store), **options), world)

    run_job(job, debug)


def make_features(wanted: Any, world: Any) -> None:
    """Make the store, each rank its slice of the shards; a finished store is used as it is."""
    from gmmpipe.featurization.job import featurize

    if world.on_first_rank(lambda: is_finished(wanted)):
        return
    processes = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    mine = replace(wanted, num_workers=max(1, processes))
    if world.size > 1:
        part = replace(mine, task_index=world.rank, num_tasks=world.size)
        world.on_each_rank(lambda: featurize(part))  # it also waits until all slices are done
    world.on_first_rank(lambda: featurize(mine))


def is_finished(wanted: Any) -> bool:
    """Whether the store is there, and holds these frames of this data; its layout may be another.

    Raises:
        StoreError: it is there, but holds something else.
    """
    from gmmpipe.errors import StoreError
    from gmmpipe.featurization.plan import digest_manifests
    from gmmpipe.sources.manifest import find_manifests
    from gmmpipe.store.names import STORE_FILE
    from gmmpipe.store.schema import FeatureIdentity, StoreInfo

    path = wanted.output_dir / STORE_FILE
    if not path.exists():
        return False
    made = StoreInfo.read(path, FeatureIdentity).identity
    digest, _ = digest_manifests(find_manifests(wanted.data_dir))
    there = (made.features, made.plan.max_seconds, made.plan.manifest_sha256)
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
