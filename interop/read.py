"""Reading of published weight files without executing code in them.

A PyTorch file is a pickle, which can run code. `weights_only` restricts it to tensors and plain containers. Objects of
a few training frameworks (argparse's namespace, Lightning's callbacks, OmegaConf's nodes) are replaced by an empty
class here. Any other class is refused.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..runtime.regular import check_regular, open_regular
from .shards import shard_files
from .unwrap import unwrap

INERT = ("argparse.Namespace", "lightning.", "numpy.", "omegaconf.", "pytorch_lightning.")
"""Classes, and prefixes of classes, whose objects are replaced by `Placeholder`."""


class Placeholder:
    """Replaces an object of a pickle and ignores its state."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name, memory-mapped where the format allows.

    Args:
        path: a .safetensors, .pt, .pth, .bin or .ckpt file, one of several shards, or the index of the shards.

    Raises:
        CheckpointError: a file is missing, truncated, contains code, or is not a weight file.
    """
    files = shard_files(path)
    if len(files) == 1:
        return unwrap(_read(files[0]), path)
    return unwrap({name: tensor for file in files for name, tensor in _read(file).items()}, path)


def _read(path: Path) -> Any:
    """Return the content of one file."""
    try:
        with open_regular(path) as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    # A safetensors file starts with the length of its header, whose first byte may equal that of a pickle.
    if start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 2**32:
        return _read_safetensors(path)
    zipped = start[:4] == b"PK\x03\x04"
    if zipped or start[:1] == b"\x80":
        return _read_pickle(path, zipped)
    raise CheckpointError(f"{path}: neither a PyTorch checkpoint nor a safetensors file")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file ({error}); download it again") from error


def _read_pickle(path: Path, zipped: bool) -> Any:
    try:
        placeholders = _placeholders(path) if zipped else [(Placeholder, "argparse.Namespace")]
        with torch.serialization.safe_globals(placeholders):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except Exception as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise CheckpointError(_contains_code(path, [code[1]])) from error
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise CheckpointError(
            f"{path}: truncated, damaged or not a weight file ({reason}); download it again"
        ) from error


def _placeholders(path: Path) -> list[Any]:
    """Return placeholders for the known classes in the file. Classes are listed without unpickling."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    refused = [n for n in names if not n.startswith(INERT)]
    if refused:
        raise CheckpointError(_contains_code(path, refused))
    return [(Placeholder, name) for name in names]


def _contains_code(path: Path, names: list[str]) -> str:
    return (
        f"{path}: refused, reading it would run code ({', '.join(sorted(names)[:4])}); "
        f"use weights as safetensors or as a plain state dict"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the `model` section of a training configuration; raise CheckpointError if it cannot be read."""
    try:
        check_regular(path)
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path}: not readable as YAML ({reason})") from error
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict):
        raise CheckpointError(
            f"{path}: no `model:` section; give the YAML file that was published with the weights"
        )
    return model
