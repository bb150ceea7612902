"""A picture: an SVG whose colours are the page's, light or dark, and a PNG file on white."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, FIRST, SECOND = "#24292f", "#d0d7de", "#0072b2", "#d55e00"
"""Colours on white: of text and axes, of grids, and of two series, which are told apart by the
colour-blind too (Okabe and Ito 2008)."""
VARIABLES = {INK: "--ink", FAINT: "--line", FIRST: "--first", SECOND: "--second"}
"""The page's variables that stand for them in an SVG."""

SVG_PIXELS_PER_INCH = 100
"""Of what an SVG holds as an image."""
PNG_PIXELS_PER_INCH = 144
_PROLOGUE = re.compile(rb".*?(?=<svg )", re.DOTALL)
_METADATA = re.compile(rb"<metadata>.*?</metadata>\s*|<style type=.*?</style>", re.DOTALL)
_SIZE = re.compile(rb'width="[0-9.]+pt" height="[0-9.]+pt"|height="[0-9.]+pt" width="[0-9.]+pt"')


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Args:
        name: of its file, without the ending.
        alt: what it shows, in words.
        caption: how to read it.
        svg: an element for a page that has `VARIABLES`; its background is transparent.
        png: a file.
    """

    name: str
    alt: str
    caption: str
    svg: str
    png: bytes


def make_picture(
    name: str,
    draw: Callable[["Figure"], None],
    *,
    alt: str,
    caption: str,
    inches: tuple[float, float],
) -> Picture:
    """Draw a picture; the same arguments give the same bytes.

    Args:
        name: of its file, without the ending.
        draw: draws into an empty figure, in the colours above.
        alt: what it shows, in words.
        caption: how to read it.
        inches: width and height, at 96 CSS pixels an inch.
    """
    with _settings(name):
        from matplotlib.figure import Figure

        figure = Figure(figsize=inches, layout="constrained")
        draw(figure)
        svg = _saved(
            figure, "svg", dpi=SVG_PIXELS_PER_INCH, transparent=True, metadata={"Date": None}
        )
        png = _saved(figure, "png", dpi=PNG_PIXELS_PER_INCH, metadata={"Software": None})
    return Picture(name, alt, caption, _for_page(svg, inches), png)


def _saved(figure: "Figure", kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _for_page(svg: bytes, inches: tuple[float, float]) -> str:
    """The element of an SVG file, without its size, and in the page's colours."""
    width, height = (round(96 * length) for length in inches)
    svg = _METADATA.sub(b"", _PROLOGUE.sub(b"", svg, count=1))
    text = _SIZE.sub(f'width="{width}" height="{height}"'.encode(), svg, count=1).decode()
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text


@contextmanager
def _settings(name: str) -> Iterator[None]:
    """matplotlib's own defaults and a few of ours; what a user has set does not count."""
    import matplotlib

    settings: dict[Any, Any] = {
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "axes.linewidth": 0.8,
        "axes.titlelocation": "left",
        "axes.titlesize": 11.0,
        "axes.titleweight": "bold",
        "font.size": 10.0,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "svg.hashsalt": name,  # names of parts must differ from those of the page's other pictures
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield
