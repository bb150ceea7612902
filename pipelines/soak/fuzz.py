"""Bytes and lines that nobody wrote on purpose: every line becomes an utterance or a reject."""

import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import soundfile
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from pipelines.soak.child import command, file_bytes, run
from pipelines.soak.readers import utterances
from pipelines.soak.stage import CORPUS, Stage
from pipelines.soak.verdict import Outcome, held

_PATH_NAMES = (
    "wav_path",
    "audio_path",
    "audio_filepath",
    "path",
    "wav",
    "audio",
    "file_name",
    "file",
)
_OTHER_NAMES = (
    "id", "utt_id", "sid", "offset", "duration", "channel", "start", "end", "start_time",
    "end_time", "begin_time", "key", "num_frames", "text",
)  # fmt: skip
_GOOD = "en.flac"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,100}")

_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
    st.sampled_from([0, -1, 0.5, 1, "0.5", "1", "4.0", "NaN", "", _GOOD, "../corpus", "/dev/zero"]),
)  # fmt: skip
_values = st.one_of(
    _scalars,
    st.lists(_scalars, max_size=3),
    st.dictionaries(st.text(max_size=3), _scalars, max_size=3),
)
_objects = st.builds(
    lambda path, fields: {**fields, **path},
    st.dictionaries(
        st.sampled_from(_PATH_NAMES), st.one_of(st.just(_GOOD), st.just(_GOOD), _values), max_size=2
    ),
    st.dictionaries(
        st.one_of(st.sampled_from(_OTHER_NAMES), st.text(max_size=4)), _values, max_size=5
    ),
)
_lines = st.one_of(
    _objects.map(lambda value: json.dumps(value).encode()),
    _objects.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")),
    st.sampled_from(
        [b"", b"  ", b"\xef\xbb\xbf{}", b"{", b"null", b"[]", b'"x"', b"\x00", b"{}\r"]
    ),
    st.binary(max_size=24),
)
_manifests = st.lists(_lines, min_size=1, max_size=12)


@st.composite
def _mutated(draw: Any, bases: Sequence[bytes]) -> bytes:
    """One of `bases` with some bytes replaced, most of them near its start, and perhaps cut."""
    data = bytearray(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 5))):
        place = st.one_of(st.integers(0, min(len(data), 160) - 1), st.integers(0, len(data) - 1))
        data[draw(place)] = draw(
            st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255))
        )
    if draw(st.integers(0, 3)) == 0:
        del data[draw(st.integers(0, len(data) - 1)) :]
    return bytes(data)


def fuzz(stage: Stage, rng: random.Random, kind: str = "", examples: int = 4) -> Outcome:
    """Let hypothesis draw and, where something fails, shrink; `rng` seeds it."""
    kind = kind or rng.choice(list(KINDS))
    strategy, check = KINDS[kind](stage)
    set_hypothesis_home_dir(stage.folder / ".hypothesis")
    words = f"{kind}: {examples} examples"

    @hypothesis.seed(rng.getrandbits(32))
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        print_blob=False,
        report_multiple_bugs=False,
    )
    @hypothesis.given(strategy)
    def examine(drawn: Any) -> None:
        with stage.scratch() as scratch:
            fault = check(stage, scratch, drawn)
        assert not fault, fault

    try:
        examine()
    except AssertionError as error:
        return held(words, " ".join(f"{error} {getattr(error, '__notes__', '')}".split())[:1500])
    return held(words, "")


def _check_lines(stage: Stage, scratch: Path, lines: list[bytes]) -> str:
    shutil.copyfile(sorted(stage.corpus.glob("*.flac"))[0], scratch / _GOOD)
    content = b"\n".join(lines) + b"\n"
    (scratch / "m.jsonl").write_bytes(content)
    return _check_store(scratch, content)


def _check_audio(stage: Stage, scratch: Path, files: list[bytes]) -> str:
    names = [f"f{number}.{_ending(data)}" for number, data in enumerate(files)]
    for name, data in zip(names, files, strict=True):
        (scratch / name).write_bytes(data)
    shutil.copyfile(sorted(stage.corpus.glob("*.flac"))[0], scratch / _GOOD)
    content = "".join(json.dumps({"wav_path": name}) + "\n" for name in [_GOOD, *names]).encode()
    (scratch / "m.jsonl").write_bytes(content)
    return _check_store(scratch, content)


def _ending(data: bytes) -> str:
    return {b"fLaC": "flac", b"OggS": "ogg", b"RIFF": "wav"}.get(data[:4], "mp3")


def _check_store(scratch: Path, content: bytes) -> str:
    """Featurize ``m.jsonl``, and count."""
    out = scratch / "out"
    options = ["--max_reject_fraction", 1, "--store_audio", "flac"]
    ended = run(
        command("featurize", "--data_dir", scratch / "m.jsonl", "--output_dir", out, *options)
    )
    expected = sum(
        bool(line.strip()) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    )
    if ended.status == 1 and "no usable audio" in ended.stderr:
        return ended.fault()
    if ended.status != 0 or ended.excess:
        return ended.excess or f"exit status {ended.status}: {ended.stderr[-600:]}"
    totals = json.loads((out / "store.json").read_bytes())["totals"]
    if totals["lines"] != totals["utterances"] + totals["rejects"]:
        return f"{expected} lines became {totals}"
    if totals["lines"] != expected:
        return f"{expected} lines became {totals}"
    found = run(utterances(None, out, out, out))  # type: ignore[arg-type]
    if found.status != 0:
        return found.stderr[-600:]
    return next(filter(None, (_fault_of(*utterance) for utterance in found.value)), "")


def _fault_of(key: str, data: bytes, metadata: dict[str, Any]) -> str:
    import numpy as np

    if not np.isfinite(np.frombuffer(data, dtype=np.float32)).all():
        return f"{key}: frames are not finite"
    if not _KEY.fullmatch(key):
        return f"{key!r} is no key"
    try:
        json.dumps(metadata, allow_nan=False)
    except ValueError:
        return f"{key}: its JSON holds what is not finite"
    return ""


def _check_file(stage: Stage, scratch: Path, drawn: tuple[str, bytes]) -> str:
    """A file of a finished store with other content: nothing else is read, and verify says so."""
    name, data = drawn
    kind, _, name = name.partition("/")
    folder = Path(shutil.copytree(stage.folder / kind, scratch / kind))
    if (folder / name).read_bytes() == data:
        return ""
    (folder / name).write_bytes(data)
    names = [name.split("/")[0], name.split("/")[0].split(".")[0]]
    if fault := run(command("verify", folder)).fault(names):
        return f"{kind}/{name}: verify: {fault}"
    if kind == "labels":
        return ""
    ended = run(utterances(stage, folder, folder, scratch))
    if ended.status != 0:
        fault = ended.fault(names)
    else:
        fault = "" if ended.value == _utterances(stage, kind) else "other values, and nothing said"
    return fault and f"{kind}/{name}: {fault}"


@cache
def _utterances(stage: Stage, kind: str) -> Any:
    folder = stage.folder / kind
    return run(utterances(stage, folder, folder, folder)).value


@cache
def _audio_bases(stage: Stage) -> list[bytes]:
    """Real speech as FLAC, Ogg, WAV of three kinds and MP3, below 60 KB each."""
    paths = [sorted(stage.corpus.glob("*.flac"))[0], sorted(CORPUS.rglob("*.ogg"))[0]]
    bases = [path.read_bytes() for path in paths]
    samples, rate = soundfile.read(paths[0])
    forms = [
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("WAV", "IMA_ADPCM"),
        ("MP3", None),
        ("AIFF", "PCM_24"),
    ]
    for form, subtype in forms:
        path = stage.folder / f"base.{form.lower()}"
        soundfile.write(path, samples[: 8 * rate // 10], rate, format=form, subtype=subtype)
        bases.append(path.read_bytes())
    return bases


def _of_files(stage: Stage, *kinds: str, ending: str = "", exclude: str = "") -> Any:
    named = [
        (f"{kind}/{name}", data)
        for kind in kinds
        for name, data in file_bytes(stage.folder / kind).items()
        if name.endswith(ending) and data and not (exclude and exclude in name)
    ]
    return st.sampled_from(named).flatmap(
        lambda pair: st.tuples(st.just(pair[0]), _mutated([pair[1]]))
    )


KINDS: dict[str, Callable[[Stage], tuple[Any, Callable[..., str]]]] = {
    "manifest lines": lambda stage: (_manifests, _check_lines),
    "audio": lambda stage: (
        st.lists(_mutated(_audio_bases(stage)), min_size=1, max_size=8),
        _check_audio,
    ),
    "documents": lambda stage: (_of_files(stage, "tar", "labels", ending=".json"), _check_file),
    "tar members": lambda stage: (_of_files(stage, "tar", "labels", ending=".tar"), _check_file),
    "zarr groups": lambda stage: (_of_files(stage, "zarr"), _check_file),
}
