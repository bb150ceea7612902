"""Statistics of the likely pairs, whose log joints alone are computed in float32.

A product in bfloat16 drops the groups of components that are provably below the margin
(`gmmpipe.mixture.screen`); what is left is computed and summed in float32 as by
`gmmpipe.mixture.likely_pairs`, so the statistics are as exact.
"""

import math
from typing import Any

import torch
from torch import Tensor

from gmmpipe.mixture.likely_pairs import (
    GROUP_SIZE,
    Attempts,
    LikelyGroups,
    LikelyPairsKernel,
    add_likely_groups,
)
from gmmpipe.mixture.screen import Screen

_MAX_SHARE = 1 / 5
"""If more of the groups are left than this share, a product of all in float32 takes less time."""


class ScreenedPairsKernel(LikelyPairsKernel):
    """Screens groups in bfloat16, and where that drops too few of a block, sums as without it.

    Args:
        arguments, options: see `LikelyPairsKernel`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._coarse = torch.empty_like(self._joints, dtype=torch.bfloat16)

    def _add(self, expanded: Tensor, matrix: Tensor, bias: Tensor) -> None:
        screen, screening = Screen(matrix, bias), Attempts()
        found: list[tuple[int, Tensor]] = []
        missed: list[Tensor] = []
        num_groups = first_frame = 0
        for block in torch.split(expanded, len(self._coarse)):
            near = None
            if screening.is_due():
                near = screen.near(block, self._coarse[: len(block)])
                count = int(near.count_nonzero())
                if count > _MAX_SHARE * near.numel():
                    near = None
                screening.report(succeeded=near is not None)
            if near is None:
                missed.append(block)
            else:
                found.append((first_frame, near))
                num_groups += count
            first_frame += len(block)
            if found and (first_frame == len(expanded) or num_groups > self._max_groups):
                groups = joints_of_groups(found, expanded, screen)
                add_likely_groups([groups], screen.members, expanded, self.statistics)
                found.clear()
                num_groups = 0
        if missed:
            all_missed = sum(map(len, missed)) == len(expanded)
            super()._add(expanded if all_missed else torch.cat(missed), matrix, bias)


def joints_of_groups(
    found: list[tuple[int, Tensor]], expanded: Tensor, screen: Screen
) -> LikelyGroups:
    """The groups that a screening has left, with their log joints in float32.

    Args:
        found: of each block, the number of its first frame, and which groups are left of its
            frames, bool [n, number of groups].
        expanded: [x - c, (x - c)²] of all frames, [N, 2D].
        screen: what they are left by.
    """
    near = torch.cat([left for _, left in found])
    numbers = torch.cat([torch.arange(first, first + len(left)) for first, left in found])
    groups, rows = near.t().nonzero().unbind(1)
    frames = numbers[rows]
    joints = expanded.new_empty(GROUP_SIZE, len(groups))  # this way round for passes over them
    counts = near.sum(0).tolist()
    parts = zip(torch.split(frames, counts), torch.split(joints, counts, 1), strict=True)
    for group, (some, out) in enumerate(parts):
        if len(some):
            rows_of_group = expanded.index_select(0, some)
            bias, matrix = screen.biases[group, :, None], screen.matrices[group]
            torch.addmm(bias, matrix, rows_of_group.t(), out=out)
    best = joints.new_full((len(expanded),), -math.inf)
    best.scatter_reduce_(0, frames, joints.amax(0), "amax")
    return LikelyGroups(frames, groups, joints.sub_(best[frames]).t())


def has_bfloat16_products() -> bool:
    """Whether the processor has instructions for products in bfloat16, which make them fast."""
    if not hasattr(torch.cpu, "get_capabilities"):  # in an older torch
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
