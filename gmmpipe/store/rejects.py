"""Rejects with their reasons, and the tally of lines and hours: kept, cropped and rejected."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from gmmpipe.files import canonical_json

REJECT_REASONS = {
    "bad_json": "the line is no JSON object, or its id or channel cannot be used",
    "missing_path": "none of the path fields holds a path, or no one file holds the audio",
    "unsafe_path": "a command, a URL or standard input",
    "not_found": "no such file",
    "not_a_regular_file": "a folder, device, FIFO or socket",
    "unreadable": "no permission, or an I/O error",
    "undecodable": "not audio that can be decoded here, or damaged",
    "truncated": "less audio than an exact header states or the manifest promises",
    "wrong_shape": "of an import: no matrix [T, D], or of another D than the first",
    "too_short": "no frame fits",
    "too_long": "beyond --max_seconds where such audio is skipped",
    "non_finite": "NaN or infinity in the samples, or features that overflow",
    "unsupported_rate": "below 4 kHz or above 192 kHz",
    "bad_offset": "negative, not a number, beyond the end, or spelt twice and not alike",
    "duplicate_id": "an earlier line has the same key",
}
"""What each reason means."""


@dataclass(frozen=True)
class Reject:
    """One manifest line that gave no features, and why.

    A sidecar's reject has its `ordinal` over all manifests. Where long audio is split, it is one
    window of a line, and the line is a reject only if all `num_windows` of its windows are.
    """

    manifest: str
    line: int
    path: str
    reason: str
    detail: str
    ordinal: int = 0
    num_windows: int = 1

    def to_line(self) -> bytes:
        """The line of ``rejects.jsonl``."""
        values = asdict(self)
        del values["ordinal"], values["num_windows"]
        return canonical_json(values).encode() + b"\n"

    def __post_init__(self) -> None:
        if self.reason not in REJECT_REASONS:
            raise ValueError(f"{self.reason} is no reason of a reject")


@dataclass(frozen=True)
class Tally:
    """What lines came to, in counts and seconds.

    lines = lines that gave features + rejects. seconds_in = kept + cropped + rejected, where a
    reject counts as many seconds as its header or its manifest states, or 0.

    `cancelled` counts utterances that lose more than 20 dB by the mean of their channels;
    `unstated` counts files that are longer than their manifest states, by `seconds_unstated`
    together. Stores that were made before these were counted hold 0.
    """

    lines: int = 0
    utterances: int = 0
    rejects: int = 0
    frames: int = 0
    bytes: int = 0
    seconds_kept: float = 0.0
    seconds_cropped: float = 0.0
    seconds_rejected: float = 0.0
    rejects_by_reason: dict[str, int] = field(default_factory=dict)
    cancelled: int = 0
    unstated: int = 0
    seconds_unstated: float = 0.0

    @property
    def seconds_in(self) -> float:
        """Seconds of source audio that the lines name."""
        return self.seconds_kept + self.seconds_cropped + self.seconds_rejected

    @classmethod
    def total(cls, parts: Iterable["Tally"]) -> "Tally":
        """The sum of `parts`; seconds are rounded to microseconds, in the order of the parts."""
        sums: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for part in parts:
            values = asdict(part)
            reasons.update(values.pop("rejects_by_reason"))
            for name, value in values.items():
                sums[name] += value
        rounded = {n: round(v, 6) if n.startswith("seconds") else v for n, v in sums.items()}
        return cls(**rounded, rejects_by_reason=dict(reasons))
