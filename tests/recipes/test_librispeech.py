"""The LibriSpeech recipe on a small tree of that layout, killed in its fit and run again."""

import json
import signal
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from click.testing import CliRunner

from gmmpipe import FeatureStore, GradientGMM
from helpers.making import CORPUS
from helpers.processes import ROOT, Started, run, wait_until
from helpers.results import file_bytes
from pipelines.librispeech.run import main

SCRIPT = ROOT / "pipelines" / "librispeech" / "run.py"
SUBSETS = {
    "train-clean-100": ("ru-asterisk", "ru-festvox"),
    "train-clean-360": ("it-asterisk",),
    "dev-clean": ("en-cards", "en-librivox"),
    "test-clean": ("fr-armelle",),
}
FIT = {
    "K": "8",
    "target_frames": "60k",
    "batch_update_size": "2k",
    "n_sgd_steps": "60",
    "sgd_batch_size": "256",
    "save_every": "2k",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LibriSpeech as tar leaves it: speakers, chapters, transcripts, and texts at the top."""
    corpus = tmp_path_factory.mktemp("corpus") / "LibriSpeech"
    corpus.mkdir()
    (corpus / "SPEAKERS.TXT").write_text(";ID  |SEX| SUBSET\n")
    speakers = iter(range(19, 99))  # each is in one subset, as in LibriSpeech
    for subset, folders in SUBSETS.items():
        for folder in folders:
            speaker = str(next(speakers))
            chapter = corpus / subset / speaker / "198"
            chapter.mkdir(parents=True)
            texts = []
            for count, path in enumerate(sorted((CORPUS / folder).iterdir())):
                name = f"{speaker}-198-{count:04d}"
                chapter.joinpath(f"{name}.flac").symlink_to(path)
                texts.append(f"{name} WHAT WAS SAID IN {count}\n")
            (chapter / f"{speaker}-198.trans.txt").write_text("".join(texts))
    return corpus


def arguments(tree: Path, out: Path, **changes: str) -> list[str]:
    options = {"librispeech_dir": str(tree), "output_dir": str(out), **FIT, **changes}
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def test_killed_in_its_fit_and_run_again_it_ends_with_the_same_labels(
    tree: Path, tmp_path: Path, start: Started
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = [sys.executable, str(SCRIPT), *arguments(tree, out)]
    process = start(command)
    wait_until(lambda: any(out.glob("fit/gmm_ckpt_*")), process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "fit" / "gmm.pt").exists()

    again = run(command)
    assert again.stderr.count("is finished already: nothing to do") == 2  # the features
    once = CliRunner().invoke(main, arguments(tree, whole))
    assert once.exit_code == 0, once.output
    for part in ("km/train", "km/valid", "labels/train", "labels/valid"):
        assert file_bytes(out / part) == file_bytes(whole / part), part
    models = [GradientGMM.load(folder / "fit" / "gmm.pt") for folder in (out, whole)]
    assert models[0].means.equal(models[1].means)

    before = file_bytes(out)
    third = CliRunner().invoke(main, arguments(tree, out))
    assert third.exit_code == 0, third.output
    assert file_bytes(out) == before
    check_labels(tree, out, models[0])


def check_labels(tree: Path, out: Path, model: GradientGMM) -> None:
    """The .km files name each file once, in the tree's order, with the labels of its frames."""
    for part, subsets in {
        "train": ("train-clean-100", "train-clean-360"),
        "valid": ("dev-clean",),
    }.items():
        root, *rows = (out / "km" / part / "labels.tsv").read_text().splitlines()
        wanted = [path for name in subsets for path in sorted((tree / name).rglob("*.flac"))]
        files = [Path(root, row.split("\t")[0]) for row in rows]
        assert files == wanted
        samples = [int(row.split("\t")[1]) for row in rows]
        infos = [soundfile.info(path) for path in files]
        assert samples == [info.frames * 16000 // info.samplerate for info in infos]
        store = FeatureStore.open(out / "features" / part)
        utterances = {utt.metadata["wav_path"]: utt for utt in store.utterances()}
        lines = (out / "km" / part / "labels.km").read_text().splitlines()
        for path, line in zip(files, lines, strict=True):
            utterance = utterances[str(path.relative_to(tree))]
            assert utterance.key == path.stem
            assert utterance.metadata["text"].startswith("WHAT WAS SAID IN ")
            assert torch.tensor([*map(int, line.split())]).equal(model.assign(utterance.features))


def test_named_subsets_are_used_alone(tree: Path, tmp_path: Path) -> None:
    changes = {"subsets": "test-clean", "valid_subsets": "", "target_frames": "1k"}
    done = CliRunner().invoke(main, arguments(tree, tmp_path, **changes))
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "km").iterdir()] == ["train"]
    lines = (tmp_path / "manifests" / "train.jsonl").read_text().splitlines()
    assert {json.loads(line)["subset"] for line in lines} == {"test-clean"}
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"subsets": "train-clean-1000"}, 1, "no subset train-clean-1000; there are: dev-clean, t"),
        ({"valid_subsets": "train-clean-100"}, 2, "train-clean-100: in --subsets and in --valid"),
        ({"librispeech_dir": str(CORPUS)}, 2, "no train-* folder; name others in --subsets"),
        ({"librispeech_dir": "nowhere"}, 2, "'nowhere' does not exist"),
        ({"K": "0"}, 2, "K"),
    ],
)
def test_bad_input_is_one_line(
    changes: dict[str, str], status: int, said: str, tree: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(main, arguments(tree, tmp_path / "out", **changes))
    assert (done.exit_code, said in done.stderr) == (status, True), done.output
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
