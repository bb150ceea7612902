"""What an earlier run left in the output folder: its plan, its store, or something else's files."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from gmmpipe.errors import StoreError
from gmmpipe.features.spec import FrameSpec, differences
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import Plan, make_plan
from gmmpipe.sources.find import find_manifests
from gmmpipe.sources.manifest import Manifest
from gmmpipe.store.finalize import finish_reopening, remove_shards
from gmmpipe.store.replace import SWAP_FILE
from gmmpipe.store.schema import (
    PLAN_FILE,
    REJECTS_FILE,
    REOPENED_FILE,
    STORE_FILE,
    PlanOptions,
    ShardRow,
    Sidecar,
    StoreInfo,
    is_shard_name,
)

log = logging.getLogger(__name__)


def manifests_beside(folder: Path, data_dir: str, source_kind: str) -> list[Manifest]:
    """The manifests of the sources, without the rejects that a store writes where they lie.

    Raises:
        ManifestError: there is none, or one cannot be read.
        StoreError: a file of the user's would be overwritten by the rejects.
    """
    rejects = folder / REJECTS_FILE
    manifests = find_manifests(data_dir, source_kind, ignored=rejects)
    if rejects.exists():
        documents = (STORE_FILE, REOPENED_FILE, PLAN_FILE, SWAP_FILE)
        is_own = any((folder / name).exists() for name in documents) or _has_shards(folder)
        if not is_own or not manifests:
            raise StoreError(
                f"{rejects}: the store's own would overwrite it; use another --output_dir"
            )
    return manifests


def _has_shards(folder: Path) -> bool:
    """Whether there are shards, or sidecars."""
    names = (path.name.removesuffix(".json") for path in folder.glob("shard-*"))
    return any(is_shard_name(name) or is_shard_name(f"{name}.tar") for name in names)


def obtain_plan(
    folder: Path, manifests: Sequence[Manifest], options: FeaturizeOptions, wanted: PlanOptions
) -> Plan | StoreInfo:
    """The plan that an earlier run or another slice left, or a new one; or the finished store."""
    features = options.features
    # In this order, because another process may finish the store at any moment: then store.json
    # appears before the plan goes.
    has_shards = _has_shards(folder)
    found: Plan | None = None
    refuse_other_store(folder, features, wanted)
    with suppress(FileNotFoundError):
        found = Plan.load(folder / PLAN_FILE, manifests)
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
    refuse_other_windows(folder, plan.options)
    plan.save(folder / PLAN_FILE)
    return plan


def fruitless_shards(folder: Path) -> list[str] | None:
    """The finished shards of a planned store that holds no utterance; None of any other folder.

    A damaged sidecar counts for none: its shard is made anew in any case.
    """
    if not (folder / PLAN_FILE).exists():
        return None
    if any((folder / name).exists() for name in (STORE_FILE, REOPENED_FILE)):
        return None
    shards = []
    for row in finished_rows(folder):
        if row.utterances:
            return None
        shards.append(row.name)
    return shards


def finished_rows(folder: Path) -> Iterator[ShardRow]:
    """What the sidecars say that are not damaged."""
    for path in sorted(folder.glob("shard-*.json")):
        with suppress(StoreError):
            yield Sidecar.read(path).row


def planned_shards(folder: Path) -> list[str] | None:
    """The shards that a published plan names; None where there is none, or a damaged one."""
    with suppress(FileNotFoundError, StoreError):
        return Plan.load_shard_names(folder / PLAN_FILE)
    return None


def renew_plan(
    folder: Path, manifests: Sequence[Manifest], options: FeaturizeOptions, wanted: PlanOptions
) -> None:
    """Where a planned store holds no utterance, plan it once again, by what can be read now.

    Where long audio is split, what could not be read was planned as one window a line. Nobody else
    may be at work there.
    """
    if (shards := fruitless_shards(folder)) is None:
        return
    refuse_other_store(folder, options.features, wanted)
    log.info("nothing was usable in an earlier run: once again, from the plan on")
    doomed = {*shards, *Plan.load_shard_names(folder / PLAN_FILE)}
    # The plan first: whoever comes after a kill finds shards without use, and does this again.
    make_plan(manifests, options.features, wanted, options.base_path).save(folder / PLAN_FILE)
    remove_shards(folder, sorted(doomed))


def shards_with_rejects(folder: Path) -> list[str]:
    """The finished shards that hold rejects."""
    sidecars = map(Sidecar.read, sorted(folder.glob("shard-*.json")))
    return [sidecar.row.name for sidecar in sidecars if sidecar.rejects]


def _made_with(folder: Path) -> Iterator[tuple[FrameSpec, PlanOptions]]:
    """What the folder's store, finished or not, says that it was made with; each place of it."""
    for name in (STORE_FILE, REOPENED_FILE):
        if (folder / name).exists():
            info = StoreInfo.read(folder / name)
            if not isinstance(info.plan, PlanOptions):
                raise StoreError(
                    f"{folder}: holds frames of kind {info.features.kind}, which another program "
                    "wrote. Use another --output_dir, or --overwrite"
                )
            yield info.features, info.plan
    with suppress(FileNotFoundError):
        yield Plan.load_identity(folder / PLAN_FILE)


def refuse_other_store(folder: Path, features: FrameSpec, wanted: PlanOptions) -> None:
    """Refuse a folder whose store, finished or not, was made with other options."""
    for there_features, there in _made_with(folder):
        _refuse_other(folder, there_features, there, features, wanted)


def refuse_other_windows(folder: Path, here: PlanOptions) -> None:
    """Refuse a folder whose store was made when the audio split into other windows."""
    if any(there.windows_sha256 != here.windows_sha256 for _, there in _made_with(folder)):
        raise StoreError(
            f"{folder}: audio files changed their lengths since the store was made, so that they "
            "split into other windows; use --overwrite"
        )


def _refuse_other(
    folder: Path,
    there_features: FrameSpec,
    there: PlanOptions,
    features: FrameSpec,
    here: PlanOptions,
) -> None:
    """Refuse to mix two stores in one folder, saying what differs."""
    differing = differences(there_features.to_json(), features.to_json()) + there.differences(here)
    if differing:
        raise StoreError(
            f"{folder}: made with other options or another manifest: {'; '.join(differing)}. "
            "Use another --output_dir, or --overwrite"
        )
