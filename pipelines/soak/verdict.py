"""What a fault came to."""

from collections import Counter
from dataclasses import dataclass, field

DETECTED, HARMLESS, WRONG, SKIPPED = "detected", "harmless", "wrong", "skipped"


@dataclass(frozen=True)
class Outcome:
    """One fault, and what it came to.

    Args:
        verdict: `DETECTED` (exit status 1 and one line that names the file), `HARMLESS` (every
            value that came out is that of a run without the fault), `WRONG` (anything else), or
            `SKIPPED` (it cannot be tried here).
        words: what was done, and what came of it where it is wrong.
    """

    verdict: str
    words: str


def held(words: str, fault: str) -> Outcome:
    """`HARMLESS`, unless there is a fault to tell."""
    return Outcome(WRONG, f"{words}: {fault}") if fault else Outcome(HARMLESS, words)


def refused(words: str, fault: str) -> Outcome:
    """`DETECTED`, unless there is a fault to tell."""
    return Outcome(WRONG, f"{words}: {fault}") if fault else Outcome(DETECTED, words)


@dataclass
class Table:
    """How many faults of each class came to what."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, name: str, outcome: Outcome) -> None:
        """Count an outcome of the class `name`."""
        self.counts.setdefault(name, Counter())[outcome.verdict] += 1

    @property
    def wrong(self) -> int:
        """How many are wrong."""
        return sum(count[WRONG] for count in self.counts.values())

    def lines(self) -> list[str]:
        """The table, as Markdown."""
        heads = ("tried", DETECTED, HARMLESS, WRONG)
        rows = [(name, *_row(count)) for name, count in self.counts.items()]
        total: Counter[str] = sum(self.counts.values(), Counter())
        rows.append(("all", *_row(total)))
        lines = [f"| {'class':22} |" + "".join(f" {head:>8} |" for head in heads)]
        lines.append(f"|{'-' * 24}|" + "---------:|" * len(heads))
        lines += [
            f"| {name:22} |" + "".join(f" {n:8d} |" for n in numbers) for name, *numbers in rows
        ]
        if total[SKIPPED]:
            lines.append(f"{total[SKIPPED]} could not be tried here (no permission to mount).")
        return lines


def _row(count: Counter[str]) -> list[int]:
    tried = count.total() - count[SKIPPED]
    return [tried, count[DETECTED], count[HARMLESS], count[WRONG]]
