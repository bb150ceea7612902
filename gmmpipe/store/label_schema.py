"""What a label store is made from and how, and its columns.

Its shards are named as those of the feature store that they label, and hold the same keys in the
same order. Version 1, as frozen as `gmmpipe.store.schema`.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

from gmmpipe.store.columns import Column
from gmmpipe.store.documents import pick
from gmmpipe.store.names import IDENTITY_FILE
from gmmpipe.store.schema import Identity, StoreInfo, differing
from gmmpipe.store.sidecar import check_sha256

LABELS, TOPK_IDS, TOPK_PROBS = "labels", "topk_ids", "topk_probs"
"""The columns."""
MAX_COMPONENTS = 1 << 16
"""More cannot be numbered in uint16."""
_ONE = 0x3C00
"""The bits of 1 in float16."""


@dataclass(frozen=True)
class LabelIdentity(Identity):
    """What decides a label store's bytes.

    Args:
        source_sha256: of the feature store's ``store.json``.
        gmm_sha256: of the model file.
        K: components of the model.
        top_k: how many posteriors of a frame are kept; None where none are.
        temperature: of those posteriors.

    Raises:
        ValueError: no labels can be so.
    """

    kind = "labels"
    name = "label store"
    command = "gmmpipe label"
    plan_files = (IDENTITY_FILE,)
    format = "tar"

    source_sha256: str
    gmm_sha256: str
    K: int
    top_k: int | None
    temperature: float

    def __post_init__(self) -> None:
        check_sha256(self.source_sha256, self.gmm_sha256)
        if not 1 <= self.K <= MAX_COMPONENTS:
            raise ValueError(f"K is {self.K}")
        if self.top_k is not None and not 1 <= self.top_k <= self.K:
            raise ValueError(f"top_k is {self.top_k} of K = {self.K}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}")

    @property
    def columns(self) -> tuple[Column, ...]:
        """The most likely component of a frame, and the k most likely ones with posteriors."""
        labels = Column(LABELS, "uint16", 1, flat=True, max_bits=self.K - 1)
        if self.top_k is None:
            return (labels,)
        return (
            labels,
            Column(TOPK_IDS, "uint16", self.top_k, max_bits=self.K - 1),
            # Probabilities within 0 and 1 are in the order of their bits.
            Column(TOPK_PROBS, "float16", self.top_k, max_bits=_ONE),
        )

    def to_json(self) -> dict[str, Any]:
        """Its fields of ``store.json`` and ``plan.json``."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return pick(cls, document)

    def differences(self, here: Self) -> list[str]:
        """What differs."""
        return differing(self, here)


LabelInfo = StoreInfo[LabelIdentity]
"""``store.json`` of a label store."""
