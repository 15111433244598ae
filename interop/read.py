"""Reading other people's weight files without running anything in them.

A PyTorch file is a pickle: a program. `weights_only` lets it build tensors and plain containers; here a few
names that training frameworks leave in their files (argparse's namespace, Lightning's callbacks, OmegaConf's
nodes) are given an empty class to be built from. Any other name is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError

INERT = ("argparse.Namespace", "lightning.", "numpy.", "omegaconf.", "pytorch_lightning.")
"""Names, and beginnings of names, of things beside the weights that are read as empty shells."""
WRAPPERS = ("ema", "model", "module", "state_dict")
"""Keys under which training scripts keep the weights; averaged weights first."""
PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and data-parallel training put in front of every name."""


class Shell:
    """Stands in for any harmless object of a pickle and does nothing with what it is built from."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Shell:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pt, .pth or .ckpt file by name, mapped into memory where the format allows.

    Raises:
        CheckpointError: when the file is missing, truncated, holds code, or is no weight file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    # The length of safetensors' header comes first, and may begin with the very byte that a pickle begins with.
    if start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 2**32:
        return unwrap(_read_safetensors(path), path)
    zipped = start[:4] == b"PK\x03\x04"
    if zipped or start[:1] == b"\x80":
        return unwrap(_read_pickle(path, zipped), path)
    raise CheckpointError(f"{path}: neither a PyTorch checkpoint nor a safetensors file")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file ({error}); get it again") from error


def _read_pickle(path: Path, zipped: bool) -> Any:
    try:
        shells = _shells(path) if zipped else [(Shell, "argparse.Namespace")]
        with torch.serialization.safe_globals(shells):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except Exception as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise CheckpointError(_would_run(path, [code[1]])) from error
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise CheckpointError(
            f"{path}: truncated, damaged or no weight file ({reason}); get it again"
        ) from error


def _shells(path: Path) -> list[Any]:
    """Empty classes for the harmless names in the file; the names are listed without unpickling."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    refused = [n for n in names if not n.startswith(INERT)]
    if refused:
        raise CheckpointError(_would_run(path, refused))
    return [(Shell, name) for name in names]


def _would_run(path: Path, names: list[str]) -> str:
    return (
        f"{path}: would run code when read ({', '.join(sorted(names)[:4])}), so it is not read; "
        f"ask for the weights as safetensors or as a plain state dict"
    )


def unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside what a training script saved."""
    tensors = _weights(content)
    if not tensors:
        raise CheckpointError(f"{path}: holds no named tensors")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _weights(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    wrapped = (_weights(content.get(key)) for key in WRAPPERS)
    return next(filter(None, wrapped), {k: v for k, v in content.items() if isinstance(v, Tensor)})


def read_yaml(path: Path) -> dict[str, Any]:
    """The `model` part of a training configuration, or a CheckpointError that names the file."""
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path}: not readable as YAML ({reason})") from error
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict):
        raise CheckpointError(f"{path}: no `model:` section; is this the YAML that came with the weights?")
    return model
