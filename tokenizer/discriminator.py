"""The discriminator: tells patches of real images from reconstructed ones, and what both sides learn from that.

Shapes: B batch, C channels, H, W image, h', w' a grid of patches judged. A discriminator may have several such grids,
its maps, and each counts the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from ..errors import ConfigError
from ..training.config import TrainingConfig
from ..training.stage import OptimizedNetwork, WrappedModel
from .config import TokenizerRecipe
from .perceptual import Perceptual

BETAS = (0.5, 0.9)  # as taming and IBQ; a long memory of gradients makes the two sides circle each other
LECAM_DECAY = 0.99  # the paper's code
LAYERS = 3  # layers of the PatchGAN that halve the image, as in pix2pix and VQGAN
LARGEST_ADAPTIVE_WEIGHT = 1e4  # VQGAN's code


class Discriminator(nn.Module):
    """PatchGAN (arXiv:1611.07004): images (B, C, H, W) to a map of one logit a patch (B, 1, h', w'), above 0: real."""

    def __init__(self, channels: int, width: int, layers: int, norm: str) -> None:
        super().__init__()
        widths = [channels] + [width * min(2**i, 8) for i in range(layers + 1)]
        convolutions: list[nn.Module] = []
        for i in range(layers + 1):
            stride = 2 if i < layers else 1
            convolution = nn.Conv2d(widths[i], widths[i + 1], 4, stride, padding=1)
            convolutions.append(spectral_norm(convolution) if norm == "spectral" else convolution)
            if norm == "group" and i > 0:
                convolutions.append(nn.GroupNorm(math.gcd(32, widths[i + 1]), widths[i + 1]))
            convolutions.append(nn.LeakyReLU(0.2))
        last = nn.Conv2d(widths[-1], 1, 4, padding=1)
        self.layers = nn.Sequential(*convolutions, spectral_norm(last) if norm == "spectral" else last)
        self.averages: Tensor
        self.register_buffer("averages", torch.zeros(2))  # of the logits of real and fake images, for LeCam

    def forward(self, images: Tensor) -> list[Tensor]:
        with normed(self, images.device.type):
            return [self.layers(images)]


class FeatureDiscriminator(nn.Module):
    """Projected GAN (arXiv:2111.01007): judges what a network that was trained to tell objects apart sees.

    Each layer of the LPIPS backbone, which stays as it is, has a small head: images (B, C, H, W) to as many maps
    (N, 1, h', w'), above 0 for real; N = B for grey and colour images.
    """

    def __init__(self, perceptual: Perceptual, width: int) -> None:
        super().__init__()
        # In a list, so that it is no part of this module: neither trained nor saved.
        self.backbone = [perceptual]
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(channels, width, 1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, 1, 1)),
            )
            for channels in perceptual.lpips.chns
        )
        self.averages: Tensor
        self.register_buffer("averages", torch.zeros(2))

    def forward(self, images: Tensor) -> list[Tensor]:
        # The features' lengths differ by orders of magnitude between layers: to each head they are all of size 1.
        features = [
            x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt() for x in self.backbone[0].features(images)
        ]
        with normed(self, images.device.type):
            return [head(x) for head, x in zip(self.heads, features, strict=True)]


class Adversary:
    """The discriminator in training: its optimizer, its losses, and its judgement of reconstructions."""

    model: Discriminator | FeatureDiscriminator

    def __init__(
        self, recipe: TokenizerRecipe, channels: int, image_size: int, perceptual: Perceptual | None = None
    ) -> None:
        """`perceptual`: the network whose features are judged, where the recipe says so."""
        self.recipe = recipe
        width, layers = recipe.discriminator_width, LAYERS
        if recipe.discriminator == "features":
            assert perceptual is not None
            self.model = FeatureDiscriminator(perceptual, width)
            return
        if image_size >> layers < 3:
            raise ConfigError(
                f"image_size {image_size} is too small for a discriminator of {layers} layers; "
                f"the last of them must see at least 3 px"
            )
        self.model = Discriminator(channels, width, layers, recipe.discriminator_norm)

    def prepare(self, accelerator: Accelerator, config: TrainingConfig) -> None:
        """Puts network and optimizer in Accelerate's hands. The rate follows the autoencoder's schedule."""
        self.accelerator = accelerator
        rate = self.recipe.discriminator_lr
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, betas=BETAS, weight_decay=0.0, fused=True
        )
        optimizer.param_groups[0]["lr_ratio"] = rate / config.lr if config.lr else 0.0
        network, optimizer = accelerator.prepare(WrappedModel(self.model), optimizer)
        self.optimized = OptimizedNetwork(network, optimizer, self.recipe.discriminator_grad_clip)

    def judgement(self, fake: Tensor) -> Tensor:
        """What the autoencoder loses by `fake` (B, C, H, W) being recognised; leaves the discriminator alone."""
        with frozen(self.model), self.accelerator.autocast():
            maps = self.model(fake)
        return mean(autoencoder_loss(logits.float(), self.recipe.discriminator_loss) for logits in maps)

    def losses(self, real: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the discriminator minimises on real and fake images, and its figures for the log."""
        # One pass for both: DistributedDataParallel allows no second one before the backward pass.
        maps = [both.float().chunk(2) for both in self.optimized.network(torch.cat([real, fake.detach()]))]
        loss = mean(discriminator_loss(real, fake, self.recipe.discriminator_loss) for real, fake in maps)
        figures = {
            "discriminator_loss": loss,
            "accuracy_real": mean((logits > 0).float().mean() for logits, _ in maps),
            "accuracy_fake": mean((logits < 0).float().mean() for _, logits in maps),
        }
        if self.recipe.lecam_weight:
            figures["lecam"] = mean(lecam(real, fake, self.model.averages) for real, fake in maps)
            self._remember(mean(real.mean() for real, _ in maps), mean(fake.mean() for _, fake in maps))
            loss = loss + self.recipe.lecam_weight * figures["lecam"]
        if self.recipe.r1_weight:
            figures["r1"] = r1(self.model, real)
            loss = loss + self.recipe.r1_weight * figures["r1"]
        return loss, figures

    @torch.no_grad()
    def _remember(self, real: Tensor, fake: Tensor) -> None:
        means = self.accelerator.reduce(torch.stack([real, fake]), "mean")
        self.model.averages.lerp_(means, 1 - LECAM_DECAY)


def discriminator_loss(real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """Of logits of any shape: the hinge, else the cross entropy of telling real from fake."""
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def autoencoder_loss(fake: Tensor, kind: str) -> Tensor:
    """Of the logits of fake images: the mean logit, or the cross entropy against "real" (non-saturating).

    `vanilla` is what taming and LlamaGen call so: cross entropy for the discriminator, the mean logit here.
    """
    if kind == "non-saturating":
        return F.softplus(-fake).mean()
    return -fake.mean()


def lecam(real: Tensor, fake: Tensor, averages: Tensor) -> Tensor:
    """LeCam (arXiv:2104.03310): no logit may run past what the other side had on average.

    `averages` (2,) are the running means of the logits of real and of fake images.
    """
    average_real, average_fake = averages.clone()
    return F.relu(real - average_fake).square().mean() + F.relu(average_real - fake).square().mean()


def r1(discriminator: Callable[[Tensor], list[Tensor]], real: Tensor) -> Tensor:
    """R1 (arXiv:1801.04406): half the squared gradient of an image's mean logit, averaged over images (B, C, H, W).

    In float32: second derivatives in half precision vanish.
    """
    real = real.detach().float().requires_grad_()
    with torch.autocast(real.device.type, enabled=False):
        logits = mean(logits.flatten(1).mean(1) for logits in discriminator(real))  # (N,)
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


def adaptive_weight(reconstruction: Tensor, judgement: Tensor, last: Tensor, scale: float = 1.0) -> Tensor:
    """VQGAN's balance (arXiv:2012.09841, section 3.1): ratio of both losses' gradients at the last layer's weight.

    `scale` multiplies both losses while their gradients are taken, so that half precision holds them.
    """
    norms = [
        torch.autograd.grad(loss * scale, last, retain_graph=True)[0].float().norm() / scale
        for loss in (reconstruction, judgement)
    ]
    weight = norms[0] / (norms[1] + 1e-4)
    return torch.nan_to_num(weight, nan=0.0).clamp(0, LARGEST_ADAPTIVE_WEIGHT).detach()


def ramp(step: int, start: int, length: int) -> float:
    """Share of its weight that the discriminator has at a step: 0 before `start`, then linearly up to 1."""
    if step < start:
        return 0.0
    return min(1.0, (step - start + 1) / (length + 1))


def mean(values: Iterable[Tensor]) -> Tensor:
    """Of tensors of one shape, element by element."""
    return torch.stack(list(values)).mean(0)


@contextmanager
def normed(module: nn.Module, device: str) -> Iterator[None]:
    """Within the block spectral norms are taken once, in float32, before autocast gets to see the weights."""
    with parametrize.cached():
        with torch.autocast(device, enabled=False):
            for layer in module.modules():
                if parametrize.is_parametrized(layer):
                    _ = layer.weight
        yield


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the block the module gets no gradients and its spectral norms stand still."""
    module.requires_grad_(False).eval()
    try:
        yield
    finally:
        module.requires_grad_(True).train()
