"""Encoding and decoding in tiles: the result of the whole image, for any network, quantizer and depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from imgtf.errors import DataError
from imgtf.tokenizer import segments, tiling
from imgtf.tokenizer.codec import Codec
from imgtf.tokenizer.config import QUANTIZERS
from imgtf.tokenizer.model import Tokenizer
from imgtf.tokenizer.tiling import decode_tiled, encode_tiled, padded

from .test_model import images, tiny

SHAPES = [(52, 40), (2, 98)]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of about 24 pixels, and no held map but those of the lowest resolution."""
    monkeypatch.setattr(segments, "TILE_FLOATS", 8 * 24**2)
    monkeypatch.setattr(segments, "HELD_BYTES", 4 * 16 * 26 * 20)


def conv(**changes: Any) -> Tokenizer:
    return tiny(**{"blocks": 2, "attention_levels": ()} | changes).eval()


def vit(**changes: Any) -> Tokenizer:
    return tiny(network="vit", width=16, heads=2, depth=2, patch=4, registers=2, **changes).eval()


@torch.no_grad()
def whole(model: Tokenizer, x: Tensor) -> tuple[Tensor, Tensor]:
    codes = model.encode(x)
    return codes, model.decode(codes)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "changes",
    [
        {}, {"middle_attention": False}, {"attention_levels": (0, 1)}, {"multipliers": (1,)},
        {"multipliers": (1, 2, 1), "attention_levels": (1,)}, {"channels": 1, "bit_depth": 16},
        {"stem": 2}, {"stem": 4, "multipliers": (1,)},
    ],
)  # fmt: skip
def test_tiles_of_a_convolutional_network_give_the_result_of_the_whole_image(
    changes: dict[str, Any], shape: tuple[int, int]
) -> None:
    model = conv(**changes)
    f = model.config.factor
    x = images(2, model.config.channels, shape[0] // f * f or f, shape[1] // f * f)
    codes, decoded = whole(model, x)
    tiled = encode_tiled(model, x)
    assert tiled.shape == codes.shape
    assert (tiled != codes).float().mean() < 0.002  # rounding decides between two codes that are equally near
    torch.testing.assert_close(decode_tiled(model, codes), decoded, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("make", [conv, vit])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_every_quantizer_encodes_and_decodes_in_tiles(quantizer: str, make: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(tiling, "QUANTIZED_FLOATS", 500)
    model = make(quantizer=quantizer)
    x = images(1, 3, 48, 40)
    codes, decoded = whole(model, x)
    tiled = encode_tiled(model, x)
    assert tiled.shape == codes.shape
    assert decode_tiled(model, codes).shape == decoded.shape
    if make is conv:
        assert torch.equal(tiled, codes)
        torch.testing.assert_close(decode_tiled(model, codes), decoded, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("small_tiles")
def test_half_precision_in_tiles_is_that_of_the_whole_image() -> None:
    codec = Codec(conv(), "bf16")
    x = images(1, 3, 56, 40)
    codes = codec.encode(x)
    assert (encode_tiled(codec, x) != codes).float().mean() < 0.05
    difference = decode_tiled(codec, codes) - codec.decode(codes)
    assert difference.abs().mean() < 0.02


@pytest.mark.parametrize("make", [conv, vit])
def test_images_of_the_trained_size_are_coded_whole(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "TILE_FLOATS", 1)
    model, x = make(), images()
    codes, decoded = whole(model, x)
    assert torch.equal(encode_tiled(model, x), codes)
    assert torch.equal(decode_tiled(model, codes), decoded)


@pytest.mark.usefixtures("small_tiles")
def test_the_tokenizer_is_not_changed() -> None:
    model = conv()
    before = {name: (id(module), type(module)) for name, module in model.named_modules()}
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    encode_tiled(model, images(1, 3, 48, 48))
    assert before == {name: (id(module), type(module)) for name, module in model.named_modules()}
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_maps_between_units_are_held_where_they_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    units = segments.encoder_units(conv(multipliers=(1, 2, 2)).encoder, torch.nn.Identity())
    x = torch.zeros(1, 3, 64, 64)
    monkeypatch.setattr(segments, "HELD_BYTES", 2**30)
    assert [len(segment) for segment in segments._segments(units, x)] == [1] * len(units)
    monkeypatch.setattr(segments, "HELD_BYTES", 0)
    assert [segment[0].is_attention for segment in segments._segments(units, x)] == [False, True, False]


@pytest.mark.usefixtures("small_tiles")
def test_tiles_do_not_grow_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = segments.Unit.__call__

    def recorded(self: segments.Unit, x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return original(self, x)

    def largest(width: int) -> int:
        sizes.clear()
        encode_tiled(conv(middle_attention=False), images(1, 3, 16, width))
        return max(sizes)

    monkeypatch.setattr(segments.Unit, "__call__", recorded)
    assert largest(288) == largest(480)


def test_tiles_of_a_transformer_have_the_trained_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = vit(), []
    encode = model.encode

    def recorded(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return encode(x)

    monkeypatch.setattr(model, "encode", recorded)
    codes = encode_tiled(model, images(2, 3, 40, 8))
    assert codes.shape == (2, 10, 2)
    assert set(seen) == {(2, 3, 16, 8)}


@torch.no_grad()
def test_pixels_of_a_transformer_far_from_other_tiles_are_those_of_the_tile_alone() -> None:
    model = vit()
    codes = torch.randint(32, (1, 4, 10), generator=torch.Generator().manual_seed(0))
    image = decode_tiled(model, codes)
    torch.testing.assert_close(image[..., :12], model.decode(codes[..., :4])[..., :12], atol=1e-5, rtol=0)
    torch.testing.assert_close(image[..., -12:], model.decode(codes[..., -4:])[..., -12:], atol=1e-5, rtol=0)
    assert image.abs().max() <= 1


@torch.no_grad()
def test_codes_of_a_transformer_come_from_the_tile_in_which_they_are_central() -> None:
    model, x = vit(), images(1, 3, 16, 28)  # tiles at 0, 3 (of 4 latents), the second from pixel 12
    codes = encode_tiled(model, x)
    assert torch.equal(codes[..., :3], model.encode(x[..., :16])[..., :3])
    assert torch.equal(codes[..., 4:], model.encode(x[..., 12:])[..., 1:])


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (1, 3)])
def test_padding_to_multiples_of_the_factor_keeps_the_image(size: tuple[int, int]) -> None:
    x = images(1, 1, *size)
    y = padded(x, 8)
    assert y.shape[2] % 8 == y.shape[3] % 8 == 0
    assert torch.equal(y[..., : size[0], : size[1]], x)
    if size == (9, 15):
        assert torch.equal(y[..., 9, :15], x[..., 7, :])  # mirrored


@pytest.mark.parametrize("make", [conv, vit])
def test_shapes_that_do_not_fit_are_refused(make: Any) -> None:
    with pytest.raises(DataError, match="multiples of"):
        encode_tiled(make(), images(1, 3, 17, 16))
    with pytest.raises(DataError, match="codes"):
        decode_tiled(make(quantizer="residual_vq"), torch.zeros(1, 3, 3, dtype=torch.long))
