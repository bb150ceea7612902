"""The encoder's output on a fixed sample of utterances."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gmmpipe import FeatureStore
from gmmpipe.jepa import JEPABatch, JEPABatches
from pipelines.jepa.measures import effective_rank, entropy, feature_std
from pipelines.jepa.model import JEPA, Encoder

AT_ONCE = 8
"""Utterances that are encoded at once."""


@dataclass(frozen=True)
class EvaluationSample:
    """Whole utterances, nothing masked; a function of (store, seed, count), the same on each rank.

    Args:
        batches: on the model's device.
    """

    batches: list[JEPABatch]

    @classmethod
    def read(
        cls, store: FeatureStore, jepa: JEPA, seed: int, num_utterances: int = 32
    ) -> "EvaluationSample":
        """A random sample of a store's utterances; all of them, if there are fewer."""
        count = -(-min(num_utterances, len(store)) // AT_ONCE)
        device = next(jepa.parameters()).device
        batches = JEPABatches(
            store,
            batch_size=AT_ONCE,
            seed=seed,
            stop_step=count,
            wav=jepa.sizes.input == "wav",
            window=count * AT_ONCE,
        )
        return cls([batch.to(device) for batch in batches])

    @torch.no_grad()
    def encode(self, jepa: JEPA, encoder: Encoder) -> Tensor:
        """The output on every real frame, each with its whole utterance as context: [N, dim]."""
        return torch.cat([encoder(jepa.signal(b), ~b.padding_mask) for b in self.batches])

    @torch.no_grad()
    def measure(self, jepa: JEPA) -> dict[str, float]:
        """Measures of the online encoder's output; see `pipelines.jepa.measures`.

        ``usage_entropy`` is the entropy, in nats, of the cluster head's prediction averaged over
        the frames: ln K where all components are used alike, 0 where one alone is.
        """
        features = self.encode(jepa, jepa.encoder)
        usage = jepa.cluster_head(features).softmax(1).double().mean(0)
        return {
            "usage_entropy": entropy(usage),
            "effective_rank": effective_rank(features),
            "feature_std": feature_std(features),
        }
