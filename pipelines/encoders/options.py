"""What layers.py is asked to do."""

from dataclasses import dataclass
from typing import Literal

from gmmpipe.option_types import Folder, Paths
from gmmpipe.options import Options, option
from gmmpipe.store.plans import Dtype


@dataclass(frozen=True)
class LayerOptions(Options):
    """The options of layers.py, under their names; its help explains each one."""

    data_dir: Paths = option(
        help="Comma-separated feature stores: with audio (--store_audio flac), or with the frames "
        "that the encoder hears. For an encoder of audio also sources, as gmmpipe featurize takes "
        "them; they become a feature store first, beside --output_dir, with _source behind its "
        "name."
    )
    output_dir: Folder = option(help="The feature store to write.")
    encoder: str = option(
        help="A jepa.pt of pipelines/jepa, a Hugging Face model folder, or torchaudio:BUNDLE."
    )
    weights: str | None = option(
        None, help="A torchaudio bundle's state dict, instead of torch.hub's copy of it."
    )
    target: bool = option(False, help="Of a jepa.pt, take the target encoder, not the online one.")
    layer: int | None = option(
        None,
        help="0 is the input of the first transformer layer, N the output of layer N. Without it: "
        "the one from 1 on of the largest effective rank on a sample of utterances.",
        shown="by effective rank",
        low=0,
    )
    batch_seconds: float = option(60.0, help="Seconds of a batch, padding included.", above=0)
    utterances_per_shard: int = option(
        1024,
        help="Most utterances of a shard; a shard never goes beyond one of the source's.",
        low=1,
    )
    dtype: Dtype = option("float16", help="The stored dtype.")
    seed: int = option(0, help="Decides the sample by which the layer is chosen.")
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", help="auto is cuda where there is one, else cpu."
    )
