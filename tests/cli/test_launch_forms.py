"""Every way to start gmmpipe works, installed or from a bare checkout, with worker processes."""

import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from helpers.making import CORPUS, corpus_part, make_store
from helpers.processes import ROOT, one_thread, run, torchrun
from pipelines.fit_gmm import main as fit_gmm

SCRIPTS = Path(sysconfig.get_path("scripts"))
FIT = ("--K", "8", "--target_frames", "4k", "--n_sgd_steps", "4", "--sgd_batch_size", "512")
MARK = "0.0.0+checkout"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package that is not installed, and says so in its version."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("gmmpipe", "pipelines"):
        ignore = shutil.ignore_patterns("__pycache__", "corpus")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    init = folder / "gmmpipe" / "__init__.py"
    text = init.read_text()
    start = text.index('__version__ = "')
    end = text.index("\n", start)
    init.write_text(f'{text[:start]}__version__ = "{MARK}"{text[end:]}')
    return folder


def from_checkout(checkout: Path) -> dict[str, object]:
    """How to run a command as if gmmpipe were not installed: only the folder can provide it."""
    return {"cwd": checkout, "env": one_thread()}


FORMS = {
    "python -m gmmpipe": [sys.executable, "-m", "gmmpipe"],
    "python gmmpipe": [sys.executable, "gmmpipe"],
    "torchrun -m gmmpipe": torchrun(2, "-m", "gmmpipe"),
    "torchrun gmmpipe": torchrun(2, "gmmpipe"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_bare_checkout_fits_with_two_ranks_or_readers(
    form: str, checkout: Path, store: Path, tmp_path: Path
) -> None:
    command = [*FORMS[form], "fit", "--data_dir", str(store), "--output_dir", str(tmp_path), *FIT]
    run([*command, "--num_workers", "2"], **from_checkout(checkout))
    assert torch.load(tmp_path / "gmm.pt", weights_only=True)["K"] == 8


@pytest.mark.parametrize("form", ["python -m gmmpipe", "python gmmpipe"])
def test_a_bare_checkout_featurizes_with_two_worker_processes(
    form: str, checkout: Path, tmp_path: Path
) -> None:
    version = run([*FORMS[form], "--version"], **from_checkout(checkout))
    assert MARK in version.stdout
    options = ["--data_dir", str(CORPUS), "--output_dir", str(tmp_path / "store")]
    workers = ["--num_workers", "2", "--utterances_per_shard", "20"]
    run([*FORMS[form], "featurize", *options, *workers], **from_checkout(checkout))
    assert len(list((tmp_path / "store").glob("shard-*.tar"))) == 3


@pytest.mark.parametrize(
    "form",
    [[str(SCRIPTS / "gmmpipe")], torchrun(2, "--no-python", str(SCRIPTS / "gmmpipe"))],
    ids=["gmmpipe", "torchrun --no-python gmmpipe"],
)
def test_the_installed_command_fits_from_any_folder(
    form: list[str], store: Path, tmp_path: Path
) -> None:
    command = [*form, "fit", "--data_dir", str(store), "--output_dir", "fit", *FIT]
    run(command, cwd=tmp_path)
    assert (tmp_path / "fit" / "gmm.pt").exists()


@pytest.mark.parametrize("start", [[sys.executable], torchrun(2)], ids=["python", "torchrun"])
def test_the_one_command_form_makes_features_and_fits_them(
    start: list[str], checkout: Path, tmp_path: Path
) -> None:
    script = str(checkout / "pipelines" / "fit_gmm.py")
    options = ["--data-dir", str(CORPUS), "--output_dir", str(tmp_path / "out"), *FIT]
    first = run([*start, script, *options, "--batch_size", "32"], cwd=tmp_path)
    assert "--batch_size has no effect" in first.stderr
    assert (tmp_path / "out" / "features" / "store.json").exists()
    model = torch.load(tmp_path / "out" / "gmm.pt", weights_only=True)
    assert model["frames"] == 4000
    longer = [word if word != "4k" else "8k" for word in options]
    again = run([*start, script, *longer, "--resume", "auto"], cwd=tmp_path)
    assert "using the features" in again.stderr
    assert torch.load(tmp_path / "out" / "gmm.pt", weights_only=True)["frames"] == 8000


def test_the_one_command_form_refuses_the_features_of_other_data(tmp_path: Path) -> None:
    manifest = corpus_part(tmp_path / "other.jsonl", 4)
    out = tmp_path / "out"
    make_store(manifest, out / "features", base_path=CORPUS)
    places = ["--data_dir", str(CORPUS), "--output_dir", str(out)]
    refused = CliRunner().invoke(fit_gmm, [*places, *FIT])
    assert refused.exit_code == 1
    assert "made with other manifests" in refused.stderr


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_need_no_heavy_import(option: str) -> None:
    code = (
        "import sys\nfrom gmmpipe.cli import cli\n"
        f"try: cli([{option!r}], prog_name='gmmpipe')\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'webdataset', 'soundfile'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert "gmmpipe" in run([sys.executable, "-c", code]).stdout


def test_an_unknown_command_is_wrong_usage(invoke) -> None:
    assert "No such command" in invoke("no-such-command", status=2).stderr
