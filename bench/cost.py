"""Bytes that have to be read and operations that have to be done, from a prior's configuration alone.

Counted is what the network needs, not what an implementation does: each weight read once a step, only filled slots
of the cache, causal attention without its upper half.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ..interop.stage import meta_model
from ..pipelines.memory import cache_bytes
from ..prior.config import PriorConfig, SamplingConfig
from ..prior.decoding.quantized import compute_dtype
from ..prior.decoding.schedules import group_sizes, step_count
from ..prior.model import Prior
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from .machine import Limits


@dataclass(frozen=True)
class Cost:
    """The work of sampling one batch."""

    bytes: float
    flops: float

    def limit(self, limits: Limits, dtype: torch.dtype) -> tuple[float, str]:
        """The seconds that the machine needs at least, and which limit says so."""
        moving, computing = self.bytes / limits.read, self.flops / limits.flops[compute_dtype(dtype)]
        return (moving, "memory") if moving >= computing else (computing, "arithmetic")


def sampling_cost(config: PriorConfig, rows: int, settings: SamplingConfig, dtype: torch.dtype) -> Cost:
    """All passes of a batch of so many sequences (twice the images with guidance).

    A causal prior's pass takes the codes of the last one, and where it draws k codes k - 1 slots more; a masked
    prior's takes the whole grid.
    """
    sizes = group_sizes(config.tokens, step_count(config, settings), settings.step_schedule)
    blocks, head = block_weights(config), config.codebook_size * config.width
    read = float(len(sizes) * (blocks + head) * dtype.itemsize)
    if config.objective == "masked":
        work = (
            2 * (blocks * config.sequence_length + head * config.tokens)
            + pair_flops(config) * config.sequence_length**2
        )
        return Cost(read, rows * len(sizes) * work)
    slot_bytes = cache_bytes(config, rows, compute_dtype(dtype).itemsize) / (
        config.sequence_length + config.encoder_length
    )
    flops, filled, new = 0.0, 0, config.prefix_length
    for size in sizes:
        filled += new
        keys = filled + config.encoder_length
        read += keys * slot_bytes
        flops += 2 * (blocks * (new + size - 1) + head * size) + pair_flops(config) * (new + size - 1) * keys
        new = size
    return Cost(read, rows * flops)


def training_flops(config: PriorConfig, images: int) -> float:
    """A training step: forward, and twice as much backward."""
    slots, causal = config.sequence_length, config.objective != "masked"
    pairs = slots * (slots + 1) / 2 if causal else slots**2
    pairs += slots * config.encoder_length
    linear = block_weights(config) * slots + config.codebook_size * config.width * config.tokens
    return 3.0 * images * (2 * linear + pair_flops(config) * pairs)


@cache
def block_weights(config: PriorConfig) -> int:
    """Weights that every slot is multiplied with before the head."""
    model = meta_model(config)
    assert isinstance(model, Prior)
    return sum(p.numel() for p in model.blocks.parameters())


def pair_flops(config: PriorConfig) -> int:
    """Operations of attention for each pair of a query and a key: both products, in all layers."""
    return 4 * config.depth * config.width


def coding_flops(config: TokenizerConfig) -> tuple[float, float]:
    """Operations of the encoder and of the decoder for one image, as torch counts them; nothing is computed."""
    side, (h, w) = config.image_size, config.grid
    with FakeTensorMode(), torch.no_grad():  # not the meta device, which autocast does not know
        model = Tokenizer(config).eval()
        images = torch.empty(1, config.channels, side, side)
        latents = torch.empty(1, config.codebook_dim, h, w // config.codes_per_latent)
        with FlopCounterMode(display=False) as encoder:
            model.encoder(images)
        with FlopCounterMode(display=False) as decoder:
            model.decode_vectors(latents)
    return float(encoder.get_total_flops()), float(decoder.get_total_flops())
