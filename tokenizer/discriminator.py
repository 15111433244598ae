"""The discriminator, which classifies patches as real or reconstructed, and the losses of both sides.

Shapes: B batch, C channels, H, W image, h', w' grid of patches. A discriminator returns one or more logit maps
(B, 1, h', w'), which have equal weight; logits above 0 mean real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from ..runtime.batch_random import mean_over_processes
from ..training.config import TrainingConfig
from ..training.stage import OptimizedNetwork, WrappedModel
from .config import TokenizerConfig
from .perceptual import Perceptual
from .recipe import TokenizerRecipe

BETAS = (0.5, 0.9)  # as taming and IBQ; with long gradient averages the two sides oscillate
GRAD_CLIP = 1.0
"""Largest gradient norm of the discriminator."""
LECAM_DECAY = 0.99  # the paper's code
LAYERS = 3
"""Layers of the PatchGAN that halve the resolution (pix2pix, VQGAN)."""
SMALLEST_MAP = 3
"""Smallest side in pixels after these layers: the two last convolutions then return at least one logit."""
MAX_ADAPTIVE_WEIGHT = 1e4  # VQGAN's code


class Discriminator(nn.Module):
    """PatchGAN (arXiv:1611.07004) with spectral normalisation (arXiv:1802.05957).

    Maps images (B, C, H, W) to one logit map (B, 1, h', w').
    """

    averages: Tensor
    """(2,) moving averages of the logits of real and fake images, for LeCam."""

    def __init__(self, channels: int, width: int, layers: int) -> None:
        """`layers`: layers that halve the resolution; see `halving_layers`."""
        super().__init__()
        widths = [channels] + [width * min(2**i, 8) for i in range(layers + 1)]
        convolutions: list[nn.Module] = []
        for i in range(layers + 1):
            stride = 2 if i < layers else 1
            convolutions.append(spectral_norm(nn.Conv2d(widths[i], widths[i + 1], 4, stride, padding=1)))
            convolutions.append(nn.LeakyReLU(0.2))
        convolutions.append(spectral_norm(nn.Conv2d(widths[-1], 1, 4, padding=1)))
        self.layers = nn.Sequential(*convolutions)
        self.register_buffer("averages", torch.zeros(2))

    def forward(self, images: Tensor) -> list[Tensor]:
        with cached_spectral_norms(self, images.device.type):
            return [self.layers(images)]


class FeatureDiscriminator(nn.Module):
    """Projected GAN (arXiv:2111.01007): small heads on the features of a pretrained network.

    Each layer of the LPIPS backbone, which is frozen, has one head. Maps images (B, C, H, W) to one logit map
    (N, 1, h', w') per layer; N = B for grey and colour images.
    """

    averages: Tensor
    """As in `Discriminator`."""

    def __init__(self, perceptual: Perceptual, width: int) -> None:
        super().__init__()
        self.backbone = [perceptual]  # in a list: not a submodule, so neither trained nor saved
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
        self.register_buffer("averages", torch.zeros(2))

    def forward(self, images: Tensor) -> list[Tensor]:
        # The norms of features differ by orders of magnitude between layers; each head sees unit variance.
        features = [
            x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt() for x in self.backbone[0].features(images)
        ]
        with cached_spectral_norms(self, images.device.type):
            return [head(x) for head, x in zip(self.heads, features, strict=True)]


def halving_layers(side: int) -> int:
    """Return the PatchGAN's number of halving layers for images with this shorter side.

    `LAYERS` from 24 px on, fewer for smaller images so that the last map keeps `SMALLEST_MAP` pixels: 2 from 12 px,
    1 from 6 px, else 0.
    """
    return max(n for n in range(LAYERS + 1) if n == 0 or side >> n >= SMALLEST_MAP)


class DiscriminatorTrainer:
    """A discriminator with its optimizer, its losses, and the generator loss of the autoencoder."""

    model: Discriminator | FeatureDiscriminator

    def __init__(
        self, recipe: TokenizerRecipe, config: TokenizerConfig, perceptual: Perceptual | None = None
    ) -> None:
        """`perceptual`: network of LPIPS, which the recipe's discriminator `features` needs."""
        self.recipe = recipe
        if recipe.discriminator == "features":
            assert perceptual is not None
            self.model = FeatureDiscriminator(perceptual, recipe.discriminator_width)
        else:
            layers = halving_layers(min(config.size))
            self.model = Discriminator(config.channels, recipe.discriminator_width, layers)

    def prepare(self, accelerator: Accelerator, config: TrainingConfig) -> None:
        """Wrap network and optimizer with Accelerate. The learning rate follows the autoencoder's schedule."""
        self.accelerator = accelerator
        rate = self.recipe.discriminator_lr
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, betas=BETAS, weight_decay=0.0, fused=True
        )
        optimizer.param_groups[0]["lr_ratio"] = rate / config.lr if config.lr else 0.0
        network, optimizer = accelerator.prepare(WrappedModel(self.model), optimizer)
        self.optimized = OptimizedNetwork(network, (optimizer,), GRAD_CLIP)

    def generator_loss(self, fake: Tensor) -> Tensor:
        """Return the autoencoder's loss for reconstructions `fake` (B, C, H, W); the discriminator gets no gradient."""
        with frozen(self.model), self.accelerator.autocast():
            maps = self.model(fake)
        return mean(generator_loss(logits.float(), self.recipe.discriminator_loss) for logits in maps)

    def loss(self, real: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the discriminator's loss for real and fake images (B, C, H, W), and metrics for the log."""
        # One pass for both: DistributedDataParallel allows no second one before the backward pass.
        maps = [both.float().chunk(2) for both in self.optimized.network(torch.cat([real, fake.detach()]))]
        loss = mean(discriminator_loss(real, fake, self.recipe.discriminator_loss) for real, fake in maps)
        metrics = {
            "discriminator_loss": loss,
            "accuracy_real": mean((logits > 0).float().mean() for logits, _ in maps),
            "accuracy_fake": mean((logits < 0).float().mean() for _, logits in maps),
        }
        if self.recipe.lecam_weight:
            metrics["lecam"] = mean(lecam(real, fake, self.model.averages) for real, fake in maps)
            self._update_averages(
                mean(real.mean() for real, _ in maps), mean(fake.mean() for _, fake in maps)
            )
            loss = loss + self.recipe.lecam_weight * metrics["lecam"]
        if self.recipe.r1_weight:
            metrics["r1"] = r1(self.model, real)
            loss = loss + self.recipe.r1_weight * metrics["r1"]
        return loss, metrics

    @torch.no_grad()
    def _update_averages(self, real: Tensor, fake: Tensor) -> None:
        means = self.accelerator.reduce(torch.stack([real, fake]), "mean")
        self.model.averages.lerp_(means, 1 - LECAM_DECAY)


def discriminator_loss(real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """Return the hinge loss, or the cross entropy of real against fake, of logits of any shape."""
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def generator_loss(fake: Tensor, kind: str) -> Tensor:
    """Return the loss of the logits of fake images: the negative mean logit, or the cross entropy (non-saturating).

    `vanilla` is named as in taming and LlamaGen: cross entropy for the discriminator, the mean logit here.
    """
    if kind == "non-saturating":
        return F.softplus(-fake).mean()
    return -fake.mean()


def lecam(real: Tensor, fake: Tensor, averages: Tensor) -> Tensor:
    """Return the LeCam regularisation (arXiv:2104.03310): squared excess of logits over the other side's average.

    `averages` (2,) are the moving averages of the logits of real and of fake images.
    """
    average_real, average_fake = averages.clone()
    return F.relu(real - average_fake).square().mean() + F.relu(average_real - fake).square().mean()


def r1(discriminator: Callable[[Tensor], list[Tensor]], real: Tensor) -> Tensor:
    """Return R1 (arXiv:1801.04406): half the squared gradient of an image's mean logit, averaged over (B, C, H, W).

    Computed in float32: second derivatives underflow in half precision.
    """
    real = real.detach().float().requires_grad_()
    with torch.autocast(real.device.type, enabled=False):
        logits = mean(logits.flatten(1).mean(1) for logits in discriminator(real))  # (N,)
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


def adaptive_weight(
    reconstruction: Tensor, generator: Tensor, last_weight: Tensor, scale: float = 1.0
) -> Tensor:
    """Return VQGAN's adaptive weight (arXiv:2012.09841, section 3.1).

    It is the ratio of the gradient norms of reconstruction loss and generator loss at the decoder's last weight; the
    gradients are those of the batch of all processes. `scale` multiplies both losses while gradients are computed,
    against underflow in half precision.
    """
    gradients = [
        torch.autograd.grad(loss * scale, last_weight, retain_graph=True)[0].float()
        for loss in (reconstruction, generator)
    ]
    norms = [mean_over_processes(gradient).norm() / scale for gradient in gradients]
    weight = norms[0] / (norms[1] + 1e-4)
    return torch.nan_to_num(weight, nan=0.0).clamp(0, MAX_ADAPTIVE_WEIGHT).detach()


def ramp(step: int, start: int, length: int) -> float:
    """Return the fraction of the discriminator's weight at a step: 0 before `start`, then linearly up to 1."""
    if step < start:
        return 0.0
    return min(1.0, (step - start + 1) / (length + 1))


def mean(values: Iterable[Tensor]) -> Tensor:
    """Return the element-wise mean of tensors of one shape."""
    return torch.stack(list(values)).mean(0)


@contextmanager
def cached_spectral_norms(module: nn.Module, device: str) -> Iterator[None]:
    """Compute spectral norms once for the block, in float32, before autocast casts the weights."""
    with parametrize.cached():
        with torch.autocast(device, enabled=False):
            for layer in module.modules():
                if parametrize.is_parametrized(layer):
                    _ = layer.weight
        yield


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of the module in the block, and leave its spectral norms unchanged."""
    module.requires_grad_(False).eval()
    try:
        yield
    finally:
        module.requires_grad_(True).train()
