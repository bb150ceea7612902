"""What a mixture says of frames, by torch's own distributions, in float64 on the CPU."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal

from gmmpipe.mixture.mixture import Mixture

TIE = 1e-4
"""Nats: where the two largest log joints differ by less, either may be the label."""


@dataclass(frozen=True)
class Exact:
    """Log joints [N, K] and what follows from them.

    Args:
        joints: ln w_k N(x; μ_k, σ_k²).
    """

    joints: Tensor

    @classmethod
    def of(cls, frames: Tensor, mixture: Mixture) -> "Exact":
        """Those of frames [N, D]."""
        wide = Mixture(*(x.cpu().double() for x in vars(mixture).values()))
        normal = Normal(wide.means, (0.5 * wide.log_vars).exp())
        blocks = [
            normal.log_prob(block[:, None].double()).sum(2) for block in frames.cpu().split(256)
        ]
        return cls(torch.cat(blocks) + wide.log_weights)

    @property
    def scores(self) -> Tensor:
        """ln p(x), [N]."""
        return torch.logsumexp(self.joints, 1)

    @property
    def labels(self) -> Tensor:
        """The likeliest components, [N]."""
        return self.joints.argmax(1)

    @property
    def is_clear(self) -> Tensor:
        """Whether the two largest joints of a frame differ by more than `TIE`, [N]."""
        first, second = self.joints.topk(2, dim=1).values.unbind(1)
        return first - second > TIE

    def posteriors(self, temperature: float = 1.0) -> Tensor:
        """softmax(log joint / temperature), [N, K]."""
        return torch.softmax(self.joints / temperature, 1)

    def sums(self, frames: Tensor, center: Tensor) -> Tensor:
        """Σ r [x - c, (x - c)², 1], [K, 2D + 1]."""
        centred = frames.cpu().double() - center.cpu().double()
        ones = torch.ones(len(centred), 1, dtype=torch.float64)
        return self.posteriors().t() @ torch.cat([centred, centred.square(), ones], 1)

    def check_labels(self, labels: Tensor) -> None:
        """Assert that labels are these, but for ties."""
        assert self.is_clear.float().mean() > 0.9
        assert torch.equal(labels.cpu()[self.is_clear], self.labels[self.is_clear])
