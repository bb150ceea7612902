"""An option is stated once: its dataclass, ``--help``, the flags and ``options.yaml`` agree."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.core import ParameterSource
from click.testing import CliRunner, Result

from gmmpipe import FeatureConfig
from gmmpipe.apply.options import EvaluateOptions, LabelOptions
from gmmpipe.cli.common import job_options
from gmmpipe.cli.evaluate import command as evaluate
from gmmpipe.cli.featurize import command as featurize
from gmmpipe.cli.fit import command as fit
from gmmpipe.cli.from_dataclass import build, command_from
from gmmpipe.cli.label import command as label
from gmmpipe.cli.manifest import command as manifest
from gmmpipe.errors import OptionError
from gmmpipe.features.kinds import computed_kinds
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.fitting.options import FitOptions
from gmmpipe.mixture.optimizers import OPTIMIZERS
from gmmpipe.mixture.seeding import INITS
from gmmpipe.option_types import parse_frames, show_frames
from gmmpipe.options import Option, Options, Variant, option, options_and_variants, variant
from gmmpipe.sources.options import ManifestOptions
from helpers.making import CORPUS
from pipelines.fit_gmm import main as fit_gmm
from pipelines.jepa.options import JEPAOptions
from pipelines.jepa.train import main as train

COMMANDS: dict[str, tuple[click.Command, type[Options], set[str]]] = {
    "featurize": (featurize, FeaturizeOptions, {"dry_run"}),
    "fit": (fit, FitOptions, set()),
    "manifest": (manifest, ManifestOptions, {"json"}),
    "label": (label, LabelOptions, set()),
    "evaluate": (evaluate, EvaluateOptions, {"json"}),
    "train.py": (train, JEPAOptions, set()),
}
"""The command, its dataclass, and what else it takes."""
DEFAULT = ParameterSource.DEFAULT
EVERYWHERE = {"config", "debug", "help"}


def options_in(kind: type) -> list[Option]:
    """All options of a dataclass, those of its variants included."""
    found: list[Option] = []
    for one in options_and_variants(kind).values():
        found += one.options() if isinstance(one, Variant) else [one]
    return found


def help_of(command: click.Command) -> dict[str, str]:
    """What ``--help`` says of each option, in one line each."""
    text = CliRunner().invoke(command, ["--help"], prog_name="x").stdout.split("Options:\n")[1]
    parts = re.split(r"^  (?:-h, )?(?=--)", text, flags=re.M)[1:]
    return {re.match(r"--(\w+)", part)[1]: " ".join(part.split()) for part in parts}


def required_of(kind: type) -> dict[str, str]:
    """Something for each option that a command needs: this file, or its folder."""
    files = {"gmm_path": __file__}  # without a default in train.py, which takes --labels too
    return {
        one.field: files.get(one.field, str(Path(__file__).parent))
        for one in options_in(kind)
        if one.is_required or one.field in files
    }


def arguments_for(kind: type) -> list[str]:
    required = required_of(kind)
    words = []
    for one in options_in(kind):
        if one.field in required:
            flag = [] if one.is_argument else [f"--{one.name}"]
            words += [*flag, required[one.field]]
    return words


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_options_of_the_dataclass_and_shows_their_defaults(name: str) -> None:
    command, kind, own = COMMANDS[name]
    shown = help_of(command)
    chosen = {n for n, one in options_and_variants(kind).items() if isinstance(one, Variant)}
    named = [one for one in options_in(kind) if not one.is_argument]
    assert shown.keys() == {one.name for one in named} | own | chosen | EVERYWHERE
    for one in named:
        text = shown[one.name]
        assert one.help in text.replace("- ", "-") or one.help in text
        if one.choices:
            assert f"[{'|'.join(one.choices)}]" in text
        if one.is_required:
            assert "[required]" in text
        elif isinstance(one.default, bool):
            assert ("[default: " in text) == one.default
        elif one.default is not None:
            default = re.search(r"\[default: ([^;\]]+)", text)[1]
            value = one.notation.parse(default) if one.notation else one.type(default)
            assert value == one.default


@pytest.mark.parametrize("name", COMMANDS)
def test_without_flags_the_dataclass_has_its_defaults(name: str) -> None:
    command, kind, _ = COMMANDS[name]
    context = command.make_context(name, arguments_for(kind))
    given = {n for n in context.params if context.get_parameter_source(n) != DEFAULT}
    assert build(kind, context.params, given) == kind(**required_of(kind))


@pytest.mark.parametrize("name", ["fit", "train.py"])
def test_the_options_file_holds_the_options_and_gives_them_again(name: str, tmp_path: Path) -> None:
    command, kind, _ = COMMANDS[name]
    changes = {"seed": 3, "lr": 0.5, "device": "cpu", "exchange_timeout": 7, "num_workers": 1}
    chosen = kind(**required_of(kind), **changes)
    path = tmp_path / "options.yaml"
    path.write_text(chosen.to_yaml())
    names = [one.name for one in options_in(kind)]
    assert list(yaml.safe_load(chosen.to_yaml())) == [
        name for name in names if name not in ("resume", "overwrite")
    ]
    context = command.make_context(name, ["--config", str(path)])
    assert build(kind, context.params) == chosen


def test_the_one_command_form_has_options_of_both_stages() -> None:
    shown = help_of(fit_gmm)
    stages = {**help_of(fit), **help_of(featurize)}
    own = {"feature_dir", "batch_size"}
    stages["output_dir"] = help_of(fit)["output_dir"]
    assert {name: text for name, text in shown.items() if name not in own | {"help"}} == {
        name: stages[name] for name in shown if name not in own | {"help"}
    }


def test_choices_are_what_there_is() -> None:
    known = {one.field: one.choices for one in options_in(FitOptions)}
    assert known["optimizer"] == (*OPTIMIZERS,)
    assert known["init"] == (*INITS,)
    assert f"[{'|'.join(computed_kinds())}]" in help_of(featurize)["features"]


def test_kinds_of_frames_that_share_an_option_state_it_alike() -> None:
    stated: dict[str, Option] = {}
    for kind in computed_kinds().values():
        for one in options_in(kind):
            assert stated.setdefault(one.field, one) == one


def test_the_options_need_neither_torch_nor_click() -> None:
    modules = "gmmpipe.apply.options", "gmmpipe.featurization.options", "gmmpipe.fitting.options"
    code = f"import sys, {', '.join(modules)}\nassert not {{'torch', 'click'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


PLACES: dict[str, Any] = {"data_dir": "d", "output_dir": "o"}


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (FitOptions, {"K": 0}, "--K is 0, but must be at least 1"),
        (FitOptions, {"K": "many"}, "--K is many, but must be a whole number"),
        (FitOptions, {"K": 16.5}, "--K is 16.5, but must be a whole number"),
        (FitOptions, {"K": True}, "--K is True, but must be a whole number"),
        (FitOptions, {"lr": True}, "--lr is True, but must be a number"),
        (FitOptions, {"lr": 10**400}, "--lr is 10000.*too large"),
        (FitOptions, {"output_dir": ""}, "--output_dir is empty, but must be a path"),
        (FitOptions, {"K": None}, "--K is None"),
        (FitOptions, {"target_frames": 0.5}, "--target_frames: 0.5 is not a whole number"),
        (FitOptions, {"target_frames": "some"}, "--target_frames: 'some' is not a count"),
        (FitOptions, {"lr": 0}, "--lr is 0, but must be above 0"),
        (FitOptions, {"lr": float("nan")}, "--lr is nan, but must be finite"),
        (FitOptions, {"lr": "0.1"}, "--lr is 0.1, but must be a number"),
        (FitOptions, {"exchange_timeout": 0.5}, "but must be from 1 to 1800"),
        (FitOptions, {"optimizer": "sgd"}, r"--optimizer is sgd, not one of \['adam', 'em'\]"),
        (FitOptions, {"tensorboard": 1}, "--tensorboard is 1, but must be True or False"),
        (FitOptions, {"data_dir": ""}, "--data_dir: no path is given"),
        (FitOptions, {"data_dir": 3}, "--data_dir: 3 is neither a path nor a list of paths"),
        (FitOptions, {"output_dir": 3}, "--output_dir is 3, but must be a path"),
        (FitOptions, {"resume": 3}, "--resume is 3, but must be text"),
        (FeaturizeOptions, {"features": "logmel"}, "'logmel' is given instead of a LogMelSpec"),
        (FeaturizeOptions, {"max_reject_fraction": 2}, "must be from 0 to 1"),
        (FeaturizeOptions, {"max_seconds": 2e9}, r"is 2e\+09, but must be from 0\.02.* to 1e\+09"),
        (
            FeaturizeOptions,
            {"max_seconds": 0.01},
            r"is 0\.01, but must be from 0\.02",
        ),
        (FeaturizeOptions, {"executor": "slurm"}, "--executor is slurm, not one of"),
    ],
)
def test_a_wrong_value_in_python_is_an_option_error(
    kind: type[Options], wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        kind(**{**PLACES, **wrong})


@pytest.mark.parametrize("value", ["80", 80.0, True, None])
def test_a_wrong_parameter_of_a_frame_is_an_option_error(value: Any) -> None:
    with pytest.raises(OptionError, match=r"n_mels is .*, but must be a whole number"):
        FeatureConfig(n_mels=value)


def test_values_in_python_become_those_of_their_fields() -> None:
    options = FitOptions(["a", Path("b")], "out", target_frames="100k", lr=1, eval_data_dir="h")
    assert options == FitOptions(
        "a,b", Path("out"), target_frames=100_000, lr=1.0, eval_data_dir="h"
    )
    assert [type(value) for value in (options.output_dir, options.lr)] == [type(Path()), float]
    assert type(FeaturizeOptions(CORPUS, "o", max_seconds=4).max_seconds) is float


@pytest.mark.parametrize(
    ("name", "option", "word"),
    [("fit", "keep", "all"), ("evaluate", "max_frames", "all"), ("label", "top_k", "none")],
)
def test_the_word_that_help_shows_for_a_number_that_is_not_given_may_be_given(
    name: str, option: str, word: str
) -> None:
    command, kind, _ = COMMANDS[name]
    context = command.make_context(name, [*arguments_for(kind), f"--{option}", word])
    assert build(kind, context.params) == kind(**required_of(kind))
    assert getattr(kind(**required_of(kind), **{option: word}), option) is None


@pytest.mark.parametrize("count", [1, 999, 1000, 16384, 5_000_000, 100_000_000, 9_600_000_000])
def test_a_count_of_frames_is_shown_as_it_is_read(count: int) -> None:
    assert parse_frames(show_frames(count)) == count


@dataclass(frozen=True)
class Plain:
    size: int = option(4, help="Of all.", low=1)


@dataclass(frozen=True)
class Fancy(Plain):
    deltas: int = option(2, help="Of the fancy ones.", low=0)


@dataclass(frozen=True)
class Chosen(Options):
    shape: Plain = variant(lambda: {"plain": Plain, "fancy": Fancy}, help="Which.")


@command_from(f"{__name__}:Chosen", "shapes")
@job_options
def shapes(options: Chosen) -> None:
    click.echo(repr(options.shape))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([], "Plain(size=4)"),
        (["--size", "3"], "Plain(size=3)"),
        (["--shape", "fancy"], "Fancy(size=4, deltas=2)"),
        (["--shape", "fancy", "--deltas", "1"], "Fancy(size=4, deltas=1)"),
    ],
)
def test_an_option_may_choose_a_dataclass_with_options_of_its_own(
    arguments: list[str], shown: str
) -> None:
    assert CliRunner().invoke(shapes, arguments).stdout == f"{shown}\n"


def test_an_option_of_another_choice_is_wrong_usage() -> None:
    done = CliRunner().invoke(shapes, ["--deltas", "2"])
    assert done.exit_code == 2
    assert "--deltas has no meaning for --shape plain" in done.stderr


@pytest.mark.parametrize("name", ["output_dir", "base_path"])
def test_an_empty_path_is_not_the_current_folder(
    name: str, invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {"data_dir": CORPUS, "output_dir": "out", name: ""}
    words = [word for option, path in paths.items() for word in (f"--{option}", path)]
    done = invoke("featurize", *words, "--dry_run", status=2)
    assert f"--{name} is empty, but must be a path" in done.stderr
