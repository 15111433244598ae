"""LPIPS: how different two images look to a network that was trained to tell objects apart (arXiv:1801.03924)."""

from __future__ import annotations

import os
import pickle
import re
import urllib.request
import warnings
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
"""Seconds that the server may take to answer."""
SMALLEST_SIDE = 32
"""Pixels: below this the backbones' poolings run out of image."""


class Perceptual(nn.Module):
    """LPIPS v0.1 with frozen weights, for images in [-1, 1] of any size and channel count.

    Grey images are shown as colour ones; with any other number of channels, each is judged as a grey image and
    the distances are averaged. Images with a side below 32 px are enlarged (bilinear) to 32. The backbone runs
    in whichever precision is on, the comparison always in float32: in half precision the norms of dark places
    vanish.
    """

    def __init__(self, backbone: str = "vgg", file: Path | None = None) -> None:
        """`file` holds the backbone's weights as torchvision publishes them.

        Raises:
            CheckpointError: when the weights are nowhere and cannot be downloaded, or do not fit.
        """
        super().__init__()
        lpips = import_with_torchvision("lpips")
        file = file or backbone_file(backbone)
        # Its random start must not shift the random numbers of the run, nor its notices reach the user.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.lpips = lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False)
        _load_backbone(self.lpips.net, file)
        self.requires_grad_(False).eval()
        # Forward and backward of 32 images of 64 px through squeeze: 77 ms on a Zen 5 core in bf16, 125 contiguous.
        self.lpips.net.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Two batches (B, C, H, W) to the distance of each pair (B,); gradients reach `others` only."""
        with torch.no_grad():
            ours = self.features(images)
        distances = [
            self._distance(i, a, b) for i, (a, b) in enumerate(zip(ours, self.features(others), strict=True))
        ]
        return torch.stack(distances).sum(0).view(len(images), -1).mean(1)  # (B,)

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) to float32 features (N, D, H', W') a layer; N = B for grey and colour images."""
        x = self.lpips.scaling_layer(_as_colour(images)).contiguous(memory_format=torch.channels_last)
        return [layer.float() for layer in self.lpips.net(x)]

    def train(self, mode: bool = True) -> Perceptual:
        """Stays in evaluation mode: its dropout belongs to the training of LPIPS itself."""
        return super().train(False)

    def _distance(self, layer: int, a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            difference = (_unit(a) - _unit(b)).square()  # (N, D, H', W')
            return self.lpips.lins[layer](difference).mean((1, 2, 3))  # (N,)


def backbone_file(backbone: str) -> Path:
    """The backbone's weights in torch's cache, downloaded there if the network answers.

    Raises:
        CheckpointError: when they are not there and do not come.
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
            f"it at {path}, or name it with --lpips-file"
        ) from error
    return path


def reachable(url: str) -> None:
    """Raises OSError unless the server answers soon: torch.hub would wait for minutes where no network is."""
    urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()


def local_backbone() -> str | None:
    """The first backbone whose weights are in torch's cache already, the usual one before the small ones."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return next((name for name, file in BACKBONE_FILES.items() if (folder / file).exists()), None)


def _load_backbone(net: nn.Module, file: Path) -> None:
    """Strictly fills lpips's slices `slice3.7.*` from torchvision's `features.7.*`; the classifier is left out."""
    try:
        given = torch.load(file, map_location="cpu", weights_only=True)
        features = {name: re.sub(r"^slice\d+", "features", name) for name in net.state_dict()}
        net.load_state_dict({name: given[theirs] for name, theirs in features.items()})
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file; name the LPIPS backbone's weights") from None
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{file}: not the weights of this LPIPS backbone ({reason})") from error


def _as_colour(images: Tensor) -> Tensor:
    """(B, C, H, W) to (N, 3, H', W') with sides of at least 32."""
    if images.shape[1] != 3:
        images = images.flatten(0, 1).unsqueeze(1).expand(-1, 3, -1, -1)
    sides = [max(side, SMALLEST_SIDE) for side in images.shape[2:]]
    if sides != list(images.shape[2:]):
        images = F.interpolate(images, sides, mode="bilinear", align_corners=False)
    return images


def _unit(features: Tensor) -> Tensor:
    """Unit length over channels; the small number inside the root keeps the gradient of an all-zero place finite."""
    return features * (features.square().sum(1, keepdim=True) + 1e-20).rsqrt()
