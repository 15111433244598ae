"""A trained network as a folder: `config.json` and `model.safetensors`, loaded strictly, never pickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import CheckpointError, ConfigError
from .options import build, to_dict

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 1
"""Version of the folder's layout; raised when an older reader would misread it."""


class PretrainedModel(nn.Module):
    """An `nn.Module` that is rebuilt from its folder alone. Subclasses name their kind and config class."""

    kind: ClassVar[str]
    config_class: ClassVar[type]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

    def save_pretrained(self, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Writes the folder; `state` stands in for the module's own weights (their EMA, for instance).

        Each file appears whole or not at all.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        header = {"format": FORMAT, "kind": self.kind, "imgtf": version("imgtf")}
        write_text(folder / CONFIG_FILE, json.dumps(header | to_dict(self.config), indent=2) + "\n")
        write_tensors(folder / WEIGHTS_FILE, state if state is not None else self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """Rebuilds the model in evaluation mode.

        Raises:
            CheckpointError: when the folder or a file is missing, damaged, of another kind or format,
                or a tensor is missing, unknown or of another shape.
        """
        folder = Path(folder)
        model = cls(cls.read_config(folder))
        load_tensors(model, folder / WEIGHTS_FILE)
        return model.to(device).eval()

    @classmethod
    def read_config(cls, folder: str | Path) -> Any:
        """The folder's configuration alone, without its weights. Raises as `from_pretrained`."""
        path = Path(folder) / CONFIG_FILE
        values = read_json(path)
        if values.pop("format", None) != FORMAT:
            raise CheckpointError(
                f"{path}: not a model configuration of format {FORMAT} that this version reads"
            )
        values.pop("imgtf", None)
        kind = values.pop("kind", None)
        if kind != cls.kind:
            raise CheckpointError(f"{path}: this is a {kind}, not a {cls.kind}")
        try:
            return build(cls.config_class, values, str(path))
        except ConfigError as error:
            raise CheckpointError(f"{error}; the file was edited or comes from another version") from error

    def weights_sha256(self) -> str:
        """SHA-256 over names, types, shapes and values of all tensors: the identity of these weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def parameter_count(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a CheckpointError that names it."""
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is this a model folder that imgtf wrote?") from None
    except NotADirectoryError:
        raise CheckpointError(f"{path.parent}: a file, not a model folder") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); restore the file") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a JSON object; restore the file")
    return values


def load_tensors(model: nn.Module, path: Path) -> None:
    """Copies a safetensors file into the module, tensor by tensor, if and only if all of them fit."""
    own = model.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            mismatch = describe_mismatch({n: tuple(t.shape) for n, t in own.items()}, shapes)
            if mismatch:
                raise CheckpointError(f"{path}: {mismatch}; the weights do not belong to this config.json")
            for name, tensor in own.items():
                tensor.copy_(file.get_tensor(name))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; the model folder is incomplete") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error}); restore it") from error


def describe_mismatch(own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """Names what differs between the expected and the given shapes; empty when nothing does."""
    problems = []
    for word, names in (("missing", own.keys() - given.keys()), ("unknown", given.keys() - own.keys())):
        if names:
            problems.append(f"{word} {_some(sorted(names))}")
    misshapen = [
        f"{n} is {list(given[n])}, not {list(own[n])}" for n in own if n in given and own[n] != given[n]
    ]
    if misshapen:
        problems.append(f"misshapen {_some(misshapen)}")
    return "; ".join(problems)


def _some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file that appears whole or not at all."""
    with whole_file(path) as temporary:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, temporary, metadata)


def write_text(path: Path, text: str) -> None:
    """Writes a text file that appears whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write under in the block: the file then stands at `path` whole, or after an error nowhere."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
