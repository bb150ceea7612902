"""Which ways there are to fit a mixture by statistics."""

from gmmpipe.mixture.adam import Adam
from gmmpipe.mixture.em import StepwiseEM
from gmmpipe.mixture.lloyd import MiniBatchLloyd
from gmmpipe.mixture.optimizer import Optimizer

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "em": StepwiseEM}
MODELS = ("diag", "kmeans")


def optimizer_of(model: str, optimizer: str) -> type[Optimizer]:
    """How a model, one of `MODELS`, is fitted: for ``kmeans`` there is one way, else by name."""
    return MiniBatchLloyd if model == "kmeans" else OPTIMIZERS[optimizer]
