"""Block masks: which frames of an utterance a JEPA is to predict from the others."""

import numpy as np
from numpy.typing import NDArray

from gmmpipe.randomness import uniforms

MIN_SPAN_FRAMES, MAX_SPAN_FRAMES = 10, 25
_MEAN_SPAN_FRAMES = (MIN_SPAN_FRAMES + MAX_SPAN_FRAMES) / 2


def block_mask(num_frames: int, seed: int, epoch: int, key: str) -> NDArray[np.bool_]:
    """The masked frames of an utterance, a pure function of the arguments: bool [T], True = masked.

    Spans of 10 to 25 frames cover 40 to 65 % of the utterance, as in arXiv 2602.09040. Two spans
    never touch, so each unbroken run of masked frames is one span. The number of masked frames is
    drawn first, uniformly over the whole numbers in that range, and then met exactly. An utterance
    of fewer than 16 frames gets one shorter span, because 10 frames would be more than 65 % of it.
    The range holds no whole number for 3 frames, of which 2 are masked, nor for 1 frame, which is
    not masked.
    """
    low, high = masked_range(num_frames)
    if high == 0:
        return np.zeros(num_frames, dtype=np.bool_)
    most_spans = max(1, high // MIN_SPAN_FRAMES)
    draws = uniforms(2 + most_spans + num_frames, "mask", seed, epoch, key)
    masked = low + int(draws[0] * (high - low + 1))
    spans = _span_lengths(masked, draws[1 : 1 + most_spans].tolist())
    # Each span goes before one of the visible frames, or to the end, and no two spans go to the
    # same place ("stars and bars").
    num_places = num_frames - masked + 1
    places = np.argsort(draws[-num_places:], kind="stable")[: len(spans)]
    order = np.argsort(places)
    lengths = np.array(spans)[order]
    starts = places[order] + np.cumsum(lengths) - lengths
    edges = np.zeros(num_frames + 1, dtype=np.int8)
    edges[starts] += 1
    edges[starts + lengths] -= 1
    return np.cumsum(edges[:-1], dtype=np.int8).astype(np.bool_)


def masked_range(num_frames: int) -> tuple[int, int]:
    """The least and the greatest number of frames that are masked of an utterance of T frames."""
    low, high = -(-2 * num_frames // 5), 13 * num_frames // 20
    if num_frames < 4:
        high = low = num_frames // 3 + num_frames // 2
    elif high >= MIN_SPAN_FRAMES:
        low = max(low, MIN_SPAN_FRAMES)
    return low, high


def _span_lengths(masked: int, draws: list[float]) -> list[int]:
    """Lengths from 10 to 25 with the sum `masked`; one length where that is below 10."""
    if masked < MIN_SPAN_FRAMES:
        return [masked]
    fewest, most = -(-masked // MAX_SPAN_FRAMES), masked // MIN_SPAN_FRAMES
    count = min(max(fewest, round(masked / _MEAN_SPAN_FRAMES)), most)
    lengths = []
    for others, draw in zip(range(count - 1, -1, -1), draws, strict=False):
        low = max(MIN_SPAN_FRAMES, masked - others * MAX_SPAN_FRAMES)
        high = min(MAX_SPAN_FRAMES, masked - others * MIN_SPAN_FRAMES)
        lengths.append(low + int(draw * (high - low + 1)))
        masked -= lengths[-1]
    return lengths
