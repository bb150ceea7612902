"""Values with units, in aligned columns: what a command prints for people."""

from collections.abc import Iterator
from typing import Any

_SIZES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1.0))
_DURATIONS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))
_SCALES = {
    "bytes": _SIZES,
    "seconds_kept": _DURATIONS,
    "seconds_cropped": _DURATIONS,
    "seconds_rejected": _DURATIONS,
    "seconds_unstated": _DURATIONS,
}
_UNITS = {
    "hours": "h",
    "frame_rate": "Hz",
    "sample_rate": "Hz",
    "f_min": "Hz",
    "f_max": "Hz",
    "n_fft": "samples",
    "hop_length": "samples",
    "max_seconds": "s",
}
_PLAIN = ("seed",)


def aligned(values: dict[str, Any], indent: str = "") -> Iterator[str]:
    """A line for each value; the values of a nested part follow its name, indented."""
    width = max(map(len, values), default=0) + 2
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from aligned(value, indent + "  ")
        else:
            yield f"{indent}{name + ':':{width}}{in_words(name, value)}"


def in_words(name: str, value: Any) -> str:
    """A value as people write it, with the unit that its name stands for."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ("", {}, []):
        return "none"
    if isinstance(value, list):
        return ", ".join(in_words(name, one) for one in value)
    if not isinstance(value, int | float) or name in _PLAIN:
        return str(value)
    if name in _SCALES:
        return scaled(value, _SCALES[name])
    return f"{_number(value)} {_UNITS.get(name, '')}".rstrip()


def scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    """A value in the largest of its units that it fills."""
    unit, one = next((unit for unit in units if abs(value) >= unit[1]), units[-1])
    return f"{_number(value / one if one != 1 else value)} {unit}"


def _number(value: float) -> str:
    """Whole numbers with commas between thousands, others to four digits."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
