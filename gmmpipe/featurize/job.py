"""`featurize`: manifests to a finished feature store, or as far as this run gets."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gmmpipe.errors import OptionError, StoreError
from gmmpipe.features import FeatureConfig
from gmmpipe.featurize.executors import run_local
from gmmpipe.featurize.manifest import Manifest, find_manifests
from gmmpipe.featurize.plan import Plan, digest_manifests, make_plan
from gmmpipe.files import remove_temporaries
from gmmpipe.progress import Progress
from gmmpipe.store.finalize import finalize, missing_shards
from gmmpipe.store.schema import (
    PLAN_FILE,
    REJECTS_FILE,
    STORE_FILE,
    Dtype,
    PlanOptions,
    StoreInfo,
)

log = logging.getLogger(__name__)
CROP_WARNING_FRACTION = 0.05


@dataclass(frozen=True)
class FeaturizeOptions:
    """What `gmmpipe featurize` is asked to do; the command's help explains each field."""

    data_dir: str
    output_dir: Path
    base_path: Path | None = None
    features: FeatureConfig = field(default_factory=FeatureConfig)
    max_seconds: float = 15.0
    dtype: Dtype = "float16"
    utterances_per_shard: int = 1024
    shuffle: bool = True
    seed: int = 0
    num_workers: int | None = None
    max_reject_fraction: float = 0.1
    overwrite: bool = False

    def __post_init__(self) -> None:
        shortest = self.features.min_samples / self.features.sample_rate
        if not shortest <= self.max_seconds < float("inf"):
            raise OptionError(
                f"max_seconds is {self.max_seconds}, but a frame needs {shortest:.4f} s"
            )


def featurize(options: FeaturizeOptions) -> StoreInfo:
    """Make the feature store, or finish one that an earlier run began.

    Returns:
        What ``store.json`` says of the finished store.

    Raises:
        GmmpipeError: see `gmmpipe.errors`; finished shards are kept.
    """
    manifests = find_manifests(options.data_dir)
    folder = options.output_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = _plan_options(options, manifests)
    if options.overwrite:
        _clear(folder)
    elif (folder / STORE_FILE).exists():
        info = StoreInfo.read(folder / STORE_FILE)
        _refuse_other(folder, info.features, info.plan, options.features, wanted)
        log.info("%s is finished already: nothing to do", options.output_dir)
        return info
    plan = _obtain_plan(folder, manifests, options.features, wanted)
    _make_missing_shards(plan, folder, options)
    info = finalize(
        folder, plan.num_shards, plan.features, plan.options, options.max_reject_fraction
    )
    _report(info, options)
    return info


def _plan_options(options: FeaturizeOptions, manifests: Sequence[Manifest]) -> PlanOptions:
    sha256, lines = digest_manifests(manifests)
    if lines == 0:
        raise StoreError(f"{options.data_dir}: no usable audio: the manifests hold no lines")
    return PlanOptions(
        manifest_sha256=sha256,
        lines=lines,
        max_seconds=options.max_seconds,
        utterances_per_shard=options.utterances_per_shard,
        shuffle=options.shuffle,
        seed=options.seed,
        dtype=options.dtype,
    )


def _obtain_plan(
    folder: Path, manifests: Sequence[Manifest], features: FeatureConfig, wanted: PlanOptions
) -> Plan:
    """The plan that an earlier run left, if it is this run's; else a new one."""
    path = folder / PLAN_FILE
    if path.exists():
        plan = Plan.load(path, manifests)
        _refuse_other(folder, plan.features, plan.options, features, wanted)
        return plan
    if any(folder.glob("shard-*")):
        raise StoreError(f"{folder}: holds shards but no plan; use --overwrite to start afresh")
    plan = make_plan(manifests, features, wanted)
    plan.save(path)
    return plan


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
    missing = missing_shards(folder, plan.num_shards)
    num_workers = min(options.num_workers or os.cpu_count() or 1, max(1, len(missing)))
    base_path = options.base_path.absolute() if options.base_path else None
    kept = plan.num_shards - len(missing)
    log.info(
        "featurizing %d lines into %d shards (%d finished already) with %d workers",
        plan.options.lines,
        plan.num_shards,
        kept,
        num_workers,
    )
    tasks = (plan.task(number, folder, base_path) for number in missing)
    with Progress("featurize", "shards", total=plan.num_shards, start=kept) as progress:
        for tally in run_local(tasks, num_workers) if missing else ():
            progress.advance(1, note=f"{tally.utterances} utterances, {tally.rejects} rejects")


def _clear(folder: Path) -> None:
    """Remove a store, its marks of completeness first."""
    for name in (STORE_FILE, PLAN_FILE, REJECTS_FILE):
        (folder / name).unlink(missing_ok=True)
    for sidecar in folder.glob("shard-*.json"):
        sidecar.unlink()
    for shard in folder.glob("shard-*"):
        shutil.rmtree(shard) if shard.is_dir() else shard.unlink()
    remove_temporaries(folder)


def _report(info: StoreInfo, options: FeaturizeOptions) -> None:
    tally = info.tally
    hours = _hours
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
            hours,
            (tally.seconds_in, tally.seconds_kept, tally.seconds_cropped, tally.seconds_rejected),
        ),
    )
    if tally.rejects:
        log.info("rejects: %d of %d lines, see %s", tally.rejects, tally.lines, REJECTS_FILE)
        for reason, count in sorted(tally.rejects_by_reason.items()):
            log.info("  %-20s %d", reason, count)
    if tally.seconds_cropped > CROP_WARNING_FRACTION * tally.seconds_in:
        log.warning(
            "warning: cropping to %s s lost %.0f %% of the audio",
            options.max_seconds,
            100 * tally.seconds_cropped / tally.seconds_in,
        )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.4g}"
