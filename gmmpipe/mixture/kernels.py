"""Which kernel sums the statistics: chosen by the device and the number of components."""

import torch
from torch import Tensor

from gmmpipe.errors import OptionError
from gmmpipe.mixture.fused_statistics import FusedStatisticsKernel
from gmmpipe.mixture.likely_pairs import LikelyPairsKernel
from gmmpipe.mixture.screened_pairs import ScreenedPairsKernel, has_bfloat16_products
from gmmpipe.mixture.statistics import StatisticsKernel
from gmmpipe.mixture.triton_statistics import TritonKernel, is_interpreted

MIN_LIKELY_COMPONENTS = 256
"""From so many components on the likely pairs pay: fewer are summed as fast as searched."""

KERNELS: dict[str, type[StatisticsKernel] | type[TritonKernel]] = {
    "all_pairs": StatisticsKernel,
    "likely_pairs": LikelyPairsKernel,
    "screened_pairs": ScreenedPairsKernel,
    "fused_pairs": FusedStatisticsKernel,
    "triton": TritonKernel,
}
CPU_KERNELS = ("all_pairs", "likely_pairs", "screened_pairs", "fused_pairs")
"""Those that a CPU can take, too, if slowly."""


def statistics_kernel(
    num_components: int, center: Tensor, extra: int = 0, kind: str | None = None
) -> StatisticsKernel | TritonKernel:
    """The fastest kernel for a device and a number of components; all give the same statistics.

    On a GPU the search for likely pairs would wait for the device, and the product over all pairs
    takes no time to speak of.

    Args:
        num_components: K.
        center: [D], near the data's mean; fixes the device.
        extra: numbers that travel with the statistics.
        kind: one of `KERNELS`, instead of the fastest.

    Raises:
        GmmpipeError: the kind needs what is not installed.
    """
    if kind is None:
        on_cpu = "all_pairs"
        if num_components >= MIN_LIKELY_COMPONENTS:
            on_cpu = "screened_pairs" if has_bfloat16_products() else "likely_pairs"
        kind = on_cpu if center.device.type == "cpu" else "all_pairs"
    if kind == "all_pairs" and center.device.type != "cpu":
        kind = "fused_pairs"  # the same sums, without a wait
    return KERNELS[kind](num_components, center, extra)


def check_kind(kind: str | None, device: torch.device) -> None:
    """Refuse a kind of kernel that is not for a device.

    Args:
        kind: one of `KERNELS`; None for the fastest, which suits any device.
        device: of the frames.

    Raises:
        OptionError: it is for other devices.
        GmmpipeError: it needs what is not installed.
    """
    on_cpu = device.type == "cpu"
    if kind == "triton" and on_cpu and not is_interpreted():
        raise OptionError(
            "--kernel triton is for a GPU, and this fit is on a CPU (where TRITON_INTERPRET=1 in "
            "the environment makes it run, slowly)"
        )
    if kind in ("likely_pairs", "screened_pairs") and not on_cpu:
        raise OptionError(
            f"--kernel {kind} is for a CPU: on a GPU its search would wait for the device"
        )
