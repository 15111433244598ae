"""The convolutional VQGAN (arXiv:2012.09841) under the names of three code bases; imgtf's network is the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..options import Size
from ..tokenizer.config import TokenizerConfig
from .mapping import Entry, count, import_tensors, shape_of, weight_and_bias
from .stage import IMAGE_SIZE, StageWeights, shapes

CODEBOOK = "quantizer.vq._codebook"
CREATED = tuple(f"{CODEBOOK}.{name}" for name in ("cluster_size", "embed_avg", "initted"))
"""Tensors for training only, which no published file has and the import creates."""


@dataclass(frozen=True)
class Naming:
    """Names of the modules in one code base."""

    encoder_level: str
    decoder_level: str
    block: str
    middle: tuple[str, str, str]
    decoder_forward: bool
    """Whether the decoder's level 0 has the lowest resolution; in imgtf it has the highest."""
    normalised: bool
    """Whether latents and codes are l2-normalised before the nearest code is found."""
    shortcut: str = "nin_shortcut"
    attention: str = "attn"
    attention_layers: tuple[str, str, str, str, str] = ("norm", "q", "k", "v", "proj_out")
    linear: bool = False
    """Whether the layers of attention are linear; in imgtf they are 1x1 convolutions."""
    downsample: str = "downsample.conv"
    upsample: str = "upsample.conv"
    norm_out: str = "norm_out"


def read(tensors: Mapping[str, Tensor], naming: Naming, image_size: Size | None) -> StageWeights:
    """Return the tokenizer; its sizes follow from the tensors."""
    return read_weights(read_config(tensors, naming, image_size), naming, tensors)


def read_weights(config: TokenizerConfig, naming: Naming, tensors: Mapping[str, Tensor]) -> StageWeights:
    """Return the tokenizer with a known configuration."""
    ours = import_tensors(entries(config, naming), shapes(config), tensors)
    return StageWeights(config, ours | codebook_state(ours[f"{CODEBOOK}.embed"]))


def read_config(tensors: Mapping[str, Tensor], naming: Naming, image_size: Size | None) -> TokenizerConfig:
    """Return the configuration: sizes from the shapes, attention from the names, the rest as published."""
    level, block = f"{naming.encoder_level}.", naming.block
    width, channels = shape_of(tensors, "encoder.conv_in.weight", 4)[:2]
    levels = count(tensors, level)
    widths = [shape_of(tensors, f"{level}{i}.{block}.0.conv1.weight", 4)[0] for i in range(levels)]
    codebook_size, codebook_dim = shape_of(tensors, "quantize.embedding.weight", 2)
    uneven = [w for w in widths if w % width]
    if uneven:
        raise CheckpointError(
            f"misshapen encoder: level width {uneven[0]} is not a multiple of the first, {width}"
        )
    values: dict[str, Any] = {
        "image_size": image_size or IMAGE_SIZE,
        "channels": channels,
        "width": width,
        "multipliers": tuple(w // width for w in widths),
        "blocks": count(tensors, f"{level}0.{block}."),
        "attention_levels": tuple(
            i for i in range(levels) if count(tensors, f"{level}{i}.{naming.attention}.")
        ),
        "middle_attention": f"encoder.{naming.middle[1]}.{naming.attention_layers[1]}.weight" in tensors,
        "latent_width": shape_of(tensors, "encoder.conv_out.weight", 4)[0],
        "codebook_size": codebook_size,
        "codebook_dim": codebook_dim,
        "codebook_distance": "cosine" if naming.normalised else "euclidean",
        # The published models never replace a code, and fine-tuning must not do so in its first step.
        "dead_code_threshold": 0.0,
    }
    try:
        return TokenizerConfig(**values)
    except ConfigError as error:
        raise CheckpointError(f"imgtf has no network of these sizes: {error}") from error


def entries(config: TokenizerConfig, naming: Naming) -> Iterator[Entry]:
    """Yield every tensor of the network under both names."""
    last = len(config.multipliers) - 1
    for half, blocks in (("encoder", config.blocks), ("decoder", config.blocks + 1)):
        for ours, theirs in (
            ("conv_in", "conv_in"),
            ("norm_out", naming.norm_out),
            ("conv_out", "conv_out"),
        ):
            yield from weight_and_bias(f"{half}.{ours}", f"{half}.{theirs}")
        first, attention, second = naming.middle
        yield from _block(f"{half}.middle.0", f"{half}.{first}")
        if config.middle_attention:
            yield from _attention(f"{half}.middle.1", f"{half}.{attention}", naming)
        yield from _block(f"{half}.middle.2", f"{half}.{second}")
        for i in range(last + 1):
            yield from _level(config, naming, half, i, blocks)
    yield from weight_and_bias("to_codebook", "quant_conv")
    yield from weight_and_bias("from_codebook", "post_quant_conv")
    convert = unit_length if naming.normalised else None
    yield Entry(f"{CODEBOOK}.embed", ("quantize.embedding.weight",), axis=1, convert=convert)


def _level(config: TokenizerConfig, naming: Naming, half: str, i: int, blocks: int) -> Iterator[Entry]:
    widths = [config.width * m for m in config.multipliers]
    last = len(widths) - 1
    if half == "encoder":
        theirs = f"{naming.encoder_level}.{i}"
        before, resample = [config.width, *widths][i], naming.downsample if i < last else None
    else:
        theirs = f"{naming.decoder_level}.{last - i if naming.decoder_forward else i}"
        before, resample = [*widths, widths[-1]][i + 1], naming.upsample if i > 0 else None
    ours = f"{half}.levels.{i}"
    for j in range(blocks):
        yield from _block(f"{ours}.blocks.{j}", f"{theirs}.{naming.block}.{j}")
        if j == 0 and before != widths[i]:
            shortcut = f"{theirs}.{naming.block}.0.{naming.shortcut}"
            yield from weight_and_bias(f"{ours}.blocks.0.shortcut", shortcut)
        if i in config.attention_levels:
            yield from _attention(f"{ours}.attentions.{j}", f"{theirs}.{naming.attention}.{j}", naming)
    if resample:
        yield from weight_and_bias(f"{ours}.resample.conv", f"{theirs}.{resample}")


def _block(ours: str, theirs: str) -> Iterator[Entry]:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield from weight_and_bias(f"{ours}.{name}", f"{theirs}.{name}")


def _attention(ours: str, theirs: str, naming: Naming) -> Iterator[Entry]:
    norm, q, k, v, proj = (f"{theirs}.{name}" for name in naming.attention_layers)
    yield from weight_and_bias(f"{ours}.norm", norm)
    for entry in [*weight_and_bias(f"{ours}.qkv", q, k, v), *weight_and_bias(f"{ours}.proj", proj)]:
        yield replace(entry, linear=naming.linear)


def unit_length(codebook: Tensor) -> Tensor:
    """Normalise codes (..., V, d). Codes of length 1 up to rounding are returned unchanged, bit for bit."""
    length = codebook.norm(dim=-1, keepdim=True)
    is_unit = (length - 1).abs() < 8 * torch.finfo(codebook.dtype).eps
    return torch.where(is_unit, codebook, F.normalize(codebook, dim=-1))


def codebook_state(codebook: Tensor) -> dict[str, Tensor]:
    """Return the initial moving averages for fine-tuning: every code as if used once."""
    return {
        f"{CODEBOOK}.cluster_size": torch.ones(codebook.shape[:2]),
        f"{CODEBOOK}.embed_avg": codebook.clone(),
        f"{CODEBOOK}.initted": torch.tensor(True),
    }
