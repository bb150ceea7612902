"""One shard of an import: a pure function of the source and the plan."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import AudioError
from gmmpipe.importing.source import Entry, Source
from gmmpipe.store.columns import Column
from gmmpipe.store.names import shard_name
from gmmpipe.store.rejects import Reject, Tally
from gmmpipe.store.schema import FeatureIdentity
from gmmpipe.store.shard_kinds import shard_file


def good_frames(source: Source, number: int, column: Column | None) -> NDArray[Any]:
    """The frames [T, D] of an utterance in the stored dtype; as they are where no column is given.

    Raises:
        AudioError: they cannot be stored.
    """
    frames = source.frames(number)
    if not len(frames) or not frames.shape[1]:
        raise AudioError("too_short", f"no frames: an array of shape {list(frames.shape)}")
    if not np.isfinite(frames).all():
        raise AudioError("non_finite", "frames with NaN or infinity")
    if column is None:
        return frames
    if frames.shape[1] != column.width:
        detail = f"frames of {frames.shape[1]} dimensions, not of {column.width}"
        raise AudioError("wrong_shape", detail)
    with np.errstate(over="ignore"):
        stored: NDArray[Any] = frames.astype(column.numpy_dtype, order="C")
    if not np.isfinite(stored).all():
        raise AudioError("non_finite", f"frames with values too large for {column.dtype}")
    return stored


def make_import_shard(
    folder: Path,
    number: int,
    items: NDArray[np.int64],
    source: Source,
    duplicates: set[int],
    identity: FeatureIdentity,
) -> Tally:
    """Make and publish the shard `number` of the utterances `items`, one after another.

    Returns:
        What the utterances came to.
    """
    path = folder / shard_name(number, identity.format)
    (column,) = identity.columns
    rejects = []
    by_key = sorted((source.entry(int(item)).key, int(item)) for item in items)
    with shard_file(path).open_writer([column]) as writer:
        for key, item in by_key:
            entry = source.entry(item)
            try:
                if item in duplicates:
                    raise AudioError("duplicate_id", f"an earlier utterance has the key {key}")
                frames = good_frames(source, item, column)
            except AudioError as error:
                place = entry.manifest, entry.line, entry.wav_path
                rejects.append(Reject(*place, error.reason, error.detail, ordinal=item + 1))
            else:
                metadata = _metadata(entry, key, len(frames), item + 1)
                writer.add(key, {column.name: frames}, metadata)
        sidecar = writer.finish()
    rejects.sort(key=lambda reject: reject.ordinal)
    seconds = sidecar.row.frames / identity.features.frame_rate
    tally = replace(
        sidecar.tally,
        lines=len(items),
        rejects=len(rejects),
        seconds_kept=round(seconds, 6),
        rejects_by_reason=dict(Counter(reject.reason for reject in rejects)),
    )
    replace(sidecar, tally=tally, rejects=rejects).write(path.with_suffix(".json"))
    return tally


def _metadata(entry: Entry, key: str, num_frames: int, ordinal: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "key": key,
        "id": entry.id,
        "wav_path": entry.wav_path,
        "manifest": entry.manifest,
        "line": entry.line,
        "num_frames": num_frames,
    }
    if entry.num_samples is not None:
        metadata["num_samples"] = entry.num_samples
    if ordinal != entry.line:
        metadata["ordinal"] = ordinal
    return metadata
