"""A trained network as a folder of `config.json` and `model.safetensors`, loaded strictly and without pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import CheckpointError, ConfigError
from .options import build, check_kept, shown, to_dict
from .runtime.device import pick_device
from .runtime.durable import whole_file as whole_file
from .runtime.regular import check_regular
from .runtime.repository import Access, model_folder
from .runtime.upload import Target, upload
from .runtime.weights import build_for
from .runtime.weights import describe_mismatch as describe_mismatch
from .runtime.weights import load_tensors as load_tensors

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = 1
"""Version of the folder format. Increases with every incompatible change."""


class PretrainedModel(nn.Module):
    """An `nn.Module` that can be rebuilt from its folder. Subclasses set `kind` and `config_class`."""

    kind: ClassVar[str]
    config_class: ClassVar[type]
    adamw_lr_ratio: ClassVar[float] = 1.0
    """Learning rate of AdamW beside Muon, relative to `TrainingConfig.lr`."""

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

    def outer_layers(self) -> Sequence[nn.Module]:
        """Return the layers that read or write data, codes or code vectors. Muon leaves them to AdamW."""
        return ()

    def save_pretrained(self, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the model folder. Each file appears complete or not at all, and is flushed to the disk.

        A new folder gets its config.json last: one without it is no model. New weights for the same configuration are
        one rename, so at every instant the folder holds the old or the new model.

        Args:
            state: weights to save in place of the module's own, for example their EMA.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS_FILE, state if state is not None else self.state_dict(), durable=True)
        self.save_config(folder)

    def save_config(self, folder: Path) -> None:
        """Write config.json, unless the folder holds the same."""
        header = {"format": FORMAT, "kind": self.kind, "imgtf": version("imgtf")}
        text, path = json.dumps(header | to_dict(self.config), indent=2) + "\n", folder / CONFIG_FILE
        if not (path.exists() and path.read_bytes() == text.encode()):
            write_text(path, text, durable=True)

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
                missing, unknown, not finite, or has another shape or type; or the repository is missing or cannot be
                reached.
            ConfigError: the device is not available, or a revision is given for a folder.
        """
        access, own = Access(token, cache_dir, local_files_only), (cls.kind,)
        picked = pick_device(device)
        folder = model_folder(folder, revision=revision, access=access, parts=own, needs=own)
        if not (folder / CONFIG_FILE).exists() and (folder / cls.kind / CONFIG_FILE).exists():
            folder = folder / cls.kind
        config, weights = cls.read_config(folder), folder / WEIGHTS_FILE
        model = cast(Self, build_for(lambda: cls(config), weights))
        load_tensors(model, weights)
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
            raise CheckpointError(f"{path}: the kind is {shown(kind)}, not {cls.kind}")
        try:
            config: Any = build(cls.config_class, values, str(path))
            check_kept(config, values, str(path))
            return config
        except ConfigError as error:
            where = "" if str(path) in str(error) else f"{path}: "
            raise CheckpointError(
                f"{where}{error}; the file was edited or comes from another version"
            ) from error

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
    """Return the SHA-256 of all tensors, the identity of a network's weights."""
    return tensors_sha256(network.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises CheckpointError if that fails."""
    try:
        check_regular(path)
        values = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_duplicates)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is this the folder of an imgtf model?") from None
    except NotADirectoryError:
        raise CheckpointError(f"{path.parent}: a file, not a model folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); restore the file") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a JSON object; restore the file")
    return values


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"two values of {shown(key)}")
        values[key] = value
    return values


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, str] | None = None,
    *,
    durable: bool = False,
) -> None:
    """Write a safetensors file that appears complete or not at all; `durable` as for `whole_file`."""
    with whole_file(path, durable=durable) as temporary:
        temporary.touch()
        mode = (
            temporary.stat().st_mode
        )  # of any new file; safetensors writes one that only its owner can read
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, temporary, metadata)
        temporary.chmod(mode)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a text file that appears complete or not at all; `durable` as for `whole_file`."""
    with whole_file(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")
