"""Statistics of the likely pairs of a frame and a component alone.

On speech, a few components of a thousand are likely for a frame. A pair is left out if its
posterior is below e^-m of the frame's largest, with m (`margin`) so large that all pairs that a
frame leaves out add up to less than 2^-24 of it: nothing, in float32. To find and sum the others
takes a fraction of the time of a softmax over all pairs and a GEMM with them. Legend:
`gmmpipe.mixture.mixture`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.statistics import Statistics, StatisticsKernel

GROUP_SIZE = 16
"""Components in a group. The search takes each group's largest log joint first, and looks at the
group's components only where that one counts."""

_MAX_SHARE = 1 / 5
"""If more of the groups count than this share, a GEMM over all pairs takes less time."""

MAX_GROUPS = 1 << 17
"""The most groups that are held before they are summed, some 60 MB; speech has half as many."""

_MAX_TERMS = 256
"""The longest sum that is taken one term after another."""


@dataclass(frozen=True)
class LikelyGroups:
    """Groups of components, each with a frame for which at least one of its components counts.

    Args:
        frames, groups: their numbers, int64 [G].
        gaps: ln p(x, k) less its maximum over k, of each component of the group, [G, GROUP_SIZE].
    """

    frames: Tensor
    groups: Tensor
    gaps: Tensor


class LikelyPairsKernel(StatisticsKernel):
    """Sums the likely pairs of a block where they are few, and all pairs where they are many.

    Args:
        num_components, center, extra, block: see `StatisticsKernel`.
        max_groups: how many groups are held at most before they are summed.
    """

    def __init__(
        self,
        num_components: int,
        center: Tensor,
        extra: int = 0,
        block: int | None = None,
        max_groups: int = MAX_GROUPS,
    ) -> None:
        super().__init__(num_components, center, extra, block)
        self._max_groups = max_groups
        self._members = torch.arange(self._joints.shape[1]).view(GROUP_SIZE, -1).t()

    def _padded(self, num_components: int) -> int:
        return num_components + -num_components % GROUP_SIZE

    def _affine_map(self, mixture: Mixture) -> tuple[Tensor, Tensor]:
        matrix, bias = super()._affine_map(mixture)
        padding = self._joints.shape[1] - mixture.num_components
        if padding:  # components that are never likely fill up the groups
            matrix = pad(matrix, (0, 0, 0, padding))
            bias = pad(bias, (0, padding), value=-math.inf)
        return matrix, bias

    def _add(self, expanded: Tensor, matrix: Tensor, bias: Tensor) -> None:
        found: list[LikelyGroups] = []
        search = Attempts()
        first_frame = num_groups = 0
        for block, joints in self._blocks(expanded, matrix, bias):
            likely = None
            if search.is_due():
                likely = find_likely_groups(joints, first_frame)
                search.report(succeeded=likely is not None)
            if likely:
                found.append(likely)
                num_groups += len(likely.groups)
            else:
                self._add_all_pairs(block, joints)
            first_frame += len(block)
            if found and (first_frame == len(expanded) or num_groups > self._max_groups):
                add_likely_groups(found, self._members, expanded, self.statistics)
                found.clear()
                num_groups = 0


class Attempts:
    """When to try what fails for some blocks.

    After a failure 1 block is left out, after another one in a row 3, then 7, and so on.
    """

    def __init__(self) -> None:
        self._to_leave_out = self._last_left_out = 0

    def is_due(self) -> bool:
        """Whether to try it for the next block."""
        self._to_leave_out -= 1
        return self._to_leave_out < 0

    def report(self, succeeded: bool) -> None:
        """Say how the attempt that was due has ended."""
        self._last_left_out = 0 if succeeded else 2 * self._last_left_out + 1
        self._to_leave_out = self._last_left_out


def margin(num_components: int) -> float:
    """How far a log joint may lie below the frame's largest and still count, nats."""
    return math.log(num_components) + 24 * math.log(2)


def find_likely_groups(joints: Tensor, first_frame: int) -> LikelyGroups | None:
    """The groups that count; None if there are so many that a GEMM over all pairs is faster.

    Args:
        joints: log joints [n, K], contiguous; K is a multiple of `GROUP_SIZE`. Group g holds every
            (K / GROUP_SIZE)-th component from g on.
        first_frame: the number of the first frame.
    """
    num_frames, num_components = joints.shape
    grouped = joints.view(num_frames, GROUP_SIZE, -1)
    best_of_group = largest_of_groups(joints)
    best = best_of_group.amax(1)
    # "Not below" instead of "above", so that every frame has a group that counts, however coarse
    # float32 is at the size of its log joints, and so that NaN counts and is noticed later.
    near = ~(best_of_group < (best - margin(num_components))[:, None])
    # Counted first: where all groups count, listing them takes as long as all else here.
    if int(near.count_nonzero()) > _MAX_SHARE * near.numel():
        return None
    frames, groups = near.nonzero().unbind(1)
    gaps = grouped.transpose(1, 2)[frames, groups].sub_(best[frames, None])
    return LikelyGroups(frames + first_frame, groups, gaps)


def largest_of_groups(joints: Tensor) -> Tensor:
    """The largest log joint of each group, [n, number of groups], of joints as above."""
    num_groups = joints.shape[1] // GROUP_SIZE
    if joints.dtype == torch.float32 and num_groups % 32 == 0:
        return joints.view(len(joints), GROUP_SIZE, num_groups).amax(1)
    while joints.shape[1] > num_groups:  # where `amax` takes two to seven times as long
        joints = torch.maximum(*joints.chunk(2, 1))
    return joints


def add_likely_groups(
    found: list[LikelyGroups], members: Tensor, expanded: Tensor, statistics: Statistics
) -> None:
    """Add the frames of `found` to sufficient statistics, in place.

    Args:
        found: at least one.
        members: the components of each group, int64 [number of groups, GROUP_SIZE]; numbers from K
            on are of components that fill up the groups.
        expanded: [x - c, (x - c)²] of the frames, [N, 2D].
        statistics: of K components.
    """
    num_components = len(statistics.counts)
    frames = torch.cat([part.frames for part in found])
    groups = torch.cat([part.groups for part in found])
    gaps = torch.cat([part.gaps for part in found])
    place, member = (~(gaps < -margin(members.numel()))).nonzero().unbind(1)
    # The components that fill up the groups count only if all log joints of a frame are NaN.
    components = members[groups[place], member].clamp_(max=num_components - 1)
    frames = frames[place]
    likelihoods = gaps[place, member].exp_()
    totals = likelihoods.new_zeros(len(expanded)).index_add_(0, frames, likelihoods)
    posteriors = likelihoods.div_(totals[frames])
    components, order = torch.sort(components, stable=True)
    frames, posteriors = frames[order], posteriors[order]
    statistics.moments.add_(
        _sum_by_component(frames, components, posteriors, expanded, num_components)
    )
    statistics.counts.add_(torch.bincount(components, posteriors.double(), num_components))


def _sum_by_component(
    frames: Tensor, components: Tensor, posteriors: Tensor, expanded: Tensor, num_components: int
) -> Tensor:
    """Σ r [x - c, (x - c)²] of each component, [K, 2D], of pairs in the order of the components.

    The sum has two stages; the first takes at most `_MAX_TERMS` pairs at a time. Frames of digital
    silence are all alike, and in one long sum each addition would have the same rounding error.
    """
    every = torch.arange(num_components)
    place = torch.arange(len(components)) - torch.searchsorted(components, components)
    first = (place % _MAX_TERMS == 0).nonzero()[:, 0]
    parts = embedding_bag(frames, expanded, first, mode="sum", per_sample_weights=posteriors)
    first = torch.searchsorted(components[first], every)
    return embedding_bag(torch.arange(len(parts)), parts, first, mode="sum")
