"""Which ways there are to fit a mixture by statistics."""

from gmmpipe.mixture.adam import Adam
from gmmpipe.mixture.em import StepwiseEM
from gmmpipe.mixture.optimizer import Optimizer

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "em": StepwiseEM}
