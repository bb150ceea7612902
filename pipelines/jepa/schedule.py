"""What changes over a run, as pure functions of the step: nothing of it is saved or resumed."""

import math

WARMUP_SHARE = 0.1
"""Of the steps, in which the learning rate rises to its peak."""
LAST_RATE = 0.01
"""The learning rate that the cosine ends with, as a share of the peak."""


def lr_at(step: int, max_steps: int, peak: float) -> float:
    """The learning rate of a step: a linear warm-up, then a cosine to a hundredth of the peak.

    Args:
        step: 0 .. max_steps - 1.
        max_steps: of the whole run.
        peak: the largest rate.
    """
    warmup = math.ceil(WARMUP_SHARE * max_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup + 1) / (max_steps - warmup)
    return peak * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))


def cluster_weight_at(step: int, max_steps: int, start: float, end: float) -> float:
    """The cluster loss's weight in a step: from `start` in the first to `end` in the last.

    A straight line, as in the code released with arXiv 2602.09040.
    """
    return start + (end - start) * step / max(1, max_steps - 1)
