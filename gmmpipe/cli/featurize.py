"""``gmmpipe featurize``."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gmmpipe.cli.common import Notation, job_options, run_job
from gmmpipe.option_kinds import PATHS, STRIDES
from gmmpipe.sources.registry import AUTO, kind_names


@click.command("featurize")
@click.option(
    "--data_dir",
    type=Notation(PATHS),
    required=True,
    help="Comma-separated sources: manifests (.jsonl, .ndjson, .json, also .gz), folders of them, "
    "or quoted patterns of paths.",
)
@click.option(
    "--source_kind",
    type=click.Choice(kind_names()),
    default=AUTO,
    show_default=True,
    help="The kind of the sources, where one could be read in two ways.",
)
@click.option(
    "--output_dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The feature store to write.",
)
@click.option(
    "--base_path",
    type=click.Path(file_okay=False, path_type=Path),
    help="Prefix of relative audio paths.  [default: their manifest's folder]",
)
@click.option(
    "--sample_rate",
    type=click.IntRange(min=1),
    default=16000,
    show_default=True,
    help="Hz after resampling.",
)
@click.option(
    "--n_fft",
    type=click.IntRange(min=2),
    default=400,
    show_default=True,
    help="STFT window, in samples.",
)
@click.option(
    "--n_mels", type=click.IntRange(min=1), default=80, show_default=True, help="Mel bins."
)
@click.option(
    "--strides",
    "hop_length",
    type=Notation(STRIDES),
    default="8,8,5",
    show_default=True,
    help="Encoder strides; their product is the hop in samples.",
)
@click.option(
    "--max_seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=15.0,
    show_default=True,
    help="Longest utterance kept whole.",
)
@click.option(
    "--long_audio",
    type=click.Choice(["crop", "split", "skip"]),
    default="crop",
    show_default=True,
    help="Beyond it: keep one window, keep all of it as consecutive windows, or reject it.",
)
@click.option(
    "--format",
    type=click.Choice(["tar", "zarr"]),
    default="tar",
    show_default=True,
    help="Of the shards: WebDataset tars, or Zarr v3 groups.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Stored dtype.",
)
@click.option(
    "--store_audio",
    type=click.Choice(["none", "flac"]),
    default="none",
    show_default=True,
    help="Keep the waveform beside the features: exact where the source is 16-bit mono at "
    "--sample_rate, else 24-bit.",
)
@click.option(
    "--utterances_per_shard",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Utterances, or windows with split, in a shard.",
)
@click.option(
    "--shuffle/--no_shuffle",
    default=True,
    show_default=True,
    help="Spread the utterances over the shards at random, or keep manifest order.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the shuffle and the crops."
)
@click.option(
    "--num_workers", type=click.IntRange(min=1), help="Local processes.  [default: all cores]"
)
@click.option(
    "--executor",
    type=click.Choice(["local", "dask"]),
    default="local",
    show_default=True,
    help="Where the shards are made.",
)
@click.option(
    "--dask_scheduler",
    metavar="ADDRESS",
    help="tcp://host:port of a Dask scheduler.  [default: a cluster on this machine]",
)
@click.option(
    "--task_index", type=int, help="Do only this slice of the shards, for array jobs; from 0."
)
@click.option("--num_tasks", type=click.IntRange(min=1), help="How many slices there are.")
@click.option(
    "--max_reject_fraction",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="With more rejects than this the store is not finalized.",
)
@click.option("--retry_rejected", is_flag=True, help="Make the shards that hold rejects anew.")
@click.option(
    "--dry_run", is_flag=True, help="Print what the store would come to, and write nothing."
)
@click.option("--overwrite", is_flag=True, help="Start afresh.")
@job_options
def command(debug: bool, dry_run: bool, **options: Any) -> None:
    """Make a feature store from manifests of audio. Running it again resumes."""

    def job() -> None:
        from gmmpipe.features.log_mel_spec import LogMelSpec
        from gmmpipe.featurization.options import FeaturizeOptions

        names = ("sample_rate", "n_fft", "hop_length", "n_mels")
        features = LogMelSpec(**{name: options.pop(name) for name in names})
        wanted = FeaturizeOptions(features=features, **options)
        if dry_run:
            from gmmpipe.featurization.forecast import forecast

            for name, value in asdict(forecast(wanted)).items():
                click.echo(f"{name}: {value}")
        else:
            from gmmpipe.featurization.job import featurize

            featurize(wanted)

    run_job(job, debug)
