"""Publishing a store: all sidecars to ``rejects.jsonl`` and ``store.json``."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from gmmpipe.errors import StoreError
from gmmpipe.files import atomic_file
from gmmpipe.store.names import REJECTS_FILE, STORE_FILE, shard_stem
from gmmpipe.store.rejects import Reject, Tally
from gmmpipe.store.schema import I
from gmmpipe.store.store_info import StoreInfo, Sums


def finalize(
    folder: Path,
    identity: I,
    num_shards: int,
    max_reject_fraction: float = 1.0,
    describe: Callable[[Reject], str] = lambda reject: reject.detail,
) -> StoreInfo[I]:
    """Publish the store: a pure function of its sidecars, so any process may do it, even twice.

    The rejects are written first, so that they can be read when the limit refuses the store.

    Args:
        folder: the store.
        identity: what decides its bytes.
        num_shards: how many shards it has.
        max_reject_fraction: how many of the lines may be rejects.
        describe: the words for the first reject, where nothing is usable.

    Raises:
        StoreError: a sidecar is missing or damaged; or of features, nothing was usable, or more
            than `max_reject_fraction` of the lines were not.
    """
    paths = [folder / f"{shard_stem(number)}.json" for number in range(num_shards)]
    if identity.has_rejects:
        first: list[Reject] = []
        sums, rejects_sha256 = _write_rejects(folder, paths, first)
        _check_rejects(folder, sums.tally, max_reject_fraction, "".join(map(describe, first)))
        info = StoreInfo(**vars(sums), identity=identity, rejects_sha256=rejects_sha256)
    else:
        info = StoreInfo(**vars(Sums.over(identity.kind, paths)), identity=identity)
    info.write(folder / STORE_FILE)
    return info


def _write_rejects(folder: Path, sidecars: Sequence[Path], first: list[Reject]) -> tuple[Sums, str]:
    """Publish ``rejects.jsonl``: what the sidecars come to, and the file's SHA-256.

    `first` gets the first reject.
    """
    digest = hashlib.sha256()
    with atomic_file(folder / REJECTS_FILE) as file:

        def write(reject: Reject) -> None:
            if not first:
                first.append(reject)
            file.write(reject.to_line())
            digest.update(reject.to_line())

        sums = Sums.over("features", sidecars, write)
    return sums, digest.hexdigest()


def _check_rejects(folder: Path, tally: Tally, max_fraction: float, first: str) -> None:
    """Raise StoreError where too many lines are rejects; `first` says what is wrong with one."""
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(tally.rejects_by_reason.items()))
    rejected = f"{tally.rejects} of {tally.lines} lines were rejected"
    rejected += f" ({reasons})" if reasons else ""
    if tally.utterances == 0:
        details = f"; the first: {first}" if first else ""
        raise StoreError(f"{folder}: no usable audio: {rejected}{details}")
    if tally.rejects > max_fraction * tally.lines:
        raise StoreError(
            f"{folder}: {rejected}, more than --max_reject_fraction {max_fraction} "
            f"allows; see {folder / REJECTS_FILE}. The shards stay: a rerun with a higher limit "
            "finishes at once"
        )
