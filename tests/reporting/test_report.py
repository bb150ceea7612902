"""`gmmpipe report`: one page that holds all it shows, of any fit, with and without a store."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from gmmpipe.reporting.numbers import shown
from gmmpipe.store.rejects import REJECT_REASONS
from helpers import external
from helpers.making import CORPUS, fit_here, make_store
from helpers.results import file_bytes, read_metrics

VOID = {"meta", "link", "img", "source", "br", "input"}


class _Page(HTMLParser):
    """Reads a page; every element must be closed, in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.alts: list[str] = []
        self.audio: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for name in ("src", "href", "srcset", "xlink:href"):
            if name in values:
                self.links.append(values[name] or "")
        if values.get("role") == "img":
            self.alts.append(values.get("aria-label") or "")
        if tag == "audio":
            self.audio.append(values["src"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.words))  # not the gaps within a number


def check(folder: Path, num_utterances: int) -> _Page:
    """A report is whole and needs nothing else."""
    page = _Page(folder / "report.html")
    assert (folder / "report.html").stat().st_size < 5_000_000
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert all(len(alt) > 20 for alt in page.alts)
    pictures = sorted((folder / "report").iterdir())
    assert all(path.suffix == ".png" for path in pictures)
    assert len(pictures) == len(page.alts)
    assert sum(path.name.startswith("utterance") for path in pictures) == num_utterances
    for path in pictures:
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 200
    return page


@pytest.fixture(scope="module")
def fit_with_audio(
    audio_stores: dict[str, Path], store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A fit to a store with audio, with held-out frames."""
    folder = tmp_path_factory.mktemp("report") / "fit"
    fit_here(audio_stores["tar"], folder, eval_data_dir=str(store))
    return folder


def test_a_fit_with_audio(fit_with_audio: Path, audio_stores: dict[str, Path], invoke) -> None:
    before = file_bytes(fit_with_audio)
    done = invoke("report", fit_with_audio)
    assert done.stdout.strip() == str(fit_with_audio / "report.html")
    page = check(fit_with_audio, num_utterances=5)
    assert len(page.audio) == 5
    assert all(uri.startswith("data:audio/flac;base64,") for uri in page.audio)
    for values in read_metrics(fit_with_audio).values():
        assert shown(values[-1]) in page.text
    first = file_bytes(fit_with_audio)
    assert {name: first[name] for name in before} == before, "the fit's own files stay"
    invoke("report", fit_with_audio)
    assert file_bytes(fit_with_audio) == first, "the same bytes again"


def test_the_numbers_are_those_of_evaluate(fitted: Path, store: Path, tmp_path, invoke) -> None:
    import json

    invoke("report", fitted.parent, "--data_dir", store, "--output_dir", tmp_path)
    page = check(tmp_path, num_utterances=5)
    assert "no audio to play" in page.text
    done = invoke("evaluate", store, "--gmm_path", fitted, "--json")
    for name, value in json.loads(done.stdout).items():
        assert re.search(rf"\b{name}\b (▲ worrying )?{re.escape(shown(value))}", page.text), name


def test_the_axis_of_log_mels_is_in_hertz() -> None:
    from matplotlib.figure import Figure

    from gmmpipe import LogMelSpec
    from gmmpipe.reporting.frame_maps import frame_axis

    axis = Figure().subplots()
    frame_axis(axis, LogMelSpec())
    # HTK's mel scale, 2595 log10(1 + f / 700), in 81 equal steps up to 8 kHz; bin 0 ends one step.
    names = [label.get_text() for label in axis.get_yticklabels()]
    labels = dict(zip(names, axis.get_yticks(), strict=True))
    assert labels["1000"] == pytest.approx(1000.0 / (2840.02 / 81) - 1, abs=0.1)
    assert "Hz" in axis.get_ylabel()


def test_mfccs_kmeans_one_update(tmp_path: Path, invoke) -> None:
    store = make_store(CORPUS, tmp_path / "mfcc", features=_mfcc())
    fit_here(
        store, tmp_path / "fit", model="kmeans", K=12, target_frames=4000, batch_update_size=4000
    )
    invoke("report", tmp_path / "fit")
    page = check(tmp_path / "fit", num_utterances=5)
    assert "inertia" in page.text
    assert "Says nothing of k-means." in page.text
    assert (tmp_path / "fit" / "report" / "inertia.png").exists()


def _mfcc():
    from gmmpipe import MfccSpec

    return MfccSpec(n_mels=23)


@pytest.mark.parametrize(("dim", "K"), [(1, 1), (39, 2), (768, 12)])
def test_frames_of_another_program(dim: int, K: int, tmp_path: Path, invoke) -> None:
    store = external.write(tmp_path / "store", dim)
    options = {"target_frames": 300, "batch_update_size": 300, "sgd_batch_size": 64}
    fit_here(store, tmp_path / "fit", K=K, n_sgd_steps=5, **options)
    invoke("report", tmp_path / "fit")
    page = check(tmp_path / "fit", num_utterances=5)
    assert any("by dimension" in alt for alt in page.alts)


def test_without_its_store(fitted: Path, tmp_path: Path, invoke) -> None:
    fit = Path(shutil.copytree(fitted.parent, tmp_path / "fit"))
    text = (fit / "options.yaml").read_text()
    (fit / "options.yaml").write_text(re.sub("data_dir: .*", "data_dir: /no/store", text, count=1))
    done = invoke("report", fit)
    assert "the fit's store is left out" in done.stderr
    page = check(fit, num_utterances=0)
    assert "The fit's store cannot be read" in page.text
    assert "--data_dir" in page.text
    (fit / "options.yaml").write_text("- no mapping")
    invoke("report", fit)
    assert "does not say where the store is" in check(fit, num_utterances=0).text


def test_a_report_takes_the_place_of_an_earlier_one(fitted, store, tmp_path, invoke) -> None:
    fit = Path(shutil.copytree(fitted.parent, tmp_path / "fit"))
    invoke("report", fit, "--data_dir", store)
    (fit / "report" / "mine.txt").write_text("not a report's")
    (fit / "options.yaml").unlink()
    invoke("report", fit)
    assert not (fit / "report" / "utterance-1.png").exists()
    assert (fit / "report" / "mine.txt").exists()


def test_an_unfinished_fit(fitted: Path, store: Path, tmp_path: Path, invoke) -> None:
    fit = Path(shutil.copytree(fitted.parent, tmp_path / "fit"))
    (fit / "gmm.pt").unlink()
    (fit / "gmm_ckpt_0.008M.pt").write_bytes(b"damaged")
    done = invoke("report", fit, "--data_dir", store)
    assert "passed over" in done.stderr
    text = check(fit, num_utterances=5).text
    assert "The fit is not finished: gmm_ckpt_0.004M.pt is its furthest checkpoint" in text
    assert "metrics.tsv is at update 2, the model at 1" in text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: b"", "line 1: no column frames"),
        (lambda text: text[:-20], "line 3: "),
        (lambda text: text.replace(b"nll", b"xll", 1), "line 1: no column nll"),
        (lambda text: b"\xff" + text, "no text"),
        (lambda text: text + b"oops\n", "line 4: not all numbers"),
    ],
)
def test_damaged_metrics(damage, said: str, fitted: Path, tmp_path: Path, invoke) -> None:
    fit = Path(shutil.copytree(fitted.parent, tmp_path / "fit"))
    path = fit / "metrics.tsv"
    path.write_bytes(damage(path.read_bytes()))
    done = invoke("report", fit, status=1)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: ")
    assert said in line
    assert not (fit / "report.html").exists()


def test_what_cannot_be_reported(fitted: Path, store: Path, tmp_path: Path, invoke) -> None:
    (tmp_path / "empty").mkdir()
    done = invoke("report", tmp_path / "empty", status=1)
    assert "holds no fit" in done.stderr
    done = invoke("report", fitted.parent, "--data_dir", tmp_path / "empty", status=1)
    assert "not a finished feature store" in done.stderr
    other = external.write(tmp_path / "other", 3)
    done = invoke("report", fitted.parent, "--data_dir", other, status=1)
    assert "fitted to other features" in done.stderr


def test_rejects_are_named(tmp_path: Path, write_manifest, fitted: Path, invoke) -> None:
    good = [{"wav_path": str(path)} for path in sorted((CORPUS / "ru-festvox").glob("*.flac"))]
    strange = '{"wav_path": "/nowhere/<b>\\udcff.flac"}'
    store = make_store(write_manifest(*good, strange, "no json"), tmp_path / "store")
    invoke("report", fitted.parent, "--data_dir", store, "--output_dir", tmp_path / "out")
    text = check(tmp_path / "out", num_utterances=5).text
    assert "2 of 12 lines gave no frames" in text
    for reason in ("not_found", "bad_json"):
        assert f"{reason} 1 (8.3 %) {REJECT_REASONS[reason]}" in text
    assert "/nowhere/<b>" in text
