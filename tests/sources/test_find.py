"""What --data_dir names: lists and patterns of paths, and which kind each path is of."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gmmpipe.errors import ManifestError
from gmmpipe.sources import registry
from gmmpipe.sources.find import find_manifests, find_sources
from gmmpipe.sources.jsonl import JsonLines
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.lines import read_lines
from gmmpipe.sources.manifest import Manifest

LINE = b'{"path": "a.wav"}\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with manifests of many names."""
    names = "en-000 en-001 en-002 en-010 de-000 sub/x sub/y odd[1] odd{a,b} , 9 10"
    for name in names.split():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(LINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("en-000.jsonl,de-000.jsonl", "en-000 de-000"),
        (" en-000.jsonl , de-000.jsonl ,", "en-000 de-000"),
        ("en-{000..002}.jsonl", "en-000 en-001 en-002"),
        ("en-{002..000}.jsonl", "en-002 en-001 en-000"),
        ("{9..10}.jsonl", "9 10"),
        ("en-{010..000..10}.jsonl,sub/{x..y}.jsonl", "en-010 en-000 x y"),
        ("{en,de}-000.jsonl,sub/x.jsonl", "en-000 de-000 x"),
        ("{sub/{y,x},en-0{1..1}0}.jsonl", "y x en-010"),
        ("en-*.jsonl", "en-000 en-001 en-002 en-010"),
        ("{de,en}-00?.jsonl", "de-000 en-000 en-001 en-002"),
        ("**/[xy].jsonl", "x y"),
        ("sub", "x y"),
        ("s{u,u}b", "x y x y"),
        ("odd[1].jsonl", "odd[1]"),
        ("odd{a,b}.jsonl", "odd{a,b}"),
    ],
)
def test_lists_and_patterns(text: str, names: str, here: Path) -> None:
    found = find_manifests(text)
    assert [manifest.name.removesuffix(".jsonl") for manifest in found] == names.split()
    assert all(manifest.path.is_absolute() for manifest in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("en-{000..003}.jsonl", "en-003.jsonl: no such manifest or folder"),
        ("fr-*.jsonl", r"fr-\*.jsonl: no path is like this pattern"),
        ("{en,fr}-*.jsonl", r"fr-\*.jsonl: no path is like this pattern"),
        ("en-{000.jsonl", "en-{000.jsonl: no such manifest or folder"),
        ("en}-{000,001}.jsonl{", "en}-{000: no such manifest"),
        ("{9..999999}.jsonl", "11.jsonl: no such manifest or folder"),
        ("{9..99999999999}.jsonl", "}.jsonl: a range of more than 1000000 names"),
        ("en-{}.jsonl", "en-{}.jsonl: no such manifest or folder"),
        ("{},{}", "{}: no such manifest or folder"),
    ],
)
def test_a_path_that_is_not_there_is_named(text: str, message: str, here: Path) -> None:
    with pytest.raises(ManifestError, match=message):
        find_manifests(text)


class Pairs:
    """A made-up kind: a ``.pairs`` file has an audio path and an id a line, behind a title."""

    looks_like = "a .pairs file"
    is_streamed = False

    def __init__(self, name: str, specificity: Specificity, ending: str = ".pairs") -> None:
        self.name, self.specificity, self._ending = name, specificity, ending

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        if path.suffix != self._ending:
            return None
        return Found([Manifest(path, path.name, self.name)])

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        for number, line in enumerate(path.read_text().splitlines()):
            wav_path, identifier = line.split()
            made = f'{{"wav_path": "{wav_path}", "id": "{identifier}"}}\n'
            yield made.encode() if number else b"\n"


def test_a_new_kind_is_a_class_and_a_line_of_the_registry(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "m.pairs").write_text("path id\na.wav x\nb.wav y\n")
    with pytest.raises(ManifestError, match=r"m\.pairs: neither a folder nor a \.jsonl file"):
        find_manifests("m.pairs")
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, Pairs("pairs", Specificity.CONTENT)))
    assert {"auto", "jsonl", "pairs"} <= set(registry.kind_names())
    (source,) = find_sources("{m.pairs,sub}")
    assert [manifest.kind for manifest in source.manifests] == ["pairs", "jsonl", "jsonl"]
    lines = [line for _, line in read_lines(source.manifests[0])]
    assert lines[:2] == [b"\n", b'{"wav_path": "a.wav", "id": "x"}\n']


def test_the_most_specific_kind_reads_a_path_and_two_alike_are_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {
        specificity: Pairs(specificity.name, specificity, ".jsonl") for specificity in Specificity
    }

    def found(*asked: Specificity, source_kind: str = "auto") -> str:
        kinds_asked = (JsonLines(), *(kinds[rank] for rank in asked))
        monkeypatch.setattr(registry, "KINDS", kinds_asked)
        return find_manifests("9.jsonl", source_kind)[0].kind

    assert found() == "jsonl"
    assert found(Specificity.LOOSE) == "jsonl"
    assert found(Specificity.LOOSE, Specificity.LAYOUT) == "LAYOUT"
    with pytest.raises(
        ManifestError, match=r"^9\.jsonl: could be read as jsonl or CONTENT; say .* --source_kind"
    ):
        found(Specificity.CONTENT)
    assert found(Specificity.CONTENT, source_kind="jsonl") == "jsonl"
    assert found(Specificity.CONTENT, source_kind="CONTENT") == "CONTENT"


def test_a_named_kind_must_be_what_the_path_is(here: Path) -> None:
    (here / "notes.txt").write_bytes(LINE)
    with pytest.raises(ManifestError, match=r"^notes\.txt: no jsonl source: jsonl \(a \.jsonl"):
        find_manifests("notes.txt", "jsonl")
