"""What `featurize` logs at the end: hours in and out, rejects, and warnings."""

import logging
import re
from collections import Counter
from pathlib import Path

from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.store.names import REJECTS_FILE
from gmmpipe.store.store_info import FeatureInfo

log = logging.getLogger(__name__)
CROP_WARNING_FRACTION = 0.05
_EXTRA = re.compile(rb"gmmpipe\[(\w+)\]")


def report(info: FeatureInfo, options: FeaturizeOptions, folder: Path) -> None:
    """Log the sums of a finished store, and warn of audio that was lost.

    Args:
        info: what ``store.json`` says.
        options: what was asked for.
        folder: where the store lies now: with ``--overwrite`` not yet in ``--output_dir``.
    """
    tally = info.tally
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
            _hours,
            (tally.seconds_in, tally.seconds_kept, tally.seconds_cropped, tally.seconds_rejected),
        ),
    )
    if tally.rejects:
        log.info("rejects: %d of %d lines, see %s", tally.rejects, tally.lines, REJECTS_FILE)
        for reason, count in sorted(tally.rejects_by_reason.items()):
            log.info("  %-20s %d", reason, count)
        _name_missing_extras(folder / REJECTS_FILE)
    if tally.seconds_cropped > CROP_WARNING_FRACTION * tally.seconds_in:
        log.warning(
            "warning: cropping to %s s lost %.0f %% of the audio; %s",
            options.max_seconds,
            100 * tally.seconds_cropped / tally.seconds_in,
            "the manifest's durations are shorter than the files"
            if options.long_audio == "split"
            else "--long_audio split keeps it",
        )
    if tally.unstated:
        log.warning(
            "warning: %d files are longer than the duration in their manifest, by %s hours "
            "together. Without an offset that is no segment: %s",
            tally.unstated,
            _hours(tally.seconds_unstated),
            "what lies beyond its windows counts as cropped away"
            if options.long_audio == "split"
            else 'the whole file is meant (an "offset" of 0 makes it a segment)',
        )
    if tally.cancelled:
        log.warning(
            "warning: %d utterances lose more than 20 dB by the mean of their channels, which "
            "cancel each other; a channel in their manifest lines picks one",
            tally.cancelled,
        )


def _name_missing_extras(rejects: Path) -> None:
    """Log what to install where rejects say that something is missing."""
    with open(rejects, "rb") as lines:
        counts = Counter(found[1].decode() for line in lines if (found := _EXTRA.search(line)))
    for extra, count in sorted(counts.items()):
        log.warning(
            'warning: %d rejects may be read with: pip install "gmmpipe[%s]"; then '
            "--retry_rejected",
            count,
            extra,
        )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.4g}"
