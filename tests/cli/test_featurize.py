"""``gmmpipe featurize`` as a user types it."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from click.testing import Result

from gmmpipe import FeatureConfig
from helpers.making import CORPUS, make_store, read_speech
from helpers.processes import run_gmmpipe
from helpers.results import file_bytes, read_json_lines

Invoke = Callable[..., Result]
OPTIONS = {
    "sample_rate": 8000,
    "n_fft": 256,
    "n_mels": 20,
    "strides": "8,5,4",
    "max_seconds": 4,
    "dtype": "float32",
    "utterances_per_shard": 16,
    "seed": 3,
}


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store in which no option has its default."""
    return make_store(
        CORPUS,
        tmp_path_factory.mktemp("special") / "store",
        features=FeatureConfig(8000, 256, 160, 20),
        max_seconds=4.0,
        dtype="float32",
        utterances_per_shard=16,
        seed=3,
        shuffle=False,
    )


def flags(dash: str, **changes: object) -> list[str]:
    options = {**OPTIONS, **changes}
    return [part for n, v in options.items() for part in ("--" + n.replace("_", dash), str(v))]


@pytest.mark.parametrize("dash", ["-", "_"])
def test_options_may_be_written_with_dashes_and_underscores(
    dash: str, special: Path, invoke: Invoke
) -> None:
    places = [f"--data{dash}dir={CORPUS}", f"--output{dash}dir", special]
    done = invoke("featurize", *places, *flags(dash), f"--no{dash}shuffle")
    assert "finished already: nothing to do" in done.stderr
    assert done.stdout == ""


def test_options_may_come_from_a_file_and_a_flag_beats_it(
    special: Path, invoke: Invoke, tmp_path: Path
) -> None:
    text = "".join(f"{name}: {value}\n" for name, value in OPTIONS.items())
    path = tmp_path / "options.yaml"
    path.write_text(f"data_dir: {CORPUS}\noutput_dir: {special}\nshuffle: false\n{text}")
    invoke("featurize", "--config", path)
    other = invoke("featurize", "--config", path, "--seed", 4, status=1)
    assert "seed is 3 there and 4 here" in other.stderr


def test_a_store_of_other_options_is_refused_in_one_line(special: Path, invoke: Invoke) -> None:
    changes = {"strides": "8,5", "dtype": "float16", "n_mels": 19}
    places = ["--data_dir", CORPUS, "--output_dir", special]
    done = invoke("featurize", *places, *flags("_", **changes), status=1)
    (line,) = done.stderr.splitlines()
    for phrase in [
        str(special),
        "hop_length is 160 there and 40 here",
        "n_mels is 20 there and 19 here",
        "dtype is float32 there and float16 here",
        "shuffle is False there and True here",
        "--overwrite",
    ]:
        assert phrase in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option"),
        (["--no_such_option", "1"], "no_such_option"),
        (["--n_mels", "0"], "n_mels"),
        (["--n_mels", "many"], "n_mels"),
        (["--n_mels", "128"], "largest n_mels that works is"),
        (["--strides", "8,8,8"], "longer than n_fft = 400"),
        (["--strides", "8,0"], "stride below 1"),
        (["--max_seconds", "0.001"], "max_seconds"),
        (["--max_seconds", "nan"], "max_seconds"),
        (["--dtype", "bfloat16"], "bfloat16"),
        (["--max_reject_fraction", "1.5"], "max_reject_fraction"),
        (["--utterances_per_shard", "0"], "utterances_per_shard"),
        (["--num_workers", "0"], "num_workers"),
        (["--config", "none.yaml"], "none.yaml"),
    ],
)
def test_wrong_usage_is_status_2_and_writes_nothing(
    arguments: list[str], message: str, invoke: Invoke, tmp_path: Path
) -> None:
    places = ["--data_dir", CORPUS, "--output_dir", tmp_path / "out"] if arguments else []
    done = invoke("featurize", *places, *arguments, status=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_shows_every_option_in_one_spelling(invoke: Invoke) -> None:
    text = invoke("featurize", "--help").stdout
    for name in [
        "data_dir",
        "output_dir",
        "base_path",
        "max_reject_fraction",
        "overwrite",
        *OPTIONS,
    ]:
        assert f"--{name}" in text
        assert "_" not in name or f"--{name.replace('_', '-')}" not in text


def test_a_missing_manifest_is_one_line_and_with_debug_a_traceback(
    invoke: Invoke, tmp_path: Path
) -> None:
    arguments = ["--data_dir", tmp_path / "none", "--output_dir", tmp_path / "out"]
    done = invoke("featurize", *arguments, status=1)
    line = f"error: {tmp_path / 'none'}: no such manifest or folder\n"
    assert (done.stdout, done.stderr) == ("", line)
    shown = run_gmmpipe("featurize", *arguments, "--debug", check=False)
    assert shown.returncode == 1
    assert shown.stderr.startswith("Traceback")
    assert "ManifestError" in shown.stderr.splitlines()[-1]


def test_too_many_rejects_keep_the_shards_for_a_run_with_a_higher_limit(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", *read_speech(0.5))
    (tmp_path / "m.jsonl").write_text('{"path": "a.wav"}\n{"path": "none.wav"}\n{"path": "-"}\n')
    out = tmp_path / "out"
    arguments = ["featurize", "--data_dir", tmp_path, "--output_dir", out, "--num_workers", 1]
    failed = run_gmmpipe(*arguments, check=False)
    assert failed.returncode == 1
    message = failed.stderr.splitlines()[-1]
    assert "2 of 3 lines were rejected (1 not_found, 1 unsafe_path)" in message
    assert str(out / "rejects.jsonl") in message
    assert not (out / "store.json").exists()
    assert [reject["line"] for reject in read_json_lines(out / "rejects.jsonl")] == [2, 3]

    shards = {path: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert len(shards) == 2
    done = run_gmmpipe(*arguments, "--max_reject_fraction", 0.7)
    assert {path: path.stat().st_mtime_ns for path in out.glob("shard-*")} == shards
    assert (done.stdout, "0.0001389 kept" in done.stderr) == ("", True)
    assert set(file_bytes(out)) == {
        "store.json",
        "rejects.jsonl",
        "shard-000000.json",
        "shard-000000.tar",
    }


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_a_disk_that_is_full_is_one_line_that_names_the_shard(kind: str, tmp_path: Path) -> None:
    def limit_files() -> None:  # a write beyond it fails as on a full disk, with another number
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = run_gmmpipe(
        *("featurize", "--data_dir", CORPUS, "--output_dir", tmp_path, "--format", kind),
        *("--num_workers", 1),
        check=False,
        preexec_fn=limit_files,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/shard-000000.{kind}: cannot")
    assert "Traceback" not in done.stderr
