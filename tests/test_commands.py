"""The commands as functions: what they return, what they raise, and what they leave as it was."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gmmpipe
from gmmpipe import (
    AudioError,
    EvaluateOptions,
    FeaturizeOptions,
    FitOptions,
    GmmpipeError,
    LabelOptions,
    OptionError,
    Stopped,
    StoreError,
    errors,
    evaluate,
    featurize,
    fit,
    label,
)
from gmmpipe.featurization.worker import make_shard
from helpers.making import CORPUS, SMALL_FIT, corpus_part, save_plan
from helpers.processes import ROOT, from_checkout, one_thread, run, torchrun
from helpers.results import assert_same_fit

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def _nothing_is_left_changed():
    """Neither handlers of signals, nor torch's settings, nor the loggers' levels."""

    def state() -> list[object]:
        handlers = [signal.getsignal(number) for number in SIGNALS]
        logger = logging.getLogger("gmmpipe")
        return [*handlers, torch.get_float32_matmul_precision(), logger.level, logger.handlers[:]]

    torch.set_float32_matmul_precision("high")
    before = state()
    yield
    assert state() == before
    torch.set_float32_matmul_precision("highest")


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    block, *_ = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    (tmp_path / "example.py").write_text(block)
    (tmp_path / "manifests").symlink_to(CORPUS)
    done = run([sys.executable, "example.py"], cwd=tmp_path, env=from_checkout())
    assert re.fullmatch(r"56 utterances, 8561 frames\nnats a frame: \d+\.\d\d\n", done.stdout)
    assert done.stderr == ""


def test_slices_give_a_store_once_all_of_them_are_there(tmp_path: Path) -> None:
    manifest = corpus_part(tmp_path / "m.jsonl", 2)
    places = {"data_dir": manifest, "output_dir": tmp_path / "out", "base_path": CORPUS}
    options = FeaturizeOptions(**places, utterances_per_shard=1)
    tasks = save_plan(options)
    for index, num_utterances in ((0, None), (1, 2)):
        make_shard(tasks.task(index, options.output_dir, CORPUS))
        store = featurize(replace(options, task_index=index, num_tasks=2))
        assert (None if store is None else len(store)) == num_utterances
    assert featurize(options).num_frames == store.num_frames


def test_a_fit_returns_its_mixture_also_when_it_is_done_already(store, tmp_path) -> None:
    options = {"data_dir": store, "output_dir": tmp_path / "fit", **SMALL_FIT}
    gmm = fit(FitOptions(**options))
    assert (gmm.K, gmm.dim, gmm.info["frames"]) == (16, 80, 8000)
    again = fit(FitOptions(**options, resume="auto"))
    assert torch.equal(again.means, gmm.means)
    with pytest.raises(GmmpipeError, match=r"--resume auto.*--overwrite"):
        fit(FitOptions(**options))


def test_a_fit_in_a_thread_is_the_same_fit(store, fitted, tmp_path) -> None:
    options = FitOptions(data_dir=store, output_dir=tmp_path / "fit", **SMALL_FIT)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(torch.set_num_threads, torch.get_num_threads()).result()
        pool.submit(fit, options).result()
    assert_same_fit(tmp_path / "fit", fitted.parent)


def test_labels_and_an_evaluation(store, fitted, tmp_path) -> None:
    labels = label(LabelOptions(store=store, gmm_path=fitted, output_dir=tmp_path / "l", top_k=2))
    assert labels.read_utterance(0, 0).topk_ids.shape[1] == 2
    found = evaluate(EvaluateOptions(store=store, gmm_path=fitted, max_frames="1k"))
    assert (found.frames, found.alive <= 16) == (1000, True)


def test_ranks_all_get_the_mixture(store, tmp_path) -> None:
    options = {"data_dir": str(store), "output_dir": str(tmp_path / "fit"), **SMALL_FIT}
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\nfrom pathlib import Path\n"
        "from gmmpipe import FitOptions, fit\n"
        "options = json.loads(sys.argv[1])\n"
        "for target in (4000, 8000):\n"
        "    gmm = fit(FitOptions(**{**options, 'target_frames': target, 'resume': 'auto'}))\n"
        "rank = os.environ['RANK']\n"
        "Path(f'rank-{rank}').write_bytes(gmm.means.numpy().tobytes())\n"
    )
    command = [*torchrun(2, str(script)), json.dumps(options)]
    run(command, cwd=tmp_path, env=from_checkout())
    means = torch.load(tmp_path / "fit" / "gmm.pt", weights_only=True)["means"].numpy().tobytes()
    assert [(tmp_path / f"rank-{rank}").read_bytes() for rank in (0, 1)] == [means, means]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_raises_stopped_and_a_second_call_goes_on(number, store, fitted, tmp_path) -> None:
    class Trigger(logging.Handler):
        """Sends the signal as the first update is reported."""

        def emit(self, record: logging.LogRecord) -> None:
            if "nll" in record.getMessage() and not sent:
                sent.append(number)
                os.kill(os.getpid(), number)

    sent: list[int] = []
    trigger = Trigger()
    logger = logging.getLogger("gmmpipe")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(trigger)
    options = {"data_dir": store, "output_dir": tmp_path / "fit", **SMALL_FIT}
    try:
        with pytest.raises(Stopped) as stopped:
            fit(FitOptions(**options))
    finally:
        logger.removeHandler(trigger)
        logger.setLevel(level)
    assert stopped.value.signum == number
    assert not (tmp_path / "fit" / "gmm.pt").exists()
    assert fit(FitOptions(**options, resume="auto")).info["frames"] == 8000
    assert_same_fit(tmp_path / "fit", fitted.parent)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (fit, FitOptions("none", "out")),
        (label, LabelOptions("none", __file__, "out")),
        (evaluate, EvaluateOptions("none", __file__)),
    ],
)
def test_what_is_missing_is_an_error_that_names_it(
    function, options, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"^none: "):
        function(options)
    assert not list(tmp_path.iterdir())


def test_options_that_contradict_each_other_are_an_option_error(tmp_path) -> None:
    with pytest.raises(OptionError, match="--dask_scheduler needs --executor dask"):
        FeaturizeOptions(data_dir=CORPUS, output_dir=tmp_path, dask_scheduler="tcp://h:1")
    with pytest.raises(OptionError, match="choose one"):
        FitOptions(data_dir="s", output_dir=tmp_path, resume="auto", overwrite=True)


def test_every_error_is_public_and_in_the_documentation() -> None:
    classes = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert classes <= set(gmmpipe.__all__)
    documented = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M)) | {"Stopped"}
    assert classes <= documented
    for name in classes - {"GmmpipeError", "Stopped"}:
        assert issubclass(getattr(gmmpipe, name), GmmpipeError)


def test_the_text_of_every_error_is_a_line() -> None:
    assert str(AudioError("too_short", "199 samples")) == "too_short: 199 samples"


def test_the_public_names_are_imported_on_first_use() -> None:
    code = (
        "import sys\nfrom gmmpipe import FitOptions, FeaturizeOptions, fit, featurize\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=one_thread())
