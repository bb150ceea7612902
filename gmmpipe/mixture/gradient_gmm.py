"""`GradientGMM`: a fitted mixture as an `nn.Module`, and its file."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from gmmpipe.errors import CheckpointError
from gmmpipe.mixture.fast_joints import JointBlock
from gmmpipe.mixture.floors import floor_from_content
from gmmpipe.mixture.hub import Shareable
from gmmpipe.mixture.mixture import Mixture, temper
from gmmpipe.mixture.model_file import FORMAT_VERSION, read_content, write_model
from gmmpipe.mixture.other_forms import in_other_form, parameters_of
from gmmpipe.mixture.returned_joints import joint_blocks

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture


_NO_MODEL = (KeyError, ValueError, TypeError, AttributeError, RuntimeError)


class GradientGMM(Shareable):
    """A diagonal-covariance Gaussian mixture with frozen parameters.

    Frames are [N, D], or [B, D, T] as encoders have them (then N = B * T, time fastest). What is
    returned is computed in float64, or on a GPU with slow float64 within the same bounds
    (`gmmpipe.mixture.fast_joints`; the host waits once a block there), whatever the input's dtype,
    the default dtype, an enclosing autocast or the TF32 setting, and does not depend on the
    gradient mode. Memory is the result plus a fixed block, for any N.

    Args:
        means: [K, D].
        log_vars: [K, D], the log variances.
        log_weights: [K], normalised.
        info: what else `save` writes: ``features``, ``seed``, ``frames`` and the like.
    """

    means: Tensor
    covariances: Tensor
    weights: Tensor
    log_vars: Tensor
    log_weights: Tensor

    def __init__(
        self,
        means: Tensor,
        log_vars: Tensor,
        log_weights: Tensor,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if means.ndim != 2:
            raise ValueError(f"means {tuple(means.shape)} are not [K, D]")
        num_components = len(means)
        if log_vars.shape != means.shape or log_weights.shape != (num_components,):
            raise ValueError(
                f"means {tuple(means.shape)}, log_vars {tuple(log_vars.shape)} and log_weights "
                f"{tuple(log_weights.shape)} are not [K, D], [K, D] and [K]"
            )
        parameters = {"means": means, "log_vars": log_vars, "log_weights": log_weights}
        for name, value in parameters.items():
            self.register_buffer(name, value.detach().to(torch.float32).clone())
        self.register_buffer("covariances", self.log_vars.exp())
        self.register_buffer("weights", torch.softmax(self.log_weights, 0))
        self.info = dict(info or {})

    @classmethod
    def of(cls, mixture: Mixture, info: dict[str, Any] | None = None) -> Self:
        """The module that holds a copy of `mixture`."""
        return cls(mixture.means, mixture.log_vars, mixture.log_weights, info)

    @property
    def mixture(self) -> Mixture:
        """The parameters as one value."""
        return Mixture(self.means, self.log_vars, self.log_weights)

    @property
    def K(self) -> int:  # noqa: N802 (the field's name for it)
        """Number of components."""
        return self.means.shape[0]

    @property
    def dim(self) -> int:
        """Feature dimension D."""
        return self.means.shape[1]

    @property
    def var_floor(self) -> float | Tensor | None:
        """The least variance that the fit allowed: a number, or float64 [D] on the CPU."""
        return floor_from_content({**self.info, "dim": self.dim})

    def assign(self, x: Tensor) -> Tensor:
        """The most likely component of each frame, int64 [N].

        Args:
            x: frames [N, D] or [B, D, T].

        Raises:
            ValueError: the frames have another shape or dimension.
        """
        return self._per_block(x, torch.int64, (), lambda block: block.joints.argmax(1))

    def soft_assign(self, x: Tensor, temperature: float = 1.0) -> Tensor:
        """softmax(log joint / temperature) over the components, float32 [N, K].

        Args:
            x: frames [N, D] or [B, D, T].
            temperature: 1 gives the posteriors p(k | x).

        Raises:
            ValueError: the frames have another shape, or the temperature is not above 0 and finite.
        """
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}, but must be above 0 and finite")

        def tempered(block: JointBlock) -> Tensor:
            return temper(block.joints, temperature)

        return self._per_block(x, torch.float32, (self.K,), tempered, temperature)

    def score_samples(self, x: Tensor) -> Tensor:
        """ln p(x) of each frame in nats, float32 [N].

        Args:
            x: frames [N, D] or [B, D, T].

        Raises:
            ValueError: the frames have another shape or dimension.
        """
        return self._per_block(x, torch.float32, (), JointBlock.scores)

    @torch.no_grad()
    def _per_block(
        self,
        x: Tensor,
        dtype: torch.dtype,
        shape: tuple[int, ...],
        result: Callable[[JointBlock], Tensor],
        temperature: float = 1.0,
    ) -> Tensor:
        """`result` of each block of frames, put together as [N, *shape]."""
        with torch.autocast(x.device.type, enabled=False):
            num_frames = self._count_frames(x)
            out = torch.empty(num_frames, *shape, dtype=dtype, device=x.device)
            for block in joint_blocks(self.mixture, x, temperature):
                out[block.rows] = result(block)
        return out

    def _count_frames(self, x: Tensor) -> int:
        if x.ndim in (2, 3) and x.shape[1] == self.dim:
            return x.numel() // self.dim
        raise ValueError(f"frames {tuple(x.shape)} are not [N, {self.dim}] or [B, {self.dim}, T]")

    def save(self, path: str | Path, form: str = "gmmpipe") -> None:
        """Write a model file, whole or not at all.

        Args:
            path: the file.
            form: ``gmmpipe`` (gmm.pt in docs/formats.md), or ``sjepa``: a torch file of means,
                variances [K, D] and weights [K], float32, and nothing else.

        Raises:
            ValueError: there is no such form.
        """
        content = self.to_dict()
        if form == "sjepa":
            names = {"means": "means", "variances": "covariances", "weights": "weights"}
            content = {there: content[here] for there, here in names.items()}
        elif form != "gmmpipe":
            raise ValueError(f"form is {form!r}, but must be 'gmmpipe' or 'sjepa'")
        write_model(Path(path), content)

    def to_dict(self) -> dict[str, Any]:
        """The model file's content: tensors on the CPU and plain Python values."""
        return {
            **self.info,
            "format_version": FORMAT_VERSION,
            "K": self.K,
            "dim": self.dim,
            **{name: buffer.detach().cpu().clone() for name, buffer in self.named_buffers()},
        }

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read a model file: ``gmm.pt``, a checkpoint, or one of another program.

        Other programs' files are torch files or .npz with ``means``, ``variances`` or
        ``covariances`` [K, D] and ``weights``, each also with scikit-learn's ``_`` at its end. They
        do not say what their frames are. Nothing in a file is ever executed.

        Raises:
            CheckpointError: the file is missing, damaged or no model file.
        """
        content = read_content(Path(path))
        if not in_other_form(content):
            return cls.from_dict(_of_this_version(content, path), path).to(device)
        try:
            parameters = parameters_of(content)
            means, log_vars, log_weights = (
                parameters[name] for name in ("means", "log_vars", "log_weights")
            )
            model = cls(means, log_vars, log_weights)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        values = dict(model.named_buffers())
        if problem := model._disagreement(values):  # beyond what float32 can hold
            raise CheckpointError(f"{path}: {problem}")
        return model.to(device)

    @classmethod
    def from_dict(cls, content: dict[str, Any], source: str | Path = "model") -> Self:
        """The model in a model file's content; `source` names it in errors."""
        content = dict(content)
        buffers = ("means", "covariances", "weights", "log_vars", "log_weights")
        try:
            values = {name: content.pop(name) for name in buffers}
            num_components, dim = content.pop("K"), content.pop("dim")
            content.pop("format_version")
            content.pop("resume", None)  # of use to a fit alone, and several times the model's size
            _check_values(values)
            floor_from_content({**content, "dim": dim})
            model = cls(values["means"], values["log_vars"], values["log_weights"], info=content)
        except _NO_MODEL as error:
            raise CheckpointError(f"{source}: not a gmmpipe model file: {error!r}") from error
        if (model.K, model.dim) != (num_components, dim):
            raise CheckpointError(f"{source}: K and dim are not those of its tensors")
        if problem := model._disagreement(values):
            raise CheckpointError(f"{source}: {problem}")
        return model

    def _disagreement(self, values: dict[str, Tensor]) -> str | None:
        """What is wrong with this model, or with how a file's other tensors agree with it."""
        zero_weights = self.log_weights.isneginf()
        for name, buffer in self.named_buffers():
            allowed = zero_weights if name == "log_weights" else zero_weights.new_zeros(())
            if not (buffer.isfinite() | allowed).all():
                return f"its {name} are not finite"
        if not (self.covariances > 0).all():
            return "it has covariances of 0"
        for name, source in (("covariances", "log_vars"), ("weights", "log_weights")):
            there, here = values[name].float(), getattr(self, name)
            if there.shape != here.shape or not torch.allclose(there, here, rtol=1e-4, atol=1e-6):
                return f"its {name} are not those of its {source}"
        return None

    def to_sklearn(self) -> "GaussianMixture":
        """A fitted ``sklearn.mixture.GaussianMixture(covariance_type="diag")``, float64."""
        from sklearn.mixture import GaussianMixture

        model = GaussianMixture(self.K, covariance_type="diag")
        model.weights_ = self.log_weights.double().softmax(0).cpu().numpy()
        model.means_ = self.means.double().cpu().numpy()
        model.covariances_ = self.log_vars.double().exp().cpu().numpy()
        model.precisions_cholesky_ = 1.0 / np.sqrt(model.covariances_)
        model.precisions_ = model.precisions_cholesky_**2
        model.converged_, model.n_iter_, model.n_features_in_ = True, 0, self.dim
        return model

    @classmethod
    def from_sklearn(cls, model: "GaussianMixture") -> Self:
        """The mixture that a fitted diagonal ``sklearn.mixture.GaussianMixture`` holds.

        Raises:
            ValueError: its covariances are not diagonal.
        """
        if model.covariance_type != "diag":
            raise ValueError(f"covariance_type is {model.covariance_type!r}, not 'diag'")
        with np.errstate(divide="ignore"):  # the logarithm of a weight of 0 is -inf
            log_weights = np.log(model.weights_)
        return cls(
            means=torch.from_numpy(model.means_),
            log_vars=torch.from_numpy(np.log(model.covariances_)),
            log_weights=torch.from_numpy(log_weights),
        )


def _of_this_version(content: Any, path: str | Path) -> dict[str, Any]:
    """The content of a gmm.pt; CheckpointError for another one."""
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: not a model file of format version {FORMAT_VERSION}, "
            "nor one of means, variances and weights"
        )
    return content


def _check_values(values: dict[str, Any]) -> None:
    """Raise TypeError where one of a file's values is no tensor of floating point."""
    for name, value in values.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{name} is not a tensor of floating point")
