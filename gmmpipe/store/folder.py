"""`StoreFolder`: a folder in which a store is made, beside other processes and after earlier runs.

All stores are made in the same way: a process claims the folder, refuses a store of another
identity, continues one of the same, and publishes it when no shard is missing. ``--overwrite``
makes the new store in a hidden folder.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from gmmpipe.claim import Claim, claim_folder, identity_of, tidy_finished
from gmmpipe.errors import ClaimError, StoreError
from gmmpipe.files import remove, temporaries
from gmmpipe.store import replace
from gmmpipe.store.documents import read_document
from gmmpipe.store.finalize import finalize
from gmmpipe.store.names import (
    IDENTITY_FILE,
    PLAN_FILE,
    REOPENED_FILE,
    STORE_FILE,
    has_shards,
    is_shard_name,
    kind_of,
    shard_names,
    sidecar_name,
)
from gmmpipe.store.reopen import finish_reopening, remove_shards
from gmmpipe.store.replace import NEXT_FOLDER
from gmmpipe.store.schema import I
from gmmpipe.store.sidecar import Sidecar
from gmmpipe.store.store_info import StoreInfo

log = logging.getLogger(__name__)
R = TypeVar("R")


class StoreFolder(Generic[I]):
    """A folder that holds, or is to hold, a store.

    While the store is unfinished, a plan says what it is to become: its identity, as ``plan.json``,
    unless a subclass reads and makes another.

    Args:
        path: the folder.
        wanted: what decides the bytes of the store that is to be there.
    """

    command: ClassVar[str]
    """What is at work here: the words for a process that is refused."""
    made_differently: ClassVar[str] = "with other options"
    """How a store of another identity was made, in words."""
    remedy: ClassVar[str] = "Use another --output_dir, or --overwrite"
    """What to do then."""
    plan_files: ClassVar[tuple[str, ...]] = (IDENTITY_FILE,)
    """The names of what an unfinished store is made by."""
    num_shards: int | None = None
    """How many shards the store is to have, where that follows from `wanted` alone."""

    def __init__(self, path: Path, wanted: I) -> None:
        self.path = path
        self.wanted = wanted
        self._own: set[str] = set()

    def planned_identity(self) -> I | None:
        """What the plan that lies here is for; None where there is none.

        Raises:
            StoreError: it is damaged.
        """
        path = self.path / IDENTITY_FILE
        try:
            return type(self.wanted).of(read_document(path), path)
        except StoreError:
            if path.exists():  # else there was none, or another process has finished the store
                raise
        return None

    @property
    def shard_names(self) -> list[str]:
        """The file names of all shards, where `num_shards` is known; else none."""
        return shard_names(self.num_shards or 0, self.wanted.format)

    def planned_shards(self) -> list[str] | None:
        """The shards of the plan that lies here; None where there is none that can be read."""
        with suppress(StoreError):
            if self.num_shards is not None and self.planned_identity() is not None:
                return self.shard_names
        return None

    def load_plan(self) -> Any:
        """The plan that lies here, of the wanted store; None where there is none.

        Raises:
            StoreError: it is damaged.
        """
        return self.planned_identity()

    def make_plan(self) -> Any:
        """Make the plan, and publish it here."""
        self.wanted.write(self.path / IDENTITY_FILE)
        return self.wanted

    def claim(self, *, alone: bool = False) -> AbstractContextManager[Claim]:
        """Claim the folder; processes that make the same store share it, unless `alone`.

        Raises:
            ClaimError: another process has the folder; it is named.
        """
        return claim_folder(
            self.path, identity_of(self.wanted.to_json()), self.command, alone=alone
        )

    def find_finished(self, *, lenient: bool = False) -> StoreInfo[I] | None:
        """The store, if it is finished and nothing is left to be tidied away.

        Without a claim, because the folder may be read-only.

        Args:
            lenient: whether to return None for a store that is damaged, or not the wanted one.

        Raises:
            StoreError: it is damaged, or not the wanted one.
        """
        finished = (self.path / STORE_FILE).exists()
        if not finished or any(path.exists() for path in self._leftovers()):
            return None
        try:
            self.refuse_other()
            info = self._read_info(STORE_FILE)
        except StoreError:
            if lenient:
                return None
            raise
        tidy_finished(self.path)
        if self.next._is_begun():
            with (
                suppress(OSError, ClaimError),
                claim_folder(self.path, "", self.command, alone=True),
            ):
                self.drop_next()
        return info

    def made_with(self) -> Iterator[I]:
        """The identities that ``store.json``, ``reopened.json`` and the plan here state.

        Raises:
            StoreError: one is damaged, or of another kind of store.
        """
        for name in (STORE_FILE, REOPENED_FILE):
            if (self.path / name).exists():
                yield self._read_info(name).identity
        if (planned := self.planned_identity()) is not None:
            yield planned

    def refuse_other(self) -> None:
        """Raise StoreError, saying what differs, where a store is here but not the wanted one."""
        for there in self.made_with():
            if differences := there.differences(self.wanted):
                raise StoreError(
                    f"{self.path}: made {self.made_differently}: {'; '.join(differences)}. "
                    f"{self.remedy}"
                )

    def obtain_plan(self) -> Any:
        """The plan that lies here, or a new one; or the `StoreInfo` of a finished store.

        Raises:
            StoreError: another store is here, or shards of which nothing says what they are.
        """
        # The plan is read before the look for store.json: a process that finishes the store in the
        # meantime publishes store.json first, and removes the plan then.
        holds_shards = has_shards(self.path)
        self.refuse_other()
        plan = self.load_plan()
        reopened = finish_reopening(self.path)
        if (self.path / STORE_FILE).exists():
            info = self._read_info(STORE_FILE)
            self.settle()
            return info
        if plan is not None:
            return plan
        if holds_shards and not reopened:
            raise StoreError(
                f"{self.path}: holds shards but no plan; use --overwrite to start afresh"
            )
        return self.make_plan()

    def missing(self, num_shards: int) -> list[int]:
        """The numbers of the shards that are not here with their sidecars."""
        present = {path.name for path in self.path.glob("shard-*")}
        names = shard_names(num_shards, self.wanted.format)
        return [n for n, name in enumerate(names) if not {name, sidecar_name(name)} <= present]

    def without_damaged(self, shards: Iterable[str]) -> Iterator[Sidecar]:
        """The sidecars of `shards` that are here; those that are damaged go, with their shards."""
        for name in shards:
            path = self.path / sidecar_name(name)
            if os.path.lexists(path):
                try:
                    yield Sidecar.read(path, self.wanted.kind)
                except StoreError as error:
                    log.warning("warning: %s; its shard is made anew", error)
                    remove_shards(self.path, [name])

    def finish(self, num_shards: int, identity: I | None = None, **limits: Any) -> StoreInfo[I]:
        """Publish the store; see `gmmpipe.store.finalize.finalize` for what else may be given.

        Args:
            num_shards: how many shards it has.
            identity: what ``store.json`` says, where that is more than `wanted`.
            limits: on rejects.

        Raises:
            StoreError: a shard is missing, or too many lines are rejects.
        """
        info = finalize(self.path, identity or self.wanted, num_shards, **limits)
        self.settle()
        return info

    def settle(self) -> None:
        """Remove what only an unfinished store needs, from a finished one."""
        for leftover in self._leftovers():
            remove(leftover)
        self.drop_next()

    def find_own_files(self) -> None:
        """Find out which files are the old store's: what a new one may replace.

        Raises:
            StoreError: that cannot be told, or the old store is of another kind.
        """
        self._own = replace.own_files(self.path, self.wanted.kind, self.planned_shards())

    @property
    def next(self) -> Self:
        """The hidden folder, for a store that is to replace this one."""
        hidden = copy(self)
        hidden.path = self.path / NEXT_FOLDER
        return hidden

    def begin_next(self, prepare: Callable[[Self], R]) -> R:
        """Prepare the hidden folder for a store that replaces this one.

        A store that was begun there is continued, or removed if it was begun with other options or
        is damaged.

        Args:
            prepare: what to do in the hidden folder; raises StoreError where the store there cannot
                be continued.

        Raises:
            StoreError: something else is in its place; or as `prepare`.
        """
        made = self.next
        if os.path.lexists(made.path) and not made._is_begun():
            raise StoreError(
                f"{made.path}: in the new store's way, and nothing says that --overwrite began it; "
                "move it away, or use another --output_dir"
            )
        made.path.mkdir(exist_ok=True)
        try:
            return prepare(made)
        except StoreError:
            remove(made.path)
            made.path.mkdir()
            return prepare(made)

    def refuse_strangers(self, shards: Iterable[str]) -> None:
        """Raise StoreError where a new store of `shards` would replace files of anybody else."""
        replace.refuse_strangers(self.path, self._own, shards, self.wanted.kind)

    def put_next_in_place(self) -> None:
        """Put the store that is finished in the hidden folder in place; after `find_own_files`."""
        replace.put_in_place(self.path, self._own)

    def drop_next(self) -> None:
        """Remove the store that an ``--overwrite`` began here and did not finish."""
        if self.next._is_begun():
            remove(self.next.path)

    def _is_begun(self) -> bool:
        """Whether this folder is empty, or holds nothing but a store or a part of one."""
        made = self.path
        if made.is_symlink() or not made.is_dir():
            return False
        names = {path.name for path in made.iterdir()} - {path.name for path in temporaries(made)}
        shards = {n for n in names if is_shard_name(n) or is_shard_name(f"{Path(n).stem}.tar")}
        if names - shards - replace.DOCUMENTS:
            return False
        if not names or shards or self.planned_shards() is not None:
            return True
        try:
            return PLAN_FILE not in names and kind_of(made) is not None
        except StoreError:
            return False

    def _leftovers(self) -> list[Path]:
        """What only an unfinished store needs."""
        return [self.path / name for name in (*self.plan_files, REOPENED_FILE)]

    def _read_info(self, name: str) -> StoreInfo[I]:
        return StoreInfo.read(self.path / name, type(self.wanted))
