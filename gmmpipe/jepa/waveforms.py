"""The waveforms of a store's utterances, cut to their frames and augmented."""

from dataclasses import dataclass

from torch import Tensor

from gmmpipe.errors import StoreError
from gmmpipe.features.spec import ComputedSpec
from gmmpipe.jepa.augmentation import Augmentation
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.shard_reader import ShardReader


@dataclass(frozen=True)
class Waveforms:
    """Reads the waveform of an utterance; what is added is a function of (seed, epoch, key).

    Args:
        hop_length: samples from one frame to the next.
        augment: what is added; None for the clean waveform.
        seed: of what is added.
    """

    hop_length: int
    augment: Augmentation | None
    seed: int

    @classmethod
    def of(cls, store: FeatureStore, augment: Augmentation | None, seed: int) -> "Waveforms":
        """Those of a store.

        Raises:
            StoreError: it holds no audio.
        """
        return cls(spec_of_audio(store).hop_length, augment, seed)

    def read(self, reader: ShardReader, position: int, epoch: int) -> Tensor:
        """The waveform of the utterance at `position` of a shard, float32 [T * hop_length].

        Raises:
            StoreError: the shard is missing or damaged, here or where the utterance is that is
                mixed in.
        """
        if self.augment is None:
            return self._clean(reader, position)
        draw = self.augment.draw(self.seed, epoch, reader.index.keys[position])
        other = draw.partner_of(position, len(reader.index.keys))
        partner = None if other is None else self._clean(reader, other)
        return draw.apply(self._clean(reader, position), partner)

    def _clean(self, reader: ShardReader, position: int) -> Tensor:
        num_frames = int(reader.index.num_frames[position])
        return reader.read_waveform(position)[: num_frames * self.hop_length]


def spec_of_audio(store: FeatureStore) -> ComputedSpec:
    """What the frames of a store with audio are.

    Raises:
        StoreError: it holds no audio.
    """
    if not isinstance(store.features, ComputedSpec):
        raise StoreError(f"frames of kind {store.features.kind} have no audio beside them")
    for shard in store.shards:
        if not shard.has_audio:
            raise StoreError(
                f"{shard.path.parent}: holds no audio; gmmpipe featurize --store_audio flac "
                "makes stores that do"
            )
    return store.features
