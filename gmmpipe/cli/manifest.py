"""``gmmpipe manifest``."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gmmpipe.cli.common import job_options
from gmmpipe.cli.from_dataclass import command_from

if TYPE_CHECKING:
    from gmmpipe.sources.options import ManifestOptions
    from gmmpipe.sources.survey import Survey


@command_from("gmmpipe.sources.options:ManifestOptions", "manifest")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@job_options
def command(options: "ManifestOptions", as_json: bool) -> None:
    """Say what SOURCES hold, as featurize would read them: comma-separated paths and patterns.

    For each: its kind, its utterances, their hours where they are stated, the first three, and what
    is passed over. No audio is opened.
    """
    from gmmpipe.sources.find import find_sources
    from gmmpipe.sources.survey import survey

    sources = find_sources(options.sources, options.source_kind)
    surveys = survey(sources, options.base_path, options.output)
    if as_json:
        click.echo(
            json.dumps({"sources": [_as_json(totals) for totals in surveys]}, sort_keys=True)
        )
    else:
        click.echo("\n\n".join("\n".join(map(_printable, _lines(totals))) for totals in surveys))


def _as_json(totals: "Survey") -> dict[str, Any]:
    values = {**vars(totals), "hours": totals.hours}
    del values["seconds"]
    return values


def _lines(totals: "Survey") -> Iterator[str]:
    yield f"source: {totals.source}"
    yield f"kind: {totals.kind}"
    yield f"manifests: {totals.manifests}"
    yield f"lines: {totals.lines}"
    yield f"utterances: {totals.utterances}"
    hours = "not stated" if totals.hours is None else f"{totals.hours:.4g}"
    yield f"hours: {hours}" + (
        f", stated by {totals.stated} utterances" if 0 < totals.stated < totals.utterances else ""
    )
    for example in totals.first:
        yield f"first: {_words(example)}"
    if totals.passed_over_lines:
        yield f"lines passed over: {_counts(totals.passed_over_lines)}"
    if totals.passed_over_files:
        yield f"files passed over: {_counts(totals.passed_over_files)}"


def _words(example: dict[str, Any]) -> str:
    where = "{manifest} line {line}: {key}: {path}".format(**example)
    if example["offset_seconds"] is not None:
        where += f", from {example['offset_seconds']:g} s"
    if example["duration_seconds"] is not None:
        where += f", {example['duration_seconds']:g} s"
    if example["channel"] is not None:
        where += f", channel {example['channel']}"
    return where


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _printable(text: str) -> str:
    """A line of text with escapes for what a terminal would obey, or stdout refuse."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
