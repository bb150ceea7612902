"""``gmmpipe verify``."""

from pathlib import Path

import click

from gmmpipe.cli.common import job_options, log, run_job


@click.command("verify")
@click.argument("store", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--repair",
    "repairing",
    is_flag=True,
    help="Remove bad shards, so that the next featurize makes just those anew.",
)
@job_options
def command(store: Path, repairing: bool, debug: bool) -> None:
    """Read every byte of STORE against its checksums and decode every sample."""

    def job() -> None:
        from gmmpipe.errors import StoreError
        from gmmpipe.progress import Progress
        from gmmpipe.store.feature_store import FeatureStore
        from gmmpipe.store.finalize import reopen
        from gmmpipe.store.verify import verify

        opened = FeatureStore.open(store)
        bad = []
        with Progress("verify", "shards", total=len(opened.shards)) as progress:
            for shard, fault in verify(opened):
                if fault:
                    bad.append(shard.row.name)
                    log.error("%s: %s", shard.path, fault)
                progress.advance(1)
        if not bad:
            log.info("%s: all %d shards are good", store, len(opened.shards))
            return
        remedy = "--repair removes them"
        if repairing:
            reopen(store, bad)
            remedy = "removed: the command that made the store makes them anew"
        count = f"{len(bad)} of {len(opened.shards)} shards are bad"
        raise StoreError(f"{store}: {count}: {', '.join(bad)}; {remedy}")

    run_job(job, debug)
