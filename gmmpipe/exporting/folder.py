"""The output folder: files of one export, all or none, and ``labels.json``, which says of what.

Before the first file gets its name, ``.export.json`` lists all of them, so that after a kill the
next export knows which are its own. ``labels.json`` comes last.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from gmmpipe.errors import StoreError
from gmmpipe.files import atomic_file, remove
from gmmpipe.store.documents import FORMAT_VERSION, pick, read_document, write_document
from gmmpipe.store.names import kind_of

MARK = "labels.json"
_UNDER_WAY = ".export.json"


@dataclass(frozen=True)
class ExportInfo:
    """What ``labels.json`` says of a finished export.

    Args:
        format: ``km``, ``kaldi``, ``units``, ``lhotse`` or ``parquet``.
        source_sha256: of the label store's ``store.json``.
        base_path: the option, where the form names audio.
        frame_rate: labels a second.
        num_classes: K; labels are below it.
        utterances: how many.
        frames: how many labels.
        top_k: how many posteriors of a frame the label store keeps; None where none.
        temperature: of those.
        files: sizes in bytes, by name.
    """

    format: str
    source_sha256: str
    base_path: str | None
    frame_rate: float
    num_classes: int
    utterances: int
    frames: int
    top_k: int | None
    temperature: float
    files: dict[str, int]


class ExportFolder:
    """A folder in which an export is made.

    Args:
        path: the folder.
        wanted: what decides the export: fields of `ExportInfo`.
        names: of its files.
        known: the names of the files that any export may have.
    """

    def __init__(
        self, path: Path, wanted: dict[str, Any], names: Sequence[str], known: set[str]
    ) -> None:
        self.path, self._wanted, self._names, self._known = path, wanted, names, known

    def find_finished(self) -> ExportInfo | None:
        """The wanted export, if it is whole.

        Raises:
            StoreError: another one is here, or what says so is damaged.
        """
        there = self._read_mark()
        if there is None:
            return None
        differing = [
            f"{name} is {getattr(there, name)} there and {value} here"
            for name, value in self._wanted.items()
            if getattr(there, name) != value
        ]
        if differing:
            raise StoreError(
                f"{self.path}: an export of other labels, or with other options: "
                f"{'; '.join(differing)}. Use another --output_dir, or --overwrite"
            )
        return there if self._is_whole(there) else None

    def refuse_strangers(self) -> None:
        """Raise StoreError where a file, or a store, is in the way that no export has written."""
        if (kind := kind_of(self.path)) is not None:
            raise StoreError(f"{self.path}: holds a store of {kind}; use another --output_dir")
        own = self._own()
        for name in (*self._names, MARK):
            if os.path.lexists(self.path / name) and name not in own:
                raise StoreError(
                    f"{self.path / name}: in the export's way, and nothing says that an export "
                    "wrote it; move it away, or use another --output_dir"
                )

    @contextmanager
    def publishing(self) -> Iterator[dict[str, BinaryIO]]:
        """The files to write, by name; they get their names once the block has ended.

        After an error none does. An export that was here stays until then.
        """
        with ExitStack() as stack:
            yield {name: stack.enter_context(atomic_file(self.path / name)) for name in self._names}
            own = self._own()
            listed = sorted({*own, *self._names} - {MARK})
            write_document(
                self.path / _UNDER_WAY, {"format_version": FORMAT_VERSION, "files": listed}
            )
            for name in (MARK, *sorted(own.difference(self._names))):
                remove(self.path / name)

    def finish(self, figures: dict[str, Any]) -> ExportInfo:
        """Publish ``labels.json``, given the fields that say what the labels are."""
        sizes = {name: (self.path / name).stat().st_size for name in self._names}
        info = ExportInfo(**self._wanted, **figures, files=sizes)
        write_document(self.path / MARK, {"format_version": FORMAT_VERSION, **vars(info)})
        remove(self.path / _UNDER_WAY)
        return info

    def _own(self) -> set[str]:
        """The names of the files that an export has written here, finished or not."""
        there = self._read_mark()
        own = set() if there is None else {MARK, *there.files}
        if (self.path / _UNDER_WAY).exists():
            own.update(map(str, read_document(self.path / _UNDER_WAY).get("files", ())))
        return own & {MARK, *self._known}

    def _read_mark(self) -> ExportInfo | None:
        path = self.path / MARK
        if not path.exists():
            return None
        try:
            document = read_document(path)
            return pick(ExportInfo, {f.name: document[f.name] for f in fields(ExportInfo)})
        except (StoreError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path}: not what an export wrote, or damaged; move it away, or use another "
                "--output_dir"
            ) from error

    def _is_whole(self, there: ExportInfo) -> bool:
        try:
            return all(
                (self.path / name).stat().st_size == there.files.get(name) for name in self._names
            )
        except OSError:
            return False
