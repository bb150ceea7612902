"""Batches for training a JEPA: straight from the shards, with targets from a frozen mixture."""

from gmmpipe.jepa.augmentation import Augmentation
from gmmpipe.jepa.batch import JEPABatch
from gmmpipe.jepa.batches import JEPABatches

__all__ = ["Augmentation", "JEPABatch", "JEPABatches"]
