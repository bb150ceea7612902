"""The training loop."""

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters
from torch.utils.data import DataLoader

from gmmpipe import FeatureStore
from gmmpipe.errors import GmmpipeError, RankError, Stopped
from gmmpipe.jepa import JEPABatch, JEPABatches
from gmmpipe.run.progress import Progress
from gmmpipe.run.stop import StopRequest
from gmmpipe.run.world import World
from pipelines.jepa.checkpoint import TrainState
from pipelines.jepa.evaluation import EvaluationSample
from pipelines.jepa.folder import jepa_folder
from pipelines.jepa.loading import as_raised, ignore_signals, loader_died, loading
from pipelines.jepa.losses import loss_sums
from pipelines.jepa.options import JEPAOptions
from pipelines.jepa.schedule import cluster_weight_at, lr_at
from pipelines.jepa.targets import Anchor

log = logging.getLogger("gmmpipe.pipelines.jepa")
LARGEST_GRADIENT = 1.0
"""What the norm of the gradient is clipped to."""


class Trainer:
    """One run, on one rank.

    Args:
        options: what to do.
        world: this rank among the others.

    Raises:
        GmmpipeError: see `gmmpipe.errors`.
    """

    def __init__(self, options: JEPAOptions, world: World) -> None:
        self.options, self.stop = options, StopRequest()
        self.world = world = replace(world, stopping=self.stop.is_made)
        self.store = FeatureStore.open(options.data_dir)
        self.store.check_files()
        self.anchor = Anchor.open(options, self.store)
        sizes = options.sizes(self.store, self.anchor.num_components)
        identity = options.identity(self.store)
        self.batches_from(0)  # an error of the store or the mixture comes before the folder's
        self.state = TrainState.begin(sizes, options.seed, self.anchor.moments, world.device)
        self.folder = jepa_folder(options, identity, self.state, world)

    def run(self) -> None:
        """Train from the beginning or a checkpoint until `max_steps` are done.

        Raises:
            GmmpipeError: see `gmmpipe.errors`.
            Stopped: a signal ended the run; a checkpoint holds what was done.
        """
        state, options = self.state, self.options
        with self.folder.prepared() as content:
            if content:
                state.load(content)
            if state.step < options.max_steps:
                self._train()
            else:
                log.info("%d steps are done already: nothing to do", state.step)
                with self.stop.listening():
                    self.folder.mend(state, (options.max_steps,))
        row = state.metrics[-1]
        log.info(
            "cluster loss %.4f nats a frame over the last steps, %.0f %% of the %.4f of always "
            "predicting the mean posterior of the same frames",
            *(row["cluster_loss"], 100 * row["cluster_loss"] / row["marginal_loss"]),
            row["marginal_loss"],
        )
        if options.cluster_weight_start == options.cluster_weight_end == 0:
            log.info("(at weight 0 the cluster head learns nothing)")

    def batches_from(self, step: int) -> JEPABatches:
        """This rank's batches of the steps to come."""
        options = self.options
        return JEPABatches(
            self.store,
            batch_size=options.batch_size,
            max_seconds=options.max_seconds,
            seed=options.seed,
            start_step=step,
            stop_step=options.max_steps,
            rank=self.world.rank,
            world_size=self.world.size,
            wav=options.input == "wav",
            augment=options.augmentation,
            **self.anchor.arguments,
        )

    def _train(self) -> None:
        state, options = self.state, self.options
        sample = EvaluationSample.read(self.store, state.jepa, options.seed)
        loader = DataLoader(
            self.batches_from(state.step),
            batch_size=None,
            num_workers=options.num_workers,
            pin_memory=self.world.device.type == "cuda",
            worker_init_fn=ignore_signals,
        )
        with (
            loading(loader) as batches,
            Progress("jepa", "steps", options.max_steps, state.step) as progress,
            self.stop.listening(),
            self.stop.keeping(self._keep, self._keep_alone),
        ):
            self.folder.begin(state)
            while state.step < options.max_steps:
                self._step(self._next(batches))
                self._record(sample)
                progress.advance(1, state.last_losses())
            self.folder.save(state, finished=True)

    def _record(self, sample: EvaluationSample) -> None:
        """Write what is due after a step; all that is at its end comes with ``jepa.pt``."""
        state, options = self.state, self.options
        last = state.step == options.max_steps
        if state.step % options.log_every == 0 or last:
            self._log(sample)
        if (state.step % options.save_every == 0 or self.folder.replacing) and not last:
            self.folder.save(state)

    def _next(self, batches: Iterator[JEPABatch]) -> JEPABatch:
        """The next batch; all ranks leave here where one has none, or is to stop."""
        batch: JEPABatch | None = None
        failure: Exception | None = None
        try:
            batch = self._wait(batches)
        except Exception as error:
            failure = error
        leaving = torch.tensor([self.stop.is_made(), batch is None], dtype=torch.float32).to(
            self.world.device
        )
        self.world.all_reduce(leaving)
        if leaving[0]:
            raise self.stop.stopped()
        if leaving[1]:
            self._fail(failure)
        assert batch is not None
        return batch.to(self.world.device, non_blocking=True)

    def _wait(self, batches: Iterator[JEPABatch]) -> JEPABatch | None:
        """The next batch; None where this rank is to stop, for a loader may be stuck for ever."""
        try:
            with self.stop.at_once():
                return None if self.stop.is_made() else next(batches)
        except Stopped:
            return None

    def _fail(self, failure: Exception | None) -> NoReturn:
        """Leave a checkpoint and raise what was wrong with this rank's batch, if anything was."""
        if isinstance(failure, GmmpipeError):
            self._keep()
            raise as_raised(failure) from None
        died = isinstance(failure, OSError | EOFError | RuntimeError) and self.options.num_workers
        if failure and not died:  # a bug
            raise failure
        self._keep()
        if failure is None:
            raise RankError("another rank failed; its error says why")
        raise loader_died(failure) from failure

    def _step(self, batch: JEPABatch) -> None:
        """One step: its gradient is that of the mean over the frames of all ranks."""
        state, options = self.state, self.options
        visible = ~(batch.padding_mask | batch.mask)
        counts = torch.stack([batch.mask.sum(), visible.sum()])
        self.world.all_reduce(counts)
        at = (state.step, options.max_steps)
        weight = cluster_weight_at(*at, options.cluster_weight_start, options.cluster_weight_end)
        for group in state.optimizer.param_groups:
            group["lr"] = lr_at(*at, options.lr)
        state.optimizer.zero_grad()
        sums = loss_sums(state.jepa, state.target, batch)
        (sums.jepa / counts[0].clamp(min=1) + weight * sums.cluster / counts[1]).backward()
        gradients = [p.grad for p in state.jepa.parameters() if p.grad is not None]
        scalars = torch.stack([sums.jepa, sums.cluster, sums.entropy]).detach()
        flat = torch.cat([parameters_to_vector(gradients), scalars, sums.posteriors])
        self.world.all_reduce(flat)
        vector_to_parameters(flat, gradients)
        others = flat[sum(g.numel() for g in gradients) :]
        norm = clip_grad_norm_(state.jepa.parameters(), LARGEST_GRADIENT)
        if not math.isfinite(float(norm + others.sum())):
            raise GmmpipeError(
                f"step {state.step + 1} gave a loss or gradient that is not finite; try a lower "
                "--lr"
            )
        state.optimizer.step()
        update_target(state.target, state.jepa.encoder, options.ema_decay)
        state.running.add(torch.cat([others[:3], counts[:2], others[3:]]))
        state.step += 1

    def _log(self, sample: EvaluationSample) -> None:
        """Add a row of metrics."""
        state, options = self.state, self.options
        weights = (options.cluster_weight_start, options.cluster_weight_end)
        losses = state.running.means()
        state.metrics.append(
            {
                "step": state.step,
                "jepa_loss": losses["jepa_loss"],
                "cluster_loss": losses["cluster_loss"],
                "cluster_weight": cluster_weight_at(state.step - 1, options.max_steps, *weights),
                **sample.measure(state.jepa),
                "marginal_loss": losses["marginal_loss"],
                "lr": lr_at(state.step - 1, options.max_steps, options.lr),
            }
        )
        state.running.values.zero_()
        self.folder.write_metrics(state)

    def _keep(self) -> None:
        """Leave a checkpoint together with all ranks, if there is anything to keep."""
        if self.state.step:
            self.folder.save(self.state)
            log.info("--resume auto goes on from there")

    def _keep_alone(self) -> Path | None:
        """Leave a checkpoint of the last whole step by this rank alone."""
        return self.folder.keep_alone(self.state) if self.state.step else None


@torch.no_grad()
def update_target(target: torch.nn.Module, online: torch.nn.Module, decay: float) -> None:
    """Move the target encoder: target = decay * target + (1 - decay) * online."""
    for mine, theirs in zip(target.parameters(), online.parameters(), strict=True):
        mine.lerp_(theirs, 1 - decay)
