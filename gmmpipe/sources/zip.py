"""``zip``: archives of audio files whose members are stored or deflated, each by itself."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gmmpipe.audio.tar_headers import DamagedArchiveError
from gmmpipe.audio.zip_directory import zip_entries
from gmmpipe.errors import ManifestError
from gmmpipe.sources.archives import find_archives
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
        try:
            with open(path, "rb") as file:
                yield from member_lines(path.name, zip_entries(file, wants_content), passed_over)
        except DamagedArchiveError as error:
            raise ManifestError(f"{path}: damaged: {error}") from error
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error


def _is_zip(path: Path) -> bool:
    return ending_of(path.name) == ".zip"
