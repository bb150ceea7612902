"""``gmmpipe inspect``."""

import json
from pathlib import Path
from typing import Any

import click

from gmmpipe.cli.common import job_options, run_job
from gmmpipe.cli.for_people import aligned


@click.command("inspect")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, without units.")
@job_options
def command(path: Path, as_json: bool, debug: bool) -> None:
    """Say what PATH holds: a store of features or labels, finished or not, or a model file."""

    def job() -> None:
        found = _describe_store(path) if path.is_dir() else _describe_model(path)
        if as_json:
            click.echo(json.dumps(found, sort_keys=True))
        else:
            for line in aligned(found):
                click.echo(line)

    run_job(job, debug)


def _describe_store(folder: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from gmmpipe.errors import StoreError
    from gmmpipe.store.names import IDENTITY_FILE, STORE_FILE, kind_of
    from gmmpipe.store.schema import find_identity
    from gmmpipe.store.store_info import Sums, read_store_info

    kind, identity = kind_of(folder), find_identity(folder)
    if kind == "labels" and identity is None:
        raise StoreError(
            f"{folder}: holds shards of labels, but no {STORE_FILE} or {IDENTITY_FILE}"
        )
    sidecars = sorted(folder.glob("shard-*.json"))
    if finished := (folder / STORE_FILE).exists():
        sums: Sums = read_store_info(folder / STORE_FILE)
    elif identity is not None or sidecars:
        sums = Sums.over("labels" if kind == "labels" else "features", sidecars)
    else:
        raise StoreError(f"{folder}: holds no feature store")
    counts = asdict(sums.tally)
    if kind == "labels":
        counts = {name: counts[name] for name in ("utterances", "frames", "bytes")}
        counts["left_out_mass"] = sums.left_out_mass
    else:
        counts["hours"] = round(sums.tally.seconds_kept / 3600, 6)
    described = {} if identity is None else identity.to_json()
    described.pop("kind", None)
    name = "label store" if kind == "labels" else "feature store"
    return {"kind": name, "finished": finished, "shards": len(sums.shards), **counts, **described}


def _describe_model(path: Path) -> dict[str, Any]:
    from gmmpipe.mixture.gradient_gmm import GradientGMM
    from gmmpipe.mixture.model_file import read_content, read_model
    from gmmpipe.mixture.other_forms import in_other_form

    if in_other_form(read_content(path)):
        gmm = GradientGMM.load(path)
        return {"kind": "model of another program", "K": gmm.K, "dim": gmm.dim}
    content = read_model(path)
    resume = content.get("resume", {})
    return {
        "kind": "model",
        **{
            name: content[name]
            for name in ("K", "dim", "frames", "seed", "var_floor", "features")
            if name in content
        },
        **{name: resume[name] for name in ("updates", "step", "identity") if name in resume},
    }
