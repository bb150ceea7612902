"""A fit that replaces another is stopped; and two fits at once in one folder, in processes."""

import signal

import pytest

from gmmpipe.errors import ClaimError, Stopped
from gmmpipe.fitting.schedule import Update
from gmmpipe.fitting.step import Stepper
from gmmpipe.fitting.update_reader import HeldFrames
from helpers.making import fit_arguments, fit_here
from helpers.processes import GMMPIPE, PATIENCE_SECONDS, wait_until
from helpers.results import assert_same_fit


def test_a_stop_within_the_first_update_leaves_what_replaces_the_old_fit(
    store, tmp_path, monkeypatch
) -> None:
    """The signal is real; what is put in the way of a step sends it just then."""
    fit_here(store, tmp_path, K=8, batch_update_size=2000, save_every=2000)
    (tmp_path / "gmm_ckpt_best.pt").write_text("mine")
    step, num_steps = Stepper.step, 0

    def stopping(stepper: Stepper, update: Update, held: HeldFrames) -> bool:
        nonlocal num_steps
        num_steps += 1
        if num_steps == 20:
            assert len(list(tmp_path.glob("*.pt"))) == 6, "the old fit is whole"
            signal.raise_signal(signal.SIGTERM)
        return step(stepper, update, held)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", stopping)
        with pytest.raises(Stopped):
            fit_here(store, tmp_path, overwrite=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"gmm_ckpt_0M-s20.pt", "metrics.tsv", "options.yaml", "gmm_ckpt_best.pt"}
    fit_here(store, tmp_path, resume="auto")
    fit_here(store, tmp_path / "new")
    assert_same_fit(tmp_path / "new", tmp_path)


def test_two_fits_at_once_work_together_if_they_are_the_same(store, tmp_path, start) -> None:
    """The other one is refused, and told who is at work."""
    out = tmp_path / "out"
    sizes = {"n_sgd_steps": 1200}
    process = start([*GMMPIPE, *fit_arguments(store, out, **sizes)])
    wait_until((out / "metrics.tsv").exists, process)
    for change in ({"K": 8}, {"seed": 1}, {"target_frames": 4000}, {"overwrite": True}):
        with pytest.raises(ClaimError, match=f"{out}: in use by process {process.pid} on"):
            fit_here(store, out, **{**sizes, **change})
    fit_here(store, out, **sizes, resume="auto")
    assert process.wait(PATIENCE_SECONDS) == 0
    fit_here(store, tmp_path / "alone", **sizes)
    assert_same_fit(tmp_path / "alone", out)
    assert not list(out.glob(".*"))
