"""What commands leave behind, and whether two of them left the same."""

import json
from pathlib import Path
from typing import Any


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_metrics(folder: Path) -> dict[str, list[float]]:
    """The columns of ``metrics.tsv``, of a fit or of the JEPA recipe."""
    header, *rows = (folder / "metrics.tsv").read_text().splitlines()
    columns = zip(*(map(float, row.split("\t")) for row in rows), strict=True)
    names = header.split("\t")
    return dict(zip(names, map(list, columns), strict=True)) if rows else {n: [] for n in names}


def num_updates(folder: Path) -> int:
    """Rows of ``metrics.tsv``; -1 where there is no such file yet."""
    path = folder / "metrics.tsv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else -1


def same_bits(first: Any, second: Any) -> bool:
    """Whether two contents of model files are equal to the last bit."""
    import torch

    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_bits(first[k], second[k]) for k in first)
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return bool(first == second)


def assert_same_fit(first: Path, second: Path) -> None:
    """Two output folders hold the same fit: bit-identical gmm.pt and metrics.tsv."""
    assert_same_run(first, second, "gmm.pt")


def assert_same_run(first: Path, second: Path, model: str) -> None:
    """Two output folders hold bit-identical model files of that name and metrics.tsv."""
    import torch

    one, other = (torch.load(folder / model, weights_only=True) for folder in (first, second))
    different = [name for name in one if not same_bits(one[name], other.get(name))]
    assert not different
    assert one.keys() == other.keys()
    assert (first / "metrics.tsv").read_bytes() == (second / "metrics.tsv").read_bytes()
