"""A folder of diffusers' VQModel: which file holds the weights, and the config.json beside it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..pretrained import CONFIG_FILE, read_json
from .vqmodel_config import CLASS

logger = logging.getLogger("imgtf")

WEIGHTS = "diffusion_pytorch_model"
FILES = tuple(f"{WEIGHTS}{end}" for end in (
    ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json",
))  # fmt: skip
"""Names of the weights, the preferred one first."""


def open_folder(folder: Path) -> Path:
    """Return the weights in a VQModel's folder, or in the one inside a pipeline's folder.

    Raises:
        CheckpointError: there is no VQModel, or it has no weights.
    """
    if not (folder / CONFIG_FILE).is_file():
        folder = _inside(folder)
    read_settings(folder)  # refuses another class before its weights are looked for
    return _weights(folder)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the config.json of a VQModel's folder.

    Raises:
        CheckpointError: it is missing, damaged or of another class.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: weights of diffusers need the config.json that was published beside them; download it too"
        )
    settings = read_json(path)
    found = settings.get("_class_name")
    if found != CLASS:
        kind = f"of the class {found}" if found else "without _class_name"
        raise CheckpointError(f"{path}: {kind}; imgtf reads diffusers' {CLASS}")
    return settings


def _inside(folder: Path) -> Path:
    """Return the folder of the VQModel in a pipeline, usually `vqvae`, `vqmodel` or `movq`."""
    configs = sorted(folder.glob(f"*/{CONFIG_FILE}"))
    found = [path.parent for path in configs if read_json(path).get("_class_name") == CLASS]
    if len(found) != 1:
        names = " and ".join(path.name for path in found)
        raise CheckpointError(
            f"{folder}: holds {names or f'no {CLASS} of diffusers (a config.json and {FILES[0]})'}; name "
            f"{'one of them' if found else 'its folder, or a file of weights'}"
        )
    logger.info("%s: reading %s", folder, found[0].name)
    return found[0]


def _weights(folder: Path) -> Path:
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if found:
        return found[0]
    variants = sorted(folder.glob(f"{WEIGHTS}.*.safetensors")) + sorted(folder.glob(f"{WEIGHTS}.*.bin"))
    if not variants:
        raise CheckpointError(f"{folder}: has no weights ({FILES[0]} or {FILES[2]}); download them too")
    logger.info("%s: reading the variant %s", folder, variants[0].name)
    return variants[0]
