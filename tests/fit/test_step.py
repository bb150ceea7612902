"""One step of a fit: which sums the ranks exchange."""

import pytest
import torch
from torch import Tensor

from gmmpipe.fitting.schedule import Schedule
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.kernels import statistics_kernel
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.seeding import seed_mixture


@pytest.fixture(scope="module", params=[32, 300])
def mixture(frames: Tensor, request: pytest.FixtureRequest) -> Mixture:
    """Of so few components that all pairs are summed, and of so many that only the likely are."""
    return seed_mixture(frames, request.param, 0.1, seed=0, init="kmeans++").mixture


@pytest.mark.parametrize("num_drawn", [5000, 100_003])
@pytest.mark.parametrize("size", range(2, 8))
def test_the_statistics_of_a_step_are_the_same_for_any_number_of_ranks(
    size, num_drawn, mixture, frames
) -> None:
    """Within 1e-5 of their largest entry; what is dropped or counted twice would show as 1e-3."""
    num_components = mixture.num_components
    rules = Schedule(0, len(frames), len(frames), 9, frames_per_step=num_drawn)
    update = rules.update_at(0, 0)

    def statistics(ranks: int) -> Tensor:
        total = torch.zeros(num_components, 161)
        for rank in range(ranks):
            start, stop = update.rank_slice(rank, ranks)
            held = HeldFrames(frames[start:stop], start, stop)
            kernel = statistics_kernel(num_components, frames.mean(0))
            total += kernel(held.select(rules.step_frames(update, 3)), mixture).sums
        return total

    alone, shared = statistics(1), statistics(size)
    assert alone[:, -1].sum() == pytest.approx(num_drawn)
    for columns in (slice(0, 80), slice(80, 160), slice(160, 161)):
        here, there = shared[:, columns], alone[:, columns]
        assert (here - there).abs().max() <= 1e-5 * there.abs().max()
