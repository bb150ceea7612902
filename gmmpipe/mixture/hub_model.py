"""huggingface_hub's `ModelHubMixin` over a mixture: what saves, uploads and downloads it."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download

from gmmpipe.errors import CheckpointError, GmmpipeError
from gmmpipe.files import write_atomic
from gmmpipe.mixture.hub_files import (
    CONFIG_FILE,
    MODEL_FILE,
    Figures,
    figures_of,
    files_of,
    read_files,
)
from gmmpipe.mixture.model_card import card_text

CARD_FILE = "README.md"


class HubModel(ModelHubMixin, library_name="gmmpipe", tags=["gmm", "speech"]):
    """A mixture's content, with the figures and the name that its card gives."""

    def __init__(self, content: dict[str, Any], figures: dict[str, Any], name: str) -> None:
        self.content = content
        self.files = files_of(content)
        self.figures = figures
        self.name = name

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write all files, config.json last: without it a folder is no model."""
        card = self.generate_model_card()
        write_atomic(save_directory / CARD_FILE, str(card).encode())
        for name, data in self.files.items():
            write_atomic(save_directory / name, data)

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The card: the mixin's own YAML, and the text of `card_text`."""
        data = self._hub_mixin_info.model_card_data
        text = card_text(self.content, self.figures, self.name)
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def save(content: dict[str, Any], folder: Path, evaluation: Figures | None) -> None:
    """Write a model's files into `folder`."""
    model = HubModel(content, figures_of(evaluation), folder.resolve().name)  # not its whole path
    try:
        model.save_pretrained(folder)
    except OSError as error:
        raise GmmpipeError(f"{folder}: cannot be written: {error.strerror or error}") from error


def push(
    content: dict[str, Any], repo_id: str, evaluation: Figures | None, options: dict[str, Any]
) -> str:
    """Upload a model's files to `repo_id`; the commit's URL."""
    model = HubModel(content, figures_of(evaluation), repo_id)
    try:
        return str(model.push_to_hub(repo_id, **options))
    except (TypeError, GmmpipeError):
        raise
    except Exception as error:  # of the client, the network, the disk
        raise GmmpipeError(f"{repo_id}: cannot be uploaded: {_one_line(error)}") from error


def load(repo_or_folder: str | Path, options: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """A model file's content from a folder or a repository, and the file that errors name."""
    folder = Path(repo_or_folder)
    if not folder.is_dir():
        if isinstance(repo_or_folder, Path) or folder.is_absolute() or folder.exists():
            raise CheckpointError(f"{folder}: no such folder")
        try:  # both files of one commit, whatever is pushed meanwhile
            found = snapshot_download(
                repo_or_folder, allow_patterns=[CONFIG_FILE, MODEL_FILE], **options
            )
        except TypeError:
            raise
        except Exception as error:  # of the client, the network, the disk
            reason = _one_line(error)
            raise GmmpipeError(f"{repo_or_folder}: cannot be downloaded: {reason}") from error
        folder = Path(found)
    return read_files(folder), folder / MODEL_FILE


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
