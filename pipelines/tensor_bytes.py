"""Bytes of weights, caches and activations, from configurations alone: nothing is loaded or computed.

Shapes: B images, k codes of one step, V codebook size, D width.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..interop.stage import meta_model
from ..prior.conditions.condition import Condition
from ..prior.config import PriorConfig, SamplingConfig
from ..prior.decoding.filters import draw_codes, guide
from ..prior.decoding.packed import decoding_layers, packable
from ..prior.decoding.quantized import cast, compute_dtype
from ..prior.decoding.schedules import group_sizes, step_count
from ..prior.model import Prior
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer


@cache
def weight_bytes(config: TokenizerConfig | PriorConfig, dtype: torch.dtype = torch.float32) -> int:
    """Return the bytes of all parameters and buffers of a network."""
    return sum(t.nbytes for t in cast(meta_model(config), dtype).state_dict().values())


@cache
def packed_bytes(config: PriorConfig, dtype: torch.dtype = torch.float32) -> int:
    """Return the bytes of a prior's packed weights on a CPU; 0 for types that this CPU cannot pack."""
    with torch.no_grad():
        if dtype == torch.int8 or not packable(torch.empty(0, dtype=dtype)):
            return 0
    model = meta_model(config)
    assert isinstance(model, Prior)
    return sum(layer.weight.numel() for layer in decoding_layers(model)) * dtype.itemsize


def parameter_count(config: TokenizerConfig | PriorConfig) -> int:
    """Return the number of trained parameters of a network."""
    return meta_model(config).parameter_count()


def cache_bytes(
    config: PriorConfig, rows: int, dtype: torch.dtype = torch.float32, extra_tokens: int = 0
) -> int:
    """Return the bytes of the KV cache and of the encoder states' keys and values; 0 for masked priors.

    Args:
        rows: sequences; two per image with guidance.
        dtype: of the weights.
        extra_tokens: tokens of a step that samples several codes, besides the first.
    """
    if config.objective == "masked":
        return 0
    length = config.sequence_length + extra_tokens + config.encoder_length
    elements = 2 * config.depth * rows * length * config.key_heads * config.head_width
    return elements * compute_dtype(dtype).itemsize


@cache
def workspace_bytes(
    config: PriorConfig,
    images: int,
    settings: SamplingConfig,
    guided: bool,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Return the peak bytes of logits and probabilities in one decoding step.

    For masked priors also those of the activations; for causal priors they are small and not counted.
    """
    masked = config.objective == "masked"
    k, V = config.tokens if masked else max_codes_per_step(config, settings), config.codebook_size
    rows = (1 + guided) * images
    with torch.no_grad(), LiveBytes([]) as guiding:
        logits = torch.empty(rows, k, V, device="meta")
        logits = guide(logits, settings.cfg_scale) if guided else logits
    with torch.no_grad(), LiveBytes([logits]) as sampling:
        drawn = logits[0].clone() if masked else logits  # masked priors choose image by image
        uniform = torch.empty(drawn.shape[:-1], device="meta", dtype=torch.float64)
        draw_codes(drawn, uniform, settings, settings.temperature)
    network = 0
    if masked:
        network = activation_bytes(config, rows, dtype)
    elif dtype == torch.int8:  # the head's weights and logits in bf16, and the logits in float32
        network = V * config.width * compute_dtype(dtype).itemsize + rows * k * V * 6
    return max(network, guiding.peak, logits.nbytes + sampling.peak)


def max_codes_per_step(config: PriorConfig, settings: SamplingConfig) -> int:
    """Return the most codes per image that one step samples."""
    return max(group_sizes(config.tokens, step_count(config, settings), settings.step_schedule))


@cache
def activation_bytes(config: PriorConfig, rows: int, dtype: torch.dtype = torch.float32) -> int:
    """Return the peak bytes of activations and logits of a masked prior's pass over the whole grid."""
    model = cast(meta_model(config), dtype).eval()
    assert isinstance(model, Prior)
    codes = torch.full((rows, config.tokens), -1, device="meta")
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as live:
        encoded = model.encode(Condition(), rows)
        model.masked_logits(codes, encoded, config.grid)
    return live.peak


@cache
def decoder_bytes(config: TokenizerConfig, images: int) -> int:
    """Return the peak bytes of activations while the tokenizer decodes a batch of images in float32.

    Attention counts with its whole matrix, which most devices do not allocate.
    """
    model = meta_model(config).eval()
    assert isinstance(model, Tokenizer)
    h, w = config.grid
    latents = torch.empty(images, config.codebook_dim, h, w // config.codes_per_latent, device="meta")
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as live:
        model.decode_vectors(latents).clamp(-1, 1)
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive in the block, and their peak; also on the meta device.

    Scratch memory inside kernels is not counted.
    """

    def __init__(self, excluded: list[Tensor]) -> None:
        """`excluded`: tensors that do not count, such as weights."""
        super().__init__()
        self.now = self.peak = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in excluded}
        self.excluded = excluded  # keeps them alive: the address of a freed storage is used again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not tensor.is_mkldnn:  # packed weights have no storage
                self._add(tensor)
        self.peak = max(self.peak, self.now)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
