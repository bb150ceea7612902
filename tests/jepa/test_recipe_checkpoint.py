"""A JEPA's checkpoint that no run can have written is told from one that another run has."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe import assert_same_run, train_here

from gmmpipe.errors import CheckpointError
from pipelines.jepa.checkpoint import load_jepa

pytest_plugins = ["recipe_fixtures"]


SHORT: dict[str, Any] = {
    "max_steps": 4,
    "log_every": 2,
    "save_every": 2,
    "batch_size": 3,
    "dim": 16,
}


@pytest.fixture
def short_run(store, gmm_path, tmp_path) -> Path:
    """A finished run of four steps."""
    return train_here(store, gmm_path, tmp_path / "short", **SHORT)


def damage_step(content: dict[str, Any]) -> None:
    content["step"] = 10**12


def damage_shape(content: dict[str, Any]) -> None:
    name = next(iter(content["jepa"]))
    content["jepa"][name] = content["jepa"][name][..., None]


def damage_dtype(content: dict[str, Any]) -> None:
    name = next(iter(content["target_encoder"]))
    content["target_encoder"][name] = content["target_encoder"][name].double()


def damage_moment(content: dict[str, Any]) -> None:
    content["resume"]["optimizer"]["state"][0]["exp_avg"].view(-1)[0] = torch.nan


def damage_metrics(content: dict[str, Any]) -> None:
    content["resume"]["metrics"][0]["jepa_loss"] = "much"


def damage_last_row(content: dict[str, Any]) -> None:
    content["resume"]["metrics"].pop()


def damage_columns(content: dict[str, Any]) -> None:
    content["resume"]["metrics"] = [{"step": row["step"]} for row in content["resume"]["metrics"]]


def damage_groups(content: dict[str, Any]) -> None:
    content["resume"]["optimizer"]["param_groups"].pop()


def damage_identity(content: dict[str, Any]) -> None:
    content["resume"]["identity"] = [1]


def damage_resume(content: dict[str, Any]) -> None:
    content["resume"] = 5


@pytest.mark.parametrize(
    "damage",
    [
        damage_step,
        damage_shape,
        damage_dtype,
        damage_moment,
        damage_metrics,
        damage_last_row,
        damage_columns,
        damage_groups,
        damage_identity,
        damage_resume,
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_made_again(
    damage, short_run, store, gmm_path, tmp_path, caplog
) -> None:
    out = shutil.copytree(short_run, tmp_path / "damaged")
    content = torch.load(out / "jepa.pt", weights_only=True)
    damage(content)
    torch.save(content, out / "jepa.pt")
    train_here(store, gmm_path, out, **SHORT, resume="auto")
    assert f"passed over: {out / 'jepa.pt'}: damaged" in caplog.text
    assert_same_run(short_run, out)
    torch.save(content, out / "jepa.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        train_here(store, gmm_path, out, **SHORT, resume=str(out / "jepa.pt"))


def test_a_run_of_an_earlier_version_is_read_and_gone_on_with(
    short_run, store, gmm_path, tmp_path
) -> None:
    """It called the frames log_mel, their dimension num_mels, and knew fewer options."""
    out = tmp_path / "earlier"
    out.mkdir()
    content = torch.load(short_run / "jepa_ckpt_2.pt", weights_only=True)
    sizes, identity = content["sizes"], content["resume"]["identity"]
    sizes["num_mels"] = sizes.pop("input_dim")
    for name in ("max_seconds", "mix_prob", "noise_prob"):
        del identity[name]
    sizes["input"] = identity["input"] = "log_mel"
    torch.save(content, out / "jepa_ckpt_2.pt")
    assert load_jepa(out / "jepa_ckpt_2.pt")[0].sizes.input_dim == 80
    train_here(store, gmm_path, out, **SHORT, input="log_mel", resume="auto")
    assert_same_run(short_run, out)
