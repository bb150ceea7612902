"""Model files: torch archives that are checked before anything is made of them."""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmmpipe.errors import CheckpointError
from gmmpipe.files import open_regular, write_atomic

FORMAT_VERSION = 1
_LARGEST_COUNT = 2**63
_FOLDER_BIT = 0x10
_GLOBALS = {
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(
        f"torch {kind}Storage"
        for kind in ("Bool", "Byte", "Double", "Float", "Half", "BFloat16", "Int", "Long")
    ),
}
"""All names that a model file needs. Others, like bytearray, could take any amount of memory."""

_PICKLE = (
    "it is a pickle, and reading one runs what is in it; where you trust it, unpickle it yourself "
    "and give the scikit-learn model to GradientGMM.from_sklearn"
)


def write_model(path: Path, content: dict[str, Any]) -> None:
    """Write a model file's content to `path`, whole or not at all."""
    buffer = io.BytesIO()  # not the file: torch's own error for a full disk does not say so
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def read_model(path: Path) -> dict[str, Any]:
    """A model file's content, on the CPU; nothing in it is ever executed.

    Memory is that of a few times the file, whatever it says of itself.

    Raises:
        CheckpointError: the file is missing, damaged or no model file.
    """
    content = read_content(path)
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path}: not a model file of format version {FORMAT_VERSION}")
    return content


def read_content(path: Path) -> Any:
    """What a torch archive or an .npz of any program holds, as safely as `read_model`.

    Raises:
        CheckpointError: the file is missing, damaged or neither.
    """
    try:
        with open(open_regular(path), "rb") as file:
            data = file.read()
        if data.startswith(b"\x80"):
            raise ValueError(_PICKLE)
        _check_archive(data)
        if str(path).endswith(".npz"):  # text, too, is taken for a path
            return _arrays_in(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        for tensor in _tensors_in(content):
            _check_tensor(tensor)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle fails in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: damaged, or not a model file: {reason}") from error
    return content


def check_count(
    name: str, value: Any, at_least: int = 0, at_most: int = _LARGEST_COUNT - 1
) -> None:
    """Raise ValueError unless a value of a file is an int within bounds."""
    if type(value) is not int or not at_least <= value <= min(at_most, _LARGEST_COUNT - 1):
        raise ValueError(f"its {name} is {value!r:.40}")


def check_tensor(
    name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Tensor:
    """A value of a file; ValueError unless it is a finite tensor of that shape and dtype."""
    if not isinstance(value, Tensor) or value.shape != shape or value.dtype != dtype:
        raise ValueError(f"its {name} is not a tensor of {shape} and {dtype}")
    if not value.isfinite().all():
        raise ValueError(f"its {name} is not finite")
    return value


def _check_archive(data: bytes) -> None:
    """Raise ValueError unless all members are as torch writes them, and their checksums right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed")
        if any(member.external_attr & _FOLDER_BIT for member in members):
            raise ValueError("a part of it is a folder")  # torch would read nothing of it
        if sum(member.file_size for member in members) > len(data):
            raise ValueError("its parts are larger than the whole")
        if damaged := archive.testzip():  # torch.load does not look
            raise ValueError(f"the checksum of {damaged} differs")
        for member in members:
            if member.filename.endswith("data.pkl"):
                _check_pickle(archive.read(member))


def _check_pickle(data: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(data):
        named = opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
        if named and argument not in _GLOBALS:
            raise ValueError(f"it names {argument}")


def _arrays_in(data: bytes) -> dict[str, Tensor]:
    """The arrays of an .npz as tensors; no array is larger than its bytes in the file."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.namelist():
            file = io.BytesIO(archive.read(member))
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f"{member} is not of version 1 of the npy format")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype.kind != "f" or dtype.itemsize > 8:
                continue  # names and counts, of no use here; objects are never unpickled
            flat = np.frombuffer(file.read(), dtype)
            array = flat.reshape(shape, order="F" if fortran else "C")
            native = array.astype(dtype.newbyteorder("="), order="C")
            arrays[member.removesuffix(".npy")] = torch.from_numpy(native)
    return arrays


def _tensors_in(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        yield from _tensors_in([*content.values()])
    elif isinstance(content, list | tuple):
        for part in content:
            yield from _tensors_in(part)


def _check_tensor(tensor: Tensor) -> None:
    """Raise ValueError where a copy would be larger than what is there, as of an expanded one."""
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has less data than that")
