"""Log joints in float32 that are as good as float64's, for a GPU whose float64 is slow.

The map of `gmmpipe.mixture.mixture` is taken in float32, the few components of each frame that are
likely by it are computed again in float64, and a bound of the error says which frames that is not
enough for: those are computed in float64 altogether. Legend: `gmmpipe.mixture.mixture`; further,
for a frame and a component,

    J = C - Q/2, the log joint;  Q = Σ_d p (x - μ)²;  C = ln w - (D ln 2π + Σ_d ln σ²) / 2
    P = Σ_d p (μ - c)², of the component, with c the centre of the map

**The bound of a log joint.** n terms that are added in float32, in any order, err by at most
γ Σ|term|, with γ = n u / (1 - n u) and u = 2^-24 (Higham, Accuracy and Stability of Numerical
Algorithms, second edition, section 3.1). Here n is 2D + 8, where 8 is for the roundings of the
factors, the products and the bias. Since |x - c| ≤ |x - μ| + |μ - c|, by Cauchy and Schwarz

    Σ|term| ≤ |C| + Q/2 + 2 √(Q P) + 2P ≤ |C| + 3/2 Q + 3P ≤ B - 3J,  where B = 4|C| + 3P

So it follows from J itself and a number for each component. The bias is raised by g B, with
g = γ / (1 - γ). Then for the result a of the product

    (a - (g + γ + g γ) B) / (1 - 3γ) ≤ J ≤ U = a / (1 + 3γ)

and J is within h = 1.1 γ (B + 3 |a|) of a - g B, for γ < 0.01.

**The bound of a result.** Let S be the components of the m largest U, whose J is computed in
float64 from the difference x - μ, M the largest of those J, t the temperature of a softmax and
r_k = exp((U_k - M) / t). A component outside S gets a - g B for its J. As a multiple of e^(M / t),
it has at most r_k, and what it gets is wrong by at most r_k (1 - e^(-h_k / t)). So ln p(x), and
every posterior, is wrong by at most about

    E = Σ_{k∉S} r_k min(1, h_k / t) / Σ_{k∈S} exp((J_k - M) / t)

A frame is computed in float64 unless E ≤ `TOLERANCE`, and all U outside S are below M, so that the
most likely component is in S; so is one with a number that is NaN, or so large that float32 might
overflow. Beside E there are float32's roundings of a softmax.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gmmpipe.mixture.matmul import matmul_precision
from gmmpipe.mixture.mixture import BLOCK_FRAMES, Mixture, center_of, frames_between

NUM_LIKELY = 16
"""m: components of a frame that are computed again in float64."""
TOLERANCE = 3e-5
"""How far a posterior and ln p(x) may be off: a third of what is promised of a posterior. It leaves
room for entropies, which err by up to ln(K / E) times as much."""

_ROUNDING = 2.0**-24
_MAX_FACTOR, _MAX_BIAS = 2.0**53, 2.0**100
"""Of larger numbers, products may overflow float32, or what underflows may count."""
_MAX_FRAMES, _MAX_JOINTS = 16384, 1 << 24
"""Of a block on a GPU: 64 MB of log joints, twice (more if K is above 32,768)."""
_GATHERED = {"cpu": 1 << 17}
_MAX_GATHERED = 1 << 23
"""Numbers of the likely components that are gathered at once: on a CPU as fit its cache."""


@dataclass(frozen=True)
class JointBlock:
    """The log joints of a block of frames.

    Args:
        rows: which of all the frames.
        frames: float64 [n, D].
        joints: [n, K], less the offset; in a buffer that the next block overwrites. float64, or
            float32 if the offset is each frame's largest.
        offset: float64 [n, 1], or a number for all frames.
        num_exact: of the frames, those that were computed in float64 altogether.
    """

    rows: slice
    frames: Tensor
    joints: Tensor
    offset: Tensor | float = 0.0
    num_exact: int = 0

    def scores(self) -> Tensor:
        """ln p(x) of each frame, float64 [n]."""
        return (torch.logsumexp(self.joints, 1, keepdim=True) + self.offset)[:, 0]


def fast_joints(
    mixture: Mixture, frames: Tensor, temperature: float = 1.0, num_likely: int = NUM_LIKELY
) -> Iterator[JointBlock]:
    """The log joints of frames in float32, whose softmax is within `TOLERANCE` of float64's.

    The host waits for the device once a block, to see whether there are frames for float64.

    Args:
        mixture: of at least 2 components.
        frames: [N, D], or [B, D, T] (then N = B * T, time fastest); any floating dtype.
        temperature: of the softmax that is taken.
        num_likely: m, if less than K.
    """
    fast = _FastJoints(mixture, temperature, num_likely)
    num_frames, num_components = frames.numel() // mixture.dim, mixture.num_components
    size = BLOCK_FRAMES
    if frames.device.type != "cpu":
        size = min(_MAX_FRAMES, max(BLOCK_FRAMES, _MAX_JOINTS // num_components))
    size = min(size, max(1, num_frames))
    joints, ratios = torch.empty(2, size, num_components, dtype=torch.float32, device=frames.device)
    for start in range(0, num_frames, size):
        stop = min(start + size, num_frames)
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            block = frames_between(frames, start, stop).double()
            out = joints[: len(block)]
            offset, is_good = fast.joints(block, out, ratios[: len(block)])
            rows = (~is_good).nonzero()[:, 0]  # the host waits here
            fast.set_exact(rows, block, out, offset)
        yield JointBlock(slice(start, stop), block, out, offset, len(rows))


class _FastJoints:
    """The map of a mixture in float32, and what bounds its errors."""

    def __init__(self, mixture: Mixture, temperature: float, num_likely: int) -> None:
        self._mixture = wide = mixture.double()
        self._temperature = temperature
        self._num_likely = min(num_likely, wide.num_components - 1)
        self._center = center_of(wide.means)
        self._precisions = torch.exp(-wide.log_vars)
        matrix, bias = wide.affine_map(self._center)
        distances = (matrix[:, : wide.dim] * (wide.means - self._center)).sum(1)
        # Not from the bias, in which a far component's terms cancel.
        logs = math.log(2 * math.pi) + wide.log_vars
        self._constants = wide.log_weights - 0.5 * logs.sum(1)
        num_terms = (2 * wide.dim + 8) * _ROUNDING
        self._gamma = gamma = num_terms / (1 - num_terms)
        raise_by = gamma / (1 - gamma)
        has_weight = self._constants > -torch.inf
        sizes = torch.where(has_weight, 4 * self._constants.abs() + 3 * distances, 0.0)
        raised = bias + raise_by * sizes
        self._matrix, self._bias = matrix.float(), raised.float()
        self._raised_by = (raise_by * sizes).float()
        errors = (1.1 * gamma / temperature * sizes).clamp_max(1.0)
        self._errors_and_ones = torch.stack([errors, torch.ones_like(errors)], 1).float()
        in_range = (matrix.abs() <= _MAX_FACTOR).all() & (raised <= _MAX_BIAS).all()
        self._is_in_range = in_range & ((raised >= -_MAX_BIAS) | ~has_weight).all()

    def joints(self, frames: Tensor, joints: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the log joints of frames, less an offset; the offset, and which frames are good.

        Args:
            frames: float64 [n, D].
            joints: float32 [n, K], to be filled.
            ratios: float32 [n, K], for use in between.

        Returns:
            The largest log joint of each frame, float64 [n, 1]; whether the frame's joints are
            within the bound, bool [n].
        """
        expanded = self._expand(frames)
        with matmul_precision("highest"):
            torch.addmm(self._bias, expanded, self._matrix.t(), out=joints)
        largest, numbers = joints.topk(self._num_likely + 1, dim=1)
        likely = numbers[:, :-1]
        exact = self._recomputed(frames, likely)
        offset = exact.amax(1, keepdim=True)
        is_good = self._is_in_range & (expanded.abs().amax(1) <= _MAX_FACTOR)
        next_best = largest[:, -1:].double() / (1 + 3 * self._gamma)
        is_good &= (next_best < offset - 8 * _ROUNDING * (1 + offset.abs()))[:, 0]
        joints.scatter_(1, likely, -torch.inf)
        is_good &= self._errors(joints, exact, offset, ratios) <= TOLERANCE
        joints.sub_(self._raised_by).sub_(offset.float())
        joints.scatter_(1, likely, exact.sub_(offset).float())
        return offset, is_good

    def set_exact(self, rows: Tensor, frames: Tensor, joints: Tensor, offset: Tensor) -> None:
        """Compute some rows in float64 instead, in place."""
        for part, _, exact in self._mixture.log_joints(frames[rows]):
            best = exact.amax(1, keepdim=True)
            best = torch.where(best.isfinite(), best, 0.0)
            joints[rows[part]] = exact.sub_(best).float()
            offset[rows[part]] = best

    def _expand(self, frames: Tensor) -> Tensor:
        """[x - c, (x - c)²], each rounded once: float32 [n, 2D]."""
        centred = frames - self._center
        return torch.cat([centred.float(), centred.square().float()], 1)

    def _recomputed(self, frames: Tensor, likely: Tensor) -> Tensor:
        """The log joints of some components of each frame, float64 [n, m]."""
        parts = []
        most = _GATHERED.get(frames.device.type, _MAX_GATHERED)
        size = max(1, most // (likely.shape[1] * frames.shape[1]))
        for some, numbers in zip(torch.split(frames, size), torch.split(likely, size), strict=True):
            moved = self._mixture.means[numbers].sub_(some[:, None]).square_()
            squares = moved.mul_(self._precisions[numbers]).sum(2)
            parts.append(self._constants[numbers] - 0.5 * squares)
        return torch.cat(parts)

    def _errors(self, upper: Tensor, exact: Tensor, offset: Tensor, ratios: Tensor) -> Tensor:
        """E of each frame, [n].

        With r the ratios and ρ their sum, the part of h that is in proportion to |a| comes to
        Σ r 3.3γ |a| / t ≤ 3.4γ ρ (|M| / t + max(1, ln(K / ρ))).

        Args:
            upper: a, -inf within S, [n, K].
            exact: J within S, [n, m].
            offset: M, [n, 1].
            ratios: where r is put, [n, K].
        """
        heat, slope = self._temperature, 1 + 3 * self._gamma
        torch.div(upper, slope, out=ratios)
        torch.exp(ratios.sub_(offset.float()).div_(heat), out=ratios)
        with matmul_precision("highest"):
            of_sizes, rest = (ratios @ self._errors_and_ones).double().unbind(1)
        best = offset[:, 0].abs() / heat
        rest = rest.clamp_min(1e-30)
        of_joints = 3.4 * self._gamma * rest * (best + (ratios.shape[1] / rest).log().clamp_min(1))
        # The differences are of float32 too, as are their sum and the exponents, down to e^-104.
        rounding = torch.exp(4 * _ROUNDING * best) * (1 + (ratios.shape[1] + 512) * _ROUNDING)
        total = torch.exp((exact - offset) / heat).sum(1)
        return (of_sizes + of_joints) * rounding / total
