"""The notebook runs from its first cell to its last, and its outputs are small."""

import json
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from gmmpipe import GradientGMM
from helpers.processes import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "first-hour.ipynb"


def test_every_cell_runs(tmp_path: Path) -> None:
    """In a folder that has the same place beside the demo corpus."""
    here = tmp_path / "docs" / "notebooks"
    here.mkdir(parents=True)
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": here}}).execute()
    assert GradientGMM.load(here / "first-hour" / "fit" / "gmm.pt").K == 32
    assert (here / "first-hour" / "fit" / "report.html").exists()
    labels = (here / "first-hour" / "km" / "labels.km").read_text().splitlines()
    assert len(labels) == 56


def test_it_has_ten_cells_of_code_with_small_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 10
    assert any(cell["outputs"] for cell in cells), "it was saved without being run"
    assert NOTEBOOK.stat().st_size < 200_000
