"""`featurize`: manifests to a finished feature store, or as far as this run gets."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from gmmpipe.claim import claim_folder, identity_of, tidy_finished
from gmmpipe.errors import ClaimError, GmmpipeError, StoreError
from gmmpipe.featurization.executors import run_dask, run_local
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import Plan, ShardTask, digest_manifests, make_plan
from gmmpipe.featurization.resume import (
    finished_rows,
    fruitless_shards,
    manifests_beside,
    obtain_plan,
    planned_shards,
    refuse_other_store,
    refuse_other_windows,
    renew_plan,
    shards_with_rejects,
)
from gmmpipe.featurization.summary import report
from gmmpipe.files import remove
from gmmpipe.run.progress import Progress
from gmmpipe.sources.lines import with_plain_lines
from gmmpipe.sources.manifest import Manifest
from gmmpipe.store.finalize import (
    finalize,
    missing_shards,
    remove_damaged,
    remove_shards,
    reopen,
    tidy,
)
from gmmpipe.store.rejects import Reject, Tally
from gmmpipe.store.replace import (
    NEXT_FOLDER,
    begin,
    drop_begun,
    drop_begun_alone,
    finish_swap,
    own_files,
    put_in_place,
    refuse_strangers,
)
from gmmpipe.store.schema import (
    LINES_FOLDER,
    PLAN_FILE,
    REOPENED_FILE,
    SHARD_SUFFIXES,
    STORE_FILE,
    PlanOptions,
    Sidecar,
    StoreInfo,
)

log = logging.getLogger(__name__)
_COMMAND = "gmmpipe featurize"
_RETRY = "--retry_rejected tries them again"


def featurize(options: FeaturizeOptions) -> StoreInfo | None:
    """Make the feature store, or this run's slice of it, or finish what an earlier run began.

    Returns:
        What ``store.json`` says of the finished store; None where other slices' shards are missing.

    Raises:
        GmmpipeError: see `gmmpipe.errors`; finished shards are kept.
    """
    folder = options.output_dir.absolute()
    swapped = finish_swap(folder, _COMMAND)
    manifests = manifests_beside(folder, options.data_dir, options.source_kind)
    job = _Job(manifests, options, options.plan_options(*digest_manifests(manifests)))
    if not options.retry_rejected and (swapped or not options.overwrite):
        # Without a claim: the folder may be read-only.
        try:
            if info := job.find_finished(folder):
                return info
        except StoreError:
            if not options.overwrite:
                raise
    alone = options.retry_rejected or options.overwrite
    if not alone and job.splits:
        job.renew_plan_alone(folder)
    with claim_folder(folder, job.identity, _COMMAND, alone=alone) as claim:
        job = job.with_plain_lines(folder)
        if options.overwrite:
            return job.replace(folder)
        if options.retry_rejected:
            job.renew_plan(folder)
            job.drop_rejected(folder)
        # A slice's shards are its own, whoever else is at work.
        return job.make(folder, again=bool(options.num_tasks) or claim.is_alone())


@dataclass(frozen=True)
class _Job:
    """What is to be made, wherever it is made.

    Args:
        manifests: the manifests, in order.
        options: the command's.
        wanted: what decides the store's bytes beyond the features.
    """

    manifests: Sequence[Manifest]
    options: FeaturizeOptions
    wanted: PlanOptions

    @property
    def identity(self) -> str:
        """Jobs of one identity make the same store."""
        return identity_of(["features", self.options.features.to_json(), asdict(self.wanted)])

    @property
    def splits(self) -> bool:
        """Whether the plan depends on how long the audio is."""
        return self.options.long_audio == "split"

    def with_plain_lines(self, folder: Path) -> "_Job":
        """The same, with the lines of manifests that are not plain files written into `folder`.

        They go when the store in `folder` is finished.

        Raises:
            StoreError: another job, which may use the lines there, made the store in `folder`.
        """
        if all(manifest.lines_path for manifest in self.manifests):
            return self
        if not self.options.overwrite:
            self._refuse_other_store(folder)
        return replace(self, manifests=with_plain_lines(self.manifests, folder / LINES_FOLDER))

    def find_finished(self, folder: Path) -> StoreInfo | None:
        """The store in `folder`, if it is finished and nothing is left to be tidied away.

        Raises:
            StoreError: it was made with other options.
        """
        leftovers = (PLAN_FILE, REOPENED_FILE, LINES_FOLDER)
        if not (folder / STORE_FILE).exists() or any((folder / n).exists() for n in leftovers):
            return None
        self._refuse_other_store(folder)
        tidy_finished(folder)
        drop_begun_alone(folder, planned_shards, _COMMAND)
        return self._finished(StoreInfo.read(folder / STORE_FILE))

    def _finished(self, info: StoreInfo) -> StoreInfo:
        log.info("%s is finished already: nothing to do", self.options.output_dir)
        if rejects := info.tally.rejects:
            log.info("its %d rejects are of an earlier run; %s", rejects, _RETRY)
        return info

    def _refuse_other_store(self, folder: Path) -> None:
        refuse_other_store(folder, self.options.features, self.wanted)

    def renew_plan_alone(self, folder: Path) -> None:
        """Renew the plan under a claim that is shared with nobody, who might go by the old one.

        Raises:
            ClaimError: another process is at work by it.
        """
        shards = fruitless_shards(folder)
        if shards is None or (self.options.num_tasks and not shards):
            return  # a plan alone is what the first of many slices leaves to the others
        try:
            with claim_folder(folder, "", _COMMAND, alone=True):
                self.with_plain_lines(folder).renew_plan(folder)
        except ClaimError:
            if shards:
                raise

    def renew_plan(self, folder: Path) -> None:
        """Where a plan was made when nothing could be read, and tells no windows, make it anew."""
        if self.splits:
            renew_plan(folder, self.manifests, self.options, self.wanted)

    def drop_rejected(self, folder: Path) -> None:
        """Turn the store into an unfinished one that lacks the shards which hold rejects."""
        self._refuse_other_store(folder)
        if self.options.long_audio == "split":  # what was missing may be there now, and longer
            features, base_path = self.options.features, self.options.base_path
            now = make_plan(self.manifests, features, self.wanted, base_path)
            refuse_other_windows(folder, now.options)
        reopen(folder, shards_with_rejects(folder))

    def replace(self, folder: Path) -> StoreInfo | None:
        """Make the store in a hidden folder, and only then put it in the old one's place."""
        own, made = own_files(folder, "features", planned_shards(folder)), folder / NEXT_FOLDER

        def prepare(made: Path) -> Plan | StoreInfo:
            self.renew_plan(made)
            return obtain_plan(made, self.manifests, self.options, self.wanted)

        try:
            plan = begin(folder, prepare, planned_shards)
            refuse_strangers(folder, own, plan.shard_names, "features")
            info = self.make(made, again=True)
        except GmmpipeError as error:
            if not any(row.utterances for row in finished_rows(made)):
                drop_begun(folder, planned_shards)  # nothing was usable
            remove(folder / LINES_FOLDER)
            kept = "; the old store is kept" if (folder / STORE_FILE).exists() else ""
            raise StoreError(f"{error}{kept}") from error
        put_in_place(folder, own)
        remove(folder / LINES_FOLDER)
        return info

    def make(self, folder: Path, *, again: bool) -> StoreInfo | None:
        """Make the shards that are missing in `folder`, and publish the store if none is left.

        Args:
            folder: where the store is made.
            again: whether shards are made again where nothing in any of them was usable.
        """
        options = self.options
        plan = obtain_plan(folder, self.manifests, options, self.wanted)
        if isinstance(plan, StoreInfo):
            tidy(folder)
            drop_begun(folder, planned_shards)
            return self._finished(plan)
        made, old_rejects = self._make_missing_shards(plan, folder, again)
        missing = missing_shards(folder, plan.num_shards, SHARD_SUFFIXES[plan.options.format])
        if missing:
            log.info(
                "slice %s of %s is done; %d of %d shards are missing still: the same command "
                "without slices finishes the store",
                options.task_index,
                options.num_tasks,
                len(missing),
                plan.num_shards,
            )
            return None
        earlier = f"{old_rejects} rejects are of an earlier run; {_RETRY}" if old_rejects else ""
        try:
            info = finalize(
                folder,
                plan.num_shards,
                plan.features,
                plan.options,
                options.max_reject_fraction,
                partial(self._describe, plan, made == plan.num_shards),
            )
        except StoreError as error:
            raise StoreError(f"{error}; {earlier}" if earlier else str(error)) from error
        drop_begun(folder, planned_shards)
        report(info, options)
        if earlier:
            log.info("%s", earlier)
        return info

    def _make_missing_shards(self, plan: Plan, folder: Path, again: bool) -> tuple[int, int]:
        """Make this run's shards.

        Returns:
            How many it made, and how many rejects are in those that were there already.
        """
        options, suffix = self.options, SHARD_SUFFIXES[plan.options.format]
        index, count = options.task_index or 0, options.num_tasks or 1
        own = range(index, plan.num_shards, count)
        there: list[tuple[str, int, int]] = []

        def look(path: Path) -> None:
            sidecar = Sidecar.read(path)
            there.append((sidecar.row.name, sidecar.row.utterances, len(sidecar.rejects)))

        remove_damaged(folder, own, suffix, look)
        usable = any(utterances for _, utterances, _ in there)
        if again and there and not usable and not self.splits:
            log.info("nothing was usable in %d shards of an earlier run: once again", len(there))
            remove_shards(folder, [name for name, _, _ in there])
            there.clear()
        missing = [n for n in missing_shards(folder, plan.num_shards, suffix) if n in own]
        total = len(own)
        num_workers = min(options.num_workers or len(os.sched_getaffinity(0)), max(1, len(missing)))
        base_path = options.base_path.absolute() if options.base_path else None
        kept = total - len(missing)
        log.info(
            "featurizing %d lines into %d shards: %d to make here, %d finished already, %d workers",
            plan.options.lines,
            plan.num_shards,
            len(missing),
            kept,
            num_workers,
        )
        tasks = (plan.task(number, folder, base_path) for number in missing)
        with Progress("featurize", "shards", total=total, start=kept) as progress:
            for tally in _run(tasks, num_workers, options) if missing else ():
                progress.advance(1, note=f"{tally.utterances} utterances, {tally.rejects} rejects")
        return len(missing), sum(rejects for _, _, rejects in there)

    def _describe(self, plan: Plan, tried_here: bool, reject: Reject) -> str:
        """A reject in words, with the path that was tried, which no file of the store holds.

        Another run may have tried another path, so only what this run tried is named.
        """
        manifest = plan.index.manifest(self.manifests, reject.ordinal)
        start = (self.options.base_path or manifest.path.parent).absolute()
        tried = ""
        if tried_here and reject.path:
            tried = f"; tried {os.path.join(start, reject.path)}"
        return f"{reject.manifest} line {reject.line}: {reject.reason}: {reject.detail}{tried}"


def _run(
    tasks: Iterable[ShardTask], num_workers: int, options: FeaturizeOptions
) -> Iterator[Tally]:
    if options.executor == "dask":
        return run_dask(tasks, options.dask_scheduler, num_workers)
    return run_local(tasks, num_workers)
