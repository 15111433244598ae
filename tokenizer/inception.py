"""Features of Inception-v3 as published FIDs use them (arXiv:1706.08500); the network is torch-fidelity's."""

from __future__ import annotations

import os
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..runtime.optional import import_with_torchvision
from .perceptual import reachable

DOWNLOAD = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
FEATURES, LOGITS = "2048", "logits_unbiased"
"""torch-fidelity's names for the last pooling layer, and for the logits that the Inception Score is defined by."""


class Inception(nn.Module):
    """Maps images (B, C, H, W) in [-1, 1] of any size to features (B, 2048).

    Images are rounded to 8 bits first, as for published FIDs. Those without three channels are averaged to grey.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Load the weights from `file` (torch-fidelity's format), else from torch's cache or their download.

        Raises:
            CheckpointError: torch-fidelity or the weights are missing, or the weights do not fit.
        """
        super().__init__()
        if find_spec("torch_fidelity") is None:
            raise CheckpointError('FID needs torch-fidelity: pip install "imgtf[fid]"')
        state = _read(file or inception_file())
        extractor = import_with_torchvision("torch_fidelity.feature_extractor_inceptionv3")
        # Given a path, torch-fidelity unpickles any object. Its download is therefore replaced by the state dict that
        # was read safely. Its random initialisation must not advance the global RNG.
        try:
            with (
                torch.random.fork_rng(devices=[]),
                mock.patch.object(extractor, "load_state_dict_from_url", return_value=state),
            ):
                self.network = extractor.FeatureExtractorInceptionV3(
                    "inception-v3-compat", [FEATURES, LOGITS]
                )
        except (RuntimeError, AttributeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{file or inception_file()}: not Inception-v3's weights ({reason})"
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, 2048) of images (B, C, H, W)."""
        return self.with_logits(images)[0]

    @torch.no_grad()
    def with_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (B, 2048) and the logits (B, 1008) of images (B, C, H, W)."""
        if images.shape[1] != 3:
            images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        with torch.autocast(images.device.type, enabled=False):
            features, logits = self.network(pixels)
        return features, logits


def local_file() -> Path | None:
    """Return the path of the weights in torch's cache, None where they are missing."""
    path = _cached_file()
    return path if path.exists() else None


def inception_file() -> Path:
    """Return the path of the weights in torch's cache; download them if they are missing.

    Raises:
        CheckpointError: they are missing and cannot be downloaded.
    """
    path = _cached_file()
    if path.exists():
        return path
    try:
        reachable(DOWNLOAD)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(DOWNLOAD, os.fspath(path), hash_prefix=path.stem.rsplit("-", 1)[1])
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"FID needs Inception-v3's weights, which cannot be downloaded ({error}): get {DOWNLOAD} and give "
            f"its path with --inception-file, or put it at {path}"
        ) from error
    return path


def _cached_file() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / DOWNLOAD.rsplit("/", 1)[1]


def _read(file: Path) -> dict[str, Any]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file; give the weights of Inception-v3") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{file}: not a file of weights ({str(error).splitlines()[0]})") from error
    return state
