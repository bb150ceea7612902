"""Pictures of frames: the components' means, and utterances with their most likely components."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmmpipe.features.log_mel_spec import LogMelSpec
from gmmpipe.features.mel_filters import mel_centers
from gmmpipe.features.spec import FrameSpec
from gmmpipe.reporting.fit_result import FitResult
from gmmpipe.reporting.order import by_similarity, overall
from gmmpipe.reporting.picture import FIRST, Picture, make_picture
from gmmpipe.reporting.sample import Usage
from gmmpipe.reporting.spoken import Spoken

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKED_HERTZ = (200, 500, 1000, 2000, 4000, 8000, 16000)
_MEANS = (10.0, 4.8)
_UTTERANCE = (10.0, 4.4)
_MOST_PIXELS = 100_000
"""More values than these are averaged to the picture's pixels, lest a page weigh more."""
_LABELLED_RUN = 0.08
"""Runs of at least this share of the picture's width have the component's number beside them."""


class FrameMaps:
    """Draws frames of one fit in one scale.

    Log-mel energies are shown as they are. Dimensions of other frames have scales of their own, so
    each is shown in standard deviations from its mean under the mixture.

    Args:
        fit: the fit.
    """

    def __init__(self, fit: FitResult) -> None:
        self._spec, self._num_components = fit.features, fit.gmm.K
        self._is_log_mel = isinstance(fit.features, LogMelSpec)
        self._mean, self._deviation = overall(fit.gmm.mixture)
        self._means = self._scaled(fit.gmm.means.double().numpy())
        self.order = by_similarity(self._means)
        """The components, similar ones side by side, int64 [K]."""
        self._places = np.argsort(self.order)
        low, high = np.quantile(self._means, [0.005, 0.995])
        most = max(abs(low), abs(high), 1e-6)
        self._scale = (low, max(high, low + 1e-6)) if self._is_log_mel else (-most, most)
        self._colors = "viridis" if self._is_log_mel else "RdBu_r"
        self._unit = "ln mel energy" if self._is_log_mel else "standard deviations"

    def _scaled(self, frames: NDArray[Any]) -> NDArray[np.float64]:
        if self._is_log_mel:
            return frames.astype(np.float64)
        return np.asarray((frames - self._mean) / self._deviation)

    def means(self, usage: Usage | None) -> Picture:
        """The means side by side; beneath, where there is a sample, how much each is used."""
        used = None if usage is None else usage.shares[self.order]

        def draw(figure: "Figure") -> None:
            if used is None:
                axis = figure.subplots()
                self._map(figure, axis, self._means[self.order].T)
                axis.set_xlabel("component, similar ones side by side")
                return
            axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
            self._map(figure, axis, self._means[self.order].T)
            edges = np.arange(len(used) + 1) - 0.5
            below.stairs(used, edges, fill=True, color=FIRST)
            below.set_ylabel("usage")
            below.set_xlabel("component, similar ones side by side")
            below.set_ylim(bottom=0)

        scale = "mel frequency in Hz" if self._is_log_mel else "dimension"
        alt = (
            f"Heat map of the {self._num_components} component means, one a column, by {scale}; "
            f"colours are {self._unit} from {self._scale[0]:.3g} to {self._scale[1]:.3g}."
        )
        caption = (
            "Each column is the mean of a component. Similar ones stand side by side, so a healthy "
            "map changes gradually, from quiet to loud and from voiced to hissing. Stripes that "
            "are all alike are components that do the same work; a lone strange column with no "
            "usage describes next to nothing."
            if self._is_log_mel
            else "Each column is the mean of a component, each dimension in its own standard "
            "deviations. Similar ones stand side by side. Columns that are all alike do the same "
            "work; a lone strange one with no usage describes next to nothing."
        )
        return make_picture("means", draw, alt=alt, caption=caption, inches=_MEANS)

    def utterance(self, number: int, spoken: Spoken) -> Picture:
        """Frames of an utterance, and beneath them their most likely components."""

        def draw(figure: "Figure") -> None:
            axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
            span = (0.0, spoken.seconds)
            self._map(figure, axis, self._scaled(spoken.frames).T, span)
            self._runs(below, spoken)

        what = "log-mel energies" if self._is_log_mel else "frames"
        alt = (
            f"{spoken.seconds:.2f} s of utterance {spoken.key}: {what} over time, and beneath "
            f"them the most likely component of each frame, {spoken.num_components} different "
            f"ones in {len(spoken.runs)} runs."
        )
        return make_picture(f"utterance-{number}", draw, alt=alt, caption="", inches=_UTTERANCE)

    def _runs(self, axis: "Axes", spoken: Spoken) -> None:
        frame_seconds = spoken.seconds / len(spoken.labels)
        for first, beyond in spoken.runs:
            place = self._places[spoken.labels[first]]
            certainty = float(spoken.largest[first:beyond].mean())
            axis.plot(
                [first * frame_seconds, beyond * frame_seconds],
                [place, place],
                color=FIRST,
                alpha=0.25 + 0.75 * certainty,
                linewidth=3,
                solid_capstyle="butt",
            )
            if (beyond - first) >= max(3, _LABELLED_RUN * 0.25 * len(spoken.labels)):
                axis.annotate(
                    str(spoken.labels[first]),
                    ((first + beyond) / 2 * frame_seconds, place),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7.5,
                )
        spare = 0.06 * self._num_components
        axis.set_ylim(-0.5 - spare, self._num_components - 0.5 + 2 * spare)
        axis.set_xlabel("seconds")
        axis.set_ylabel("place in the order\nof the means")
        axis.grid(visible=True)

    def _map(
        self,
        figure: "Figure",
        axis: "Axes",
        values: NDArray[np.float64],
        span: tuple[float, float] | None = None,
    ) -> None:
        """Draw values [D, columns], low dimensions at the bottom."""
        first, last = span or (-0.5, values.shape[1] - 0.5)
        low, high = self._scale
        image = axis.imshow(
            values,
            aspect="auto",
            origin="lower",
            extent=(first, last, -0.5, len(values) - 0.5),
            cmap=self._colors,
            interpolation="none" if values.size <= _MOST_PIXELS else "auto",
            vmin=low,
            vmax=high,
        )
        bar = figure.colorbar(image, ax=axis, pad=0.01, aspect=18, extend="both")
        bar.set_label(self._unit)
        frame_axis(axis, self._spec)


def frame_axis(axis: "Axes", spec: FrameSpec) -> None:
    """Mark an axis of dimensions: in Hz where they are mel bins."""
    if not isinstance(spec, LogMelSpec):
        axis.set_ylabel("dimension")
        return
    centers = mel_centers(spec.n_mels, spec.sample_rate)
    marked = [hertz for hertz in _MARKED_HERTZ if centers[0] <= hertz <= centers[-1]]
    bins = np.interp(marked, centers, np.arange(len(centers)))
    axis.set_yticks(bins, [str(hertz) for hertz in marked])
    axis.set_ylabel("Hz (mel scale)")
