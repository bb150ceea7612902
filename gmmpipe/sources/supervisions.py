"""lhotse's supervisions by the recording that they are of, in memory that does not grow."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources.lhotse_item import Json
from gmmpipe.sources.line_fields import parse_json

_FIELDS = ("text", "speaker", "language", "gender", "custom")


class Supervisions:
    """The supervisions of a file, in a nameless database that sqlite keeps on the disk.

    Args:
        path: the file, for error messages.
        lines: its cleaned lines; what is no supervision is left out.

    Raises:
        ManifestError: there is no room for the database.
    """

    def __init__(self, path: Path, lines: Iterable[bytes]) -> None:
        self._database = sqlite3.connect("", check_same_thread=False)
        try:
            self._database.execute("PRAGMA cache_size = -16384")
            self._database.execute("CREATE TABLE supervisions (recording TEXT, fields TEXT)")
            self._database.executemany("INSERT INTO supervisions VALUES (?, ?)", _rows(lines))
            self._database.execute("CREATE INDEX by_recording ON supervisions (recording)")
        except sqlite3.Error as error:
            self.close()
            raise ManifestError(f"{path}: cannot be sorted by recording: {error}") from error

    def only_one_of(self, recording_id: object) -> Json:
        """The supervision of a recording that has exactly one, else nothing."""
        query = "SELECT fields FROM supervisions WHERE recording = ? LIMIT 2"
        found = self._database.execute(query, [json.dumps(recording_id)]).fetchall()
        supervision: Json = json.loads(found[0][0]) if len(found) == 1 else {}
        return supervision

    def close(self) -> None:
        """Give up the database."""
        self._database.close()


def _rows(lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    for line in lines:
        try:
            values = parse_json(line)
        except AudioError:
            continue
        fields = {name: values[name] for name in _FIELDS if name in values}
        yield json.dumps(values.get("recording_id")), json.dumps(fields)
