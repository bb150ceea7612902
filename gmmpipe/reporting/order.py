"""Components in an order in which similar ones stand side by side."""

import numpy as np
from numpy.typing import NDArray

from gmmpipe.mixture.mixture import Mixture

MAX_CLUSTERED = 4096
"""The distances of all pairs of more components would take gigabytes."""
_MAX_OPTIMAL = 1024
"""Turning the branches for the shortest way takes seconds at this many, and grows cubically."""


def by_similarity(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """The order of the leaves of a clustering of rows [K, D] by average linkage, int64 [K].

    Up to 1024 rows, branches are turned so that neighbours are as near as a tree allows
    (Bar-Joseph, Gifford and Jaakkola 2001). Beyond `MAX_CLUSTERED` rows, the order is that of their
    first principal component. The end with the smaller sum of its values comes first.
    """
    if len(points) < 3:
        order = np.arange(len(points))
    elif len(points) <= MAX_CLUSTERED:
        from scipy.cluster.hierarchy import leaves_list, linkage

        tree = linkage(points, "average", optimal_ordering=len(points) <= _MAX_OPTIMAL)
        order = leaves_list(tree)
    else:
        centred = points - points.mean(0)
        _, directions = np.linalg.eigh(centred.T @ centred)
        order = np.argsort(centred @ directions[:, -1], kind="stable")
    tenth = max(1, len(order) // 10)
    first, last = points[order[:tenth]].mean(), points[order[-tenth:]].mean()
    return np.asarray(order[::-1] if first > last else order, dtype=np.int64)


def overall(mixture: Mixture) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each dimension under a mixture, float64 [D] each."""
    wide = mixture.double()
    weights = wide.log_weights.exp()[:, None]
    mean = (weights * wide.means).sum(0)
    square = (weights * (wide.log_vars.exp() + (wide.means - mean).square())).sum(0)
    return mean.numpy(), square.sqrt().numpy()
