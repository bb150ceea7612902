"""`featurize`: manifests to a finished feature store, or as far as this run gets."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from gmmpipe.errors import StoreError
from gmmpipe.features import FeatureConfig
from gmmpipe.featurize.executors import run_dask, run_local
from gmmpipe.featurize.manifest import Manifest, find_manifests
from gmmpipe.featurize.options import FeaturizeOptions
from gmmpipe.featurize.plan import Plan, ShardTask, digest_manifests, make_plan
from gmmpipe.progress import Progress
from gmmpipe.store.finalize import (
    clear,
    finalize,
    finish_reopening,
    missing_shards,
    remove_damaged,
    reopen,
    tidy,
)
from gmmpipe.store.ledger import Tally
from gmmpipe.store.schema import (
    PLAN_FILE,
    REJECTS_FILE,
    REOPENED_FILE,
    SHARD_SUFFIXES,
    STORE_FILE,
    PlanOptions,
    Sidecar,
    StoreInfo,
)

log = logging.getLogger(__name__)
CROP_WARNING_FRACTION = 0.05


def featurize(options: FeaturizeOptions) -> StoreInfo | None:
    """Make the feature store, or this run's slice of it, or finish what an earlier run began.

    Returns:
        What ``store.json`` says of the finished store; None where other slices' shards are missing.

    Raises:
        GmmpipeError: see `gmmpipe.errors`; finished shards are kept.
    """
    manifests = find_manifests(options.data_dir)
    folder = options.output_dir.absolute()
    wanted = options.plan_options(*digest_manifests(manifests))
    folder.mkdir(parents=True, exist_ok=True)
    if options.overwrite:
        clear(folder)
    elif options.retry_rejected:
        _refuse_other_store(folder, options.features, wanted)
        if options.long_audio == "split":  # what was missing may be there now, and longer
            now = make_plan(manifests, options.features, wanted, options.base_path)
            _refuse_other_windows(folder, now.options)
        reopen(folder, _shards_with_rejects(folder))
    plan = _obtain_plan(folder, manifests, options, wanted)
    if isinstance(plan, StoreInfo):
        tidy(folder)
        log.info("%s is finished already: nothing to do", options.output_dir)
        return plan
    _make_missing_shards(plan, folder, options)
    missing = missing_shards(folder, plan.num_shards, SHARD_SUFFIXES[plan.options.format])
    if missing:
        log.info(
            "slice %s of %s is done; %d of %d shards are missing still: the same command without "
            "slices finishes the store",
            options.task_index,
            options.num_tasks,
            len(missing),
            plan.num_shards,
        )
        return None
    try:
        info = finalize(
            folder, plan.num_shards, plan.features, plan.options, options.max_reject_fraction
        )
    except FileNotFoundError:
        # Another process finalized at the same moment, and tidied our temporaries away.
        info = StoreInfo.read(folder / STORE_FILE)
    _report(info, options)
    return info


def _obtain_plan(
    folder: Path, manifests: Sequence[Manifest], options: FeaturizeOptions, wanted: PlanOptions
) -> Plan | StoreInfo:
    """The plan that an earlier run or another slice left, or a new one; or the finished store."""
    features = options.features
    # In this order, because another process may finish the store at any moment: then store.json
    # appears before the plan goes.
    has_shards = any(folder.glob("shard-*"))
    found: Plan | None = None
    with suppress(FileNotFoundError):
        found = Plan.load(folder / PLAN_FILE, manifests)
    _refuse_other_store(folder, features, wanted)
    reopened = (folder / REOPENED_FILE).exists()
    if reopened:
        finish_reopening(folder)
    if (folder / STORE_FILE).exists():
        return StoreInfo.read(folder / STORE_FILE)
    if found is not None:
        return found
    if has_shards and not reopened:
        raise StoreError(f"{folder}: holds shards but no plan; use --overwrite to start afresh")
    plan = make_plan(manifests, features, wanted, options.base_path)
    _refuse_other_windows(folder, plan.options)
    plan.save(folder / PLAN_FILE)
    return plan


def _made_with(folder: Path) -> Iterator[tuple[FeatureConfig, PlanOptions]]:
    """What the folder's store, finished or not, says that it was made with; each place of it."""
    for name in (STORE_FILE, REOPENED_FILE):
        if (folder / name).exists():
            info = StoreInfo.read(folder / name)
            yield info.features, info.plan
    with suppress(FileNotFoundError):
        plan = Plan.load(folder / PLAN_FILE, ())
        yield plan.features, plan.options


def _refuse_other_store(folder: Path, features: FeatureConfig, wanted: PlanOptions) -> None:
    """Refuse a folder whose store, finished or not, was made with other options."""
    for there_features, there in _made_with(folder):
        _refuse_other(folder, there_features, there, features, wanted)


def _refuse_other_windows(folder: Path, here: PlanOptions) -> None:
    """Refuse a folder whose store was made when the audio split into other windows."""
    if any(there.windows_sha256 != here.windows_sha256 for _, there in _made_with(folder)):
        raise StoreError(
            f"{folder}: audio files changed their lengths since the store was made, so that they "
            "split into other windows; use --overwrite"
        )


def _refuse_other(
    folder: Path,
    there_features: FeatureConfig,
    there: PlanOptions,
    features: FeatureConfig,
    here: PlanOptions,
) -> None:
    """Refuse to mix two stores in one folder, saying what differs."""
    theirs, ours = there_features.to_json(), features.to_json()
    differences = [
        f"{name} is {theirs[name]} there and {ours[name]} here"
        for name in ours
        if theirs[name] != ours[name]
    ] + there.differences(here)
    if differences:
        raise StoreError(
            f"{folder}: made with other options or another manifest: {'; '.join(differences)}. "
            "Use another --output_dir, or --overwrite"
        )


def _make_missing_shards(plan: Plan, folder: Path, options: FeaturizeOptions) -> None:
    suffix = SHARD_SUFFIXES[plan.options.format]
    index, count = options.task_index or 0, options.num_tasks or 1
    own = range(index, plan.num_shards, count)
    remove_damaged(folder, own, suffix)
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


def _run(
    tasks: Iterable[ShardTask], num_workers: int, options: FeaturizeOptions
) -> Iterator[Tally]:
    if options.executor == "dask":
        return run_dask(tasks, options.dask_scheduler, num_workers)
    return run_local(tasks, num_workers)


def _shards_with_rejects(folder: Path) -> list[str]:
    sidecars = (Sidecar.read(path) for path in sorted(folder.glob("shard-*.json")))
    return [sidecar.row.name for sidecar in sidecars if sidecar.rejects]


def _report(info: StoreInfo, options: FeaturizeOptions) -> None:
    tally = info.tally
    log.info(
        "%s: %d utterances, %d frames in %d shards, %.1f MB",
        options.output_dir,
        tally.utterances,
        tally.frames,
        len(info.shards),
        tally.bytes / 1e6,
    )
    log.info(
        "hours: %s in, %s kept, %s cropped away, %s rejected",
        *map(
            _hours,
            (tally.seconds_in, tally.seconds_kept, tally.seconds_cropped, tally.seconds_rejected),
        ),
    )
    if tally.rejects:
        log.info("rejects: %d of %d lines, see %s", tally.rejects, tally.lines, REJECTS_FILE)
        for reason, count in sorted(tally.rejects_by_reason.items()):
            log.info("  %-20s %d", reason, count)
    if tally.seconds_cropped > CROP_WARNING_FRACTION * tally.seconds_in:
        log.warning(
            "warning: cropping to %s s lost %.0f %% of the audio; %s",
            options.max_seconds,
            100 * tally.seconds_cropped / tally.seconds_in,
            "the manifest's durations are shorter than the files"
            if options.long_audio == "split"
            else "--long_audio split keeps it",
        )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.4g}"
