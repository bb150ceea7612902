"""``targz``: tar archives within gzip, which can be read from front to end only."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gmmpipe.audio.gzip_bytes import GzipBytes
from gmmpipe.audio.tar_headers import tar_entries
from gmmpipe.sources.archives import find_archives, naming_damage
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.member_lines import member_lines, wants_content
from gmmpipe.sources.translations import Translations


class TarGzArchives:
    """Tar archives within gzip, and folders of those."""

    name = "targz"
    looks_like = "a .tar.gz or .tgz of audio files, or a folder of those"
    specificity = Specificity.ARCHIVE
    is_streamed = True

    def __init__(self) -> None:
        self._translations = Translations(_lines)

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`."""
        return find_archives(path, self.name, _is_packed_tar, ignored)

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`. Line n is of the n-th audio file."""
        with naming_damage(path):
            yield from self._translations.lines(path, passed_over)


def _lines(path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
    with open(path, "rb") as file:
        archive = GzipBytes(file.fileno())
        yield from member_lines(path.name, tar_entries(archive, wants_content), passed_over)
        archive.skip_to(sys.maxsize)  # to the checksum at its end


def _is_packed_tar(path: Path) -> bool:
    return path.name.lower().endswith((".tar.gz", ".tgz"))
