"""Which kernel sums the statistics: chosen by the device and the number of components."""

from torch import Tensor

from gmmpipe.mixture.fused_statistics import FusedStatisticsKernel
from gmmpipe.mixture.likely_pairs import LikelyPairsKernel
from gmmpipe.mixture.screened_pairs import ScreenedPairsKernel, has_bfloat16_products
from gmmpipe.mixture.statistics import StatisticsKernel

MIN_LIKELY_COMPONENTS = 256
"""From so many components on the likely pairs pay: fewer are summed as fast as searched."""

KERNELS: dict[str, type[StatisticsKernel]] = {
    "all_pairs": StatisticsKernel,
    "likely_pairs": LikelyPairsKernel,
    "screened_pairs": ScreenedPairsKernel,
    "fused_pairs": FusedStatisticsKernel,
}


def statistics_kernel(
    num_components: int, center: Tensor, extra: int = 0, kind: str | None = None
) -> StatisticsKernel:
    """The fastest kernel for a device and a number of components; all give the same statistics.

    On a GPU the search for likely pairs would wait for the device, and the product over all pairs
    takes no time to speak of.

    Args:
        num_components: K.
        center: [D], near the data's mean; fixes the device.
        extra: numbers that travel with the statistics.
        kind: one of `KERNELS`, instead of the fastest.
    """
    if kind is None:
        on_cpu = "all_pairs"
        if num_components >= MIN_LIKELY_COMPONENTS:
            on_cpu = "screened_pairs" if has_bfloat16_products() else "likely_pairs"
        kind = on_cpu if center.device.type == "cpu" else "fused_pairs"
    return KERNELS[kind](num_components, center, extra)
