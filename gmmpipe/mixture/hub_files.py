"""The model's files in a folder for the Hub: config.json and model.safetensors."""

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
from torch import Tensor

from gmmpipe.errors import CheckpointError, GmmpipeError
from gmmpipe.files import open_regular, read_regular
from gmmpipe.mixture.model_file import FORMAT_VERSION

CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
_MAX_CONFIG_BYTES = 1 << 24

Figures: TypeAlias = Any
"""An `Evaluation`, or what `gmmpipe evaluate --json` prints: a dict, or the path of a file."""


def figures_of(evaluation: Figures | None) -> dict[str, int | float]:
    """The figures of an evaluation, by their names; none of None.

    Raises:
        GmmpipeError: there are no such figures.
    """
    values: Any = {} if evaluation is None else evaluation
    if is_dataclass(values) and not isinstance(values, type):
        values = asdict(values)
    elif isinstance(values, str | Path):
        values = _read_json(Path(values), GmmpipeError)
    where = evaluation if isinstance(evaluation, str | Path) else "evaluation"
    if not isinstance(values, Mapping) or (evaluation is not None and "nll" not in values):
        raise GmmpipeError(f"{where}: holds no figures of gmmpipe evaluate")
    return {name: x for name, x in values.items() if type(x) in (int, float)}


def files_of(content: dict[str, Any]) -> dict[str, bytes]:
    """Files of a model file's content: tensors as model.safetensors, the rest as config.json.

    Raises:
        ValueError: the rest has a value that JSON does not give back equal.
    """
    tensors = {name: v.contiguous() for name, v in content.items() if isinstance(v, Tensor)}
    config = {name: value for name, value in content.items() if name not in tensors}
    try:
        text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"info cannot be kept in {CONFIG_FILE}: {error}") from error
    if json.loads(text) != config:
        raise ValueError(f"info cannot be kept in {CONFIG_FILE}: JSON has no such values")
    return {
        MODEL_FILE: safetensors.torch.save(tensors, {"format": "pt"}),
        CONFIG_FILE: f"{text}\n".encode(),
    }


def read_files(folder: Path) -> dict[str, Any]:
    """A model file's content from the files of `files_of`; memory is a few times that of the files.

    Raises:
        CheckpointError: a file is missing, damaged or of another kind.
    """
    config = _read_json(folder / CONFIG_FILE, CheckpointError)
    if not isinstance(config, dict) or config.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: not of a gmmpipe model of format version {FORMAT_VERSION}"
        )
    path = folder / MODEL_FILE
    try:
        with open(open_regular(path), "rb") as file:
            tensors = safetensors.torch.load(file.read())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes fail in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: damaged, or no safetensors file: {reason}") from error
    return {**config, **tensors}


def _read_json(path: Path, error_type: type[GmmpipeError]) -> Any:
    try:
        return json.loads(read_regular(path, _MAX_CONFIG_BYTES))
    except FileNotFoundError as error:
        raise error_type(f"{path}: no such file") from error
    except OSError as error:
        raise error_type(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise error_type(f"{path}: damaged, or no JSON: {error}") from error
