"""Every command of the pages runs, page by page, and leaves what the page says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import kaldiio
import numpy as np
import pytest

from gmmpipe import FeatureStore, GradientGMM, LabelStore
from helpers.cluster import begin_cluster
from helpers.kinds import MAKERS
from helpers.making import CORPUS, corpus_part
from helpers.pages import PAGES, blocks, run_blocks
from helpers.processes import ROOT, Started

DOCS = ROOT / "docs"
ASIDE = {"CONTRIBUTING.md", "cli.md", "benchmarks.md", "design.md", "reliability.md"}
"""Pages of help texts, of what takes hours, or without commands."""
Session = Callable[..., Path]


@pytest.fixture
def session(tmp_path: Path, store: Path, fitted: Path) -> Session:
    """Makes a folder in which a page's commands run, with what the page takes for granted."""

    def begin(*wanted: str) -> Path:
        folder = tmp_path / "session"
        folder.mkdir()
        there = {"store": store, "held-out": store, "fit": fitted.parent, "corpus": CORPUS}
        for name in wanted:
            (folder / name).symlink_to(there[name])
        (folder / "pipelines").symlink_to(ROOT / "pipelines")
        return folder

    return begin


def add_manifests(folder: Path, count: int = 8) -> None:
    """Some lines of the demo corpus as ``manifests/``."""
    (folder / "manifests").mkdir()
    part = corpus_part(folder / "part.jsonl", count)
    lines = [json.loads(text) for text in part.read_text().splitlines()]
    with open(folder / "manifests" / "train.jsonl", "w") as manifest:
        for line in lines:
            line["wav_path"] = str(CORPUS / line["wav_path"])
            manifest.write(json.dumps(line) + "\n")


def add_libri_speech(folder: Path) -> None:
    """``LibriSpeech/``, with audio of the demo corpus."""
    made = folder / "LibriSpeech" / "train-clean-100"
    made.parent.mkdir()
    source = folder / "made"
    source.mkdir()
    shutil.copytree(MAKERS["folder"](source).data_dir, made)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """What is no command and no Python is ``text`` or data; ``console`` needs the network."""
    lines = page.read_text(encoding="utf-8").splitlines()
    fences = [line for line in lines if line.startswith("```")]
    kinds = {fence.removeprefix("```") for fence in fences[::2]}
    allowed = {"bash", "console", "json", "python", "text"}
    assert {kind for kind in kinds if not kind.startswith("{")} <= allowed
    assert set(fences[1::2]) <= {"```"}
    starts = ["make ", "pip ", "docker ", "python", "torchrun ", "PYTHONPATH=", "tar ", "git "]
    if page.name in ASIDE | {"librispeech.md"}:  # pipelines/benchmark and the recipe run them
        starts.append("gmmpipe ")
    for block in blocks(page, "console"):
        assert all(line.startswith(tuple(starts)) for line in block.splitlines()), block
    for block in blocks(page, "text"):
        assert not block.startswith(("gmmpipe ", "torchrun ")), block
    for block in blocks(page, "json"):
        assert all(json.loads(line) for line in block.splitlines())


def test_every_page_with_commands_is_run() -> None:
    found = {page.name for page in PAGES if blocks(page, "bash")}
    assert found - ASIDE == {*PAGE_TESTS, "sources.md"}


def readme(session: Session, start: Started) -> None:
    folder = session()
    add_libri_speech(folder)
    run_blocks(blocks(ROOT / "README.md", "bash"), folder)
    assert GradientGMM.load(folder / "fit" / "gmm.pt").K == 16


def start_page(session: Session, start: Started) -> None:
    folder = session()
    printed = run_blocks(blocks(DOCS / "start.md", "bash"), folder)
    assert "56" in printed
    assert (folder / "fit" / "report.html").exists()
    assert (folder / "km" / "labels.km").read_text().count("\n") == 56


def scaling(session: Session, start: Started) -> None:
    folder = session()
    add_manifests(folder)
    scheduler, _ = begin_cluster(start, 1)
    run_blocks(blocks(DOCS / "scaling.md", "bash"), folder, **{"tcp://host:8786": scheduler})
    assert len(FeatureStore.open(folder / "store")) == 8
    assert (folder / "fit" / "gmm.pt").exists()


def choosing_k(session: Session, start: Started) -> None:
    folder = session("store", "held-out")
    run_blocks(blocks(DOCS / "choosing-k.md", "bash"), folder)
    assert "eval_nll" in (folder / "k1024" / "metrics.tsv").read_text()


def coming_from(session: Session, start: Started) -> None:
    folder = session()
    add_libri_speech(folder)
    add_manifests(folder)
    run_blocks(blocks(DOCS / "coming-from.md", "bash"), folder)
    assert (folder / "km" / "dict.km.txt").exists()
    assert FeatureStore.open(folder / "mfcc").dim == 39
    assert (folder / "out" / "gmm.pt").exists()


def fitting(session: Session, start: Started) -> None:
    folder = session("store")
    for name in ("mfcc", "layer6"):
        (folder / name).symlink_to(folder / "store")
    run_blocks(blocks(DOCS / "fitting.md", "bash"), folder)
    assert "inertia" in (folder / "km100" / "metrics.tsv").read_text()
    assert list((folder / "fit").glob("events.*"))
    assert list((folder / "fit").glob("wandb/offline-run-*"))


def frames(session: Session, start: Started) -> None:
    """Each block is for itself: their stores have the same name."""
    folder = session("store", "corpus")
    own, mfcc, npy, fairseq, kaldi = blocks(DOCS / "frames.md", "bash")
    random = np.random.default_rng(0)
    arrays = {f"utt-{n}": random.normal(size=(300, 8)).astype(np.float32) for n in range(4)}
    store, layer = folder / "store", folder / "layer6"
    store.rename(layer)
    run_blocks([own, mfcc], folder)
    assert len(LabelStore.open(folder / "labels6").shards) == 4
    assert FeatureStore.open(store).dim == 39

    layer.unlink()
    layer.mkdir()
    for key, array in arrays.items():
        np.save(layer / f"{key}.npy", array)
    (folder / "feat").mkdir()
    np.save(folder / "feat" / "train_0_1.npy", np.concatenate([*arrays.values()]))
    (folder / "feat" / "train_0_1.len").write_text("300\n" * 4)
    lines = [f"{key}.flac\t96000" for key in arrays]
    (folder / "train.tsv").write_text("\n".join(["/data", *lines]) + "\n")
    (folder / "data" / "train").mkdir(parents=True)
    (folder / "mfcc").mkdir()
    ark, scp = folder / "mfcc" / "raw_mfcc_train.1.ark", folder / "data" / "train" / "feats.scp"
    with kaldiio.WriteHelper(f"ark,scp:{ark},{scp}") as writer:
        for key, array in arrays.items():
            writer(key, array)
    for commands in (npy, fairseq, *kaldi.splitlines()):
        shutil.rmtree(store)
        run_blocks([commands], folder)
        assert (len(FeatureStore.open(store)), FeatureStore.open(store).dim) == (4, 8)


def labels(session: Session, start: Started) -> None:
    folder = session("store", "held-out", "fit", "corpus")
    run_blocks(
        blocks(DOCS / "labels.md", "bash"), folder, **{"/data/corpus": str(folder / "corpus")}
    )
    assert (folder / "exp" / "label" / "librispeech_train.pt").read_text().count("\n") == 56


def jepa(session: Session, start: Started) -> None:
    """The page's end is a story of its own, whose folders have the same names."""
    folder = session("corpus")
    *first, second = blocks(DOCS / "jepa.md", "bash")
    run_blocks([second], folder)
    assert (folder / "jepa2" / "jepa.pt").exists()
    shutil.rmtree(folder / "jepa")
    shutil.rmtree(folder / "layer")
    train, layers = first
    run_blocks([train.splitlines()[1], layers.splitlines()[0]], folder)
    assert FeatureStore.open(folder / "layer").features.kind == "external"


def report_page(session: Session, start: Started) -> None:
    folder = session("store", "fit")
    fit = (folder / "fit").resolve()
    (folder / "fit").unlink()
    shutil.copytree(fit, folder / "fit")
    run_blocks(blocks(DOCS / "report.md", "bash"), folder)
    assert (folder / "fit" / "report" / "means.png").exists()


PAGE_TESTS: dict[str, Callable[[Session, Started], None]] = {
    "README.md": readme,
    "start.md": start_page,
    "scaling.md": scaling,
    "choosing-k.md": choosing_k,
    "coming-from.md": coming_from,
    "fitting.md": fitting,
    "frames.md": frames,
    "labels.md": labels,
    "jepa.md": jepa,
    "report.md": report_page,
}


@pytest.mark.parametrize("page", PAGE_TESTS)
def test_the_commands_of_a_page(page: str, session: Session, start: Started) -> None:
    PAGE_TESTS[page](session, start)


SOURCES = {
    "manifests": ("jsonl.gz", "manifests/train.jsonl.gz", ""),
    "data/manifests/cuts_train.jsonl.gz": ("lhotse cuts", "data/manifests/cuts_train.jsonl.gz", ""),
    "data/manifests": ("lhotse recordings", "data/manifests", ""),
    "shar": ("shar flac", "shar", ""),
    "GigaSpeech": ("audios_json", "GigaSpeech", ".."),
    "WenetSpeech/WenetSpeech.json": ("audios_json", "WenetSpeech/WenetSpeech.json", ""),
    "LibriSpeech/train-clean-100": ("folder", "LibriSpeech/train-clean-100", ""),
    "data/metadata.csv": ("csv.gz", "data/metadata.csv.gz", ""),
    "cv-corpus/en/validated.tsv": ("common voice", "cv-corpus/en", ""),
    "transcribed_data/de/asr_train.tsv": ("voxpopuli", "transcribed_data/de", ".."),
    "mls_german/train": ("mls", "mls_german/train", ""),
    "manifest/train.tsv": ("fairseq", "manifest/train.tsv", ""),
    "data/train": ("kaldi segments", "data/train", ""),
    "small": ("libri-light", "small", ""),
}
"""For each source on the page: what makes one, and which place is a link to which part of that."""


@pytest.mark.parametrize("command", blocks(DOCS / "sources.md", "bash"), ids=str.strip)
def test_each_command_of_the_page_of_sources(command: str, tmp_path: Path) -> None:
    [source] = [name for name in SOURCES if f"--data_dir {name} " in command]
    kind, place, part = SOURCES[source]
    for name in ("made", "session"):
        (tmp_path / name).mkdir()
    made = Path(MAKERS[kind](tmp_path / "made").data_dir)
    link = tmp_path / "session" / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(made.parent if part else made)
    ending = {"data/metadata.csv": "data/metadata.csv.gz"}
    run_blocks([command], tmp_path / "session", **ending)
    assert len(FeatureStore.open(tmp_path / "session" / "store")) > 0
