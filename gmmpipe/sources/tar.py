"""``tar``: archives of audio files, in WebDataset's form or any other, read by their headers."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gmmpipe.audio.gzip_bytes import GZIP_MAGIC
from gmmpipe.audio.plain_bytes import PlainBytes
from gmmpipe.audio.tar_headers import tar_entries
from gmmpipe.errors import ManifestError
from gmmpipe.sources.archives import find_archives, naming_damage
from gmmpipe.sources.endings import ending_of
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.member_lines import member_lines, wants_content
from gmmpipe.sources.nemo_tarred import tarred_lines


class TarArchives:
    """Tar archives of audio files, and folders of those."""

    name = "tar"
    looks_like = "a .tar of audio files, or a folder of those"
    specificity = Specificity.ARCHIVE
    is_streamed = False

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`."""
        return find_archives(path, self.name, _is_tar, ignored)

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`. Line n is of the n-th audio file, or of the n-th line of NeMo's."""
        if not _is_tar(path):
            yield from tarred_lines(path)
            return
        with naming_damage(path), open(path, "rb", buffering=0) as file:
            if file.read(len(GZIP_MAGIC)) == GZIP_MAGIC:
                raise ManifestError(f"{path}: packed by gzip; let its name end in .tar.gz")
            archive = PlainBytes(file.fileno(), os.fstat(file.fileno()).st_size)
            yield from member_lines(path.name, tar_entries(archive, wants_content), passed_over)


def _is_tar(path: Path) -> bool:
    return ending_of(path.name) == ".tar"
