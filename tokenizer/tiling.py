"""Encoding and decoding of images of any size in overlapping tiles, whose activations fit in memory.

The convolutional networks give what they would give for the whole image (`segments`). The transformer does not: it has
learned to attend within the trained size. So its tiles have that size, and each attends to itself; codes come from the
tile in which they are furthest from a border, and the pixels of overlapping tiles are blended.

Shapes: B batch, C channels, H, W image, f downsampling factor, h = H/f, w = W/f grid, q codes per latent.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .codec import Codec
from .model import Tokenizer
from .network import Decoder, Encoder
from .segments import decoder_units, encoder_units, fit_in_one_tile, run_units

OVERLAP = 4
"""Tiles of the transformer overlap by 1/OVERLAP of their side: with half of the side the error was the same."""
QUANTIZED_FLOATS = 2**24
"""Distances of latents and codes that are computed at once, 64 MB."""


@torch.no_grad()
def encode_tiled(model: Tokenizer | Codec, pixels: Tensor) -> Tensor:
    """Encode images (B, C, H, W) in [-1, 1] of any multiples of f to codes (B, h, w * q) int64.

    Small images are encoded whole.

    Raises:
        DataError: the shape does not fit.
    """
    codec = _as_codec(model)
    tokenizer = codec.tokenizer
    tokenizer._check_images(pixels)
    if not isinstance(tokenizer.encoder, Encoder):
        return _encode_vit(codec, pixels)
    units = encoder_units(tokenizer.encoder, tokenizer.to_codebook)
    if tuple(pixels.shape[2:]) == tokenizer.config.size or fit_in_one_tile(units, *pixels.shape[2:]):
        return codec.encode(pixels)
    with _autocast(codec):
        return torch.cat([_quantize(tokenizer, run_units(units, image[None])) for image in pixels])


@torch.no_grad()
def decode_tiled(model: Tokenizer | Codec, codes: Tensor) -> Tensor:
    """Decode codes (B, h, w * q) of any grid to images (B, C, h*f, w*f), clamped to [-1, 1].

    Small images are decoded whole.

    Raises:
        DataError: the shape does not fit.
    """
    codec = _as_codec(model)
    tokenizer = codec.tokenizer
    tokenizer._check_codes(codes)
    if not isinstance(tokenizer.decoder, Decoder):
        return _decode_vit(codec, codes)
    units = decoder_units(tokenizer.decoder, tokenizer.from_codebook)
    h, w = codes.shape[1], codes.shape[2] // tokenizer.config.codes_per_latent
    if (h, w * tokenizer.config.codes_per_latent) == tokenizer.config.grid or fit_in_one_tile(units, h, w):
        return codec.decode(codes)
    with _autocast(codec):
        images = (run_units(units, tokenizer.quantizer.lookup(own[None])) for own in codes)
        return torch.cat([image.float().clamp_(-1, 1) for image in images])


def padded(pixels: Tensor, factor: int) -> Tensor:
    """Return images (B, C, H, W) that are continued to the right and below to multiples of f: mirrored, or for images
    smaller than that by their last pixels."""
    H, W = pixels.shape[2:]
    right, below = -W % factor, -H % factor
    mode = "reflect" if right < W and below < H else "replicate"
    return F.pad(pixels, (0, right, 0, below), mode=mode)


def _as_codec(model: Tokenizer | Codec) -> Codec:
    return model if isinstance(model, Codec) else Codec(model, "fp32")


def _autocast(codec: Codec) -> AbstractContextManager[object]:
    return torch.autocast(codec.device.type, codec.dtype, enabled=codec.precision != "fp32")


def _quantize(tokenizer: Tokenizer, latents: Tensor) -> Tensor:
    """Return the codes (1, h, w * q) of latents (1, d, h, w), some rows at a time: distances to all codes are large."""
    rows = max(1, QUANTIZED_FLOATS // (latents.shape[3] * tokenizer.config.codebook_size))
    return torch.cat([tokenizer.quantizer(part).codes for part in latents.split(rows, dim=2)], dim=1)


def _encode_vit(codec: Codec, pixels: Tensor) -> Tensor:
    f, q = codec.config.factor, codec.config.codes_per_latent
    (rows, columns), (height, width) = _vit_tiles(codec, pixels.shape[2] // f, pixels.shape[3] // f)
    bands = []
    for top, *vertical in _own_parts(rows, height):
        band = []
        for left, *horizontal in _own_parts(columns, width):
            tile = pixels[:, :, top * f : (top + height) * f, left * f : (left + width) * f]
            codes = codec.encode(tile).unflatten(2, (-1, q))  # (B, height, width, q)
            band.append(codes[:, slice(*vertical), slice(*horizontal)])
        bands.append(torch.cat(band, 2))
    return torch.cat(bands, 1).flatten(2)


def _decode_vit(codec: Codec, codes: Tensor) -> Tensor:
    f, q = codec.config.factor, codec.config.codes_per_latent
    h, w = codes.shape[1], codes.shape[2] // q
    (rows, columns), (height, width) = _vit_tiles(codec, h, w)
    if (height, width) == (h, w):
        return codec.decode(codes)
    images = codes.new_zeros(len(codes), codec.config.channels, h * f, w * f, dtype=torch.float32)
    weights = images.new_zeros(h * f, w * f)
    weight = _ramp(height * f)[:, None].to(weights) * _ramp(width * f).to(weights)  # (height * f, width * f)
    for top in rows:
        for left in columns:
            part = (..., slice(top * f, (top + height) * f), slice(left * f, (left + width) * f))
            tile = codes[:, top : top + height, left * q : (left + width) * q]
            images[part] += codec.decode(tile) * weight
            weights[part] += weight
    return images.div_(weights)


def _vit_tiles(codec: Codec, h: int, w: int) -> tuple[tuple[list[int], list[int]], tuple[int, int]]:
    """Return where tiles start, in latents, along both sides, and their size, which is at most the trained one."""
    f = codec.config.factor
    size = tuple(min(own, trained // f) for own, trained in zip((h, w), codec.config.size, strict=True))
    return (_starts(h, size[0]), _starts(w, size[1])), (size[0], size[1])


def _starts(length: int, size: int) -> list[int]:
    return [*range(0, length - size, max(1, size - max(1, size // OVERLAP))), length - size]


def _own_parts(starts: list[int], size: int) -> list[tuple[int, int, int]]:
    """Return for each tile its start and the part of it, from and to, that is nearer to its centre than to others'."""
    ends = [(a + size + b) // 2 for a, b in pairwise(starts)]
    edges = [0, *ends, starts[-1] + size]
    return [(start, edges[i] - start, edges[i + 1] - start) for i, start in enumerate(starts)]


def _ramp(size: int) -> Tensor:
    """Return the weights of a tile's pixels along a side (size,), growing from the borders over the overlap."""
    at = torch.arange(1, size + 1)
    return torch.minimum(at, at.flip(0)).clamp(max=max(1, size // OVERLAP)).float()
