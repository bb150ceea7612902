"""What was measured, kept row by row as JSON, and as one page of Markdown."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gmmpipe.files import write_atomic

Row = dict[str, Any]


class Results:
    """The rows of a run, which a later run on the same machine goes on with.

    Args:
        path: the page; the JSON is beside it, with the ending ``.json``.
        machine: what they were measured on; rows of another one are not kept.
        minutes: no row is begun after so many.
        overwrite: whether rows from before are measured anew.
    """

    def __init__(
        self, path: Path, machine: dict[str, str], minutes: float, overwrite: bool = False
    ) -> None:
        self.path, self.machine = path, machine
        self._json = path.with_suffix(".json")
        self._until = time.monotonic() + 60 * minutes
        self.rows: dict[str, dict[str, Row]] = {}
        self.left: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._json.exists() and not overwrite:
            try:
                before = json.loads(self._json.read_text())
                if before["machine"] == machine:
                    self.rows = before["rows"]
                else:
                    print(f"{self._json}: of another machine or version, and measured anew")
            except (ValueError, KeyError, TypeError) as error:
                raise SystemExit(f"error: {self._json}: no results of gpu.py: remove it") from error

    def seconds_left(self) -> float:
        """Until no row is begun any more."""
        return self._until - time.monotonic()

    def has(self, part: str, name: str) -> bool:
        """Whether a row is there, measured."""
        row = self.rows.get(part, {}).get(name, {"failed": "not yet"})
        return "failed" not in row and "note" not in row

    def row(self, part: str, name: str, measure: Callable[[], Row]) -> Row | None:
        """The row of that name: kept from before, or measured and written at once.

        A row that fails says why, and the others go on; it is measured again by the next run, and
        so is one of tests that failed.

        Returns:
            None where it failed, or the time is up.
        """
        there = self.rows.setdefault(part, {})
        if self.has(part, name) and not there[name].get("failures"):
            return there[name]
        if self.seconds_left() <= 0:
            self.left.append(f"{part}: {name}")
            return None
        try:
            there[name] = measure()
        except Exception as error:
            there[name] = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        self._write()
        shown = ", ".join(f"{key} {_cell(value)}" for key, value in there[name].items())
        print(f"{part}: {name}: {shown}", flush=True)
        return there[name] if self.has(part, name) else None

    def summary(self) -> str:
        """How many rows there are."""
        return f"{sum(map(len, self.rows.values()))} rows"

    def failures(self) -> list[str]:
        """The rows that failed."""
        return [
            f"{part}: {name}"
            for part, rows in self.rows.items()
            for name, row in rows.items()
            if "failed" in row or row.get("failures")
        ]

    def _write(self) -> None:
        content = {"machine": self.machine, "rows": self.rows}
        write_atomic(self._json, (json.dumps(content, indent=1) + "\n").encode())
        write_atomic(self.path, self.page().encode())

    def page(self) -> str:
        """The page: the machine, and a table of each part."""
        lines = ["# gmmpipe on a GPU", "", *_table(["", ""], map(list, self.machine.items()))]
        for part, rows in self.rows.items():
            names = [name for name in rows if self.has(part, name)]
            if part == "steps":
                head, body = _by_size({name: rows[name] for name in names})
                lines += ["", "## steps: ms, and of the GEMMs", "", *_table(head, body)]
                lines += self._unmeasured(part)
                continue
            columns = list(dict.fromkeys(key for name in names for key in rows[name]))
            body = [[name, *(_cell(rows[name].get(c, "")) for c in columns)] for name in names]
            lines += ["", f"## {part}", "", *_table([part, *columns], body)]
            lines += self._unmeasured(part)
        return "\n".join(lines) + "\n"

    def _unmeasured(self, part: str) -> list[str]:
        """Why rows are not in the table."""
        lines = []
        for name, row in self.rows[part].items():
            if not self.has(part, name):
                lines += ["", f"Not measured: {name}: {row.get('failed') or row['note']}"]
        return lines


def _by_size(rows: dict[str, Row]) -> tuple[list[str], list[list[str]]]:
    """A line for each size, with a column for each way: its ms, and how many times its GEMMs."""
    cells: dict[str, dict[str, str]] = {}
    for name, row in rows.items():
        size, _, way = name.partition(": ")
        of = f" ({row['of GEMMs']:.2f})" if "of GEMMs" in row else ""
        cells.setdefault(size, {})[way] = _cell(row["ms"]) + of
    found = list(dict.fromkeys(way for line in cells.values() for way in line))
    body = [[size, *(line.get(way, "") for way in found)] for size, line in cells.items()]
    return ["", *found], body


def _table(head: list[str], body: Any) -> list[str]:
    rows = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
