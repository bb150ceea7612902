"""Where the targets of an utterance come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from gmmpipe.errors import CheckpointError, OptionError
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.store.feature_store import FeatureStore


class TargetSource(Protocol):
    """Gives the targets of one utterance; sent to loader processes, so it can be pickled."""

    def __call__(self, shard: int, position: int, frames: Tensor) -> dict[str, Tensor]:
        """Fields of `gmmpipe.jepa.batch.JEPABatch` by their names, [T, ...] each.

        Args:
            shard: number of the utterance's shard among those of the `FeatureStore`.
            position: of the utterance in that shard's index.
            frames: its frames, float32 [T, D].
        """


@dataclass(frozen=True)
class NoTargets:
    """For a trainer that makes its own, on its device."""

    def __call__(self, shard: int, position: int, frames: Tensor) -> dict[str, Tensor]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class MixtureTargets:
    """Posteriors under a mixture; of each utterance alone, so that they never depend on its batch.

    Args:
        gmm: on the CPU.
        temperature: of the softmax.
        top_k: how many of the largest, or None for all.
    """

    gmm: GradientGMM
    temperature: float
    top_k: int | None

    def __call__(self, shard: int, position: int, frames: Tensor) -> dict[str, Tensor]:
        """``targets`` [T, K], or ``topk_ids`` and ``topk_probs`` [T, k]."""
        posteriors = self.gmm.soft_assign(frames, self.temperature)
        if self.top_k is None:
            return {"targets": posteriors}
        probs, ids = posteriors.topk(self.top_k, dim=1)
        return {"topk_ids": ids, "topk_probs": probs}


def mixture_targets(
    gmm: GradientGMM | str | Path, store: FeatureStore, temperature: float, top_k: int | None
) -> MixtureTargets:
    """Posteriors of the frames of `store` under a mixture or that of a model file.

    Raises:
        CheckpointError: the file cannot be read, or the mixture was fitted to other features.
        OptionError: the temperature is not positive, or `top_k` is not within 1 and K.
    """
    source = "the mixture" if isinstance(gmm, GradientGMM) else gmm
    if isinstance(gmm, GradientGMM):
        gmm = GradientGMM.from_dict(gmm.to_dict())  # a copy on the CPU, where loader processes are
    else:
        gmm = GradientGMM.load(gmm)
    fitted_to = gmm.info.get("features", {}).get("fingerprint", store.features.fingerprint)
    if (fitted_to, gmm.dim) != (store.features.fingerprint, store.dim):
        raise CheckpointError(
            f"{source}: fitted to features (fingerprint {fitted_to[:12]}, D = {gmm.dim}) that are "
            f"not those of the store ({store.features.fingerprint[:12]}, D = {store.dim})"
        )
    if not temperature > 0:
        raise OptionError(f"temperature is {temperature}, but must be above 0")
    if top_k is not None and not 1 <= top_k <= gmm.K:
        raise OptionError(f"top_k is {top_k}, but must be within 1 and K = {gmm.K}")
    return MixtureTargets(gmm, temperature, top_k)
