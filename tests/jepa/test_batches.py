"""JEPABatches: every utterance once an epoch, the same batches for any ranks, workers and start."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SIZES, assert_same, load, rows_of
from torch.utils.data import DataLoader

from gmmpipe import FeatureStore, LogMel
from gmmpipe.errors import OptionError, StoreError
from gmmpipe.jepa import JEPABatch, JEPABatches
from gmmpipe.jepa.masking import block_mask
from helpers.damage import flip


def test_a_batch_holds_the_frames_of_the_store(store: Path) -> None:
    expected = {utt.key: utt.features for utt in FeatureStore.open(store).utterances()}
    batches = load(JEPABatches(store, **SIZES))
    for key, length, batch, row in rows_of(batches):
        frames = expected.pop(key)
        assert length == len(frames)
        assert torch.equal(batch.features[row, :, :length], frames.t())
        assert not batch.features[row, :, length:].any()
        assert batch.padding_mask[row].tolist() == [t >= length for t in range(batch.mask.shape[1])]
    assert not expected
    for batch in batches:
        num_utterances, longest = len(batch.keys), int(batch.lengths.max())
        assert batch.features.shape == (num_utterances, 80, longest)
        assert batch.features.is_contiguous()
        assert batch.mask.shape == batch.padding_mask.shape == (num_utterances, longest)
        assert (batch.features.dtype, batch.lengths.dtype) == (torch.float32, torch.int64)
        assert (batch.mask.dtype, batch.padding_mask.dtype) == (torch.bool, torch.bool)
        assert batch.targets is batch.topk_ids is batch.topk_probs is batch.wav is None


@pytest.mark.parametrize("epoch", [0, 4])
def test_masks_are_those_of_seed_epoch_and_key(epoch: int, store: Path) -> None:
    start = epoch * 10
    seen = 0
    for key, length, batch, row in rows_of(load(JEPABatches(store, **SIZES, start_step=start))):
        assert np.array_equal(batch.mask[row, :length].numpy(), block_mask(length, 3, epoch, key))
        assert not batch.mask[row, length:].any()
        seen += 1
    assert seen == 56


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_the_ranks_share_the_same_steps_whatever_their_number(
    num_workers: int, world_size: int, store: Path
) -> None:
    whole = load(JEPABatches(store, **SIZES, stop_step=20))
    ranks = [
        load(
            JEPABatches(store, **SIZES, stop_step=20, rank=rank, world_size=world_size), num_workers
        )
        for rank in range(world_size)
    ]
    all_keys = {utt.key for utt in FeatureStore.open(store).utterances()}
    for epoch in (0, 1):
        seen = [
            key
            for batches in ranks
            for batch in batches[epoch * 10 : epoch * 10 + 10]
            for key in batch.keys
        ]
        assert len(seen) == 56
        assert set(seen) == all_keys
    assert {len(batches) for batches in ranks} == {20}
    for step, batch in enumerate(whole):
        parts = [batches[step] for batches in ranks]
        for rank, part in enumerate(parts):
            assert part.step == step
            assert part.keys == batch.keys[rank::world_size]
            width = part.mask.shape[1]
            assert torch.equal(part.features, batch.features[rank::world_size, :, :width])
            assert torch.equal(part.mask, batch.mask[rank::world_size, :width])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_loader_processes_change_nothing(
    num_workers: int, audio_stores: dict[str, Path], gmm_path: Path
) -> None:
    """Over the ends of two epochs, in turn beginning with either process."""
    batches = JEPABatches(
        audio_stores["tar"], gmm_path, **SIZES, start_step=3, stop_step=24, wav=True
    )
    assert_same(load(batches), load(batches, num_workers))


def test_batches_can_be_sent_to_spawned_processes(store: Path, gmm_path: Path) -> None:
    batches = JEPABatches(store, gmm_path, **SIZES)
    assert_same(load(batches), load(batches, num_workers=1, multiprocessing_context="spawn"))


def test_any_step_can_be_the_first(store: Path, gmm_path: Path) -> None:
    whole = load(JEPABatches(store, gmm_path, **SIZES, top_k=2, stop_step=25))
    for start in range(26):
        rest = JEPABatches(store, gmm_path, **SIZES, top_k=2, start_step=start, stop_step=25)
        assert len(rest) == 25 - start
        assert_same(whole[start:], load(rest))
    to_the_end_of_the_epoch = JEPABatches(store, gmm_path, **SIZES, top_k=2, start_step=13)
    assert_same(whole[13:20], load(to_the_end_of_the_epoch))


def test_epochs_and_seeds_shuffle_anew(store: Path) -> None:
    two = load(JEPABatches(store, **SIZES, stop_step=20))
    keys = [[batch.keys for batch in part] for part in (two[:10], two[10:])]
    assert keys[0] != keys[1]
    other = load(JEPABatches(store, **{**SIZES, "seed": 4}))
    assert keys[0] != [batch.keys for batch in other]


def test_zarr_gives_what_tar_gives(audio_stores: dict[str, Path], gmm_path: Path) -> None:
    runs = [
        load(JEPABatches(audio_stores[kind], gmm_path, **SIZES, wav=True))
        for kind in ("tar", "zarr")
    ]
    assert_same(*runs)


def test_several_stores_are_one(store: Path, audio_stores: dict[str, Path]) -> None:
    joined = f"{store},{audio_stores['zarr']}"
    batches = load(JEPABatches(joined, batch_size=16, window=48), num_workers=2)
    keys = [key for batch in batches for key in batch.keys]
    assert len(keys) == 112
    assert {keys.count(key) for key in keys} == {2}


def test_the_waveform_is_aligned_with_the_frames(audio_stores: dict[str, Path]) -> None:
    """LogMel of the samples cut to T hops is the stored frames, but for the last: its window
    reaches beyond the cut."""
    store = FeatureStore.open(audio_stores["tar"])
    log_mel = LogMel(store.features)
    exact = 0
    for _, length, batch, row in rows_of(load(JEPABatches(store, **SIZES, wav=True))):
        wav = batch.wav
        assert wav is not None
        assert (wav.dtype, wav.shape) == (
            torch.float32,
            (len(batch.keys), batch.mask.shape[1] * 320),
        )
        assert not wav[row, length * 320 :].any()
        again = log_mel(wav[row, : length * 320])
        assert len(again) == length
        difference = again.half().float() - batch.features[row, :, :length].t()
        assert float(difference[:-1].abs().max()) <= 0.02
        exact += not difference[:-1].any()
    assert exact >= 38  # the corpus' 16 kHz flac files, kept to the bit


@pytest.mark.parametrize(("kind", "num_workers"), [("tar", 0), ("tar", 1), ("zarr", 0)])
def test_a_flipped_byte_is_named_and_not_trained_on(
    kind: str, num_workers: int, audio_stores: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(audio_stores[kind], tmp_path / "copy"))
    shard = FeatureStore.open(path).shards[1]
    index = shard.sidecar().index
    file = shard.path if kind == "tar" else shard.path / "logmel" / "c" / "0" / "0"
    flip(file, int(index.byte_offset[2]) + 77)
    intact: list[JEPABatch] = []
    loader = DataLoader(JEPABatches(path, **SIZES), batch_size=None, num_workers=num_workers)
    with pytest.raises(StoreError, match=rf"shard-000001\.{kind}.*{index.keys[2]}.*corrupt"):
        intact.extend(loader)
    whole = load(JEPABatches(audio_stores[kind], **SIZES))
    assert_same(intact, whole[: len(intact)])
    assert index.keys[2] in whole[len(intact)].keys


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"window": 0}, "window is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2, but must be within 0 and 1"),
        ({"batch_size": 2, "world_size": 3}, "as few as 2 a step, too few for 3 ranks"),
        ({"batch_size": 99, "world_size": 57}, "56 utterances .* too few for 57 ranks"),
        ({"start_step": 5, "stop_step": 4}, "steps 5 to 4"),
        ({"start_step": -1}, "steps -1 to"),
        ({"top_k": 17}, "top_k is 17, but must be within 1 and K = 16"),
        ({"top_k": 0}, "top_k is 0"),
        ({"temperature": 0.0}, r"temperature is 0\.0"),
        ({"gmm": None, "top_k": 4}, "none is given"),
        ({"labels": "labels"}, "not of both"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, store, gmm_path) -> None:
    with pytest.raises(OptionError, match=message):
        JEPABatches(store, **{"gmm": gmm_path, **options})


def test_a_store_without_audio_has_no_waveforms(store: Path) -> None:
    with pytest.raises(StoreError, match=r"tiny: holds no audio; .*--store_audio flac"):
        JEPABatches(store, wav=True)


def test_a_batch_moves_and_is_read_by_name(store: Path, gmm_path: Path) -> None:
    batch = next(iter(JEPABatches(store, gmm_path, **SIZES)))
    assert batch["log_mel"] is batch.log_mel is batch["features"] is batch.features
    assert batch.kind == "log_mel"
    with pytest.raises(KeyError):
        batch["no_such_field"]
    moved = batch.to("meta")
    assert {v.device.type for v in vars(moved).values() if isinstance(v, torch.Tensor)} == {"meta"}
    assert (moved.step, moved.keys, moved.wav) == (batch.step, batch.keys, None)
