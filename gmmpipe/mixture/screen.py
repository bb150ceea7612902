"""Which groups of components may count for a frame, by log joints in bfloat16 and their bound.

A product in bfloat16 takes a quarter of the time of one in float32 on a processor that has
instructions for it. Its factors have 8 bits, and log joints computed so are off by some nats, so
they give no posterior. But most components are out of question by tens of nats, and a bound of the
error tells which. Legend: `gmmpipe.mixture.mixture`; further, for a frame and a component,

    z = x - c, the centred frame;  d = μ - c;  y = x - μ = z - d
    J = C - Q/2, the log joint;  Q = Σ p y²;  C = b + P/2;  P = Σ p d²    (sums over dimensions)

**The rounded map.** ~ marks numbers of bfloat16: z~ and s~ are z and z~² rounded, q~ is p/2
rounded, m~ is 2q~d rounded, and b~ is C - Σ (m~d - q~d²), in two parts. The product is

    a = b~ + Σ (m~ z~ - q~ s~)

A rounding changes a number by at most u = 2^-8 of it. Because m~ and s~ are made from numbers that
are rounded already, and b~ is such that a is C at z~ = d, the largest terms cancel. With
δ = z~ - z, |δ| ≤ u|z|, what is left is

    a - J = Σ (m~ - 2q~d)(y + δ)  +  Σ (p/2 - q~) y²  -  Σ q~ (2yδ + δ²)  +  Σ q~ (z~² - s~)

which are at most u Σ p|d||y|, u Q/2, u Σ p|y||z| and u/2 Σ p z², but for factors of 1 + O(u). As
|z| ≤ |y| + |d|, by Cauchy and Schwarz Σ p|d||y| ≤ √(PQ), and Σ p z² ≤ (√P + √Q)²; so

    |a - J| ≤ v (3 √(PQ) + 2 Q + P/2) + w |C|,    v = 1.05 u + 12 γ,  w = 2^-15 + γ

Here γ is for the additions in float32, as in `gmmpipe.mixture.fast_joints`: their terms add up to
at most |C| + 3P + 2 √(PQ) + Q/2. The hundredths of v are for O(u) and for what b~ loses; w is, too.

**The bound of a group.** For any t > 0, 2 √(PQ) ≤ t P + Q/t. With Q = 2 (C - J) that makes the
bound affine in J. Let t be the same for a group of components, α = v (3t/2 + 1/2) P,
β = v (2 + 3 / (2t)), and B the largest α + 2βC + w|C| of the group. Then |a - J| ≤ B - 2βJ, which
falls with J and is not below 0 at a either, as a ≤ C + α + w|C| and 2β ≤ 1/2. So for the largest a
of a group, the largest J of the group is within

    (a - B) / (1 - 2β)  ≤  J  ≤  (1 - 2β) a + B

The map is scaled and moved by a group's numbers, so that the product gives the upper bound, which
is rounded to bfloat16; the lower one is affine in it.
A group is dropped if its upper bound is more than the margin below the largest of the lower bounds.
"""

import math

import torch
from torch import Tensor

from gmmpipe.mixture.likely_pairs import GROUP_SIZE, largest_of_groups, margin

_ROUNDING = 2.0**-8
_ROUNDING_IN_FLOAT32 = 2.0**-24
_MIN_SLOPE, _MAX_SLOPE = 1 / 16, 1.0
"""Of t, which is best near √(Q/P)."""
_MAX_BETA = 1 / 4
_LEAST = -1e38
"""Instead of -inf, so that its rounding is not infinite."""


class Screen:
    """A map to log joints, rounded to bfloat16, with bounds of its errors.

    Args:
        matrix, bias: the map, float32 [K, 2D] and [K]; K is a multiple of `GROUP_SIZE`, and
            components that fill up the groups have a bias of -inf.
    """

    def __init__(self, matrix: Tensor, bias: Tensor) -> None:
        linear, squares = matrix.double().chunk(2, 1)
        halves = squares.neg_()  # p/2
        offsets = torch.where(linear == 0, 0.0, linear / (2 * halves))  # μ - c
        has_weight = bias != -math.inf
        distances = torch.where(has_weight, (linear * offsets).sum(1), 0.0)  # P
        constants = bias.double() + distances / 2  # C
        # Components without weight come last, in groups of their own.
        far = torch.where(has_weight, distances, math.inf)
        places = torch.where(has_weight, offsets.sum(1), math.inf)
        self.members = _sorted_by_both(far, places).view(-1, GROUP_SIZE)
        """The components of each group, [number of groups, GROUP_SIZE]."""
        self.matrices = matrix[self.members]
        """The map of each group, [number of groups, GROUP_SIZE, 2D]."""
        self.biases = bias[self.members]
        constants = constants[self.members]
        scales, sizes = _bounds(distances[self.members], constants, offsets.shape[1])
        self._coarse = _rounded_map(
            halves[self.members], offsets[self.members], constants, scales, sizes
        )
        self._factors = scales.square().reciprocal_().float()
        self._addends = -(sizes / scales.square() + sizes / scales).float()

    def bounds(self, expanded: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the largest log joint of each group, [n, number of groups] each.

        Args:
            expanded: [x - c, (x - c)²] of the frames, float32 [n, 2D].
            out: for use in between, bfloat16 [n, K].
        """
        torch.mm(_rounded_rows(expanded), self._coarse.t(), out=out)
        largest = largest_of_groups(out).float().clamp_(min=_LEAST)
        rounding = largest.abs().mul_(1.01 * _ROUNDING)
        lower = torch.addcmul(self._addends, largest - rounding, self._factors)
        return lower, largest.add_(rounding)

    def near(self, expanded: Tensor, out: Tensor) -> Tensor:
        """Whether a component of a group may count, bool [n, number of groups]; see `bounds`."""
        lower, upper = self.bounds(expanded, out)
        least = lower.amax(1, keepdim=True) - margin(self.members.numel())
        return ~(upper < least)  # so that NaN counts


def _sorted_by_both(first: Tensor, second: Tensor) -> Tensor:
    """An order in which components [K] that are near each other are alike in both numbers.

    A group counts if one of its components does, and has the bound of the worst one. So it is to
    hold components with P alike (`first`) and in one direction from the centre (`second`).
    """
    size = GROUP_SIZE * max(1, round(math.sqrt(len(first) / GROUP_SIZE)))
    shelves = torch.empty_like(first, dtype=torch.int64)
    shelves[first.argsort(stable=True)] = torch.arange(len(first)) // size
    order = second.argsort(stable=True)
    return order[shelves[order].argsort(stable=True)]


def _bounds(distances: Tensor, constants: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """1 - 2β and B of each group, of P and C of its components, [number of groups, GROUP_SIZE]."""
    num_terms = (2 * dim + 8) * _ROUNDING_IN_FLOAT32
    gamma = num_terms / (1 - num_terms)
    v, w = 1.05 * _ROUNDING + 12 * gamma, 2.0**-15 + gamma
    # Of a likely component, Q is near D.
    slope = (dim / distances.amax(1, keepdim=True)).sqrt().clamp(_MIN_SLOPE, _MAX_SLOPE)
    beta = v * (2 + 1.5 / slope)
    alpha = v * (1.5 * slope + 0.5) * distances
    sizes = alpha + 2 * beta * constants + w * constants.abs()
    sizes = torch.where(constants == -math.inf, -math.inf, sizes).amax(1)
    sizes = torch.where(sizes == -math.inf, 0.0, sizes)  # a is -inf and needs no bound
    beta = beta[:, 0]
    return 1 - 2 * beta.clamp(max=_MAX_BETA), torch.where(beta < _MAX_BETA, sizes, math.inf)


def _rounded_map(
    halves: Tensor,
    offsets: Tensor,
    constants: Tensor,
    scales: Tensor,
    sizes: Tensor,
) -> Tensor:
    """[m~, -q~, b~ in two parts] of member 0 of all groups, member 1 ..., bfloat16 [K, 2D + 2].

    It is the map to (1 - 2β) a + B: a scaled one has roundings of the same shares.
    """
    halves = (scales[:, None, None] * halves).bfloat16().double()
    linear = (2 * halves * offsets).bfloat16().double()
    bias = scales[:, None] * constants + sizes[:, None]
    bias -= (linear * offsets - halves * offsets.square()).sum(2)
    high = bias.bfloat16().double()
    low = torch.where(high.isinf(), 0.0, bias - high)
    rounded = torch.cat([linear, -halves, high[..., None], low[..., None]], 2).bfloat16()
    return rounded.transpose(0, 1).reshape(-1, rounded.shape[2])


def _rounded_rows(expanded: Tensor) -> Tensor:
    """[z~, s~, 1, 1] of the frames, bfloat16 [n, 2D + 2]."""
    dim = expanded.shape[1] // 2
    rows = expanded.new_ones(len(expanded), 2 * dim + 2, dtype=torch.bfloat16)
    rows[:, :dim] = expanded[:, :dim]
    rows[:, dim : 2 * dim] = rows[:, :dim].float().square_()
    return rows
