"""`featurize`: manifests to a finished feature store, or to this run's part of it."""

import logging
import os
from collections.abc import Iterable, Iterator
from functools import partial

from gmmpipe.errors import GmmpipeError, StoreError
from gmmpipe.featurization.executors import run_dask, run_local
from gmmpipe.featurization.folder import FeatureFolder, manifests_beside, say_shuffle_by
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import Plan, ShardTask, digest_manifests
from gmmpipe.featurization.slow_segments import warn_of_slow_segments
from gmmpipe.featurization.summary import report
from gmmpipe.files import remove
from gmmpipe.run.progress import Progress
from gmmpipe.store.names import LINES_FOLDER, STORE_FILE
from gmmpipe.store.rejects import Reject, Tally
from gmmpipe.store.reopen import remove_shards
from gmmpipe.store.replace import finish_swap
from gmmpipe.store.schema import FeatureIdentity
from gmmpipe.store.store_info import FeatureInfo, StoreInfo

log = logging.getLogger(__name__)
_RETRY = "--retry_rejected tries them again"


def featurize(options: FeaturizeOptions) -> FeatureInfo | None:
    """Make the feature store, or this run's slice of it, or finish what an earlier run began.

    Returns:
        What ``store.json`` says of the finished store; None where other slices' shards are missing.

    Raises:
        GmmpipeError: see `gmmpipe.errors`; finished shards are kept.
    """
    path = options.output_dir.absolute()
    swapped = finish_swap(path, FeatureFolder.command)
    output = open_folder(options)
    may_be_finished = not options.retry_rejected and (swapped or not options.overwrite)
    if may_be_finished and (info := output.find_finished(lenient=options.overwrite)):
        return _say_finished(info, options)
    alone = options.retry_rejected or options.overwrite
    if not alone:
        output.renew_plan_alone()
    with output.claim(alone=alone) as claim:
        output.write_plain_lines()
        if options.overwrite:
            return _replace(output)
        if options.retry_rejected:
            output.renew_plan()
            output.drop_rejected()
        # A slice's shards are its own, whoever else is at work.
        return _make(output, again=bool(options.num_tasks) or claim.is_alone())


def open_folder(options: FeaturizeOptions) -> FeatureFolder:
    """The output folder, and what is to be made there.

    Raises:
        ManifestError: there is no manifest, one cannot be read, or they hold no lines.
        StoreError: the store would overwrite a manifest.
    """
    path = options.output_dir.absolute()
    manifests = manifests_beside(path, options.data_dir, options.source_kind)
    plan_options = options.plan_options(
        *digest_manifests(manifests), is_streamed=say_shuffle_by(options, manifests)
    )
    return FeatureFolder(path, manifests, options, plan_options)


def _say_finished(info: FeatureInfo, options: FeaturizeOptions) -> FeatureInfo:
    log.info("%s is finished already: nothing to do", options.output_dir)
    if rejects := info.tally.rejects:
        log.info("its %d rejects are of an earlier run; %s", rejects, _RETRY)
    return info


def _replace(output: FeatureFolder) -> FeatureInfo | None:
    """Make the store in a hidden folder, and only then put it in the old one's place."""

    def prepare(hidden: FeatureFolder) -> tuple[FeatureFolder, list[str]]:
        hidden.renew_plan()
        return hidden, hidden.obtain_plan().shard_names

    output.find_own_files()
    try:
        hidden, shards = output.begin_next(prepare)
        output.refuse_strangers(shards)
        info = _make(hidden, again=True)
    except GmmpipeError as error:
        if not any(row.utterances for row in output.next.finished_rows()):
            output.drop_next()  # nothing was usable
        remove(output.path / LINES_FOLDER)
        kept = "; the old store is kept" if (output.path / STORE_FILE).exists() else ""
        raise StoreError(f"{error}{kept}") from error
    output.put_next_in_place()
    remove(output.path / LINES_FOLDER)
    return info


def _make(folder: FeatureFolder, *, again: bool) -> FeatureInfo | None:
    """Make the shards that are missing in a folder, and publish the store if none is left.

    Args:
        folder: where the store is made.
        again: whether shards are made again where nothing in any of them was usable.
    """
    options = folder.options
    plan: Plan | FeatureInfo = folder.obtain_plan()
    if isinstance(plan, StoreInfo):
        return _say_finished(plan, options)
    made, old_rejects = _make_missing_shards(folder, plan, again)
    if missing := folder.missing(plan.num_shards):
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
        info = folder.finish(
            plan.num_shards,
            FeatureIdentity(plan.features, plan.options),
            max_reject_fraction=options.max_reject_fraction,
            describe=partial(_describe, folder, plan, made == plan.num_shards),
        )
    except StoreError as error:
        raise StoreError(f"{error}; {earlier}" if earlier else str(error)) from error
    report(info, options, folder.path)
    if earlier:
        log.info("%s", earlier)
    return info


def _make_missing_shards(folder: FeatureFolder, plan: Plan, again: bool) -> tuple[int, int]:
    """Make this run's shards.

    Returns:
        How many it made, and how many rejects are in those that were there already.
    """
    options = folder.options
    index, count = options.task_index or 0, options.num_tasks or 1
    own = range(index, plan.num_shards, count)
    names = plan.shard_names
    there = [
        (sidecar.row.name, sidecar.row.utterances, len(sidecar.rejects))
        for sidecar in folder.without_damaged(names[number] for number in own)
    ]
    usable = any(utterances for _, utterances, _ in there)
    if again and there and not usable and not folder.splits:
        log.info("nothing was usable in %d shards of an earlier run: once again", len(there))
        remove_shards(folder.path, [name for name, _, _ in there])
        there = []
    missing = [number for number in folder.missing(plan.num_shards) if number in own]
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
    if missing:
        warn_of_slow_segments(plan.task(missing[0], folder.path, base_path))
    tasks = (plan.task(number, folder.path, base_path) for number in missing)
    with Progress("featurize", "shards", total=total, start=kept) as progress:
        seconds, rejects = 0.0, 0
        for tally in _run(tasks, num_workers, options) if missing else ():
            seconds += tally.seconds_kept
            rejects += tally.rejects
            speed = seconds / progress.elapsed_seconds
            done = f"{seconds / 3600:.4g} hours of audio at {speed:.3g} times real time"
            progress.advance(1, note=f"{done}, {rejects} rejects")
    return len(missing), sum(rejects for _, _, rejects in there)


def _describe(folder: FeatureFolder, plan: Plan, tried_here: bool, reject: Reject) -> str:
    """A reject in words, with the path that was tried: no file of the store holds that.

    Another run may have tried another path, so only what this run tried is named.
    """
    manifest = plan.index.manifest(folder.manifests, reject.ordinal)
    start = manifest.start_of(reject.path, folder.options.base_path).absolute()
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
