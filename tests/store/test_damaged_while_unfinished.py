"""A damaged sidecar of an unfinished store is a missing shard: never finished as another store."""

import logging
import shutil
from pathlib import Path

import pytest
from sealing import EARLIER, MANIFEST, TINY, make_tiny

from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.featurization.job import featurize
from gmmpipe.featurization.options import FeaturizeOptions
from helpers.damage import flip_after
from helpers.making import CORPUS, alone, save_plan
from helpers.processes import run_gmmpipe
from helpers.results import file_bytes


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_featurize_makes_its_shard_anew(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_tiny(kind, tmp_path / "store")
    whole = file_bytes(folder)
    (folder / "store.json").unlink()
    options = FeaturizeOptions(
        data_dir=str(MANIFEST),
        output_dir=folder,
        base_path=CORPUS,
        max_reject_fraction=1.0,
        num_workers=1,
        **TINY[kind],
    )
    save_plan(options)
    flip_after(folder / "shard-000001.json", b'"seconds_kept":0.')
    shown = run_gmmpipe("inspect", folder, check=False)
    assert shown.returncode == 1
    assert "shard-000001.json: damaged" in shown.stderr
    with caplog.at_level(logging.WARNING):
        assert featurize(options) is not None
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(f"warning: {folder / 'shard-000001.json'}: damaged")
    assert warning.endswith("its shard is made anew")
    assert file_bytes(folder) == whole


def test_label_makes_its_shard_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, folder = make_tiny("tar", tmp_path / "store"), tmp_path / "labels"
    options = LabelOptions(store, EARLIER / "gmm.pt", folder, top_k=2)
    label(options, alone())
    whole = file_bytes(folder)
    shutil.move(folder / "store.json", folder / "plan.json")
    flip_after(folder / "shard-000001.json", b'"left_out":')
    with caplog.at_level(logging.WARNING):
        label(options, alone())
    assert "shard-000001.json: damaged" in caplog.text
    assert file_bytes(folder) == whole
