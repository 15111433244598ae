"""Quantizers: vector-quantize-pytorch's classes by name, behind one result type.

Shapes: B batch, d `codebook_dim`, h, w grid of the latents, N = B*h*w, q codes per latent, V codes.

Workarounds for the library (1.32; its issues #10 and #223 describe the first two):
- It disables autocast for CUDA only, so bf16 on a CPU changes codes. Here autocast is disabled on every device.
- It decides once per process, at construction, whether training is distributed. A model that is built before the
  process group would never synchronise its statistics. Here this is decided in every training step.
- Several processes replace dead codes by other latents than one process would. Here they choose among the latents of
  the whole batch, with the same random numbers.
- LFQ discards the result of the `all_reduce` that averages its batch entropy. The entropy loss here replaces it.
- ResidualVQ adds one straight-through gradient per stage, q times too much, and fails on feature maps whose width
  differs from their channels. Here the sum has one gradient, and latents are flattened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from vector_quantize_pytorch import FSQ, LFQ, ResidualVQ, SimVQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook, rotate_to

from ..runtime.batch_random import gather_rows, mean_over_processes, process_count
from .config import TokenizerConfig

TRAINING_BUFFERS = ("cluster_size", "embed_avg")
"""Moving averages of the library's codebooks, by the last part of their names. Only training reads them."""
ENTROPY_SCALE = 100.0
"""Inverse temperature of the soft assignment in LFQ's entropy loss (arXiv:2310.05737)."""


@dataclass(frozen=True)
class Quantized:
    """Quantized latents."""

    quantized: Tensor
    """(B, d, h, w) float32: code vectors. Gradients flow to the latents."""
    codes: Tensor
    """(B, h, w * q) int64 in [0, V). The q codes of a latent are neighbours in a row, the coarsest first."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """Unweighted scalars by name. `NAME_weight` of the recipe weighs the loss NAME.

    commitment: mean squared distance of latents and codes. residual_vq: mean over its stages. simvq: the sum of a term
        for the latents and one for the codes.
    entropy: lfq in training: mean entropy of each latent's code minus the entropy of the batch.
    """


class Quantizer(nn.Module, ABC):
    """Maps latents to codes and codes to vectors, always in float32: half precision changes codes."""

    vq: Any
    """The library's module."""
    frozen = False
    """Whether training leaves the codebooks as they are (see `CodebookAccumulator`)."""

    @abstractmethod
    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize latents (B, d, h, w). In training mode the codebooks are updated, unless they are `frozen`."""
        if self.training:
            self._synchronise_statistics()
        with torch.autocast(latents.device.type, enabled=False):
            return self._quantize(latents.float())

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors (B, d, h, w) of codes (B, h, w * q)."""
        with torch.autocast(codes.device.type, enabled=False):
            return self._vectors(codes)

    @abstractmethod
    def _quantize(self, latents: Tensor) -> Quantized: ...

    @abstractmethod
    def _vectors(self, codes: Tensor) -> Tensor: ...

    def _synchronise_statistics(self) -> None:
        """Sum moving averages over all processes, and replace dead codes by the same latents on all of them."""
        many = process_count() > 1
        for codebook in (module for module in self.modules() if isinstance(module, Codebook)):
            codebook.all_reduce_fn = distributed.all_reduce if many else _no_reduce
            codebook.replace = partial(_replace_from_whole_batch if many else Codebook.replace, codebook)


Q = TypeVar("Q", bound=type[Quantizer])
QUANTIZERS: dict[str, type[Quantizer]] = {}
"""Quantizer classes by name; the names are `tokenizer.config.QUANTIZERS`."""


def register(name: str) -> Callable[[Q], Q]:
    """Return a class decorator that adds a quantizer to `QUANTIZERS`."""

    def add(cls: Q) -> Q:
        QUANTIZERS[name] = cls
        return cls

    return add


def make_quantizer(config: TokenizerConfig) -> Quantizer:
    """Build the quantizer that the configuration names."""
    return QUANTIZERS[config.quantizer](config)


@register("vq")
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
        quantized, codes, commitment = self.vq(latents, freeze_codebook=self.frozen)
        return Quantized(quantized, codes, {"commitment": commitment})

    def _vectors(self, codes: Tensor) -> Tensor:
        return self.vq.get_codes_from_indices(codes)


@register("simvq")
class SimQuantizer(Quantizer):
    """Nearest of V frozen random codes under a learned linear map; all codes stay in use (arXiv:2411.02038)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.vq = SimVQ(
            dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            rotation_trick=config.rotation_trick,
            channel_first=True,
            # As in the other quantizers, `commitment_weight` of the recipe is the weight of the latents' term.
            input_to_quantize_commit_loss_weight=1.0,
        )

    def _quantize(self, latents: Tensor) -> Quantized:
        quantized, codes, commitment = self.vq(latents)
        return Quantized(quantized, codes, {"commitment": commitment})

    def _vectors(self, codes: Tensor) -> Tensor:
        return self.vq.indices_to_codes(codes)


@register("fsq")
class FiniteQuantizer(Quantizer):
    """Each dimension rounded to one of a few values (FSQ, arXiv:2309.15505): no codebook, no loss."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        device = torch.empty(0).device
        with torch.device(
            "cpu"
        ):  # the library reads a value at construction, which the meta device does not have
            self.vq = FSQ(config.fsq_levels).to(device)

    def _quantize(self, latents: Tensor) -> Quantized:
        quantized, codes = self.vq(latents)
        return Quantized(quantized, codes.long())

    def _vectors(self, codes: Tensor) -> Tensor:
        return self.vq.indices_to_codes(codes)


@register("lfq")
class BinaryQuantizer(Quantizer):
    """Signs of the latents (LFQ, arXiv:2310.05737), with `spherical` on the unit sphere (BSQ, arXiv:2406.07548)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.vq = LFQ(codebook_size=config.codebook_size, spherical=config.spherical)

    def train(self, mode: bool = True) -> BinaryQuantizer:
        super().train(mode)
        self.vq.eval()  # its training mode only adds losses, which are computed here
        return self

    def _quantize(self, latents: Tensor) -> Quantized:
        x = self.vq.maybe_l2norm(latents.flatten(2).mT)  # (B, h*w, d)
        vectors, codes, _ = self.vq(x)
        quantized = straight_through(x, vectors).mT.reshape(latents.shape)
        losses = self._losses(x, vectors) if self.training else {}
        return Quantized(quantized, codes.unflatten(1, latents.shape[2:]), losses)

    def _losses(self, x: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        codebook = self.vq.maybe_l2norm(self.vq.codebook)
        return {
            "commitment": F.mse_loss(x, vectors),
            "entropy": entropy_loss(x.flatten(0, 1), codebook),
        }

    def _vectors(self, codes: Tensor) -> Tensor:
        return self.vq.indices_to_codes(codes)


@register("residual_vq")
class ResidualQuantizer(Quantizer):
    """q codes per latent, each nearest to the residual of the ones before (RQ-VAE, arXiv:2203.01941)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.stages = config.residual_codes
        self.pass_gradient = rotate_to if config.rotation_trick else straight_through
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
        vectors, codes, commitment = self.vq(x, freeze_codebook=self.frozen)
        quantized = self.pass_gradient(x, vectors.detach()).mT.reshape(latents.shape)
        codes = codes.reshape(-1, h, w * self.stages)  # from (B, h*w, q)
        return Quantized(quantized, codes, {"commitment": commitment.mean()})

    def _vectors(self, codes: Tensor) -> Tensor:
        stacked = codes.unflatten(-1, (-1, self.stages))  # (B, h, w, q)
        return self.vq.get_output_from_indices(stacked).movedim(-1, 1)


def straight_through(latents: Tensor, vectors: Tensor) -> Tensor:
    """Return the vectors, whose gradient goes to the latents unchanged (arXiv:1711.00937)."""
    return latents + (vectors - latents).detach()


def entropy_loss(latents: Tensor, codebook: Tensor) -> Tensor:
    """Return LFQ's entropy loss of latents (N, d) and codes (V, d), a scalar.

    It is low where each latent is close to one code only and the batch uses all codes equally often.
    """
    p = (2 * ENTROPY_SCALE * latents @ codebook.mT).softmax(-1)  # (N, V)
    return entropy(p).mean() - entropy(mean_over_processes(p.mean(0)))


def entropy(p: Tensor) -> Tensor:
    """Return the entropy in nats of probabilities (..., V)."""
    return -(p * p.clamp_min(1e-5).log()).sum(-1)


def _replace_from_whole_batch(
    codebook: Codebook, batch_samples: Tensor, batch_mask: Tensor, **options: Any
) -> None:
    """Replace the codes of a mask (1, V) by latents (1, N, d) of all processes, in the order of one process.

    The latents are moved to the CPU, whose random generator is in the same state in every process.
    """
    rows = gather_rows(batch_samples[0]).cpu()
    micro_batches = getattr(codebook, "micro_batches", 1)
    whole = rows.unflatten(0, (process_count(), micro_batches, -1)).transpose(0, 1).flatten(0, 2)[None]
    Codebook.replace(codebook, whole, batch_mask, **options)


def _codebook_options(config: TokenizerConfig) -> dict[str, object]:
    return {
        "decay": config.codebook_decay,
        "threshold_ema_dead_code": config.dead_code_threshold,
        "learnable_codebook": config.codebook_learned,
        "ema_update": not config.codebook_learned,
        "commitment_weight": 1.0,
        "sync_codebook": False,  # see `Quantizer._synchronise_statistics`
    }


def _no_reduce(_: Tensor) -> None:
    """Replace `all_reduce` in a single process."""
