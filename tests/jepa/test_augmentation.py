"""Noise and mixing: the ratios asked for, and a pure function of seed, epoch and key."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from runs import assert_same, load, rows_of
from torch import Tensor

from gmmpipe import FeatureStore
from gmmpipe.errors import OptionError, StoreError
from gmmpipe.jepa import Augmentation, JEPABatches
from helpers.external import write
from helpers.making import CORPUS, make_store, read_speech

SIZES: dict[str, Any] = {"max_frames": 1500, "window": 24, "seed": 3, "wav": True}
ALWAYS = {
    "mixed": Augmentation(mix_prob=1, noise_prob=0),
    "noisy": Augmentation(mix_prob=0, noise_prob=1),
}
BOTH = Augmentation(mix_prob=0.5, noise_prob=0.4)


def wavs_of(batches: Any) -> dict[str, Tensor]:
    """The waveform of every utterance, without its padding."""
    rows = rows_of(load(batches))
    return {key: batch.wav[row, : length * 320] for key, length, batch, row in rows}


def decibels(signal: np.ndarray, added: np.ndarray) -> float:
    """The ratio of two signals' mean squares, in float64."""
    return float(10 * np.log10(np.mean(signal**2) / np.mean(added**2)))


def test_noise_has_its_ratio_and_is_white_and_normal(audio_stores: dict[str, Path]) -> None:
    clean = wavs_of(JEPABatches(audio_stores["tar"], **SIZES))
    noisy = wavs_of(JEPABatches(audio_stores["tar"], **SIZES, augment=ALWAYS["noisy"]))
    ratios = []
    for key, wav in clean.items():
        signal, added = wav.double().numpy(), (noisy[key].double() - wav.double()).numpy()
        ratios.append(decibels(signal, added))
        assert ratios[-1] == pytest.approx(ALWAYS["noisy"].draw(3, 0, key).snr, abs=1e-3)
        noise = added / added.std()
        assert scipy.stats.kstest(noise, "norm").pvalue > 1e-6
        assert abs(np.mean(noise[1:] * noise[:-1])) < 6 / len(noise) ** 0.5
    assert -5 <= min(ratios) < 0 < 15 < max(ratios) <= 20


def test_a_piece_of_another_utterance_is_added_at_its_ratio(audio_stores: dict[str, Path]) -> None:
    """What was added is the other's samples times one number, and at most half as long."""
    store = FeatureStore.open(audio_stores["tar"])
    shards = [shard.sidecar().index.keys for shard in store.shards]
    clean = wavs_of(JEPABatches(store, **SIZES))
    mixed = wavs_of(JEPABatches(store, **SIZES, augment=ALWAYS["mixed"]))
    ratios, partners = [], set()
    for key, wav in clean.items():
        signal, added = wav.double().numpy(), (mixed[key].double() - wav.double()).numpy()
        draw = ALWAYS["mixed"].draw(3, 0, key)
        keys = next(keys for keys in shards if key in keys)
        other = draw.partner_of(keys.index(key), len(keys))
        assert other is not None
        assert keys[other] != key
        partners.add(keys[other])
        partner = clean[keys[other]].double().numpy()
        length = 1 + int(draw.length * max(1, min(len(signal) // 2, len(partner))))
        start = int(draw.start * (len(signal) - length + 1))
        begin = int(draw.partner_start * (len(partner) - length + 1))
        part = slice(start, start + length)
        assert not added[:start].any()
        assert not added[start + length :].any()
        if not added.any():
            assert not signal[part].any() or not partner[begin : begin + length].any()
            continue
        piece = partner[begin : begin + length]
        gain = np.dot(added[part], piece) / np.dot(piece, piece)
        np.testing.assert_allclose(added[part], gain * piece, atol=1e-6)
        ratios.append(decibels(signal[part], gain * piece))
        assert ratios[-1] == pytest.approx(draw.snr, abs=0.02)
    assert len(ratios) > 40
    assert -5.02 <= min(ratios) < -3 < 3 < max(ratios) <= 5.02
    assert len(partners) > 20


def test_only_the_waveform_is_augmented(audio_stores: dict[str, Path], gmm_path: Path) -> None:
    plain = load(JEPABatches(audio_stores["tar"], gmm_path, **SIZES))
    augmented = load(JEPABatches(audio_stores["tar"], gmm_path, **SIZES, augment=BOTH))
    changed = 0
    for one, other in zip(plain, augmented, strict=True):
        for name in ("features", "targets", "mask", "lengths", "padding_mask"):
            assert torch.equal(one[name], other[name]), name
        changed += not torch.equal(one.wav, other.wav)
        for row, length in enumerate(other.lengths.tolist()):
            assert not other.wav[row, length * 320 :].any()
    assert changed
    none = Augmentation(mix_prob=0, noise_prob=0)
    assert_same(plain, load(JEPABatches(audio_stores["tar"], gmm_path, **SIZES, augment=none)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_workers_sizes_and_starts_change_no_waveform(
    num_workers: int, audio_stores: dict[str, Path]
) -> None:
    options = {**SIZES, "augment": BOTH}
    whole = load(JEPABatches(audio_stores["zarr"], **options))
    expected = wavs_of(JEPABatches(audio_stores["tar"], **options))
    by_count = {"wav": True, "seed": 3, "batch_size": 7, "augment": BOTH}
    for key, wav in wavs_of(JEPABatches(audio_stores["tar"], **by_count)).items():
        assert torch.equal(wav, expected[key])
    for world_size in (2, 3):
        seen = {}
        for rank in range(world_size):
            part = JEPABatches(audio_stores["tar"], **options, rank=rank, world_size=world_size)
            for key, length, batch, row in rows_of(load(part, num_workers)):
                seen[key] = batch.wav[row, : length * 320]
        assert seen.keys() == expected.keys()
        assert all(torch.equal(seen[key], expected[key]) for key in seen)
    for start in range(0, len(whole), 3):
        rest = JEPABatches(audio_stores["tar"], **options, start_step=start)
        assert_same(whole[start:], load(rest, num_workers))


def test_epochs_seeds_and_keys_draw_anew() -> None:
    draws = [
        ALWAYS["noisy"].draw(*purpose)
        for purpose in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))
    ]
    assert len({draw.snr for draw in draws}) == 4
    wav = torch.ones(100)
    noises = {tuple(draw.apply(wav).tolist()) for draw in draws}
    assert len(noises) == 4


def test_the_shares_are_those_asked_for() -> None:
    draws = [BOTH.draw(0, 0, str(number)) for number in range(4000)]
    assert sum(draw.mixed for draw in draws) == pytest.approx(2000, abs=150)
    assert sum(draw.noisy for draw in draws) == pytest.approx(1600, abs=150)
    assert not any(draw.mixed and draw.noisy for draw in draws)
    positions = np.array([ALWAYS["mixed"].draw(0, 1, str(n)).partner_of(2, 5) for n in range(4000)])
    assert set(positions.tolist()) == {0, 1, 3, 4}
    assert np.bincount(positions).max() < 1150


def test_silence_stays_silent_and_nothing_is_clipped() -> None:
    silence, speech = torch.zeros(4000), torch.from_numpy(read_speech(0.5)[0]).float()
    loud = Augmentation(0, noise_prob=1, noise_snr=(-100, -100)).draw(0, 0, "a")
    assert torch.equal(loud.apply(silence), silence)
    assert float(loud.apply(speech).abs().max()) > 100
    mixed = ALWAYS["mixed"].draw(0, 0, "a")
    assert torch.equal(mixed.apply(speech, silence), speech)
    assert torch.equal(mixed.apply(silence, speech), silence)


@pytest.mark.parametrize("lengths", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 400)])
def test_the_shortest_waveforms_are_mixed(lengths: tuple[int, int]) -> None:
    for number in range(50):
        draw = ALWAYS["mixed"].draw(0, 0, str(number))
        wav = draw.apply(*(torch.ones(length) for length in lengths))
        assert len(wav) == lengths[0]
        assert 1 <= int((wav != 1).sum()) <= max(1, lengths[0] // 2)


def test_an_utterance_alone_in_its_shard_is_not_mixed(tmp_path: Path) -> None:
    store = make_store(CORPUS, tmp_path / "store", store_audio="flac", utterances_per_shard=1)
    clean = wavs_of(JEPABatches(store, wav=True))
    mixed = wavs_of(JEPABatches(store, wav=True, augment=ALWAYS["mixed"]))
    assert all(torch.equal(clean[key], mixed[key]) for key in clean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix_prob": 1.5}, r"mix_prob is 1\.5, but must be within 0 and 1"),
        ({"noise_prob": float("nan")}, "noise_prob is nan"),
        ({"mix_prob": 0.6, "noise_prob": 0.6}, "together above 1"),
        ({"mix_snr": (5, -5)}, "mix_snr is 5 to -5, but must be a range"),
        ({"noise_snr": (0, float("inf"))}, "noise_snr is 0 to inf"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Augmentation(**options)


def test_without_audio_nothing_is_augmented(store: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="augment is of waveforms, and without wav=True"):
        JEPABatches(store, augment=BOTH)
    with pytest.raises(StoreError, match=r"holds no audio; .*--store_audio flac"):
        JEPABatches(store, wav=True, augment=BOTH)
    external = write(tmp_path / "external", 39)
    with pytest.raises(StoreError, match="frames of kind external have no audio beside them"):
        JEPABatches(external, wav=True, augment=BOTH)
