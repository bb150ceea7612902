"""``gmmpipe inspect``."""

import json
from pathlib import Path
from typing import Any

import click

from gmmpipe.cli.common import job_options, run_job


@click.command("inspect")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@job_options
def command(path: Path, as_json: bool, debug: bool) -> None:
    """Say what PATH holds: a store of features or labels, finished or not, or a model file."""

    def job() -> None:
        from gmmpipe.store.schema import kind_of

        if not path.is_dir():
            found = _describe_model(path)
        elif kind_of(path) == "labels":
            found = _describe_labels(path)
        else:
            found = _describe_features(path)
        if as_json:
            click.echo(json.dumps(found, sort_keys=True))
        else:
            for line in _lines(found):
                click.echo(line)

    run_job(job, debug)


def _describe_features(folder: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from gmmpipe.errors import StoreError
    from gmmpipe.store.finalize import sum_up
    from gmmpipe.store.schema import STORE_FILE, StoreInfo, find_writer_plan

    finished = (folder / STORE_FILE).exists()
    if finished:
        info = StoreInfo.read(folder / STORE_FILE)
        tally, num_shards = info.tally, len(info.shards)
        described: dict[str, Any] = {
            "features": info.features.to_json(),
            "fingerprint": info.features.fingerprint,
            "plan": asdict(info.plan),
        }
    else:
        sidecars = sorted(folder.glob("shard-*.json"))
        if not sidecars:
            raise StoreError(f"{folder}: holds no feature store")
        tally, num_shards = sum_up(sidecars)[1], len(sidecars)
        described = {}
        if (writer := find_writer_plan(folder)) is not None:
            described = {"features": writer[0].to_json(), "plan": asdict(writer[1])}
    return {
        "kind": "feature store",
        "finished": finished,
        "shards": num_shards,
        **asdict(tally),
        "hours": round(tally.seconds_kept / 3600, 6),
        **described,
    }


def _describe_labels(folder: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from gmmpipe.errors import StoreError
    from gmmpipe.store.label_schema import LabelInfo, LabelSidecar, find_label_plan
    from gmmpipe.store.schema import LABEL_PLAN_FILE, STORE_FILE

    plan = find_label_plan(folder)
    if plan is None:
        raise StoreError(
            f"{folder}: holds shards of labels, but no {STORE_FILE} or {LABEL_PLAN_FILE}"
        )
    finished = (folder / STORE_FILE).exists()
    if finished:
        info = LabelInfo.read(folder / STORE_FILE)
    else:
        sidecars = map(LabelSidecar.read, sorted(folder.glob("shard-*.json")))
        info = LabelInfo.over(plan, sidecars)
    return {
        "kind": "label store",
        "finished": finished,
        "shards": len(info.shards),
        **asdict(info.totals),
        **asdict(info.plan),
    }


def _describe_model(path: Path) -> dict[str, Any]:
    from gmmpipe.mixture.model_file import read_model

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


def _lines(values: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines
