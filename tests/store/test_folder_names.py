"""A folder may have a comma in its name: what stands there as a whole is that one store."""

import json
import shutil
from pathlib import Path

import pytest
from sealing import MANIFEST

from gmmpipe import FeatureStore
from gmmpipe.errors import StoreError
from gmmpipe.files import listed_paths
from gmmpipe.jepa import JEPABatches
from helpers.making import CORPUS, fit_arguments
from helpers.processes import run_gmmpipe


def test_from_audio_to_batches_with_commas_everywhere(tmp_path: Path, invoke) -> None:
    places = {name: tmp_path / f"{name}, 16 kHz" for name in ("speech", "store", "fit", "labels")}
    places["speech"].mkdir()
    shutil.copy(MANIFEST, places["speech"] / "m.jsonl")
    run_gmmpipe(
        *("featurize", "--data_dir", places["speech"], "--base_path", CORPUS, "--n_mels", 20),
        *("--output_dir", places["store"], "--max_reject_fraction", 1, "--num_workers", 1),
    )
    small = {"K": 2, "target_frames": 54, "n_sgd_steps": 2, "eval_data_dir": places["store"]}
    invoke(*fit_arguments(places["store"], places["fit"], **small))
    model = ("--gmm_path", places["fit"] / "gmm.pt")
    shown = invoke("evaluate", places["store"], *model, "--json")
    assert json.loads(shown.stdout)["frames"] == 54
    invoke("label", places["store"], *model, "--output_dir", places["labels"])
    (batch,) = JEPABatches(places["store"], labels=places["labels"])
    assert int(batch.lengths.sum()) == 54
    twice = FeatureStore.open(places["store"])
    assert twice.num_frames == 54
    with pytest.raises(StoreError, match=r"store: no such feature store"):
        FeatureStore.open(f"{places['store']},{places['store']}")


def test_a_list_is_one_folder_only_where_there_is_such_a_folder(tmp_path: Path) -> None:
    text = f"{tmp_path}/a, {tmp_path}/b"
    assert listed_paths(text) == [tmp_path / "a", tmp_path / "b"]
    Path(text).mkdir(parents=True)
    assert listed_paths(text) == [Path(text)]
    assert listed_paths(" , ") == listed_paths("") == []
    assert len(listed_paths(",".join(["a" * 200] * 100))) == 100  # no name may be so long
