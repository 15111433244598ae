"""The codebook: vector-quantize-pytorch's quantizers by name, behind one result that has names.

Shapes: B batch, d `codebook_dim`, h, w the latents' grid, N = B*h*w, q codes a latent, V codes.

What the library (1.32) gets wrong or leaves to its caller, and what is done here about it; its issues #10 and #223
tell of the first two:
- It switches autocast off for CUDA only, so bf16 on a CPU picks other codes. Here: off on every device.
- It asks once, at construction, and caches for the whole process, whether there are many processes: a model built
  before the process group never shares its statistics. Here: asked in every training step.
- LFQ averages its batch entropy over processes by an `all_reduce` whose result it drops. Here: its entropy anew.
- ResidualVQ adds one straight-through gradient per stage, q times too much, and fails on image maps that are not as
  wide as their channels. Here: one gradient for the sum, on flattened latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from vector_quantize_pytorch import FSQ, LFQ, ResidualVQ, SimVQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import (
    Codebook,
    batched_sample_vectors,
    rotate_to,
    sample_vectors_distributed,
)

from .config import TokenizerConfig

ENTROPY_SCALE = 100.0
"""Inverse temperature of the soft assignment that LFQ's entropy is taken of (arXiv:2310.05737)."""


@dataclass(frozen=True)
class Quantized:
    """What the codebook made of latents."""

    quantized: Tensor
    """(B, d, h, w) float32: the chosen code vectors; gradients flow to the latents."""
    codes: Tensor
    """(B, h, w * q) int64 in [0, V); the q codes of a latent stand side by side, the coarsest first."""
    commitment: Tensor
    """Scalar, unweighted: mean squared distance of the latents to their codes (of residual_vq the mean over its
    stages, of simvq once for the latents and once for the codes, which learn by it). Zero for fsq."""
    entropy: Tensor
    """Scalar, unweighted: lfq's entropy of each latent's code less that of the batch. Zero for the others."""


class Quantizer(nn.Module, ABC):
    """Latents to codes and codes to vectors, always in float32: half precision picks other codes."""

    vq: Any
    """The library's module."""

    @abstractmethod
    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()

    def forward(self, latents: Tensor) -> Quantized:
        """Latents (B, d, h, w). In training mode a codebook of moving averages learns from them."""
        if self.training:
            self._share_statistics()
        with torch.autocast(latents.device.type, enabled=False):
            return self._quantize(latents.float())

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w * q) to their vectors (B, d, h, w)."""
        with torch.autocast(codes.device.type, enabled=False):
            return self._vectors(codes)

    @abstractmethod
    def _quantize(self, latents: Tensor) -> Quantized: ...

    @abstractmethod
    def _vectors(self, codes: Tensor) -> Tensor: ...

    def _share_statistics(self) -> None:
        """Moving averages sum over all processes, and dead codes are replaced alike on all of them."""
        many = process_count() > 1
        for codebook in (module for module in self.modules() if isinstance(module, Codebook)):
            codebook.all_reduce_fn = distributed.all_reduce if many else _nothing
            codebook.replace_sample_fn = sample_vectors_distributed if many else batched_sample_vectors


class VectorQuantizer(Quantizer):
    """Nearest of V codes (VQ-VAE, arXiv:1711.00937; cosine and low dimension, arXiv:2110.04627)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.vq = VectorQuantize(
            dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            use_cosine_sim=config.codebook_distance == "cosine",
            rotation_trick=config.rotation_trick,
            accept_image_fmap=True,
            **_codebook_options(config),
        )

    def _quantize(self, latents: Tensor) -> Quantized:
        quantized, codes, commitment = self.vq(latents)
        return Quantized(quantized, codes, commitment, latents.new_zeros(()))

    def _vectors(self, codes: Tensor) -> Tensor:
        return self.vq.get_codes_from_indices(codes)


class SimQuantizer(Quantizer):
    """Nearest of V random codes under a learned linear map, which no code can fall out of (arXiv:2411.02038)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.vq = SimVQ(
            dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            rotation_trick=config.rotation_trick,
            channel_first=True,
            # As the other quantizers: `commitment_weight` of the recipe is the weight that the latents feel.
            input_to_quantize_commit_loss_weight=1.0,
        )

    def _quantize(self, latents: Tensor) -> Quantized:
        quantized, codes, commitment = self.vq(latents)
        return Quantized(quantized, codes, commitment, latents.new_zeros(()))

    def _vectors(self, codes: Tensor) -> Tensor:
        return self.vq.indices_to_codes(codes)


class FiniteQuantizer(Quantizer):
    """Each dimension rounded to one of a few values (FSQ, arXiv:2309.15505): no codebook, no loss."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.vq = FSQ(config.fsq_levels)

    def _quantize(self, latents: Tensor) -> Quantized:
        quantized, codes = self.vq(latents)
        zero = latents.new_zeros(())
        return Quantized(quantized, codes.long(), zero, zero)

    def _vectors(self, codes: Tensor) -> Tensor:
        return self.vq.indices_to_codes(codes)


class BinaryQuantizer(Quantizer):
    """The signs of the latents (LFQ, arXiv:2310.05737), on the unit sphere with `spherical` (BSQ, arXiv:2406.07548)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.vq = LFQ(codebook_size=config.codebook_size, spherical=config.spherical)

    def train(self, mode: bool = True) -> BinaryQuantizer:
        super().train(mode)
        self.vq.eval()  # its training mode adds only the losses, which are computed here
        return self

    def _quantize(self, latents: Tensor) -> Quantized:
        x = self.vq.maybe_l2norm(latents.flatten(2).mT)  # (B, h*w, d)
        vectors, codes, _ = self.vq(x)
        commitment = entropy = latents.new_zeros(())
        if self.training:
            commitment = F.mse_loss(x, vectors)
            entropy = entropy_loss(x.flatten(0, 1), self.vq.maybe_l2norm(self.vq.codebook))
        quantized = straight_through(x, vectors).mT.reshape(latents.shape)
        return Quantized(quantized, codes.unflatten(1, latents.shape[2:]), commitment, entropy)

    def _vectors(self, codes: Tensor) -> Tensor:
        return self.vq.indices_to_codes(codes)


class ResidualQuantizer(Quantizer):
    """q codes a latent, each nearest to what the ones before left over (RQ-VAE, arXiv:2203.01941)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.stages = config.residual_codes
        self.through = rotate_to if config.rotation_trick else straight_through
        self.vq = ResidualVQ(
            dim=config.codebook_dim,
            num_quantizers=config.residual_codes,
            codebook_size=config.codebook_size,
            rotation_trick=False,
            **_codebook_options(config),
        )

    def _quantize(self, latents: Tensor) -> Quantized:
        h, w = latents.shape[2:]
        x = latents.flatten(2).mT  # (B, h*w, d)
        vectors, codes, commitment = self.vq(x)
        quantized = self.through(x, vectors.detach()).mT.reshape(latents.shape)
        codes = codes.reshape(-1, h, w * self.stages)  # from (B, h*w, q)
        return Quantized(quantized, codes, commitment.mean(), latents.new_zeros(()))

    def _vectors(self, codes: Tensor) -> Tensor:
        places = codes.unflatten(-1, (-1, self.stages))  # (B, h, w, q)
        return self.vq.get_output_from_indices(places).movedim(-1, 1)


QUANTIZERS: dict[str, type[Quantizer]] = {
    "vq": VectorQuantizer,
    "simvq": SimQuantizer,
    "fsq": FiniteQuantizer,
    "lfq": BinaryQuantizer,
    "residual_vq": ResidualQuantizer,
}


def make_quantizer(config: TokenizerConfig) -> Quantizer:
    """The quantizer that the configuration names."""
    return QUANTIZERS[config.quantizer](config)


def straight_through(latents: Tensor, vectors: Tensor) -> Tensor:
    """The vectors, with the gradient of the latents (arXiv:1711.00937)."""
    return latents + (vectors - latents).detach()


def entropy_loss(latents: Tensor, codebook: Tensor) -> Tensor:
    """Scalar, low where each latent (N, d) is sure of its code (V, d) and the batch uses all codes alike."""
    p = (2 * ENTROPY_SCALE * latents @ codebook.mT).softmax(-1)  # (N, V)
    return entropy(p).mean() - entropy(mean_over_processes(p.mean(0)))


def entropy(p: Tensor) -> Tensor:
    """Entropy in nats of probabilities (..., V)."""
    return -(p * p.clamp_min(1e-5).log()).sum(-1)


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of x over all processes; after DDP has averaged gradients, they are those of that mean."""
    if process_count() == 1:
        return x
    total = x.detach().clone()
    distributed.all_reduce(total)
    return total / process_count() + (x - x.detach())


def process_count() -> int:
    """Processes that train together: 1 where no process group exists."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _codebook_options(config: TokenizerConfig) -> dict[str, object]:
    return {
        "decay": config.codebook_decay,
        "threshold_ema_dead_code": config.dead_code_threshold,
        "learnable_codebook": config.codebook_learned,
        "ema_update": not config.codebook_learned,
        "commitment_weight": 1.0,
        "sync_codebook": False,  # `Quantizer._share_statistics` decides, when it is known
    }


def _nothing(_: Tensor) -> None:
    """Stands in for `all_reduce` in a single process."""
