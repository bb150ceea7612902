"""One step of a fit: which sums the ranks exchange."""

import pytest
import torch
from torch import Tensor

from gmmpipe.fitting.schedule import Schedule
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.density import StatisticsKernel
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.seeding import seed_mixture


@pytest.fixture(scope="module", params=[32, 300])
def parameters(frames: Tensor, request: pytest.FixtureRequest) -> Parameters:
    """Of so few components that all pairs are summed, and of so many that only the likely are."""
    return seed_mixture(frames, request.param, 0.1, seed=0, init="kmeans++")


@pytest.mark.parametrize("num_drawn", [5000, 100_003])
@pytest.mark.parametrize("size", range(2, 8))
def test_the_statistics_of_a_step_are_the_same_for_any_number_of_ranks(
    size, num_drawn, parameters, frames
) -> None:
    """Within 1e-5 of their largest entry; what is dropped or counted twice would show as 1e-3."""
    num_components = len(parameters.means)
    rules = Schedule(0, len(frames), len(frames), 9, frames_per_step=num_drawn, lr=0.1)
    update = rules.update_at(0, 0)
    model = (parameters.means, parameters.log_vars, parameters.log_weights)

    def statistics(ranks: int) -> Tensor:
        total = torch.zeros(num_components, 161)
        for rank in range(ranks):
            start, stop = update.rank_slice(rank, ranks)
            held = HeldFrames(frames[start:stop], start, stop)
            kernel = StatisticsKernel(num_components, frames.mean(0))
            total += kernel(held.select(rules.step_frames(update, 3)), *model).sums
        return total

    alone, shared = statistics(1), statistics(size)
    assert alone[:, -1].sum() == pytest.approx(num_drawn)
    for columns in (slice(0, 80), slice(80, 160), slice(160, 161)):
        here, there = shared[:, columns], alone[:, columns]
        assert (here - there).abs().max() <= 1e-5 * there.abs().max()
