"""``gmmpipe report``: a page that holds all it shows, of every kind of fit."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gmmpipe import FeaturizeOptions, ReportOptions, report
from gmmpipe.features.mfcc_spec import MfccSpec
from gmmpipe.featurization.job import featurize
from helpers import external
from helpers.making import CORPUS, corpus_part, fit_here
from helpers.processes import one_thread, run_gmmpipe
from helpers.results import read_metrics

Made = dict[str, Any]
VOID = {"meta", "link", "img", "source", "br", "hr", "input", "col"}


class Page(HTMLParser):
    """A page's text, and what it loads and names."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.loaded, self.alts = "", [], []
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self._open: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag not in VOID:
            self._open.append(tag)
        self.loaded += [named[name] for name in ("src", "srcset", "data") if named.get(name)]
        if tag == "img":
            self.alts.append(named.get("alt") or "")
        if tag == "link":
            self.loaded.append(named.get("href"))
        if "id" in named:
            self.anchors.add(named["id"])
        if tag == "a":
            self.links.add(named["href"])

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def fit(audio_stores: dict[str, Path], store: Path, tmp_path_factory) -> Path:
    """A fit to a store with audio, with held-out frames, in three updates."""
    folder = tmp_path_factory.mktemp("reported") / "fit"
    fit_here(audio_stores["tar"], folder, eval_data_dir=str(store), target_frames=12_000)
    return folder


@pytest.fixture(scope="module")
def page(fit: Path) -> Page:
    done = run_gmmpipe("report", fit)
    assert done.stdout == f"{fit / 'report.html'}\n"
    return Page(fit / "report.html")


def test_the_page_holds_all_that_it_shows(page: Page, fit: Path) -> None:
    assert page.loaded
    assert [what for what in page.loaded if not str(what).startswith("data:")] == []
    assert "url(" not in page.html.replace("url(#", "").replace("url(data:", "")
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.anchors
    assert all(page.alts)
    assert (fit / "report.html").stat().st_size < 5_000_000


def test_its_parts_are_there(page: Page, fit: Path) -> None:
    pictures = {path.stem for path in (fit / "report").glob("*.png")}
    numbers = {"nll", "alive", "balance", "means", "weights", "entropy", "largest_posterior"}
    assert pictures == numbers | {f"utterance-{number}" for number in range(1, 6)}
    for path in (fit / "report").glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) >= 200
            assert len(picture.convert("L").getcolors() or range(300)) > 3, "it is not blank"
    assert page.html.count("<audio") == 5
    for word in ("Rejects", "Configuration", "orrying", "fingerprint", "Hz"):
        assert word in page.html


def test_every_number_is_there_with_how_to_read_it(page: Page, fit: Path) -> None:
    """Those of metrics.tsv, and those of evaluate on the same frames."""
    text = re.sub(r"\s+", " ", page.text)
    metrics = read_metrics(fit)
    for name, column in metrics.items():
        assert name in text, name
        if name not in ("frames", "update"):
            assert f"{column[-1]:.6g}" in text, name
    options = (fit / "options.yaml").read_text()
    data_dir = re.search(r"data_dir: (\S+)", options)[1]
    figures = json.loads(
        run_gmmpipe("evaluate", data_dir, "--gmm_path", fit / "gmm.pt", "--json").stdout
    )
    for name in ("nll", "alive", "usage_perplexity", "posterior_entropy", "em_gap"):
        assert name in text
    assert f"{figures['nll']:.4g}" in text
    assert f"{figures['usage_perplexity']:.4g}" in text


def test_the_same_fit_gives_the_same_page_and_a_second_one_replaces_it(fit, tmp_path) -> None:
    for name in ("a", "b"):
        shutil.copytree(fit, tmp_path / name / "fit", ignore=shutil.ignore_patterns("report*"))
        report(ReportOptions(tmp_path / name / "fit", output_dir=tmp_path / "out"))
        html = (tmp_path / "out" / "report.html").read_bytes()
        (tmp_path / f"{name}.html").write_bytes(html.replace(str(tmp_path / name).encode(), b""))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report", "report.html"]


def test_an_unfinished_fit_is_shown_as_far_as_it_is(fit: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(fit, tmp_path / "fit")
    (folder / "gmm.pt").unlink()
    furthest = sorted(folder.glob("gmm_ckpt_*.pt"))[-1]
    shown = Page(report(ReportOptions(folder)))
    assert "not finished" in shown.text
    assert furthest.name in shown.text


def test_without_its_store_a_page_says_what_is_missing(fit: Path, tmp_path: Path, caplog) -> None:
    folder = shutil.copytree(fit, tmp_path / "fit", ignore=shutil.ignore_patterns("report*"))
    options = (folder / "options.yaml").read_text()
    (folder / "options.yaml").write_text(
        re.sub(r"(?m)^data_dir: \S+", "data_dir: /nowhere", options)
    )
    shown = Page(report(ReportOptions(folder)))
    assert "--data_dir" in shown.text
    assert "the fit's store is left out" in caplog.text
    assert not list((folder / "report").glob("utterance*"))
    assert (folder / "report" / "means.png").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "metrics.tsv").write_text("frames\tupdate\n1\t2\n"), "line 1: no column"),
        (lambda f: _append(f / "metrics.tsv", "1\tx\n"), "not all numbers"),
        (lambda f: _append(f / "metrics.tsv", "1\t2\n"), "2 columns, not"),
        (lambda f: (f / "metrics.tsv").write_bytes(b"\xff\xfe"), "no text"),
        (lambda f: [path.unlink() for path in f.glob("*.pt")], "holds no fit"),
    ],
    ids=["columns", "numbers", "short", "binary", "empty"],
)
def test_what_is_damaged_is_one_line(spoil, said: str, fit: Path, tmp_path: Path, invoke) -> None:
    folder = shutil.copytree(fit, tmp_path / "fit", ignore=shutil.ignore_patterns("report*"))
    spoil(folder)
    done = invoke("report", folder, status=1)
    assert said in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert not (folder / "report.html").exists()


def _append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def test_a_store_of_other_frames_is_refused(fit: Path, tmp_path: Path, invoke) -> None:
    other = tmp_path / "store"
    external.write(other, 8)
    done = invoke("report", fit, "--data_dir", other, status=1)
    assert len(done.stderr.splitlines()) == 1


def test_without_matplotlib_it_says_what_to_install(fit: Path, tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('as if it were not there')\n")
    environment = {**one_thread(), "PYTHONPATH": str(tmp_path)}
    done = run_gmmpipe("report", fit, "--output_dir", tmp_path, check=False, env=environment)
    assert done.returncode == 1
    assert 'pip install "gmmpipe[report]"' in done.stderr


@pytest.mark.parametrize(
    "changes",
    [{"K": 1}, {"model": "kmeans"}, {"target_frames": 4000}, {"K": 300, "init": "random"}],
    ids=str,
)
def test_fits_of_any_shape_have_a_page(changes: Made, store: Path, tmp_path: Path) -> None:
    fit_here(store, tmp_path, **changes)
    shown = Page(report(ReportOptions(tmp_path)))
    assert f"K = {changes.get('K', 16)}" in re.sub(r"\s+", " ", shown.text)
    assert ("inertia" in shown.text) == ("model" in changes)
    assert "<audio" not in shown.html


@pytest.mark.parametrize("kind", ["mfcc", "external"])
def test_frames_that_are_no_log_mels_have_their_own_axes(kind: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    if kind == "mfcc":
        manifest = corpus_part(tmp_path / "m.jsonl", 12)
        featurize(
            FeaturizeOptions(
                str(manifest), store, base_path=CORPUS, features=MfccSpec(), num_workers=1
            )
        )
    else:
        external.write(store, 8)
    changes = {"K": 4, "batch_update_size": 500, "target_frames": 1000, "var_floor": "1%"}
    fit_here(store, tmp_path / "fit", **changes, sgd_batch_size=128)
    shown = Page(report(ReportOptions(tmp_path / "fit")))
    assert "dimension" in shown.html
    assert "mel scale" not in shown.html


def test_it_is_a_function_too(fit: Path, tmp_path: Path) -> None:
    path = report(ReportOptions(str(fit), output_dir=str(tmp_path / "out")))
    assert path == tmp_path / "out" / "report.html"
    with Image.open(tmp_path / "out" / "report" / "means.png") as picture:
        assert picture.format == "PNG"
