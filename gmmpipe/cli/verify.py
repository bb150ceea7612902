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
    help="Remove bad shards, so that the next featurize or label makes just those anew.",
)
@job_options
def command(store: Path, repairing: bool, debug: bool) -> None:
    """Read every byte of a store against its checksums and decode every sample.

    STORE is of features or of labels.
    """

    def job() -> None:
        from gmmpipe.claim import claim_folder
        from gmmpipe.errors import StoreError
        from gmmpipe.run.progress import Progress
        from gmmpipe.store.reopen import reopen
        from gmmpipe.store.replace import finish_swap
        from gmmpipe.store.verify import open_store, strangers, verify

        if repairing:
            finish_swap(store, "gmmpipe verify --repair")
        opened = open_store(store)
        bad = []
        with Progress("verify", "shards", total=len(opened.shards)) as progress:
            for path, fault in verify(opened):
                if fault:
                    bad.append(path.name)
                    log.error("%s: %s", path, fault)
                progress.advance(1)
        others = [path.name for path in strangers(opened)]
        if others:
            log.error("%s: holds what store.json does not name: %s", store, ", ".join(others))
        if others and not bad:
            raise StoreError(
                f"{store}: all shards are good, but {len(others)} files are not its own"
            )
        if not bad:
            log.info("%s: all %d shards are good", store, len(opened.shards))
            return
        remedy = "--repair removes them"
        if repairing:
            with claim_folder(store, "", "gmmpipe verify --repair", alone=True):
                reopen(store, bad)
            remedy = "removed: the command that made the store makes them anew"
        count = f"{len(bad)} of {len(opened.shards)} shards are bad"
        if not all(name.startswith("shard-") for name in bad):
            count = f"{len(bad)} files are bad"
        raise StoreError(f"{store}: {count}: {', '.join(bad)}; {remedy}")

    run_job(job, debug)
