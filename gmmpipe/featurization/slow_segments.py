"""A word where ``--shuffle_by recordings`` would take much less time."""

import logging
import re

from gmmpipe.errors import AudioError
from gmmpipe.featurization.plan import PlanItem, ShardTask
from gmmpipe.sources.lines import OpenManifests
from gmmpipe.sources.registry import is_streamed
from gmmpipe.sources.utterance import ParsedLine, Utterance

log = logging.getLogger(__name__)

_MOST_ITEMS = 256
_TAR_GZ_MEMBER = re.compile(r"\.(tar\.gz|tgz)#.", re.IGNORECASE)
_ENDINGS = (".mp3", ".mp2", ".mpga")
_SEEK_COST = 66e-6
"""CPU seconds that a seek in an MP3 takes for each second before the place: 0.24 s an hour."""
_WORK_COST = 2e-3
"""CPU seconds that decoding an MP3, and the features, take for each second of audio."""


def warn_of_slow_segments(task: ShardTask) -> None:
    """Warn of members of a tar.gz in a manifest, and where seeks in MP3s take longer than all else.

    Lines of one shard are looked at, which is a random sample where utterances are shuffled. No
    audio is opened.
    """
    if task.options.shuffle_by == "recordings":
        return
    before = length = 0.0
    count = 0
    items = task.items[:: -(-len(task.items) // _MOST_ITEMS)]
    with OpenManifests() as files:
        for item in items:
            raw = files.line_at(item.line.manifest, item.byte_offset)
            try:
                utterance = ParsedLine(raw).utterance(item.line.ordinal)
            except AudioError:
                continue
            if _TAR_GZ_MEMBER.search(utterance.wav_path) and not is_streamed(item.line.manifest):
                log.warning(
                    "warning: %s names members of a tar.gz, which is read anew for every shard; "
                    "--shuffle_by recordings reads it once",
                    item.line.manifest.path,
                )
                return
            longest = task.options.max_seconds
            length += min(utterance.duration_seconds or longest, longest)
            if start := _start_in_mp3(utterance, item, longest):
                before += start
                count += 1
    if _SEEK_COST * before > _WORK_COST * length:
        log.warning(
            "warning: the segments of MP3s lie %.0f minutes from the beginning on average, and "
            "each takes a seek there; --shuffle_by recordings decodes each recording once",
            before / count / 60,
        )


def _start_in_mp3(utterance: Utterance, item: PlanItem, max_seconds: float) -> float:
    """At which second of an MP3 an utterance or window begins; 0 in any other format."""
    if not utterance.wav_path.lower().endswith(_ENDINGS):
        return 0.0
    return (utterance.offset_seconds or 0.0) + item.window * max_seconds
