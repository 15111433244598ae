"""LPIPS, the distance of two images in the features of a pretrained classifier (arXiv:1801.03924)."""

from __future__ import annotations

import os
import pickle
import re
import urllib.request
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from ..runtime.optional import import_with_torchvision

BACKBONE_FILES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
DOWNLOADS = "https://download.pytorch.org/models/"
TIMEOUT = 10
"""Seconds to wait for the server's answer."""
SMALLEST_SIDE = 32
"""Smallest side in pixels that the poolings of the backbones allow."""


class Perceptual(nn.Module):
    """LPIPS v0.1 with frozen weights, for images in [-1, 1] of any size and channel count.

    Grey images are converted to colour. With any other number of channels, each channel is a grey image, and their
    distances are averaged. Sides below 32 px are enlarged to 32 (bilinear). The backbone runs in the precision of
    autocast, the comparison always in float32: in half precision the norms of dark regions underflow.
    """

    def __init__(self, backbone: str = "vgg", file: Path | None = None) -> None:
        """Load the backbone's weights from `file` (torchvision's format), else from torch's cache or its download.

        Raises:
            CheckpointError: the weights are missing and cannot be downloaded, or do not fit.
        """
        super().__init__()
        lpips = import_with_torchvision("lpips")
        file = file or backbone_file(backbone)
        # Its random initialisation must not advance the global RNG; its warnings are not for the user.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.lpips = lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False)
        _load_backbone(self.lpips.net, file)
        self.requires_grad_(False).eval()
        # Forward and backward of 32 images of 64 px through squeeze: 77 ms on a Zen 5 core in bf16, 125 contiguous.
        self.lpips.net.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Return the distances (B,) of two batches (B, C, H, W). Gradients flow to `others` only."""
        with torch.no_grad():
            fixed = self.features(images)
        layers = zip(fixed, self.features(others), strict=True)
        distances = [self._distance(i, a, b) for i, (a, b) in enumerate(layers)]
        return torch.stack(distances).sum(0).view(len(images), -1).mean(1)  # (B,)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the float32 features (N, D, H', W') of each layer; N = B for grey and colour images."""
        x = self.lpips.scaling_layer(_as_colour(images)).contiguous(memory_format=torch.channels_last)
        return [layer.float() for layer in self.lpips.net(x)]

    def pooled_features(self, images: Tensor) -> Tensor:
        """Return the features (B, D) of the last layer, averaged over positions."""
        last = self.features(images)[-1]  # (N, D, H', W')
        return last.mean((2, 3)).unflatten(0, (len(images), -1)).mean(1)

    def train(self, mode: bool = True) -> Perceptual:
        """Stay in evaluation mode: the dropout is for the training of LPIPS itself."""
        return super().train(False)

    def _distance(self, layer: int, a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            difference = (_unit(a) - _unit(b)).square()  # (N, D, H', W')
            return self.lpips.lins[layer](difference).mean((1, 2, 3))  # (N,)


def backbone_file(backbone: str, else_advice: str = "give its path with --lpips-file") -> Path:
    """Return the path of the backbone's weights in torch's cache; download them if they are missing.

    Args:
        else_advice: what a person can do instead of getting the file, in the error.

    Raises:
        CheckpointError: they are missing and cannot be downloaded.
    """
    name = BACKBONE_FILES[backbone]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.exists():
        return path
    try:
        reachable(DOWNLOADS + name)
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = name.removesuffix(".pth").rsplit("-", 1)[1]
        torch.hub.download_url_to_file(DOWNLOADS + name, os.fspath(path), hash_prefix=prefix)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"LPIPS ({backbone}) needs {name}, which cannot be downloaded ({error}): get {DOWNLOADS}{name} and put "
            f"it at {path}, or {else_advice}"
        ) from error
    return path


def reachable(url: str) -> None:
    """Raise OSError unless the server answers within `TIMEOUT`; torch.hub waits for minutes without a network."""
    urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()


def local_backbone(names: Iterable[str] = tuple(BACKBONE_FILES)) -> str | None:
    """Return the first backbone of `names` whose weights are in torch's cache, or None."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return next((name for name in names if (folder / BACKBONE_FILES[name]).exists()), None)


def _load_backbone(net: nn.Module, file: Path) -> None:
    """Load torchvision's `features.7.*` as lpips's `slice3.7.*`, strictly; the classifier is ignored."""
    try:
        given = torch.load(file, map_location="cpu", weights_only=True)
        features = {name: re.sub(r"^slice\d+", "features", name) for name in net.state_dict()}
        net.load_state_dict({name: given[theirs] for name, theirs in features.items()})
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file; give the weights of the LPIPS backbone") from None
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{file}: not the weights of this LPIPS backbone ({reason})") from error


def _as_colour(images: Tensor) -> Tensor:
    """Convert (B, C, H, W) to (N, 3, H', W') with sides of at least 32."""
    if images.shape[1] != 3:
        images = images.flatten(0, 1).unsqueeze(1).expand(-1, 3, -1, -1)
    sides = [max(side, SMALLEST_SIDE) for side in images.shape[2:]]
    if sides != list(images.shape[2:]):
        images = F.interpolate(images, sides, mode="bilinear", align_corners=False)
    return images


def _unit(features: Tensor) -> Tensor:
    """Normalise over channels. The constant keeps the gradient finite where all features are zero."""
    return features * (features.square().sum(1, keepdim=True) + 1e-20).rsqrt()
