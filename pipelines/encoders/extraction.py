"""From a store's utterances through an encoder into a store of one layer's frames."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from gmmpipe import FeatureStore, FeatureStoreWriter
from gmmpipe.errors import OptionError, StoreError
from gmmpipe.jepa.waveforms import spec_of_audio
from gmmpipe.run.progress import Progress
from gmmpipe.run.stop import StopRequest
from gmmpipe.run.world import World
from gmmpipe.store.shard_reader import ShardReader
from pipelines.encoders.encoder import LayerEncoder, open_encoder
from pipelines.encoders.options import LayerOptions
from pipelines.encoders.plan import batches_of, sampled
from pipelines.encoders.sources import store_for
from pipelines.jepa.measures import effective_rank

log = logging.getLogger("gmmpipe.pipelines.layers")
SAMPLE_UTTERANCES = 32


class Extraction:
    """One run, on one rank.

    The batches of a shard are a function of the store and the budget; rank r of W encodes batch
    i W + r, and rank 0 writes them all, in order. So the store's bytes do not depend on W.

    Args:
        options: what to do.
        world: this rank among the others.

    Raises:
        GmmpipeError: see `gmmpipe.errors`.
        Stopped: a signal ended the work on sources.
    """

    def __init__(self, options: LayerOptions, world: World) -> None:
        self.options, self.stop = options, StopRequest()
        self.world = replace(world, stopping=self.stop.is_made)
        self.encoder = open_encoder(options, world.device)
        if options.layer is not None and options.layer not in self.encoder.layers:
            first, last = self.encoder.layers[0], self.encoder.layers[-1]
            raise OptionError(f"--layer is {options.layer}, but must be within {first} and {last}")
        self.store = store_for(options, self.encoder, self.world)
        self.store.check_files()
        _check_input(self.store, self.encoder)

    def run(self) -> None:
        """Make the store, or finish it.

        Raises:
            GmmpipeError: see `gmmpipe.errors`.
            Stopped: a signal ended the run; full shards are kept.
        """
        with self.stop.listening(), ExitStack() as stack:
            layer = self.options.layer
            if layer is None:
                layer = self.world.on_first_rank(self._choose_layer)
            writer = self._writer(layer)

            def enter() -> None:
                stack.enter_context(writer)

            self.world.on_first_rank(enter)
            skipped = 0
            with Progress("layer", "utterances", len(self.store)) as progress:
                for number in range(len(self.store.shards)):
                    skipped += self._shard(number, layer, writer, progress)
            if skipped and self.world.rank == 0:
                log.warning("warning: %d utterances are too short for a frame: left out", skipped)

    def _writer(self, layer: int) -> FeatureStoreWriter:
        encoder, options = self.encoder, self.options
        return FeatureStoreWriter(
            options.output_dir,
            dim=encoder.dim,
            frame_rate=encoder.frame_rate or self.store.features.frame_rate,
            description={**encoder.description, "layer": layer},
            utterances_per_shard=options.utterances_per_shard,
            dtype=options.dtype,
        )

    def _shard(
        self, number: int, layer: int, writer: FeatureStoreWriter, progress: Progress
    ) -> int:
        """Encode and write the utterances of a shard; how many gave no frame."""
        shard, world = self.store.shards[number], self.world
        reader = ShardReader(shard)
        keys = reader.index.keys
        if world.on_first_rank(lambda: all(key in writer for key in keys)):
            progress.advance(len(keys), "")
            return 0
        metadata = dict(shard.read_metadata())
        budget = 0.0 if self.encoder.alone else self.options.batch_seconds
        batches = batches_of(reader.index, self.store.features.frame_rate, budget)
        which = self.encoder.layers.index(layer)
        skipped = 0
        for first in range(0, len(batches), world.size):
            self.stop.raise_on_all(world)
            at_once = batches[first : first + world.size]
            mine = at_once[world.rank] if world.rank < len(at_once) else []
            encoded = world.on_each_rank(lambda mine=mine: self._encode(reader, mine, which))
            gathered = self._gather(encoded, at_once)

            def write(gathered: list[tuple[int, Tensor]] = gathered) -> int:
                for position, frames in gathered:
                    key = keys[position]
                    if len(frames):
                        writer.add(key, frames, metadata[key])
                return sum(not len(frames) for _, frames in gathered)

            skipped += world.on_first_rank(write)
            progress.advance(sum(map(len, at_once)), "")
        world.on_first_rank(writer.close_shard)
        return skipped

    def _encode(self, reader: ShardReader, positions: list[int], which: int) -> list[Tensor]:
        if not positions:
            return []
        signals = [self._read(reader, position) for position in positions]
        # Minus zero, which a sum with zeros does not keep, becomes zero for any number of ranks.
        return [states[which] + 0.0 for states in self.encoder.encode(signals)]

    def _read(self, reader: ShardReader, position: int) -> Tensor:
        if self.encoder.hears_audio:
            return reader.read_waveform(position)
        return reader.read_frames(position)

    def _gather(self, encoded: list[Tensor], at_once: list[list[int]]) -> list[tuple[int, Tensor]]:
        """Positions and frames of the batches of all ranks, in order."""
        world = self.world
        positions = [position for batch in at_once for position in batch]
        if world.size == 1:
            return list(zip(positions, encoded, strict=True))
        begin = sum(map(len, at_once[: world.rank]))
        lengths = torch.zeros(len(positions), dtype=torch.int64, device=world.device)
        for n, frames in enumerate(encoded):
            lengths[begin + n] = len(frames)
        world.all_reduce(lengths)
        counts = lengths.tolist()
        everything = torch.zeros(sum(counts), self.encoder.dim, device=world.device)
        if encoded:
            start, mine = sum(counts[:begin]), torch.cat(encoded).to(world.device)
            everything[start : start + len(mine)] = mine
        world.all_reduce(everything)
        return list(zip(positions, everything.cpu().split(counts), strict=True))

    def _choose_layer(self) -> int:
        """The layer of the largest effective rank on the sample; all of them are printed.

        Layer 0 is not chosen: it is the projected input with positions, no transformer's output.
        """
        states: list[list[Tensor]] = [[] for _ in self.encoder.layers]
        for reader, position in self._sample():
            if self.stop.is_made():
                raise self.stop.stopped()
            (layers,) = self.encoder.encode([self._read(reader, position)])
            for frames, layer in zip(states, layers, strict=True):
                frames.append(layer)
        ranks = [effective_rank(torch.cat(frames)) for frames in states]
        print("layer\teffective_rank")
        for number, rank in zip(self.encoder.layers, ranks, strict=True):
            print(f"{number}\t{rank:.2f}", flush=True)
        known = dict(zip(self.encoder.layers, ranks, strict=True))
        chosen = max((number for number in known if number > 0), key=lambda number: known[number])
        log.info("layer %d has the largest effective rank of %d", chosen, self.encoder.dim)
        return chosen

    def _sample(self) -> Iterator[tuple[ShardReader, int]]:
        readers: dict[int, ShardReader] = {}
        for shard, position in sampled(self.store, self.options.seed, SAMPLE_UTTERANCES):
            if shard not in readers:
                readers = {shard: ShardReader(self.store.shards[shard])}
            yield readers[shard], position


def _check_input(store: FeatureStore, encoder: LayerEncoder) -> None:
    """Raise where the store does not hold what the encoder hears."""
    if not encoder.hears_audio:
        if store.dim != encoder.input_dim:
            raise StoreError(
                f"the encoder hears frames of {encoder.input_dim} dimensions, the store has "
                f"{store.dim}"
            )
        return
    features = spec_of_audio(store)
    if features.sample_rate != encoder.sample_rate:
        raise StoreError(
            f"the encoder hears audio of {encoder.sample_rate} Hz, the store's has "
            f"{features.sample_rate} Hz: featurize with --sample_rate {encoder.sample_rate}"
        )
