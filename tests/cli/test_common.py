"""What all commands share: counts of frames, strides, configuration files and how jobs end."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gmmpipe.cli.common import NotationType, job_options, run_job
from gmmpipe.errors import ManifestError, OptionError
from gmmpipe.option_types import FRAMES, PATHS, STRIDES, parse_frames, parse_strides


@pytest.fixture
def invoke() -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs a small command in this process: its exit status, and what it printed."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    @click.command()
    @click.option("--frames", type=NotationType(FRAMES), default="1k")
    @click.option("--strides", "hop", type=NotationType(STRIDES), default="8,8,5")
    @click.option("--data_dir", type=NotationType(PATHS), required=True)
    @click.option("--shuffle/--no_shuffle", default=True)
    @job_options
    def command(debug: bool, **options: object) -> None:
        def job() -> None:
            data_dir = str(options["data_dir"])
            failures = {"missing": ManifestError("missing:\nno such"), "odd": OptionError("odd")}
            failures["bug"] = ZeroDivisionError("by zero")
            if data_dir in signal.Signals.__members__:
                os.kill(os.getpid(), signal.Signals[data_dir])
            if error := failures.get(data_dir):
                raise error
            click.echo(sorted(options.items()))

        run_job(job, debug)

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(command, list(map(str, arguments)))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception  # as it would reach the interpreter
        return result.exit_code, result.output

    yield run
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("100M", 100_000_000),
        ("9.6B", 9_600_000_000),
        ("5_000_000", 5_000_000),
        ("1e6", 1_000_000),
        ("200k", 200_000),
        ("0.5k", 500),
        ("1T", 10**12),
        (" 7 ", 7),
        ("9007199254740993", 2**53 + 1),  # beyond what a float holds
        (12, 12),
    ],
)
def test_counts_of_frames(text: object, count: int) -> None:
    converted = parse_frames(text)
    assert converted == count
    assert type(converted) is int


@pytest.mark.parametrize(
    "text",
    [
        *("", "M", "many", "0", "-5", "1.5", "0.0001k", "nan", "inf", "1e-3", "10 M x", "1MB"),
        *("0x10", "1e30", "1e999999", "1e999999999"),
    ],
)
def test_what_is_no_count_of_frames(text: str) -> None:
    with pytest.raises(ValueError, match="frames"):
        parse_frames(text)


@pytest.mark.parametrize(
    ("value", "hop"), [("8,8,5", 320), ("160", 160), (" 2, 3 ", 6), (320, 320)]
)
def test_the_product_of_the_strides_is_the_hop(value: object, hop: int) -> None:
    assert parse_strides(value) == hop


@pytest.mark.parametrize("value", ["", "8,,5", "8,0", "8,-5", "a", "8.5", "[8]"])
def test_what_are_no_strides(value: object) -> None:
    with pytest.raises(ValueError, match=r"stride|list of integers"):
        parse_strides(value)


def test_a_configuration_file_gives_defaults_that_a_flag_beats(
    invoke: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data-dir: [a, b]\nframes: 2M\nshuffle: false\nstrides: [4, 4]\n")
    status, output = invoke("--config", path, "--frames", "3M")
    assert status == 0, output
    assert eval(output) == [
        ("data_dir", "a,b"),
        ("frames", 3_000_000),
        ("hop", 16),
        ("shuffle", False),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame: 2M\ndata_dir: a\n", "unknown options: frame"),
        ("config: other.yaml\n", "unknown options: config"),
        ("- frames\n", "not a mapping"),
        ("frames: [\n", "cannot be read"),
        ("frames: " + 5000 * "[", "cannot be read"),
        ("frames: many\ndata_dir: a\n", "not a count of frames"),
        ("frames: 2M\n", "Missing option"),
        ("frames: 2M\ndata_dir: null\n", "Missing option"),
        ("frames: 2M\ndata_dir: []\n", "no path"),
        ("frames: 2.5\ndata_dir: a\n", "not a whole number"),
        ("frames: true\ndata_dir: a\n", "not a count of frames"),
        ("frames: [1]\ndata_dir: a\n", "not a count of frames"),
        ("strides: 8.5\ndata_dir: a\n", "not a comma-separated list"),
    ],
)
def test_a_wrong_configuration_file_is_wrong_usage(
    text: str, message: str, invoke: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    status, output = invoke("--config", path)
    assert status == 2
    assert message in " ".join(output.split())


def test_an_empty_configuration_file_changes_nothing(
    invoke: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("# nothing yet\nframes: null\n")
    status, output = invoke("--config", tmp_path / "c.yaml", "--data_dir", "a")
    assert (status, eval(output)[1]) == (0, ("frames", 1000))


def test_a_failed_job_is_one_line_and_status_1(invoke: Callable[..., tuple[int, str]]) -> None:
    assert invoke("--data_dir", "missing") == (1, "error: missing: no such\n")
    status, output = invoke("--data_dir", "bug")
    assert (status, output) == (1, "error: ZeroDivisionError: by zero (--debug shows where)\n")


def test_options_that_contradict_each_other_are_wrong_usage(
    invoke: Callable[..., tuple[int, str]],
) -> None:
    status, output = invoke("--data_dir", "odd")
    assert status == 2
    assert output.rstrip().endswith("Error: odd")


@pytest.mark.parametrize(("name", "kind"), [("missing", ManifestError), ("bug", ZeroDivisionError)])
def test_debug_lets_the_error_through(
    name: str, kind: type[Exception], invoke: Callable[..., tuple[int, str]]
) -> None:
    with pytest.raises(kind):
        invoke("--data_dir", name, "--debug")


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143)])
def test_a_stop_signal_is_one_line_and_its_status(
    name: str, status: int, invoke: Callable[..., tuple[int, str]]
) -> None:
    before = signal.getsignal(signal.Signals[name])
    ended, output = invoke("--data_dir", name)
    assert ended == status
    (line,) = output.splitlines()
    assert line.startswith(f"stopped by {name}; what was finished is kept")
    assert signal.getsignal(signal.Signals[name]) == before
