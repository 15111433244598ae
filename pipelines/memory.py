"""Memory that sampling needs, from configurations alone, and the batch size that fits in the free memory.

Python and torch themselves (about 300 MiB on a CPU) are not counted. `benchmarks/sampling_memory.py` compares these
estimates with the memory of a process.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import psutil
import torch

from ..errors import ConfigError
from ..prior.config import PriorConfig, SamplingConfig
from ..runtime.weights import GROUP
from ..tokenizer.config import TokenizerConfig
from .tensor_bytes import (
    cache_bytes,
    decoder_bytes,
    max_codes_per_step,
    packed_bytes,
    weight_bytes,
    workspace_bytes,
)

DECODED_PIXELS = 2**18
"""Pixels that the tokenizer decodes at once: four images of 256 px. A larger batch is no faster, and the activations of
a convolutional decoder are by far the largest tensors (160 MiB per image of 256 px for `base`)."""
MAX_AUTO_BATCH = {"cpu": 64, "cuda": 256}
"""Largest automatic batch size. A step reads all weights at any batch size. Above about 10 rows on a CPU and 300 on an
H100 (FLOP/s over bytes/s, measured and published), arithmetic takes longer than that, and more rows gain little."""
ALLOCATOR_BYTES = 2**25
"""Freed memory that the C library keeps: glibc does not return blocks below 32 MiB at once."""


@dataclass(frozen=True)
class SamplingMemory:
    """Bytes that sampling takes, batch by batch."""

    weights: int
    """Tokenizer and prior; on a CPU also the prior's packed weights."""
    cache: int
    """The KV cache of a batch."""
    workspace: int
    """Logits and probabilities of a step; for masked priors also activations."""
    decoder: int
    """Activations of the tokenizer's decoder."""
    images: int
    """Finished images of the batch and of the grid, and the grid itself; on a CPU."""
    loading: int
    """While weights are loaded: on a CPU a part of the prior's file is in memory as well."""
    captured: bool = False
    """Whether CUDA graphs keep the memory of sampling while images are decoded."""

    @property
    def batch(self) -> int:
        """What a batch takes besides the weights: sampling or decoding, or both with CUDA graphs."""
        combine = sum if self.captured else max
        return combine([self.cache + self.workspace, self.decoder]) + self.images

    @property
    def peak(self) -> int:
        """The most bytes at any time."""
        return max(self.loading, self.weights + self.batch)


def sampling_memory(
    prior: PriorConfig,
    tokenizer: TokenizerConfig,
    batch_size: int,
    *,
    grid_images: int = 0,
    settings: SamplingConfig | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SamplingMemory:
    """Return what sampling in batches of this size takes.

    Args:
        grid_images: images that are kept for the grid.
        settings: default: those of the prior. Guidance takes two rows per image.
        device: cpu or cuda. On a GPU, images and loading take the host's memory, which is not counted; nor is the
            workspace of convolutions.
        dtype: of the prior's weights. The tokenizer stays in float32, and the prior is loaded in float32.
    """
    on_cpu = device == "cpu"
    sampling = settings or prior.sampling
    guided = sampling.cfg_scale != 1 and bool(prior.conditions)
    extra_tokens = max_codes_per_step(prior, sampling) - 1
    tokenizer_file, prior_file = weight_bytes(tokenizer), weight_bytes(prior)
    return SamplingMemory(
        weights=tokenizer_file + weight_bytes(prior, dtype) + packed_bytes(prior, dtype) * on_cpu,
        cache=cache_bytes(prior, (1 + guided) * batch_size, dtype, extra_tokens),
        workspace=workspace_bytes(prior, batch_size, sampling, guided, dtype),
        decoder=decoder_bytes(tokenizer, min(batch_size, decoded_at_once(tokenizer)))
        + ALLOCATOR_BYTES * on_cpu,
        images=image_bytes(tokenizer, batch_size, grid_images) * on_cpu,
        loading=tokenizer_file + prior_file + min(prior_file, GROUP) * on_cpu,
        captured=not on_cpu and prior.objective != "masked",
    )


def image_bytes(config: TokenizerConfig, batch_size: int, grid_images: int) -> int:
    """Return the bytes of the 8-bit images of a batch, of those kept for the grid, and of the grid."""
    return (batch_size + 2 * grid_images) * prod(config.size) * config.channels


def decoded_at_once(config: TokenizerConfig) -> int:
    """Return the number of images that the tokenizer decodes at once."""
    return max(1, DECODED_PIXELS // prod(config.size))


def auto_batch(
    prior: PriorConfig,
    tokenizer: TokenizerConfig,
    n: int,
    free: int,
    *,
    settings: SamplingConfig | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    processes: int = 1,
) -> int:
    """Return the batch size for n images: the largest power of two that takes at most half of the free bytes.

    It is at most `MAX_AUTO_BATCH`, and reduced so that all batches of all processes have about the same size.
    """
    size = MAX_AUTO_BATCH.get(device, MAX_AUTO_BATCH["cpu"])
    while size > 1:
        needed = sampling_memory(prior, tokenizer, size, settings=settings, device=device, dtype=dtype)
        if needed.batch * 2 <= free:
            break
        size //= 2
    rounds = -(-n // (size * processes))
    return -(-n // (rounds * processes))


def check_batch(
    prior: PriorConfig,
    tokenizer: TokenizerConfig,
    batch_size: int,
    free: int,
    *,
    settings: SamplingConfig,
    device: str,
    dtype: torch.dtype,
) -> None:
    """Refuse a batch that takes more than the free bytes. Batches up to the largest automatic one are not checked.

    Raises:
        ConfigError: names what it takes and what is free.
    """
    if batch_size <= MAX_AUTO_BATCH.get(device, MAX_AUTO_BATCH["cpu"]):
        return
    needed = sampling_memory(
        prior, tokenizer, batch_size, settings=settings, device=device, dtype=dtype
    ).batch
    if needed > free:
        raise ConfigError(
            f"a batch of {batch_size} images takes about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of memory "
            f"are free: lower the batch size, or leave it out"
        )


def free_memory(device: torch.device, processes: int = 1) -> int:
    """Return the free bytes of a device, divided by the processes that share a CPU's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, *_container_limits()) // processes


def _container_limits() -> list[int]:
    """Return the free bytes of a container with a memory limit (control groups, version 2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        files = next(int(value) for name, value in rows if name == "inactive_file")  # freed when needed
        return [int(limit) - int(used) + files]
    except (OSError, ValueError, StopIteration):  # no such limit, or "max"
        return [2**63]
