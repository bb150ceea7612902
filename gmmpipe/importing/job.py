"""`import_frames`: frames that another program made to a feature store."""

import logging
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import AudioError, ManifestError, StoreError
from gmmpipe.features.external import ExternalSpec
from gmmpipe.features.spec import MAX_DIM
from gmmpipe.importing.find import open_source
from gmmpipe.importing.options import ImportOptions
from gmmpipe.importing.shard import good_frames, make_import_shard
from gmmpipe.importing.source import Source
from gmmpipe.randomness import permutation
from gmmpipe.run.progress import Progress
from gmmpipe.store.folder import StoreFolder
from gmmpipe.store.names import PLAN_FILE, kind_of
from gmmpipe.store.plans import ImportPlan
from gmmpipe.store.replace import finish_swap
from gmmpipe.store.schema import FeatureIdentity
from gmmpipe.store.store_info import FeatureInfo, StoreInfo

log = logging.getLogger(__name__)


def import_frames(options: ImportOptions) -> FeatureInfo:
    """Make the feature store, or finish what an earlier run began.

    Memory holds the list of utterances, and the frames of one.

    Returns:
        What ``store.json`` says of the finished store.

    Raises:
        GmmpipeError: see `gmmpipe.errors`; finished shards are kept.
    """
    path = options.output_dir.absolute()
    swapped = finish_swap(path, ImportFolder.command)
    with closing(open_source(options.source, path)) as source:
        return _import(options, source, path, swapped=swapped)


def _import(options: ImportOptions, source: Source, path: Path, *, swapped: bool) -> FeatureInfo:
    output = ImportFolder(path, _identity(options, source))
    may_be_finished = swapped or not options.overwrite
    if may_be_finished and (info := output.find_finished(lenient=options.overwrite)):
        log.info("%s is finished already: nothing to do", options.output_dir)
        return info
    with output.claim(alone=True):
        if not options.overwrite:
            return _make(output, source, options)
        output.find_own_files()
        hidden = output.begin_next(_prepared)
        output.refuse_strangers(output.shard_names)
        info = _make(hidden, source, options)
        output.put_next_in_place()
        return info


class ImportFolder(StoreFolder[FeatureIdentity]):
    """The output folder."""

    command = "gmmpipe import"
    made_differently = "from other frames, or with other options"

    def __init__(self, path: Path, wanted: FeatureIdentity) -> None:
        super().__init__(path, wanted)
        plan = wanted.plan
        assert isinstance(plan, ImportPlan)
        self.num_shards = -(-plan.lines // plan.utterances_per_shard)

    def refuse_other(self) -> None:
        """Raise StoreError where another store is here, of labels too."""
        if (kind := kind_of(self.path)) not in (None, "features"):
            raise StoreError(f"{self.path}: holds a store of {kind}; use another --output_dir")
        if (self.path / PLAN_FILE).exists():
            raise StoreError(f"{self.path}: holds another unfinished store. {self.remedy}")
        super().refuse_other()


def _prepared(hidden: ImportFolder) -> ImportFolder:
    hidden.obtain_plan()
    return hidden


def _identity(options: ImportOptions, source: Source) -> FeatureIdentity:
    """What decides the store's bytes.

    Raises:
        ManifestError: no utterance is good, so that D is not known.
    """
    description = {"text": options.description} if options.description else {}
    spec = ExternalSpec(_find_dim(options, source), options.frame_rate, description)
    plan = ImportPlan(
        source_sha256=source.digest,
        lines=len(source),
        utterances_per_shard=options.utterances_per_shard,
        shuffle=options.shuffle,
        seed=options.seed,
        dtype=options.dtype,
        format=options.format,
    )
    return FeatureIdentity(spec, plan)


def _find_dim(options: ImportOptions, source: Source) -> int:
    """D of the first good utterance in the order of the source."""
    first = ""
    for number in range(len(source)):
        try:
            width = good_frames(source, number, None).shape[1]
            if width <= MAX_DIM:
                return int(width)
            raise AudioError("wrong_shape", f"frames of {width} dimensions, more than {MAX_DIM}")
        except AudioError as error:
            first = first or f"{source.entry(number).wav_path}: {error}"
    raise ManifestError(f"{options.source}: no usable frames; the first: {first}")


def _make(folder: ImportFolder, source: Source, options: ImportOptions) -> FeatureInfo:
    """Make the shards that are missing in a folder, under a claim, and publish the store."""
    if isinstance(info := folder.obtain_plan(), StoreInfo):
        log.info("%s is finished already: nothing to do", options.output_dir)
        return info
    names = folder.shard_names
    for _ in folder.without_damaged(names):
        pass
    missing = folder.missing(len(names))
    order, size = _order(len(source), options), options.utterances_per_shard
    duplicates = source.duplicates() if missing else set()
    with Progress(
        "import", "shards", total=len(names), start=len(names) - len(missing)
    ) as progress:
        for number in missing:
            items = order[number * size : (number + 1) * size]
            tally = make_import_shard(folder.path, number, items, source, duplicates, folder.wanted)
            progress.advance(1, note=f"{tally.utterances} utterances, {tally.rejects} rejects")
    info = folder.finish(len(names), max_reject_fraction=options.max_reject_fraction)
    totals = info.tally
    log.info(
        "%s: %d utterances, %d frames in %d shards; %d rejects",
        options.output_dir,
        totals.utterances,
        totals.frames,
        len(names),
        totals.rejects,
    )
    return info


def _order(num_items: int, options: ImportOptions) -> NDArray[np.int64]:
    if options.shuffle:
        return permutation(num_items, "shuffle", options.seed)
    return np.arange(num_items, dtype=np.int64)
