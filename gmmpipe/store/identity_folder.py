"""`IdentityFolder`: the folder of a store whose plan is its identity alone."""

from typing import TypeVar

from gmmpipe.store.documents import read_document
from gmmpipe.store.folder import StoreFolder
from gmmpipe.store.names import IDENTITY_FILE
from gmmpipe.store.schema import Identity

I = TypeVar("I", bound=Identity)  # noqa: E741


class IdentityFolder(StoreFolder[I, I]):
    """A folder of a store that ``plan.json`` describes while it is unfinished."""

    def planned_identity(self) -> I | None:
        """What the ``plan.json`` that lies here says; StoreError where it is damaged."""
        path = self.path / IDENTITY_FILE
        return type(self.wanted).of(read_document(path), path) if path.exists() else None

    def load_plan(self) -> I | None:
        """As `planned_identity`."""
        return self.planned_identity()

    def make_plan(self) -> I:
        """Publish ``plan.json``."""
        self.wanted.write(self.path / IDENTITY_FILE)
        return self.wanted
