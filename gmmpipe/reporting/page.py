"""The page: one HTML file that holds all it shows, and asks the network for nothing."""

from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from gmmpipe import __version__
from gmmpipe.reporting.fit_result import FitResult
from gmmpipe.reporting.numbers import Table, shown
from gmmpipe.reporting.picture import Picture
from gmmpipe.reporting.spoken import Spoken
from gmmpipe.reporting.store_facts import StoreFacts

_TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Content:
    """All that a page says.

    Args:
        title: what names the fit.
        fit: the fit.
        tables: the numbers.
        curves: pictures over updates.
        means: of the components.
        usage: pictures of the sampled frames; empty where there is no store.
        utterances: those shown, each with its picture.
        facts: of the store; None where there is none.
        data_dir: the store; None where there is none.
        notes: what a reader should know first: what is absent, and why.
    """

    title: str
    fit: FitResult
    tables: list[Table]
    curves: list[Picture]
    means: Picture
    usage: list[Picture]
    utterances: list[tuple[Spoken, Picture]]
    facts: StoreFacts | None
    data_dir: str | None
    notes: list[str]

    @property
    def pictures(self) -> list[Picture]:
        """All pictures, in the order of the page."""
        spoken = [picture for _, picture in self.utterances]
        return [*self.curves, self.means, *self.usage, *spoken]

    @property
    def worries(self) -> list[tuple[Table, Any]]:
        """The numbers that are worrying, with their tables."""
        return [(table, row) for table in self.tables for row in table.rows if row.is_worrying]


def page(content: Content) -> bytes:
    """The HTML of a page, the same bytes for the same content."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = shown
    template = resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        c=content, version=__version__, configuration=_configuration(content.fit)
    )
    return text.encode("utf-8", "backslashreplace")  # a path may hold bytes that are no text


def _configuration(fit: FitResult) -> list[tuple[str, str]]:
    """What decides the fit, as titled YAML."""
    spec = fit.features
    parts: list[tuple[str, Any]] = [
        ("Options (options.yaml)", fit.options),
        ("What decides the fit's bits", fit.identity),
        ("What a frame is", {**spec.to_json(), "fingerprint": spec.fingerprint}),
    ]
    return [(title, yaml.safe_dump(values, sort_keys=False)) for title, values in parts if values]
