"""The parameters of a mixture while it is fitted, flat in one buffer."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parameters:
    """Views of one flat buffer, so that an optimizer steps all of them at once.

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
    def of(
        cls,
        means: Tensor,
        log_vars: Tensor,
        log_weights: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> "Parameters":
        """A copy of the given parameters in a new buffer."""
        parts = [part.to(dtype).flatten() for part in (means, log_vars, log_weights)]
        return cls.view(torch.cat(parts), *means.shape)

    @property
    def log_weights(self) -> Tensor:
        """ln w, [K]: the logits, normalised."""
        return torch.log_softmax(self.logits, 0)

    def clone(self) -> "Parameters":
        """A copy in a buffer of its own."""
        return self.view(self.flat.clone(), *self.means.shape)
