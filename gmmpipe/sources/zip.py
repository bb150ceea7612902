"""``zip``: archives of audio files whose members are stored or deflated, each by itself."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gmmpipe.audio.zip_directory import zip_entries
from gmmpipe.sources.archives import find_archives, naming_damage
from gmmpipe.sources.endings import ending_of
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.member_lines import member_lines, wants_content


class ZipArchives:
    """Zip archives of audio files, and folders of those."""

    name = "zip"
    looks_like = "a .zip of audio files, or a folder of those"
    specificity = Specificity.ARCHIVE
    is_streamed = False

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`."""
        return find_archives(path, self.name, _is_zip, ignored)

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`. Line n is of the n-th audio file of the archive's directory."""
        with naming_damage(path), open(path, "rb") as file:
            yield from member_lines(path.name, zip_entries(file, wants_content), passed_over)


def _is_zip(path: Path) -> bool:
    return ending_of(path.name) == ".zip"
