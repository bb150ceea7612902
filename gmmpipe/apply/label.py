"""`label`: each frame's most likely components as a store beside the feature store."""

import hashlib
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from gmmpipe.apply.label_shard import make_label_shard
from gmmpipe.apply.model import load_model
from gmmpipe.apply.rounds import in_rounds
from gmmpipe.distributed import World
from gmmpipe.errors import CheckpointError, OptionError, StoreError
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.progress import Progress
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.finalize import (
    clear,
    finalize_labels,
    finish_reopening,
    missing_shards,
    remove_damaged,
    tidy,
)
from gmmpipe.store.label_schema import (
    MAX_COMPONENTS,
    LabelInfo,
    LabelPlan,
    LabelSidecar,
    find_label_plan,
)
from gmmpipe.store.schema import (
    LABEL_PLAN_FILE,
    REOPENED_FILE,
    SHARD_SUFFIXES,
    STORE_FILE,
    kind_of,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelOptions:
    """The command's options, under their names; its help explains each one."""

    store: Path
    gmm_path: Path
    output_dir: Path
    top_k: int | None = None
    temperature: float = 1.0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise OptionError(f"--temperature is {self.temperature}, but must be above 0")

    def plan(self, store: FeatureStore, gmm: GradientGMM) -> LabelPlan:
        """What decides the label store's bytes.

        Raises:
            CheckpointError: the model has more components than labels can number.
            OptionError: it has fewer than are to be kept.
        """
        if gmm.K > MAX_COMPONENTS:
            raise CheckpointError(
                f"{self.gmm_path}: its K is {gmm.K}, but labels of 16 bits number {MAX_COMPONENTS}"
            )
        if self.top_k is not None and self.top_k > gmm.K:
            raise OptionError(f"--top_k is {self.top_k}, but {self.gmm_path} has K = {gmm.K}")
        gmm_sha256 = hashlib.sha256(self.gmm_path.read_bytes()).hexdigest()
        return LabelPlan(store.digests[0], gmm_sha256, gmm.K, self.top_k, self.temperature)


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
    folder = options.output_dir.absolute()
    missing = world.on_first_rank(lambda: _prepare(folder, store, plan, options.overwrite))
    if missing is None:
        log.info("%s is finished already: nothing to do", options.output_dir)
        return LabelInfo.read(folder / STORE_FILE)
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
    info = world.on_first_rank(lambda: finalize_labels(folder, total, plan))
    _report(info, options)
    return info


def _prepare(
    folder: Path, store: FeatureStore, plan: LabelPlan, overwrite: bool
) -> list[int] | None:
    """Make the output folder ready; the shards that are missing, or None where it is finished."""
    store.check_files()
    folder.mkdir(parents=True, exist_ok=True)
    kind = kind_of(folder)
    if kind not in (None, "labels"):
        # Also where it may be overwritten: features take longer to make again than labels.
        raise StoreError(f"{folder}: holds a store of {kind}; use another --output_dir")
    if overwrite:
        clear(folder)
    there = find_label_plan(folder)
    if there is None:
        if any(folder.glob("shard-*")):
            raise StoreError(f"{folder}: holds shards but no plan; use --overwrite to start afresh")
        plan.write(folder / LABEL_PLAN_FILE)
    elif differences := there.differences(plan):
        raise StoreError(
            f"{folder}: made from another store or model, or with other options: "
            f"{'; '.join(differences)}. Use another --output_dir, or --overwrite"
        )
    if (folder / REOPENED_FILE).exists():
        finish_reopening(folder)
    if (folder / STORE_FILE).exists():
        tidy(folder)
        return None
    remove_damaged(folder, range(len(store.shards)), SHARD_SUFFIXES["tar"], LabelSidecar.read)
    return missing_shards(folder, len(store.shards), SHARD_SUFFIXES["tar"])


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
