"""A mixture's way to the Hugging Face Hub and back; needs the extra ``hub`` once it is used."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from gmmpipe.errors import GmmpipeError

if TYPE_CHECKING:
    from types import ModuleType

    from gmmpipe.mixture.hub_files import Figures


class Shareable(nn.Module):
    """`save_pretrained`, `push_to_hub` and `from_pretrained` of `GradientGMM`."""

    if TYPE_CHECKING:

        def to_dict(self) -> dict[str, Any]:
            """As of `GradientGMM`."""

        @classmethod
        def from_dict(cls, content: dict[str, Any], source: str | Path = "model") -> Self:
            """As of `GradientGMM`."""

    def save_pretrained(self, folder: str | Path, evaluation: "Figures | None" = None) -> None:
        """Write config.json, model.safetensors and README.md, a model card, into a folder.

        Files of these names are replaced. The model is there whole or not at all.

        Args:
            folder: made if it is not there.
            evaluation: figures for the card: an `Evaluation`, or what `gmmpipe evaluate --json`
                prints, as a dict or as the path of a file.

        Raises:
            GmmpipeError: the extra ``hub`` is missing, a file cannot be written, or `evaluation`
                has no such figures.
            ValueError: `info` holds what JSON cannot keep exactly.
        """
        _hub_model().save(self.to_dict(), Path(folder), evaluation)

    def push_to_hub(self, repo_id: str, evaluation: "Figures | None" = None, **options: Any) -> str:
        """Upload the files of `save_pretrained` to a repository: the URL of the commit.

        Args:
            repo_id: ``name`` or ``organisation/name``; made if it is not there.
            evaluation: as for `save_pretrained`.
            options: of huggingface_hub's ``ModelHubMixin.push_to_hub``: ``private``, ``token``,
                ``branch``, ``commit_message``, ``create_pr`` and others.

        Raises:
            GmmpipeError: as from `save_pretrained`, or the upload failed.
        """
        return str(_hub_model().push(self.to_dict(), repo_id, evaluation, options))

    @classmethod
    def from_pretrained(
        cls, repo_or_folder: str | Path, device: str | torch.device = "cpu", **options: Any
    ) -> Self:
        """The mixture in a folder of `save_pretrained`, or in a repository of the Hub.

        A folder is read without the network. Nothing in the files is ever executed.

        Args:
            repo_or_folder: a folder that is there, else a repository. A `Path` is a folder always.
            device: where the mixture is to be.
            options: of huggingface_hub's ``snapshot_download``: ``revision``, ``token``,
                ``cache_dir``, ``local_files_only`` and others.

        Raises:
            CheckpointError: a file is missing, damaged or not a mixture's.
            GmmpipeError: the extra ``hub`` is missing, or the download failed.
        """
        content, source = _hub_model().load(repo_or_folder, options)
        return cls.from_dict(content, source).to(device)


def _hub_model() -> "ModuleType":
    try:
        from gmmpipe.mixture import hub_model
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("huggingface_hub", "safetensors"):
            raise
        raise GmmpipeError(f'{error.name} is missing: pip install "gmmpipe[hub]"') from error
    return hub_model
