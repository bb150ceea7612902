"""``gmmpipe featurize``."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gmmpipe.cli.common import job_options
from gmmpipe.cli.from_dataclass import command_from

if TYPE_CHECKING:
    from gmmpipe.featurization.options import FeaturizeOptions


@command_from("gmmpipe.featurization.options:FeaturizeOptions", "featurize")
@click.option(
    "--dry_run", is_flag=True, help="Print how large the store would become, and write nothing."
)
@job_options
def command(options: "FeaturizeOptions", dry_run: bool) -> None:
    """Make a feature store from manifests of audio. Running it again resumes."""
    if dry_run:
        from gmmpipe.featurization.forecast import forecast

        for name, value in asdict(forecast(options)).items():
            click.echo(f"{name}: {value}")
    else:
        from gmmpipe.featurization.job import featurize

        featurize(options)
