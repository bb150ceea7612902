"""`label`: each frame's most likely components as a store beside the feature store."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from gmmpipe.apply.label_shard import make_label_shard
from gmmpipe.apply.model import load_model
from gmmpipe.apply.options import LabelOptions
from gmmpipe.apply.rounds import in_rounds
from gmmpipe.claim import claim_folder, identity_of, tidy_finished
from gmmpipe.errors import StoreError
from gmmpipe.run.progress import Progress
from gmmpipe.run.world import World
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.finalize import (
    finalize_labels,
    finish_reopening,
    missing_shards,
    remove_damaged,
    tidy,
)
from gmmpipe.store.label_schema import (
    LabelInfo,
    LabelPlan,
    LabelSidecar,
    find_label_plan,
)
from gmmpipe.store.replace import (
    begin,
    drop_begun,
    drop_begun_alone,
    finish_swap,
    own_files,
    put_in_place,
    refuse_strangers,
)
from gmmpipe.store.schema import (
    LABEL_PLAN_FILE,
    REOPENED_FILE,
    SHARD_SUFFIXES,
    STORE_FILE,
    kind_of,
    shard_stem,
)

log = logging.getLogger(__name__)
_COMMAND = "gmmpipe label"


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
    plan = options.plan(store, gmm)
    job = _Job(options.output_dir.absolute(), store, plan, options.overwrite)
    with ExitStack() as claims:  # rank 0's
        place = world.on_first_rank(lambda: job.prepare(claims))
        if place is None:
            log.info("%s is finished already: nothing to do", options.output_dir)
            return LabelInfo.read(job.folder / STORE_FILE)
        folder, missing = place
        total = len(store.shards)
        log.info("labelling %d shards, %d finished already", len(missing), total - len(missing))

        def work(number: int) -> None:
            make_label_shard(store.shards[number], folder, gmm, plan)

        with (
            _one_thread(),
            Progress("label", "shards", total=total, start=total - len(missing)) as progress,
        ):
            for done in in_rounds(missing, work, world):
                progress.advance(
                    len(done), note=f"{sum(store.shards[n].row.frames for n in done)} frames"
                )
        info = world.on_first_rank(lambda: job.publish(folder))
    _report(info, options)
    return info


@dataclass(frozen=True)
class _Job:
    """What rank 0 does before the labelling and after it.

    Args:
        folder: the label store.
        store: the feature store.
        plan: what decides the labels.
        overwrite: whether an old label store is to be replaced.
    """

    folder: Path
    store: FeatureStore
    plan: LabelPlan
    overwrite: bool

    def prepare(self, claims: ExitStack) -> tuple[Path, list[int]] | None:
        """Claim the output folder; where the shards are made, and those that are missing there.

        Args:
            claims: what holds the claim.

        Returns:
            None where the labels are finished.
        """
        self.store.check_files()
        swapped = finish_swap(self.folder, _COMMAND)
        there = _made_with(self.folder) if swapped or not self.overwrite else None
        if there == self.plan and self._is_finished():
            tidy_finished(self.folder)
            drop_begun_alone(self.folder, _planned, _COMMAND)
            return None  # without a claim: the folder may be read-only
        identity = identity_of(self.plan.to_json())
        claims.enter_context(claim_folder(self.folder, identity, _COMMAND, alone=self.overwrite))
        if not self.overwrite:
            return self._prepare_in(self.folder)
        refuse_strangers(self.folder, self._own_files(), self._shard_names(), "labels")
        return begin(self.folder, self._prepare_in, _planned)

    def publish(self, folder: Path) -> LabelInfo:
        """Publish the labels made in `folder`; those in the hidden one replace the old."""
        info = finalize_labels(folder, len(self.store.shards), self.plan)
        if folder != self.folder:
            put_in_place(self.folder, self._own_files())
        drop_begun(self.folder, _planned)
        return info

    def _is_finished(self) -> bool:
        leftovers = (LABEL_PLAN_FILE, REOPENED_FILE)
        return (self.folder / STORE_FILE).exists() and not any(
            (self.folder / name).exists() for name in leftovers
        )

    def _shard_names(self) -> list[str]:
        return [f"{shard_stem(n)}{SHARD_SUFFIXES['tar']}" for n in range(len(self.store.shards))]

    def _own_files(self) -> set[str]:
        unfinished = (self.folder / LABEL_PLAN_FILE).exists()
        return own_files(self.folder, "labels", self._shard_names() if unfinished else ())

    def _prepare_in(self, folder: Path) -> tuple[Path, list[int]] | None:
        folder.mkdir(exist_ok=True)
        there = _made_with(folder)
        if there is None:
            if any(folder.glob("shard-*")):
                raise StoreError(
                    f"{folder}: holds shards but no plan; use --overwrite to start afresh"
                )
            self.plan.write(folder / LABEL_PLAN_FILE)
        elif differences := there.differences(self.plan):
            raise StoreError(
                f"{folder}: made from another store or model, or with other options: "
                f"{'; '.join(differences)}. Use another --output_dir, or --overwrite"
            )
        if (folder / REOPENED_FILE).exists():
            finish_reopening(folder)
        total, suffix = len(self.store.shards), SHARD_SUFFIXES["tar"]
        if (folder / STORE_FILE).exists():
            tidy(folder)
            drop_begun(folder, _planned)
            return None if folder == self.folder else (folder, [])
        remove_damaged(folder, range(total), suffix, LabelSidecar.read)
        return folder, missing_shards(folder, total, suffix)


def _planned(folder: Path) -> LabelPlan | None:
    with suppress(StoreError):
        return find_label_plan(folder)
    return None


def _made_with(folder: Path) -> LabelPlan | None:
    kind = kind_of(folder)
    if kind not in (None, "labels"):
        # Also where it may be overwritten: features take longer to make again than labels.
        raise StoreError(f"{folder}: holds a store of {kind}; use another --output_dir")
    return find_label_plan(folder)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread, so that sums are the same bits however many a machine would take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _report(info: LabelInfo, options: LabelOptions) -> None:
    totals = info.totals
    rest = ""
    if totals.left_out_mass is not None:
        rest = f"; the top {options.top_k} leave out {totals.left_out_mass:.3g} of the mass"
    log.info(
        "%s: %d utterances, %d frames in %d shards, %.1f MB%s",
        options.output_dir,
        totals.utterances,
        totals.frames,
        len(info.shards),
        totals.bytes / 1e6,
        rest,
    )
