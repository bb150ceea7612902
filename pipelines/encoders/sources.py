"""The feature store to encode: one that is there, or one made of the sources that are named."""

from gmmpipe import FeatureStore, FeaturizeOptions, featurize
from gmmpipe.errors import StoreError
from gmmpipe.features.log_mel_spec import LogMelSpec
from gmmpipe.files import listed_paths
from gmmpipe.run.world import World
from gmmpipe.store.names import kind_of
from pipelines.encoders.encoder import LayerEncoder
from pipelines.encoders.options import LayerOptions


def store_for(options: LayerOptions, encoder: LayerEncoder, world: World) -> FeatureStore:
    """The feature stores of `data_dir`; sources instead become one first, as `featurize` does it.

    It is made or finished by rank 0, with its audio at the encoder's sample rate, beside
    `output_dir` under the same name with ``_source`` behind it, and stays there.

    Raises:
        GmmpipeError: a store or a source cannot be read, or too many lines are rejected.
        Stopped: a signal ended the work; finished shards are kept.
    """
    if any(kind_of(folder) for folder in listed_paths(options.data_dir)):
        return FeatureStore.open(options.data_dir)
    if not encoder.hears_audio:
        raise StoreError(
            f"{options.data_dir}: not a feature store, and the encoder hears a store's frames: "
            "gmmpipe featurize makes one"
        )
    target = options.output_dir.with_name(options.output_dir.name + "_source")
    wanted = FeaturizeOptions(
        options.data_dir,
        target,
        features=LogMelSpec(sample_rate=encoder.sample_rate),
        store_audio="flac",
    )

    def make() -> None:
        featurize(wanted)

    world.on_first_rank(make)
    return FeatureStore.open(target)
