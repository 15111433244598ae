"""A trained network as a folder of `config.json` and `model.safetensors`, loaded strictly and without pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import CheckpointError, ConfigError
from .options import build, to_dict
from .runtime.device import pick_device
from .runtime.repository import Access, model_folder
from .runtime.upload import Target, upload

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 1
"""Version of the folder format. Increases with every incompatible change."""


class PretrainedModel(nn.Module):
    """An `nn.Module` that can be rebuilt from its folder. Subclasses set `kind` and `config_class`."""

    kind: ClassVar[str]
    config_class: ClassVar[type]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

    def save_pretrained(self, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the model folder. Each file appears complete or not at all.

        Args:
            state: weights to save in place of the module's own, for example their EMA.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        header = {"format": FORMAT, "kind": self.kind, "imgtf": version("imgtf")}
        write_text(folder / CONFIG_FILE, json.dumps(header | to_dict(self.config), indent=2) + "\n")
        write_tensors(folder / WEIGHTS_FILE, state if state is not None else self.state_dict())

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "auto",
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a model in evaluation mode.

        Args:
            folder: of the network, or of a model that has it in a folder of its kind, or an id of the Hub such as
                `user/model` or `user/model@revision`. A folder that exists comes before a repository of that name.
            device: auto (a GPU if there is one), cpu, cuda, cuda:N or a torch device.
            revision: branch, tag or commit of the repository; default: its main branch.
            token: for private repositories; default: the stored one, or HF_TOKEN.
            cache_dir: of the download; default: the cache of the Hub.
            local_files_only: take the repository from the cache, without a network.

        Raises:
            CheckpointError: the folder or a file is missing, damaged, or of another kind or format; or a tensor is
                missing, unknown, or has another shape; or the repository is missing or cannot be reached.
            ConfigError: the device is not available, or a revision is given for a folder.
        """
        access, own = Access(token, cache_dir, local_files_only), (cls.kind,)
        picked = pick_device(device)
        folder = model_folder(folder, revision=revision, access=access, parts=own, needs=own)
        if not (folder / CONFIG_FILE).exists() and (folder / cls.kind / CONFIG_FILE).exists():
            folder = folder / cls.kind
        model = cls(cls.read_config(folder))
        load_tensors(model, folder / WEIGHTS_FILE)
        return model.to(picked).eval()

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload with imgtf",
    ) -> str:
        """Upload the model to a folder of its kind in a repository of the Hub, and return the address of the commit.

        The repository is created where it is missing. It may already hold the other stage.

        Args:
            repository: `user/model`.
            private: whether a new repository is private; default: as the account is set.
            token: with permission to write; default: the stored one, or HF_TOKEN.
            revision: branch, created where it is missing; default: the main branch.

        Raises:
            CheckpointError: the Hub cannot be reached, or refuses access.
            ConfigError: the id is none, or `private` is asked for a public repository.
        """
        target = Target(repository, private, token, commit_message, revision)
        with TemporaryDirectory() as folder:
            own = Path(folder) / self.kind
            self.save_pretrained(own)
            files: dict[str, Path | bytes] = {f"{self.kind}/{file.name}": file for file in own.iterdir()}
            files["README.md"] = _short_card(self.kind)
            return upload(target, files, owned=(self.kind,), unless_there=("README.md",))

    @classmethod
    def read_config(cls, folder: str | Path) -> Any:
        """Return the configuration of a model folder without loading weights. Raises as `from_pretrained`."""
        path = Path(folder) / CONFIG_FILE
        values = read_json(path)
        if values.pop("format", None) != FORMAT:
            raise CheckpointError(
                f"{path}: not a model configuration of format {FORMAT}, which this version reads"
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
        """Return the identity of the weights, see `weights_sha256`."""
        return weights_sha256(self)

    def parameter_count(self) -> int:
        """Return the number of trained parameters."""
        return sum(p.numel() for p in self.parameters())


def _short_card(kind: str) -> bytes:
    """A model card for a repository without one."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(library_name="imgtf", tags=["imgtf"])
    return f"---\n{data.to_yaml()}\n---\n\nA {kind} of imgtf.\n".encode()


def weights_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of names, types, shapes and values of all tensors, the identity of a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises CheckpointError if that fails."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is this the folder of an imgtf model?") from None
    except NotADirectoryError:
        raise CheckpointError(f"{path.parent}: a file, not a model folder") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); restore the file") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a JSON object; restore the file")
    return values


def load_tensors(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into the module, if the names and shapes of all tensors match."""
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
        raise CheckpointError(
            f"{path}: damaged or not a safetensors file ({error}); restore the file"
        ) from error


def describe_mismatch(own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """Describe the differences between expected and given shapes by tensor name; "" if there are none."""
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
    """Write a safetensors file that appears complete or not at all."""
    with whole_file(path) as temporary:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, temporary, metadata)


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears complete or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path, renamed to `path` after the block; removed after an error."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
