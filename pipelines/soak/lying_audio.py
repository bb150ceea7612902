"""Audio and manifest lines that never end, or promise gigabytes: rejects, every one."""

import json
import os
import struct
from pathlib import Path

from pipelines.soak.case import case
from pipelines.soak.child import Job, command
from pipelines.soak.stage import Stage


def _manifest(stage: Stage, scratch: Path, *paths: str, line: bytes = b"") -> tuple[Path, Job]:
    """A manifest of one good line, of paths, and of a line as it is."""
    good = next(p for p in sorted(stage.corpus.glob("*.flac")))
    manifest = scratch / "m.jsonl"
    lines = [json.dumps({"wav_path": name}).encode() for name in (str(good), *paths)]
    manifest.write_bytes(b"\n".join([*lines, line]) + b"\n")
    arguments = [
        "--data_dir",
        manifest,
        "--output_dir",
        scratch / "out",
        "--max_reject_fraction",
        1,
    ]
    return manifest, command("featurize", *arguments)


@case
def audio_that_never_ends(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    (scratch / "zero.wav").symlink_to("/dev/zero")
    os.mkfifo(scratch / "pipe.flac")
    return _manifest(stage, scratch, "zero.wav", "pipe.flac", "/dev/zero", "-", "ls |", "pipe:0")


@case
def audio_whose_header_promises_gigabytes(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 0xFFFFFFF0, b"WAVE", b"fmt ", 16, 1, 1,
                         16000, 32000, 2, 16, b"data", 0xFFFFFF00)  # fmt: skip
    (scratch / "huge.wav").write_bytes(header + bytes(64))
    flac = bytearray(next(iter(sorted(stage.corpus.glob("*.flac")))).read_bytes())
    flac[21] |= 0x0F
    flac[22:26] = b"\xff" * 4  # 2^36 - 1 samples in STREAMINFO
    (scratch / "huge.flac").write_bytes(flac)
    (scratch / "channels.wav").write_bytes(
        header[:22] + struct.pack("<H", 65535) + header[24:] + bytes(64)
    )
    return _manifest(stage, scratch, "huge.wav", "huge.flac", "channels.wav")


@case
def audio_of_a_terabyte_of_nothing(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    (scratch / "hole.wav").write_bytes(b"RIFF")
    os.truncate(scratch / "hole.wav", 1 << 40)
    return _manifest(stage, scratch, "hole.wav")


@case
def line_nested_without_end(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    return _manifest(stage, scratch, line=b'{"wav_path":"x.wav","a":' + b"[" * 200_000)


@case
def line_of_digits_and_huge_numbers(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    line = b'{"wav_path":"x.wav","offset":' + b"9" * 5000 + b',"n":' + b"1" * 100_000 + b"}"
    return _manifest(stage, scratch, line=line)


@case
def manifest_that_is_a_pipe(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    os.mkfifo(scratch / "pipe.json")
    arguments = ["--data_dir", scratch / "pipe.json", "--output_dir", scratch / "out"]
    return scratch / "pipe.json", command("featurize", *arguments)
