"""The parameters of a mixture while it is fitted, flat in one buffer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gmmpipe.mixture.mixture import Mixture


@dataclass(frozen=True)
class Parameters:
    """The coordinates in which a mixture is fitted: views of one buffer, stepped all at once.

    A gradient and Adam's moments have the same coordinates. `mixture` is the mixture that the
    coordinates stand for at the moment.

    Args:
        flat: [K (2D + 1)].
        means, log_vars: [K, D].
        logits: [K]; the log weights before they are normalised.
    """

    flat: Tensor
    means: Tensor
    log_vars: Tensor
    logits: Tensor

    @classmethod
    def view(cls, flat: Tensor, num_components: int, dim: int) -> "Parameters":
        """The parameters in `flat`, which they share."""
        size = num_components * dim
        means, log_vars, logits = torch.split(flat, [size, size, num_components])
        shape = (num_components, dim)
        return cls(flat, means.view(shape), log_vars.view(shape), logits)

    @classmethod
    def of(cls, mixture: Mixture, dtype: torch.dtype = torch.float32) -> "Parameters":
        """A mixture's parameters, copied to a new buffer."""
        parts = (mixture.means, mixture.log_vars, mixture.log_weights)
        flat = torch.cat([part.to(dtype).flatten() for part in parts])
        return cls.view(flat, *mixture.means.shape)

    @property
    def mixture(self) -> Mixture:
        """The mixture: means and log variances are views, the weights are normalised."""
        return Mixture(self.means, self.log_vars, torch.log_softmax(self.logits, 0))

    def clone(self) -> "Parameters":
        """A copy in a buffer of its own."""
        return self.view(self.flat.clone(), *self.means.shape)
