"""The least memory that a training step takes, from configurations alone. More than is free is an error in advance.

These are lower bounds: what is certainly kept for the backward pass. A run that passes may still run out of memory.
"""

from __future__ import annotations

import os
from math import prod

import torch

from ..errors import ConfigError
from ..prior.config import PriorConfig
from ..runtime.device import pick_device
from ..tokenizer.config import TokenizerConfig
from ..training.config import TrainingConfig
from .memory import free_memory
from .tensor_bytes import weight_bytes

COPIES = 4
"""Weights, their gradients, and two moments of AdamW, all in float32."""
HALF, SINGLE = 2, 4
"""Bytes of activations, which may be bf16, and of images and logits, which are float32."""


def check_memory(config: TokenizerConfig | PriorConfig, training: TrainingConfig, found: bool) -> None:
    """Refuse a training run that cannot fit into the free memory. Nothing is allocated.

    Args:
        found: whether micro-batches that fit will be found (`--batch-size auto`).

    Raises:
        ConfigError: names what the weights and a micro-batch take at least, and what is free.
    """
    device = pick_device(training.device)
    weights, free = weight_bytes(config), free_memory(torch.device("cpu"))
    if weights > free:  # they are made on the CPU
        raise ConfigError(
            f"the network has {_size(weights)} of weights, {_size(free)} of memory are free: lower its sizes, such as "
            f"--width"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # the processes may share the weights
        return
    micro, free = 1 if found else training.micro_batch_size, free_memory(device)
    batch = micro * batch_bytes(config)
    if COPIES * weights + batch > free:
        raise ConfigError(
            f"a step takes at least {_size(COPIES * weights + batch)}, {_size(free)} of memory are free: weights and "
            f"optimizer {_size(COPIES * weights)}, {micro} images at once {_size(batch)}; lower --batch-size, raise "
            f"--gradient-accumulation-steps, or {_advice(config)}"
        )


def batch_bytes(config: TokenizerConfig | PriorConfig) -> int:
    """Return the least bytes of a step for each of its images."""
    if isinstance(config, PriorConfig):
        return config.tokens * (2 * SINGLE * config.codebook_size + HALF * config.depth * config.width)
    pixels = prod(config.size)
    images = 3 * SINGLE * config.channels * pixels  # the image, its reconstruction, and the gradient of that
    kept = 1 if config.gradient_checkpointing else 2 * config.blocks
    return images + (HALF * config.width * pixels * kept if config.network == "conv" else 0)


def _advice(config: TokenizerConfig | PriorConfig) -> str:
    size = "--depth" if isinstance(config, PriorConfig) else "--image-size"
    return f"lower --width or {size}"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
