"""The output folder of `featurize`, and what an earlier run left there."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from gmmpipe.claim import claim_folder
from gmmpipe.errors import ClaimError, StoreError
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import Plan, make_plan
from gmmpipe.sources.find import find_manifests
from gmmpipe.sources.lines import with_plain_lines
from gmmpipe.sources.manifest import Manifest
from gmmpipe.sources.registry import AUTO, is_streamed
from gmmpipe.store.folder import StoreFolder
from gmmpipe.store.names import (
    LINES_FOLDER,
    PLAN_FILE,
    REJECTS_FILE,
    REOPENED_FILE,
    STORE_FILE,
    has_shards,
)
from gmmpipe.store.plans import PlanOptions
from gmmpipe.store.reopen import remove_shards, reopen
from gmmpipe.store.replace import SWAP_FILE
from gmmpipe.store.schema import FeatureIdentity
from gmmpipe.store.sidecar import ShardRow, Sidecar

log = logging.getLogger(__name__)


def manifests_beside(folder: Path, data_dir: str, source_kind: str) -> list[Manifest]:
    """The manifests of the sources, without the ``rejects.jsonl`` of a store in the same folder.

    Raises:
        ManifestError: there is none, or one cannot be read.
        StoreError: a file of the user's would be overwritten by the rejects.
    """
    rejects = folder / REJECTS_FILE
    manifests = find_manifests(data_dir, source_kind, ignored=rejects)
    if rejects.exists():
        documents = (STORE_FILE, REOPENED_FILE, PLAN_FILE, SWAP_FILE)
        is_own = any((folder / name).exists() for name in documents) or has_shards(folder)
        if not is_own or not manifests:
            raise StoreError(
                f"{rejects}: the store's own would overwrite it; use another --output_dir"
            )
    return manifests


def say_shuffle_by(options: FeaturizeOptions, manifests: Sequence[Manifest]) -> bool:
    """Whether a source can only be read from front to end, and a word on what that comes to."""
    streamed = [manifest.path for manifest in manifests if is_streamed(manifest)]
    if streamed and options.shuffle_by == "utterances":
        log.warning(
            "warning: %s can only be read from front to end, and --shuffle_by utterances has it "
            "read anew for every shard; --shuffle_by recordings reads it once",
            streamed[0],
        )
    elif streamed and options.shuffle_by == AUTO:
        log.info(
            "%s can only be read from front to end: --shuffle_by is recordings, so that its "
            "utterances stay together",
            streamed[0],
        )
    return bool(streamed)


class FeatureFolder(StoreFolder[FeatureIdentity]):
    """The output folder of `featurize`.

    Args:
        path: the folder.
        manifests: the manifests, in order.
        options: the command's.
        plan_options: what decides the store's bytes beyond the features.
    """

    command = "gmmpipe featurize"
    made_differently = "with other options or another manifest"
    plan_files = (PLAN_FILE, LINES_FOLDER)

    def __init__(
        self,
        path: Path,
        manifests: Sequence[Manifest],
        options: FeaturizeOptions,
        plan_options: PlanOptions,
    ) -> None:
        super().__init__(path, FeatureIdentity(options.features, plan_options))
        self.manifests = self._sources = manifests
        self.options = options
        self.plan_options = plan_options

    @property
    def splits(self) -> bool:
        """Whether the plan depends on how long the audio is."""
        return self.options.long_audio == "split"

    def write_plain_lines(self) -> None:
        """Write the lines of manifests that are not plain files here, until the store is finished.

        Raises:
            StoreError: another job, which may use the lines there, made the store here.
        """
        if all(manifest.lines_path for manifest in self._sources):
            return
        if not self.options.overwrite:
            self.refuse_other()
        self.manifests = with_plain_lines(self._sources, self.path / LINES_FOLDER)

    def planned_identity(self) -> FeatureIdentity | None:
        """What the ``plan.npz`` that lies here is for; StoreError where it is damaged."""
        with suppress(FileNotFoundError):
            return FeatureIdentity(*Plan.load_identity(self.path / PLAN_FILE))
        return None

    def planned_shards(self) -> list[str] | None:
        """The shards that ``plan.npz`` names; None where there is none, or a damaged one."""
        with suppress(FileNotFoundError, StoreError):
            return Plan.load_shard_names(self.path / PLAN_FILE)
        return None

    def load_plan(self) -> Plan | None:
        """The ``plan.npz`` that lies here, of this slice's shards; StoreError if it is damaged."""
        with suppress(FileNotFoundError):
            first, every = self.options.task_index or 0, self.options.num_tasks or 1
            return Plan.load(self.path / PLAN_FILE, self.manifests, first, every)
        return None

    def make_plan(self) -> Plan:
        """Make and publish ``plan.npz``; StoreError where a store is here of other windows."""
        plan = self._plan()
        self.refuse_other_windows(plan)
        plan.save(self.path / PLAN_FILE)
        return plan

    def _plan(self) -> Plan:
        options = self.options
        return make_plan(self.manifests, options.features, self.plan_options, options.base_path)

    def refuse_other_windows(self, plan: Plan) -> None:
        """Refuse a folder whose store was made when the audio split into other windows."""
        there = [made.plan for made in self.made_with()]
        windows = {made.windows_sha256 for made in there if isinstance(made, PlanOptions)}
        if windows - {plan.options.windows_sha256}:
            raise StoreError(
                f"{self.path}: audio files changed their lengths since the store was made, so that "
                "they split into other windows; use --overwrite"
            )

    def fruitless_shards(self) -> list[str] | None:
        """The finished shards of a planned store without utterances; None for any other folder.

        Damaged sidecars are left out: their shards are made anew in any case.
        """
        if not (self.path / PLAN_FILE).exists():
            return None
        if any((self.path / name).exists() for name in (STORE_FILE, REOPENED_FILE)):
            return None
        rows = list(self.finished_rows())
        return None if any(row.utterances for row in rows) else [row.name for row in rows]

    def finished_rows(self) -> Iterator[ShardRow]:
        """The rows of the sidecars that are not damaged."""
        for path in sorted(self.path.glob("shard-*.json")):
            with suppress(StoreError):
                yield Sidecar.read(path, "features").row

    def renew_plan_alone(self) -> None:
        """`renew_plan` under an exclusive claim, so that no process works by the old plan.

        Raises:
            ClaimError: another process is at work by it.
        """
        shards = self.fruitless_shards() if self.splits else None
        if shards is None or (self.options.num_tasks and not shards):
            return  # a slice without shards yet: the plan is there for the other slices
        try:
            with claim_folder(self.path, "", self.command, alone=True):
                self.write_plain_lines()
                self.renew_plan()
        except ClaimError:
            if shards:
                raise

    def renew_plan(self) -> None:
        """Plan again where audio is split and the planned store holds no utterance.

        Audio that could not be read was planned as one window a line. No other process may be at
        work here.
        """
        if not self.splits or (shards := self.fruitless_shards()) is None:
            return
        self.refuse_other()
        log.info("nothing was usable in an earlier run: once again, from the plan on")
        doomed = {*shards, *Plan.load_shard_names(self.path / PLAN_FILE)}
        # The plan is saved first: after a kill, the next run finds shards without utterances and
        # does this again.
        self._plan().save(self.path / PLAN_FILE)
        remove_shards(self.path, sorted(doomed))

    def drop_rejected(self) -> None:
        """Turn the store into an unfinished one that lacks the shards which hold rejects."""
        self.refuse_other()
        if self.splits:  # a file that was missing may be there now, and longer
            self.refuse_other_windows(self._plan())
        paths = sorted(self.path.glob("shard-*.json"))
        sidecars = (Sidecar.read(path, "features") for path in paths)
        reopen(self.path, [sidecar.row.name for sidecar in sidecars if sidecar.rejects])
