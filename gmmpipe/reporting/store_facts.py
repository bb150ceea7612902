"""What the stores behind a report hold, and what they had to reject."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gmmpipe.files import listed_paths, open_regular
from gmmpipe.store.names import REJECTS_FILE
from gmmpipe.store.rejects import REJECT_REASONS, Tally
from gmmpipe.store.schema import FeatureIdentity
from gmmpipe.store.shard import read_finished

_READ_REJECTS = 20_000
"""Lines of a rejects.jsonl that are looked at for an example of each reason."""
_MAX_LINE_BYTES = 1 << 16


@dataclass(frozen=True)
class Rejected:
    """The rejects of one reason.

    Args:
        reason: one of `REJECT_REASONS`.
        count: lines.
        share: of all lines.
        example: one of them, in words; empty where none was found.
    """

    reason: str
    count: int
    share: float
    example: str

    @property
    def meaning(self) -> str:
        """The reason in words."""
        return REJECT_REASONS[self.reason]


@dataclass(frozen=True)
class StoreFacts:
    """What the stores of a report come to together.

    Args:
        tally: of all their lines.
        rejects: one for each reason there is, the commonest first.
        has_seconds: whether any hours are known.
    """

    tally: Tally
    rejects: list[Rejected]
    has_seconds: bool

    @classmethod
    def read(cls, data_dir: str) -> "StoreFacts":
        """Read store.json of each, and the beginning of their rejects.

        Raises:
            StoreError: a store is missing, unfinished or damaged.
        """
        folders = listed_paths(data_dir)
        tally = Tally.total(read_finished(folder, FeatureIdentity).tally for folder in folders)
        examples: dict[str, str] = {}
        if tally.rejects:
            for folder in folders:
                for reason, example in _examples(folder / REJECTS_FILE):
                    examples.setdefault(reason, example)
        counts = sorted(tally.rejects_by_reason.items(), key=lambda item: (-item[1], item[0]))
        rejects = [
            Rejected(reason, count, count / max(1, tally.lines), examples.get(reason, ""))
            for reason, count in counts
        ]
        return cls(tally, rejects, tally.seconds_in > 0)


def _examples(path: Path) -> Iterator[tuple[str, str]]:
    """Reason and words of the first rejects of a store; nothing of a file that is damaged."""
    try:
        with open(open_regular(path), "rb") as lines:
            for line in islice(iter(lambda: lines.readline(_MAX_LINE_BYTES), b""), _READ_REJECTS):
                reject = json.loads(line)
                where = f"{reject['manifest']} line {reject['line']}"
                path_there = f": {reject['path']}" if reject["path"] else ""
                yield str(reject["reason"]), f"{where}{path_there}: {reject['detail']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
