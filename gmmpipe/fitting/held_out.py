"""Held-out frames: how well the mixture describes speech that it is not fitted to."""

from dataclasses import dataclass

from torch import Tensor

from gmmpipe.errors import StoreError
from gmmpipe.features.spec import FrameSpec
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.run.world import World
from gmmpipe.store.feature_store import FeatureStore

EVAL_FRAMES = 200_000


@dataclass(frozen=True)
class HeldOut:
    """The first `EVAL_FRAMES` frames of a held-out store, shared out over the ranks.

    Args:
        frames: this rank's part [n, D] in the stored dtype, on the rank's device.
        num_frames: of all ranks together.
        digests: SHA-256 of each store's ``store.json``: which frames they are.
    """

    frames: Tensor
    num_frames: int
    digests: list[str]

    @classmethod
    def read(cls, data_dir: str, features: FrameSpec, world: World) -> "HeldOut":
        """Read this rank's part of the frames, on all ranks together.

        Args:
            data_dir: the store, or several, comma-separated.
            features: what a frame of the fit is.
            world: the ranks.

        Raises:
            StoreError: a store is missing, damaged or of other features; on all ranks alike.
        """
        return world.on_each_rank(lambda: cls._read(data_dir, features, world))

    @classmethod
    def _read(cls, data_dir: str, features: FrameSpec, world: World) -> "HeldOut":
        store = FeatureStore.open(data_dir)
        if store.features != features:
            raise StoreError(
                f"{data_dir}: its features (fingerprint {store.features.fingerprint[:12]}) are "
                f"not those of --data_dir ({features.fingerprint[:12]})"
            )
        num_frames = min(EVAL_FRAMES, store.num_frames)
        start, stop = (num_frames * rank // world.size for rank in (world.rank, world.rank + 1))
        frames = store.read_frames(start, stop).to(world.device, store.dtype)
        return cls(frames, num_frames, store.digests)

    def nll(self, mixture: Mixture, world: World) -> float:
        """Mean -ln p(x) over the frames of all ranks, nats."""
        total = mixture.nll_sum(self.frames)
        world.all_reduce(total, short=True)
        return float(total) / self.num_frames
