"""`JEPABatch`: utterances of about one length, padded to the longest."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from gmmpipe.features.log_mel_spec import LogMelSpec

SHARED_MEMORY = "/dev/shm"  # noqa: S108
"""Where torch puts the tensors that a loader process hands over."""


@dataclass(frozen=True)
class JEPABatch:
    """This rank's utterances of one step: B of them, T frames the longest.

    Each field can be read as ``batch.mask`` and as ``batch["mask"]``; what was not asked for is
    None. In padding, features, wav and all targets are 0.

    Args:
        step: the number of the step, counted through all epochs; a run that has done it resumes at
            step + 1.
        keys: the utterances' keys, B of them.
        kind: the kind of the frames: ``log_mel``, ``external`` or another.
        features: the frames, float32 [B, D, T].
        lengths: frames of each utterance, int64 [B].
        padding_mask: bool [B, T], True = padding.
        mask: bool [B, T], True = masked, to be predicted; never in padding.
        targets: p(k | x) of each frame at the chosen temperature, float32 [B, T, K].
        topk_ids: the components with the k largest posteriors, largest first, int64 [B, T, k];
            given instead of `targets` where only the largest k are wanted.
        topk_probs: their posteriors, float32 [B, T, k]. Their sum is below 1 by the mass of the
            other components.
        wav: the waveform, float32 [B, S] with S = T * hop_length: frame t begins at sample
            t * hop_length. Samples after an utterance's last whole hop are cut.
    """

    step: int
    keys: list[str]
    kind: str
    features: Tensor
    lengths: Tensor
    padding_mask: Tensor
    mask: Tensor
    targets: Tensor | None = None
    topk_ids: Tensor | None = None
    topk_probs: Tensor | None = None
    wav: Tensor | None = None

    @property
    def log_mel(self) -> Tensor:
        """`features`, the same tensor, where the frames are log-mels.

        Raises:
            AttributeError: they are of another kind.
        """
        if self.kind != LogMelSpec.kind:
            raise AttributeError(
                f"the frames are of kind {self.kind}, not log-mels: read batch.features"
            )
        return self.features

    def __getitem__(self, name: str) -> Any:
        if name not in self.__dataclass_fields__ and name != "log_mel":
            raise KeyError(name)
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise KeyError(str(error)) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Tensors leave a loader process through shared memory where that has room for them.

        Otherwise they go through a pipe, which costs a copy. A tensor that finds no room in shared
        memory never arrives, and the trainer would wait for it forever. Docker gives 64 MB of it
        unless told otherwise.
        """
        values = dict(vars(self))
        if get_worker_info() is not None and not self._shared():
            values = {
                name: value.numpy() if isinstance(value, Tensor) else value
                for name, value in values.items()
            }
        return _rebuilt, (type(self), values)

    def fits_shared_memory(self) -> bool:
        """Whether shared memory has room for one batch of each loader process of this machine.

        The sizes are counted twice, to leave room for other programs.
        """
        worker = get_worker_info()
        processes = worker.num_workers if worker else 1
        processes *= int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
        size = sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))
        return 2 * processes * size <= free_shared_memory()

    def _shared(self) -> bool:
        """Move the tensors to shared memory; False where that has no room."""
        if not self.fits_shared_memory():
            return False
        try:
            for value in vars(self).values():
                if isinstance(value, Tensor):
                    value.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError:  # another program has taken the room meanwhile
            return False
        return True

    def to(self, device: str | torch.device, non_blocking: bool = False) -> "JEPABatch":
        """The batch with its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "JEPABatch":
        """The batch in pinned memory: what ``DataLoader(pin_memory=True)`` calls."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "JEPABatch":
        tensors: dict[str, Any] = {
            name: function(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def _rebuilt(kind: type[JEPABatch], values: dict[str, Any]) -> JEPABatch:
    """The inverse of `JEPABatch.__reduce__`."""
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            values[name] = torch.from_numpy(value)
    return kind(**values)


def free_shared_memory() -> float:
    """Free shared memory in bytes; infinite where torch has no such limit."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return float("inf")
    return float(status.f_bavail * status.f_frsize)
