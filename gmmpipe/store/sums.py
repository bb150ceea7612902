"""What the sidecars of a store come to together."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from gmmpipe.store.names import Kind
from gmmpipe.store.rejects import Reject, Tally
from gmmpipe.store.sidecar import ShardRow, Sidecar


@dataclass(frozen=True)
class Sums:
    """What the sidecars of a store come to; no more than a row of each is kept.

    Args:
        shards: a row each.
        tally: what their lines came to.
        left_out_mass: of labels, the mean over the frames of the posterior mass beyond the top k;
            None where none are kept.
    """

    shards: list[ShardRow]
    tally: Tally
    left_out_mass: float | None = None

    @classmethod
    def over(
        cls,
        kind: Kind,
        sidecars: Iterable[Path],
        on_reject: Callable[[Reject], object] = lambda reject: None,
    ) -> "Sums":
        """Sum sidecars up; `on_reject` gets each line that gave no features.

        A line that is split into windows is a reject once all of them are.
        """
        rows: list[ShardRow] = []
        tallies: list[Tally] = []
        left_out: list[float] = []
        reasons: Counter[str] = Counter()
        failed_windows: Counter[int] = Counter()
        for path in sidecars:
            sidecar = Sidecar.read(path, kind)
            rows.append(sidecar.row)
            tallies.append(sidecar.tally)
            if sidecar.left_out is not None:
                left_out.append(sidecar.left_out)
            for reject in sidecar.rejects:
                if reject.num_windows > 1:
                    failed_windows[reject.ordinal] += 1
                    if failed_windows[reject.ordinal] < reject.num_windows:
                        continue  # another window may give features
                on_reject(reject)
                reasons[reject.reason] += 1
        tally = Tally.total(tallies)
        tally = replace(tally, rejects=reasons.total(), rejects_by_reason=dict(reasons))
        mass = math.fsum(left_out) / max(1, tally.frames) if left_out else None
        return cls(rows, tally, mass)
