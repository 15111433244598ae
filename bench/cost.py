"""Bytes and operations that sampling, training, encoding and decoding need, from the configuration alone.

Counted is what the network needs, not what an implementation does: each weight is read once per step, of the cache only
the filled tokens, and causal attention computes only the pairs that are not masked.

Shapes: k codes of one step, S prefix length, N sequence length, L encoder length, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ..interop.stage import meta_model
from ..pipelines.tensor_bytes import cache_bytes
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

    def shortest_time(self, limits: Limits, dtype: torch.dtype) -> tuple[float, str]:
        """Return the shortest possible time in seconds, and what it is limited by: memory or arithmetic."""
        memory, arithmetic = self.bytes / limits.read, self.flops / limits.flops[compute_dtype(dtype)]
        return (memory, "memory") if memory >= arithmetic else (arithmetic, "arithmetic")


def sampling_cost(config: PriorConfig, rows: int, settings: SamplingConfig, dtype: torch.dtype) -> Cost:
    """Return the cost of all steps of a batch of `rows` sequences (two per image with guidance)."""
    cost = _masked_cost if config.objective == "masked" else _causal_cost
    return cost(config, rows, settings, dtype)


def _masked_cost(config: PriorConfig, rows: int, settings: SamplingConfig, dtype: torch.dtype) -> Cost:
    """Each step is a pass over the whole grid."""
    steps, length = step_count(config, settings), config.sequence_length
    blocks, head = block_weights(config), head_weights(config)
    flops = 2 * (blocks * length + head * config.tokens) + pair_flops(config) * length**2
    return Cost(float(steps * (blocks + head) * dtype.itemsize), rows * steps * flops)


def _causal_cost(config: PriorConfig, rows: int, settings: SamplingConfig, dtype: torch.dtype) -> Cost:
    """A step that samples k codes runs the tokens of the last step's codes and k - 1 extra tokens."""
    sizes = group_sizes(config.tokens, step_count(config, settings), settings.step_schedule)
    blocks, head = block_weights(config), head_weights(config)
    per_key = cache_bytes(config, rows, dtype) / (config.sequence_length + config.encoder_length)
    read, flops, cached, new = 0.0, 0, 0, config.prefix_length
    for size in sizes:
        cached += new
        keys, tokens = cached + config.encoder_length, new + size - 1
        read += (blocks + head) * dtype.itemsize + keys * per_key
        flops += 2 * (blocks * tokens + head * size) + pair_flops(config) * tokens * keys
        new = size
    return Cost(read, rows * flops)


def training_flops(config: PriorConfig, images: int) -> float:
    """Return the operations of a training step: the forward pass, and twice as many in the backward pass."""
    N, causal = config.sequence_length, config.objective != "masked"
    pairs = N * (N + 1) / 2 if causal else N**2
    pairs += N * config.encoder_length
    linear = block_weights(config) * N + head_weights(config) * config.tokens
    return 3.0 * images * (2 * linear + pair_flops(config) * pairs)


@cache
def block_weights(config: PriorConfig) -> int:
    """Return the number of weights that every token is multiplied with in front of the head."""
    model = meta_model(config)
    assert isinstance(model, Prior)
    return sum(p.numel() for p in model.blocks.parameters())


def head_weights(config: PriorConfig) -> int:
    """Return the number of weights of the head."""
    return config.codebook_size * config.width


def pair_flops(config: PriorConfig) -> int:
    """Return the operations of attention per pair of query and key, in all layers."""
    return 4 * config.depth * config.width


def coding_flops(config: TokenizerConfig) -> tuple[float, float]:
    """Return the operations of the encoder and of the decoder for one image, counted by torch without computing."""
    h, w = config.grid
    with FakeTensorMode(), torch.no_grad():  # autocast does not support the meta device
        model = Tokenizer(config).eval()
        images = torch.empty(1, config.channels, *config.size)
        latents = torch.empty(1, config.codebook_dim, h, w // config.codes_per_latent)
        with FlopCounterMode(display=False) as encoder:
            model.encoder(images)
        with FlopCounterMode(display=False) as decoder:
            model.decode_vectors(latents)
    return float(encoder.get_total_flops()), float(decoder.get_total_flops())
