"""`report`: a fit's output folder to one page and its pictures."""

import logging
import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from gmmpipe.apply.model import check_features
from gmmpipe.claim import claim_folder
from gmmpipe.errors import CheckpointError, GmmpipeError, StoreError
from gmmpipe.files import sync, write_atomic
from gmmpipe.reporting import curves
from gmmpipe.reporting.fit_result import FitResult
from gmmpipe.reporting.frame_maps import FrameMaps
from gmmpipe.reporting.numbers import tables
from gmmpipe.reporting.options import ReportOptions
from gmmpipe.reporting.page import Content, page
from gmmpipe.reporting.sample import Sample, Usage
from gmmpipe.reporting.spoken import Spoken, choose
from gmmpipe.reporting.store_facts import StoreFacts
from gmmpipe.store.feature_store import FeatureStore

log = logging.getLogger(__name__)
PAGE_FILE = "report.html"
PICTURES_FOLDER = "report"
_PICTURE = re.compile(
    r"(nll|alive|balance|inertia|means|weights|entropy|largest_posterior|utterance-\d)\.png"
)
"""The names of the pictures that any report has."""


@dataclass(frozen=True)
class _Speech:
    """What the store behind a report adds to it."""

    data_dir: str
    facts: StoreFacts
    usage: Usage
    utterances: list[Spoken]
    is_fitted_to: bool
    is_whole_store: bool


def report(options: ReportOptions) -> Path:
    """Write the report of a fit, in place of an earlier one; the same input gives the same bytes.

    A few shards of the store are read, whatever its size.

    Returns:
        The page.

    Raises:
        GmmpipeError: the fit, or the store that is named, cannot be used; or a library is missing.
    """
    _check_libraries()
    fit = FitResult.read(options.fit)
    notes: list[str] = []
    speech = _read_speech(options, fit, notes)
    content = _content(options, fit, speech, notes)
    return _publish(content, options.output_dir or options.fit)


def _check_libraries() -> None:
    for name in ("matplotlib", "jinja2", "scipy"):
        try:
            import_module(name)
        except ImportError as error:
            raise GmmpipeError(
                f'gmmpipe report needs {name}: pip install "gmmpipe[report]"'
            ) from error


def _read_speech(options: ReportOptions, fit: FitResult, notes: list[str]) -> _Speech | None:
    """What the store adds; None, and a note that says why, where the fit's own cannot be read."""
    if options.data_dir is not None:
        return _speech_of(options.data_dir, fit)
    remedy = "name the store with --data_dir to see usage, posteriors, utterances and rejects"
    data_dir = fit.options.get("data_dir")
    if not isinstance(data_dir, str):
        notes.append(f"options.yaml does not say where the store is: {remedy}.")
        return None
    try:
        return _speech_of(data_dir, fit)
    except (StoreError, CheckpointError, OSError) as error:
        log.warning("warning: the fit's store is left out: %s", error)
        notes.append(f"The fit's store cannot be read ({error}): {remedy}.")
        return None


def _speech_of(data_dir: str, fit: FitResult) -> _Speech:
    store = FeatureStore.open(data_dir)
    check_features(fit.gmm, store, str(fit.path))
    if store.num_frames == 0:
        raise StoreError(f"{data_dir}: holds no frames")
    facts = StoreFacts.read(data_dir)
    drawn = Sample.draw(store)
    usage = Usage.of(drawn, fit.gmm)
    is_own = store.digests == fit.identity["stores"]
    return _Speech(
        data_dir, facts, usage, choose(store, drawn, usage), is_own, drawn.is_whole_store
    )


def _content(
    options: ReportOptions, fit: FitResult, speech: _Speech | None, notes: list[str]
) -> Content:
    _note_progress(fit, notes)
    if speech is not None and not speech.is_fitted_to:
        notes.append(
            f"{speech.data_dir} is not what was fitted, but other frames of the same kind."
        )
    maps = FrameMaps(fit)
    usage = speech.usage if speech else None
    return Content(
        title=str(options.fit),
        fit=fit,
        tables=tables(fit, usage, speech.facts if speech else None),
        curves=curves.over_updates(fit),
        means=maps.means(usage),
        usage=[curves.weights_and_usage(fit, usage), *curves.posteriors(fit, usage)]
        if usage
        else [],
        utterances=[
            (spoken, maps.utterance(number, spoken))
            for number, spoken in enumerate(speech.utterances if speech else (), start=1)
        ],
        facts=speech.facts if speech else None,
        data_dir=speech.data_dir if speech else None,
        notes=notes,
    )


def _note_progress(fit: FitResult, notes: list[str]) -> None:
    """Say so where the model is not the end of its fit, or not where its metrics are."""
    if not fit.is_finished:
        target = fit.options.get("target_frames")
        of = f" of {target}" if isinstance(target, int) else ""
        within = f" and {fit.step} steps of the next update" if fit.step else ""
        notes.append(
            f"The fit is not finished: {fit.path.name} is its furthest checkpoint, after "
            f"{fit.frames}{of} frames{within}."
        )
    measured = fit.metrics["update"]
    if len(measured) != fit.updates:
        notes.append(
            f"metrics.tsv is at update {len(measured)}, the model at {fit.updates}: the curves are "
            "those of metrics.tsv, everything else is of the model."
        )


def _publish(content: Content, folder: Path) -> Path:
    """Write the pictures, and then the page; each is there whole or not at all."""
    pictures, target = folder / PICTURES_FOLDER, folder / PAGE_FILE
    html = page(content)
    # The claim is on the pictures' folder, because a fit may be at work in the other.
    with claim_folder(pictures, "", "gmmpipe report", alone=True):
        names = {f"{picture.name}.png" for picture in content.pictures}
        for picture in content.pictures:
            write_atomic(pictures / f"{picture.name}.png", picture.png)
        for path in pictures.iterdir():
            if _PICTURE.fullmatch(path.name) and path.name not in names:
                path.unlink()
        unnamed = pictures / PAGE_FILE
        write_atomic(unnamed, html)
        os.replace(unnamed, target)
        sync(folder)
    log.info("%s: %d pictures, %.1f MB", target, len(names), len(html) / 1e6)
    return target
