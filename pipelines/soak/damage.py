"""One fault in one file of a folder: flipped, cut, swapped, gone, or no file at all any more."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path, Path, random.Random], list[str]]


def flip(folder: Path, path: Path, rng: random.Random) -> list[str]:
    """One bit is another."""
    data = bytearray(path.read_bytes())
    if not data:
        return append(folder, path, rng)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return [path.name]


def blank(folder: Path, path: Path, rng: random.Random) -> list[str]:
    """A block reads as zeros, as after a power cut."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(max(1, len(data)))
    size = min(rng.choice([16, 512, 4096]), len(data) - at)
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    return [path.name]


def truncate(folder: Path, path: Path, rng: random.Random) -> list[str]:
    """The end is missing."""
    os.truncate(path, rng.randrange(max(1, path.stat().st_size)))
    return [path.name]


def append(folder: Path, path: Path, rng: random.Random) -> list[str]:
    """There is more than there should be."""
    with open(path, "ab") as file:
        file.write(rng.choice([b"\n", b" ", bytes(512), rng.randbytes(64)]))
    return [path.name]


def delete(folder: Path, path: Path, rng: random.Random) -> list[str]:
    """The file is not there."""
    path.unlink()
    return [path.name]


def swap(folder: Path, path: Path, rng: random.Random) -> list[str]:
    """It has changed places with another of its kind, or with any other file."""
    others = [p for p in sorted(folder.rglob("*")) if p.is_file() and p != path]
    alike = [
        p for p in others if p.suffix == path.suffix and p.name.isalpha() == path.name.isalpha()
    ]
    other = rng.choice(alike or others)
    kept = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    return [path.name, other.name]


def edit(folder: Path, path: Path, rng: random.Random) -> list[str]:
    """A document says something else, in good form; what is no document gets a bit flipped."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return flip(folder, path, rng)
    places = list(_places(document))
    holder, key = rng.choice(places)
    value = holder[key]
    if isinstance(value, bool):
        holder[key] = not value
    elif isinstance(value, int | float):
        holder[key] = rng.choice([value + 1, value - 1, 0, -1, value * 2, 2**40])
    elif isinstance(value, str):
        holder[key] = rng.choice([value + "x", value[:-1], value[::-1], ""])
    else:
        del holder[key]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    path.write_text(text + "\n")
    return [path.name]


def _places(value: Any) -> Any:
    """Every place within a document that holds a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        yield value, key
        if isinstance(part, dict | list):
            yield from _places(part)


def become_folder(folder: Path, path: Path, rng: random.Random) -> list[str]:
    """A folder has its name."""
    path.unlink()
    path.mkdir()
    return [path.name]


def become_pipe(folder: Path, path: Path, rng: random.Random) -> list[str]:
    """A FIFO has its name: whoever opens it waits for ever."""
    path.unlink()
    os.mkfifo(path)
    return [path.name]


def become_endless(folder: Path, path: Path, rng: random.Random) -> list[str]:
    """A link to /dev/zero has its name: whoever reads it never ends."""
    path.unlink()
    path.symlink_to("/dev/zero")
    return [path.name]


def add_shard(folder: Path, path: Path, rng: random.Random) -> list[str]:
    """There is a shard more than the store is said to have."""
    source = rng.choice([p for p in sorted(folder.glob("shard-*")) if p.suffix != ".json"])
    copy = source.with_name(f"shard-{rng.choice([7, 123456]):06d}{source.suffix}")
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        shutil.copyfile(source, copy)
    shutil.copyfile(source.with_suffix(".json"), copy.with_suffix(".json"))
    return [copy.stem]


DAMAGES: dict[str, Damage] = {
    "flip": flip,
    "blank": blank,
    "truncate": truncate,
    "append": append,
    "delete": delete,
    "swap": swap,
    "edit": edit,
    "folder": become_folder,
    "pipe": become_pipe,
    "endless": become_endless,
    "extra shard": add_shard,
}
