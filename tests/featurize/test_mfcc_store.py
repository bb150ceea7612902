"""Stores of MFCCs, through every command that makes or reads one."""

from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from gmmpipe import FeatureStore, GradientGMM, LabelStore, LogMelSpec, MfccSpec
from gmmpipe.apply.evaluate import evaluate
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.errors import CheckpointError
from gmmpipe.jepa import JEPABatches
from gmmpipe.store.shard_reader import ShardReader
from helpers.making import CORPUS, alone, corpus_part, fit_here, make_store
from helpers.processes import run_gmmpipe
from helpers.results import file_bytes

MFCC = MfccSpec(n_mels=23)


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_frames_go_from_audio_to_labels_and_a_jepa(kind: str, tmp_path: Path) -> None:
    path = make_store(
        *(CORPUS, tmp_path / "store"),
        features=MFCC,
        format=kind,
        store_audio="flac",
        long_audio="split",
        max_seconds=3.0,
        utterances_per_shard=32,
    )
    store = FeatureStore.open(path)
    assert (store.features, store.dim, store.features.kind) == (MFCC, 39, "mfcc")
    assert len(store) > 56  # some are windows
    transform = MFCC.make_transform()
    for shard in store.shards:
        reader = ShardReader(shard)
        for position in range(0, len(reader.index.keys), 5):
            stored, waveform = reader.read_frames(position), reader.read_waveform(position)
            torch.testing.assert_close(stored, transform(waveform), atol=5e-2, rtol=1e-3)
    fit_here(path, tmp_path / "fit", var_floor="1%")
    gmm_path = tmp_path / "fit" / "gmm.pt"
    gmm = GradientGMM.load(gmm_path)
    assert gmm.info["features"]["kind"] == "mfcc"
    assert np.isfinite(evaluate(str(path), gmm_path, None, alone()).nll)
    options = LabelOptions(store=path, gmm_path=gmm_path, output_dir=tmp_path / "labels")
    label(options, alone())
    labels = LabelStore.open(tmp_path / "labels")
    for number, shard in enumerate(store.shards):
        reader = ShardReader(shard)
        for position in range(len(reader.index.keys)):
            found = labels.read_utterance(shard=number, position=position).labels
            assert torch.equal(found, gmm.assign(reader.read_frames(position)))
    batch = next(iter(JEPABatches(path, gmm, batch_size=8, wav=True)))
    assert batch.features.shape[1] == 39
    assert batch.wav.shape[1] == 320 * batch.features.shape[2]
    run_gmmpipe("verify", str(path))


def test_webdataset_decodes_the_frames(tmp_path: Path) -> None:
    path = make_store(CORPUS, tmp_path / "store", features=MFCC)
    frames = {utt.key: utt.features for utt in FeatureStore.open(path).utterances()}
    samples = webdataset.WebDataset(str(path / "shard-000000.tar"), shardshuffle=False).decode()
    found = {sample["__key__"]: sample["features.npy"] for sample in samples}
    assert found.keys() == frames.keys()
    for key, array in found.items():
        assert array.dtype == np.float16
        assert torch.equal(torch.from_numpy(array).float(), frames[key])


def test_a_mixture_of_log_mels_is_refused(tmp_path: Path) -> None:
    path = make_store(CORPUS, tmp_path / "mfcc", features=MFCC)
    other = make_store(CORPUS, tmp_path / "logmel", features=LogMelSpec(n_mels=39))
    fit_here(other, tmp_path / "fit")
    with pytest.raises(CheckpointError, match="kind is log_mel there and mfcc in the store"):
        evaluate(str(path), tmp_path / "fit" / "gmm.pt", None, alone())


def test_slices_and_a_config_file_make_the_same_store(tmp_path: Path) -> None:
    manifest = corpus_part(tmp_path / "manifest.jsonl", 12)
    config = tmp_path / "options.yaml"
    config.write_text("features: mfcc\nn_mels: 23\nutterances_per_shard: 5\nnum_workers: 1\n")
    given = ["featurize", "--data_dir", str(manifest), "--base_path", str(CORPUS)]
    sliced = [*given, "--config", str(config), "--output_dir", str(tmp_path / "sliced")]
    for index in "01":
        run_gmmpipe(*sliced, "--num_tasks", "2", "--task_index", index)
    whole = make_store(
        *(manifest, tmp_path / "whole"), base_path=CORPUS, features=MFCC, utterances_per_shard=5
    )
    assert file_bytes(tmp_path / "sliced") == file_bytes(whole)


@pytest.mark.parametrize(
    ("features", "given", "message"),
    [
        ("logmel", ["--n_mfcc", "13"], "--n_mfcc has no meaning for --features logmel"),
        ("mfcc", ["--n_mfcc", "24", "--n_mels", "23"], "--n_mfcc is 24, but 23 mel bins"),
        ("logmel", ["--config", "CONFIG"], "--deltas has no meaning for --features logmel"),
    ],
)
def test_wrong_usage_is_named(
    features: str, given: list[str], message: str, tmp_path: Path
) -> None:
    config = tmp_path / "options.yaml"
    config.write_text("deltas: 1\n")
    given = [str(config) if one == "CONFIG" else one for one in given]
    command = ["featurize", "--data_dir", str(CORPUS), "--output_dir", str(tmp_path / "store")]
    result = run_gmmpipe(*command, "--features", features, *given, check=False)
    assert result.returncode == 2
    assert message in result.stderr
    assert not (tmp_path / "store").exists()
