"""SOURCES.md says where every file of the demo corpus is from, and under which licence it is."""

import hashlib
import json
import re
from collections import Counter

import pytest

from helpers.making import CORPUS

TEXT = (CORPUS / "SOURCES.md").read_text(encoding="utf-8")
PERMISSIVE = ("BSD", "CC-BY-3.0", "public domain")
COLUMNS = 8


def rows() -> list[list[str]]:
    """The table's rows: folder, package, version, content, files, seconds, licence, attribution."""
    cells = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in row] for row in cells if len(row) == COLUMNS]
    return [row for row in table if (CORPUS / row[0]).is_dir()]


def test_every_file_has_a_row() -> None:
    listed = [json.loads(line) for line in (CORPUS / "manifest.jsonl").read_text().splitlines()]
    in_manifest = Counter(line["wav_path"].split("/")[0] for line in listed)
    audio = [path for path in CORPUS.rglob("*") if path.suffix in (".flac", ".ogg")]
    assert sorted(str(path.relative_to(CORPUS)) for path in audio) == sorted(
        line["wav_path"] for line in listed
    )
    assert {row[0]: int(row[4]) for row in rows()} == in_manifest
    packages = {(line["wav_path"].split("/")[0], line["source"]) for line in listed}
    assert {(row[0], row[1]) for row in rows()} == packages


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_licence_is_permissive_and_its_text_is_there(row: list[str]) -> None:
    assert row[6].startswith(PERMISSIVE)
    assert (CORPUS / "licenses" / f"{row[1]}.txt").is_file()


def test_the_syllables_are_those_under_cc_by() -> None:
    stated = dict(re.findall(r"^\| (\S+\.ogg) \| \S+/5\.ogg \| (\w{64}) \|$", TEXT, re.M))
    files = {p.name: hashlib.sha256(p.read_bytes()) for p in (CORPUS / "zh-gcin").iterdir()}
    assert stated == {name: digest.hexdigest() for name, digest in files.items()}
