"""`label`: each frame's most likely components as a store beside the feature store."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch

from gmmpipe.apply.label_shard import make_label_shard
from gmmpipe.apply.model import load_model
from gmmpipe.apply.options import LabelOptions
from gmmpipe.apply.sharing import share_out
from gmmpipe.errors import StoreError
from gmmpipe.run.progress import Progress
from gmmpipe.run.world import World
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.folder import StoreFolder
from gmmpipe.store.names import IDENTITY_FILE, STORE_FILE, kind_of
from gmmpipe.store.replace import finish_swap
from gmmpipe.store.schema import LabelIdentity
from gmmpipe.store.store_info import LabelInfo, StoreInfo

log = logging.getLogger(__name__)


def label(options: LabelOptions, world: World) -> LabelInfo:
    """Make a label store, or finish what an earlier run began, together with all ranks of `world`.

    A shard is a pure function of the feature store's shard and the plan, so the store is the same
    bytes for any number of ranks, however often it was stopped. Memory is that of a block of frames
    and its joints with all components.

    Returns:
        What ``store.json`` says of the finished store.

    Raises:
        GmmpipeError: see `gmmpipe.errors`; finished shards are kept.
    """
    store = FeatureStore.open(options.store)
    gmm = load_model(options.gmm_path, store, world.device)
    wanted = options.identity(store, gmm)
    output = _LabelFolder(options.output_dir.absolute(), wanted, len(store.shards))
    with ExitStack() as claims:  # rank 0's
        place = world.on_first_rank(lambda: _prepare(output, store, options.overwrite, claims))
        if place is None:
            log.info("%s is finished already: nothing to do", options.output_dir)
            return LabelInfo.read(output.path / STORE_FILE, LabelIdentity)
        folder, missing = place
        total = len(store.shards)
        log.info("labelling %d shards, %d finished already", len(missing), total - len(missing))

        def work(number: int) -> None:
            make_label_shard(store.shards[number], folder.path, gmm, folder.wanted)

        with (
            _one_thread(),
            Progress("label", "shards", total=total, start=total - len(missing)) as progress,
        ):
            for done in share_out(missing, work, world):
                progress.advance(
                    len(done), note=f"{sum(store.shards[n].row.frames for n in done)} frames"
                )
        info = world.on_first_rank(lambda: _publish(folder, output))
    _report(info, options)
    return info


class _LabelFolder(StoreFolder[LabelIdentity]):
    """The output folder.

    Args:
        path: the folder.
        wanted: what decides the labels.
        num_shards: of the feature store, and so of the labels.
    """

    command = "gmmpipe label"
    made_differently = "from another store or model, or with other options"
    num_shards: int

    def __init__(self, path: Path, wanted: LabelIdentity, num_shards: int) -> None:
        super().__init__(path, wanted)
        self.num_shards = num_shards

    def refuse_other(self) -> None:
        """Raise StoreError where another store is here, of features too."""
        # So it is with --overwrite too: features take longer to make again than labels.
        if (kind := kind_of(self.path)) not in (None, "labels"):
            raise StoreError(f"{self.path}: holds a store of {kind}; use another --output_dir")
        super().refuse_other()

    def keep_earlier_form(self) -> None:
        """Want what was begun here in the form of earlier versions, without metadata, if it was."""
        earlier = replace(self.wanted, features=None)
        with suppress(StoreError):  # which is raised, and said, by what comes next
            if earlier in self.made_with():
                self.wanted = earlier

    def find_missing(self) -> list[int] | None:
        """The shards to be made here, under a claim; None where the store is finished."""
        begun_on = self._devices()
        if isinstance(self.obtain_plan(), StoreInfo):
            return None
        for _ in self.without_damaged(self.shard_names):
            pass
        missing = self.missing(self.num_shards)
        self._note_device(begun_on, len(missing) < self.num_shards)
        return missing

    def _devices(self) -> set[str]:
        """The kinds of device that made what is here; none where nothing says so."""
        stated = {made.device for made in self.made_with() if made.device}
        return {kind for devices in stated for kind in devices.split(", ")}

    def _note_device(self, begun_on: set[str], has_shards: bool) -> None:
        """Record the device that labels here, beside those that made the shards that are here."""
        here = self.wanted.device or ""
        devices = {here, *begun_on} if has_shards else {here}
        if devices == begun_on == {here}:
            return
        if here not in begun_on and len(devices) > 1:
            log.warning(
                "warning: %s: begun on %s, continued on %s; a frame whose two largest log joints "
                "are within 1e-4 may get either label",
                *(self.path, ", ".join(sorted(begun_on)), here),
            )
        self.wanted = replace(self.wanted, device=", ".join(sorted(devices)))
        self.wanted.write(self.path / IDENTITY_FILE)


def _prepare(
    output: _LabelFolder, store: FeatureStore, overwrite: bool, claims: ExitStack
) -> tuple[_LabelFolder, list[int]] | None:
    """Claim the output folder; where the shards are made, and those that are missing there.

    Args:
        output: the output folder.
        store: what is to be labelled.
        overwrite: whether an old label store is to be replaced.
        claims: what holds the claim.

    Returns:
        None where the labels are finished.
    """
    store.check_files()
    swapped = finish_swap(output.path, output.command)
    if not overwrite:
        output.keep_earlier_form()
    if (swapped or not overwrite) and output.find_finished(lenient=overwrite):
        return None
    claims.enter_context(output.claim(alone=overwrite))
    if not overwrite:
        missing = output.find_missing()
        return None if missing is None else (output, missing)

    def prepare(hidden: _LabelFolder) -> tuple[_LabelFolder, list[int]]:
        return hidden, hidden.find_missing() or []

    output.find_own_files()
    output.refuse_strangers(output.shard_names)
    return output.begin_next(prepare)


def _publish(folder: _LabelFolder, output: _LabelFolder) -> LabelInfo:
    """Publish the labels made in `folder`; those in the hidden one replace the old."""
    info = folder.finish(folder.num_shards)
    if folder.path != output.path:
        output.put_next_in_place()
    return info


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread, so that sums are the same bits on a machine of any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _report(info: LabelInfo, options: LabelOptions) -> None:
    totals, rest = info.tally, ""
    if (mass := info.left_out_mass) is not None:
        rest = f"; the top {options.top_k} leave out {mass:.3g} of the mass"
    log.info(
        "%s: %d utterances, %d frames in %d shards, %.1f MB%s",
        options.output_dir,
        totals.utterances,
        totals.frames,
        len(info.shards),
        totals.bytes / 1e6,
        rest,
    )
