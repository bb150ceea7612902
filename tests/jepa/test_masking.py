"""Block masks: spans of 10 to 25 frames over 40 to 65 % of an utterance, the same every time."""

from collections import Counter

import numpy as np
import pytest

from gmmpipe import FeatureStore
from gmmpipe.jepa.masking import block_mask, masked_range


def spans_of(mask: np.ndarray) -> list[int]:
    """Lengths of the unbroken runs of masked frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return (edges[1::2] - edges[::2]).tolist()


def test_every_length_from_16_frames_on_is_masked_within_the_bounds() -> None:
    for num_frames in range(16, 800):
        for epoch in range(3):
            mask = block_mask(num_frames, 0, epoch, f"utt-{num_frames}")
            assert mask.shape == (num_frames,)
            assert mask.dtype == np.bool_
            assert 0.4 <= mask.mean() <= 0.65
            assert {10 <= span <= 25 for span in spans_of(mask)} == {True}


def test_every_utterance_of_the_corpus_is_masked_within_the_bounds(store) -> None:
    lengths = {utt.key: len(utt.features) for utt in FeatureStore.open(store).utterances()}
    assert (len(lengths), min(lengths.values())) == (56, 10)
    for key, num_frames in lengths.items():
        mask = block_mask(num_frames, 3, 0, key)
        assert 0.4 <= mask.mean() <= 0.65
        longest = max(spans_of(mask))
        assert 10 <= longest <= 25 or num_frames < 16


def test_shorter_utterances_get_one_shorter_span() -> None:
    for num_frames in range(2, 16):
        for epoch in range(20):
            mask = block_mask(num_frames, 0, epoch, "short")
            (span,) = spans_of(mask)
            assert 1 <= span < num_frames
            if num_frames != 3:
                assert 0.4 <= mask.mean() <= 0.65
    assert block_mask(3, 0, 0, "short").sum() == 2
    assert not block_mask(1, 0, 0, "short").any()


def test_a_mask_depends_on_seed_epoch_and_key_alone() -> None:
    arguments = [(300, 0, 0, "a"), (300, 1, 0, "a"), (300, 0, 1, "a"), (300, 0, 0, "b")]
    masks = [block_mask(*each) for each in arguments]
    assert all(np.array_equal(block_mask(*a), m) for a, m in zip(arguments, masks, strict=True))
    assert len({mask.tobytes() for mask in masks}) == 4


def test_all_spans_shares_and_places_occur() -> None:
    masks = np.stack([block_mask(300, 0, 0, str(number)) for number in range(2000)])
    spans = Counter(span for mask in masks for span in spans_of(mask))
    assert set(spans) == set(range(10, 26))
    assert max(spans.values()) < 1.5 * min(spans.values())
    shares = masks.sum(1)
    assert (shares.min(), shares.max()) == masked_range(300) == (120, 195)
    assert shares.mean() == pytest.approx(157.5, abs=2)
    coverage = masks.mean(0)
    # A frame at the edge is masked only by a span that begins there; the middle is even.
    assert coverage[25:-25].min() > 0.45
    assert coverage[25:-25].max() < 0.65
    assert coverage[:10].mean() == pytest.approx(coverage[-10:].mean(), abs=0.03)


def test_the_masks_of_one_seed_stay_what_they_are() -> None:
    """Changing them changes every training run from here on: that is for the changelog."""
    mask = block_mask(100, 0, 0, "utterance")
    assert np.flatnonzero(np.diff(mask)).tolist() == [5, 19, 43, 68, 85, 97]
