"""Bytes that have to be read and operations that have to be done, from a prior's configuration alone.

Counted is what the network needs, not what an implementation does: each weight read once a step, only filled slots
of the cache, causal attention without its upper half.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ...interop.part import blueprint
from ...prior.config import PriorConfig
from ...prior.model import Prior
from ...tokenizer.config import TokenizerConfig
from ...tokenizer.model import Tokenizer
from ..memory import cache_bytes
from .machine import Limits


@dataclass(frozen=True)
class Cost:
    """The work of sampling one batch."""

    bytes: float
    flops: float

    def limit(self, limits: Limits, dtype: torch.dtype) -> tuple[float, str]:
        """The seconds that the machine needs at least, and which limit says so."""
        memory, arithmetic = self.bytes / limits.read, self.flops / limits.flops[dtype]
        return (memory, "memory") if memory >= arithmetic else (arithmetic, "arithmetic")


def sampling_cost(config: PriorConfig, rows: int, dtype: torch.dtype) -> Cost:
    """All steps of a batch: so many sequences (twice the images with guidance), one code at a time."""
    element, slots, weights = dtype.itemsize, config.slots, matrix_weights(config)
    filled = slots * (slots + 1) / 2  # the sum over the steps
    steps = config.tokens
    return Cost(
        bytes=steps * weights * element + cache_bytes(config, rows, element) / slots * filled,
        flops=rows * (2 * weights * slots + attention_flops(config)),
    )


def training_flops(config: PriorConfig, images: int) -> float:
    """A training step: forward, and twice as much backward."""
    return 3.0 * images * (2 * matrix_weights(config) * config.slots + attention_flops(config))


def matrix_weights(config: PriorConfig) -> int:
    """Weights that every slot is multiplied with: those of the blocks and the output layer."""
    model = blueprint(config)
    assert isinstance(model, Prior)
    return sum(p.numel() for p in model.blocks.parameters()) + config.codebook_size * config.width


def attention_flops(config: PriorConfig) -> float:
    """Queries times keys and weights times values, over all slots of one sequence."""
    filled = config.slots * (config.slots + 1) / 2
    return 4 * config.depth * config.width * filled


def coding_flops(config: TokenizerConfig) -> tuple[float, float]:
    """Operations of the encoder and of the decoder for one image, as torch counts them; nothing is computed."""
    side, (h, w) = config.image_size, config.grid
    with FakeTensorMode(), torch.no_grad():  # not the meta device, which autocast does not know
        model = Tokenizer(config).eval()
        images = torch.empty(1, config.channels, side, side)
        latents = torch.empty(1, config.codebook_dim, h, w // config.codes_per_place)
        with FlopCounterMode(display=False) as encoder:
            model.encoder(images)
        with FlopCounterMode(display=False) as decoder:
            model.decode_vectors(latents)
    return float(encoder.get_total_flops()), float(decoder.get_total_flops())
