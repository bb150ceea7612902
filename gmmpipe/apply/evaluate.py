"""`evaluate`: how well a mixture describes the frames of a store, in two passes over them."""

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from gmmpipe.apply.agreement import ClassSums, NeighbourSums
from gmmpipe.apply.frame_classes import FrameClasses
from gmmpipe.apply.model import load_model
from gmmpipe.apply.sharing import share_out
from gmmpipe.errors import CheckpointError
from gmmpipe.mixture.em import em_step
from gmmpipe.mixture.measures import EvaluationSums
from gmmpipe.mixture.returned_joints import joint_blocks
from gmmpipe.run.progress import Progress
from gmmpipe.run.world import World
from gmmpipe.store.feature_store import FeatureStore

log = logging.getLogger(__name__)
BLOCK_FRAMES = 16384
"""Frames read at once by a rank: 5 MB at D = 80."""
NO_FLOOR = 1e-6
"""For a model without a floor of its own: scikit-learn's default `reg_covar`."""


@dataclass(frozen=True)
class Evaluation:
    """How well a mixture describes frames; likelihoods and entropies are in nats a frame.

    Args:
        frames: how many there were.
        nll: mean -ln p(x).
        nll_stderr: the standard error of `nll`, as if the frames were independent.
        alive: components that are some frame's most likely one.
        usage_perplexity: exp H of the components' shares of the frames, each frame assigned to its
            most likely component: between 1 and `alive`, and equal to `alive` where all of those
            are used evenly.
        posterior_entropy: mean H(p(k|x)).
        max_posterior: mean of the largest p(k|x).
        em_gap: how much one exact EM step on these frames, under the model's own variance floor
            (`NO_FLOOR` where it has none), lowers the nll: near 0 at a maximum of the likelihood.
        uncertain_share: share of the frames whose posterior entropy is above 1 bit.
        usage_entropy: ln `usage_perplexity` over ln K: 1 where all K are used evenly, or K = 1.
        label_agreement: share of the pairs of neighbouring frames of an utterance whose most likely
            components are equal.
        labelled_frames, classes, class_purity, cluster_purity, normalized_mutual_information: how
            well components and the classes of `labels_from` tell each other; see
            `gmmpipe.apply.agreement.ClassSums.measures`. None where no field is given.
    """

    frames: int
    nll: float
    nll_stderr: float
    alive: int
    usage_perplexity: float
    posterior_entropy: float
    max_posterior: float
    em_gap: float
    uncertain_share: float
    usage_entropy: float
    label_agreement: float
    labelled_frames: int | None = None
    classes: int | None = None
    class_purity: float | None = None
    cluster_purity: float | None = None
    normalized_mutual_information: float | None = None

    def to_json(self) -> dict[str, int | float]:
        """The figures that there are, by their names."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def evaluate(
    data_dir: str,
    gmm_path: Path,
    max_frames: int | None,
    world: World,
    labels_from: str | None = None,
) -> Evaluation:
    """Evaluate a model file on the first frames of feature stores, on all ranks of `world`.

    Memory does not grow with the number of frames: both passes go block by block, and the ranks
    share the blocks.

    Args:
        data_dir: a store, or several, comma-separated.
        gmm_path: the model file.
        max_frames: how many frames at most; None for all.
        world: the ranks; all of them get the same result.
        labels_from: a field of the samples' JSON whose classes the labels are compared with.

    Raises:
        StoreError: a store is missing or damaged, or no sample carries the field `labels_from`.
        CheckpointError: the model cannot be read, or does not belong to such frames.
    """
    store = FeatureStore.open(data_dir)
    store.check_files()
    gmm = load_model(gmm_path, store, world.device)
    num_frames = min(store.num_frames, max_frames or store.num_frames)
    # Blocks of a small store are smaller, so that every rank has one.
    size = min(BLOCK_FRAMES, -(-num_frames // world.size))
    blocks = [(at, min(at + size, num_frames)) for at in range(0, num_frames, size)]
    sums = EvaluationSums.zeros(gmm.K, gmm.dim, world.device)
    neighbours, classes = NeighbourSums.zeros(store, gmm), None
    if labels_from is not None:
        classes = ClassSums.zeros(FrameClasses.find(store, labels_from, num_frames, world), gmm)
    score_after = torch.zeros((), dtype=torch.float64, device=world.device)

    def first_pass(block: tuple[int, int]) -> None:
        labels = sums.add(store.read_frames(*block).to(world.device), gmm.mixture)
        neighbours.add(*block, labels)
        if classes is not None:
            classes.add(*block, labels)

    with Progress("evaluate", "frames", total=2 * num_frames) as progress:
        for done in share_out(blocks, first_pass, world):
            progress.advance(sum(stop - start for start, stop in done), note="scoring")
        world.all_reduce(sums.statistics.flat)
        world.all_reduce(neighbours.sums)
        if classes is not None:
            world.all_reduce(classes.table)
        floor = NO_FLOOR if gmm.var_floor is None else gmm.var_floor
        stepped = em_step(sums.statistics, gmm.mixture, floor)

        def second_pass(block: tuple[int, int]) -> None:
            frames = store.read_frames(*block).to(world.device)
            for joints in joint_blocks(stepped, frames):
                score_after.add_(joints.scores().sum())

        for done in share_out(blocks, second_pass, world):
            progress.advance(sum(stop - start for start, stop in done), note="after an EM step")
        world.all_reduce(score_after)
    measures = sums.measures()
    em_gap = measures["nll"] + float(score_after) / num_frames
    if not math.isfinite(measures["nll"]) or not math.isfinite(em_gap):
        raise CheckpointError(f"{gmm_path}: gives likelihoods that are not finite")
    log.info("evaluated %s on %d frames of %s", gmm_path, num_frames, data_dir)
    return Evaluation(
        frames=num_frames,
        **measures,  # type: ignore[arg-type]
        em_gap=em_gap,
        label_agreement=neighbours.agreement(),
        **(classes.measures() if classes else {}),  # type: ignore[arg-type]
    )
