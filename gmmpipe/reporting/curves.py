"""Pictures of numbers: over updates, by component, and by frame."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gmmpipe.reporting.fit_result import FitResult
from gmmpipe.reporting.picture import FIRST, INK, SECOND, Picture, make_picture
from gmmpipe.reporting.sample import Usage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMALL = (4.0, 2.9)
_WIDE = (10.0, 3.6)
_MOST_MARKERS = 60
_NUM_BINS = 50
_MOST_VECTOR_DOTS = 600
"""More dots than these are drawn as an image, lest an SVG of them weigh more."""


def over_updates(fit: FitResult) -> list[Picture]:
    """What ``metrics.tsv`` says, a picture a measure; none where no update is finished."""
    metrics = fit.metrics
    if not metrics["update"]:
        return []
    nll = {"update's sample": metrics["nll"]}
    if "eval_nll" in metrics:
        nll["held out"] = metrics["eval_nll"]
    pictures = [
        _curve(
            fit,
            "nll",
            nll,
            "nats a frame",
            "Negative log-likelihood. Each update's sample has other frames, so that line wanders; "
            "the held-out frames are the same each time. Held out rising while the other falls is "
            "over-fitting.",
        ),
        _curve(
            fit,
            "alive",
            {"alive": metrics["alive"]},
            "components",
            "Components that are some frame's most likely one, of the update's sample. The dashed "
            "line is K; well below it, there are more components than the data supports.",
            line_at=fit.gmm.K,
            from_zero=True,
        ),
    ]
    if "balance_cv" in metrics:
        pictures.append(
            _curve(
                fit,
                "balance",
                {"balance_cv": metrics["balance_cv"]},
                "standard deviation / mean",
                "The spread of the alive components' frame counts over their mean. 0 is "
                "perfectly even; above 2, a few components take most frames.",
                from_zero=True,
            )
        )
    if "inertia" in metrics:
        pictures.append(
            _curve(
                fit,
                "inertia",
                {"inertia": metrics["inertia"]},
                "mean squared distance",
                "Mean squared distance of the sample's frames to their nearest centre.",
            )
        )
    return pictures


def _curve(
    fit: FitResult,
    name: str,
    series: dict[str, list[float]],
    unit: str,
    caption: str,
    *,
    line_at: float | None = None,
    from_zero: bool = False,
) -> Picture:
    updates = fit.metrics["update"]

    def draw(figure: "Figure") -> None:
        axis = _axis(figure, "update", unit)
        axis.set_title(name)
        styles = ((FIRST, "o", "-"), (SECOND, "s", "--"))
        for (label, values), (color, marker, line) in zip(series.items(), styles, strict=False):
            shown = marker if len(updates) <= _MOST_MARKERS else None
            axis.plot(updates, values, line, color=color, marker=shown, label=label)
        if line_at is not None:
            axis.axhline(line_at, color=INK, linestyle=(0, (2, 3)), linewidth=1)
        if from_zero:
            axis.set_ylim(bottom=0, top=None if line_at is None else 1.08 * line_at)
        if len(series) > 1:
            axis.legend()
        _whole_numbers(axis)

    parts = [
        f"{label} from {values[0]:.6g} after the first update to {values[-1]:.6g} after update "
        f"{updates[-1]:.0f}"
        for label, values in series.items()
    ]
    alt = f"{name} over updates: {'; '.join(parts)}."
    return make_picture(name, draw, alt=alt, caption=caption, inches=_SMALL)


def _whole_numbers(axis: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))


def weights_and_usage(fit: FitResult, usage: Usage) -> Picture:
    """Sorted weights against the shares of frames."""
    weights, shares = fit.gmm.weights.double().numpy(), usage.shares
    order = np.argsort(-(shares if fit.is_kmeans else weights), kind="stable")
    places = np.arange(1, len(order) + 1)
    weights, shares = weights[order], shares[order]
    used = shares > 0
    unused = int((~used).sum())

    def draw(figure: "Figure") -> None:
        axis = _axis(figure, "component, by falling weight", "share of frames")
        if fit.is_kmeans:
            axis.set_xlabel("component, by falling usage")
        many = len(order) > _MOST_VECTOR_DOTS
        axis.plot(
            places[used],
            shares[used],
            linestyle="",
            marker=".",
            markersize=2.5 if many else 5,
            color=SECOND,
            label="most likely one, of the sampled frames",
            rasterized=many,
        )
        axis.plot(places, weights, color=FIRST, label="weight")
        axis.set_yscale("log")
        low = min(weights.min(), shares[used].min())
        axis.set_ylim(bottom=low / 2)
        if unused:
            axis.plot(
                places[~used],
                np.full(unused, low / 1.7),
                linestyle="",
                marker="|",
                color=INK,
                label="never the most likely one",
                rasterized=many,
            )
        axis.legend(loc="lower left")

    alt = (
        f"Weights of the {len(order)} components, from {weights.max():.3g} to "
        f"{weights.min():.3g}, and the share of sampled frames that each is the most likely one "
        f"of; {unused} of them are no frame's."
    )
    caption = (
        "Weights that the mixture has, and what the sampled frames come to. Dots near the line: "
        "the weights are true of these frames. Marks at the bottom are components that no sampled "
        "frame is given to."
    )
    return make_picture("weights", draw, alt=alt, caption=caption, inches=_WIDE)


def posteriors(fit: FitResult, usage: Usage) -> list[Picture]:
    """Histograms of the posterior entropy and of the largest posterior."""
    most = math.log(fit.gmm.K) or 1.0
    entropy, largest = usage.measures["posterior_entropy"], usage.measures["max_posterior"]
    uncertain = usage.measures["uncertain_share"]
    top = min(most, max(1.0, float(usage.entropies.max()) * 1.02))
    return [
        _histogram(
            "entropy",
            usage.entropies,
            (0.0, top),
            "posterior entropy, nats",
            mean=entropy,
            caption="How undecided a frame is between components. The dashed line is 1 bit (two "
            f"equally likely components): {100 * uncertain:.3g} % of the frames lie above it. The "
            f"most that K components can have is {most:.3g} nats.",
            line_at=math.log(2) if most > math.log(2) else None,
        ),
        _histogram(
            "largest_posterior",
            usage.largest,
            (0.0, 1.0),
            "largest posterior",
            mean=largest,
            caption="The posterior of each frame's most likely component. Most at 1: hard labels "
            "lose next to nothing. Much below 0.5: components overlap, and soft labels say more.",
        ),
    ]


def _histogram(
    name: str,
    values: NDArray[np.float64],
    bounds: tuple[float, float],
    label: str,
    *,
    mean: float,
    caption: str,
    line_at: float | None = None,
) -> Picture:
    # A posterior may exceed 1 by what float64 rounds.
    counts, edges = np.histogram(np.clip(values, *bounds), _NUM_BINS, bounds)
    shares = counts / len(values)

    def draw(figure: "Figure") -> None:
        axis = _axis(figure, label, "share of frames")
        axis.set_title(name.replace("_", " "))
        axis.stairs(shares, edges, fill=True, color=FIRST)
        axis.set_yscale("log")
        axis.set_xlim(*bounds)
        axis.set_ylim(bottom=min(shares[shares > 0]) / 2, top=1.5)
        if line_at is not None:
            axis.axvline(line_at, color=INK, linestyle=(0, (2, 3)), linewidth=1)

    quartiles = _numbers(np.quantile(values, [0.05, 0.5, 0.95]))
    alt = (
        f"Histogram of the {label}: mean {mean:.4g}; 5 %, 50 % and 95 % of the frames are below "
        f"{quartiles}."
    )
    return make_picture(name, draw, alt=alt, caption=caption, inches=_SMALL)


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _axis(figure: "Figure", across: str, up: str) -> "Axes":
    axis = figure.subplots()
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    axis.grid(visible=True)
    return axis
