"""The autoencoder: shapes, gradients, and that decoding codes equals the forward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from imgtf.errors import ConfigError, DataError
from imgtf.options import build, to_dict
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.model import Tokenizer


def tiny(**changes: object) -> Tokenizer:
    torch.manual_seed(0)
    settings = {
        "image_size": 16, "channels": 3, "width": 8, "multipliers": (1, 2), "attention_levels": (1,),
        "latent_width": 8, "codebook_size": 32, "codebook_dim": 4, "norm_groups": 4, "dead_code_threshold": 0.0,
    }  # fmt: skip
    return Tokenizer(TokenizerConfig(**settings | changes))  # type: ignore[arg-type]


def images(n: int = 2, channels: int = 3, height: int = 16, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, channels, height, width, generator=generator) * 2 - 1


@pytest.mark.parametrize("stem", [2, 4])
def test_a_stem_reads_blocks_of_pixels(stem: int) -> None:
    model = tiny(stem=stem)
    assert model.config.factor == 2 * stem
    result = model(images(height=32))
    assert result.images.shape == (2, 3, 32, 16)
    assert result.codes.shape == (2, 32 // (2 * stem), 16 // (2 * stem))
    with pytest.raises(ConfigError, match=rf"factor of 2 multipliers and stem {stem}"):
        TokenizerConfig(stem=stem, multipliers=(1, 2), image_size=18)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@torch.no_grad()
def test_decoding_the_codes_equals_the_forward_pass(distance: str) -> None:
    model = tiny(codebook_distance=distance).eval()
    x = images()
    result = model(x)
    assert torch.equal(model.encode(x), result.codes)
    torch.testing.assert_close(model.decode(result.codes), result.images.clamp(-1, 1))


@torch.no_grad()
def test_each_latent_is_assigned_its_nearest_code() -> None:
    model = tiny(codebook_distance="euclidean").eval()
    latents = model.to_codebook(model.encoder(images()))
    book = model.quantizer.vq.codebook
    nearest = torch.cdist(latents.permute(0, 2, 3, 1).reshape(-1, 4), book).argmin(-1)
    assert torch.equal(model.encode(images()).flatten(), nearest)


@torch.no_grad()
def test_cosine_codes_do_not_depend_on_the_norm_of_the_latent() -> None:
    model = tiny().eval()
    latents = torch.randn(2, 4, 3, 3)
    assert torch.equal(model.quantizer(latents).codes, model.quantizer(5 * latents).codes)
    norms = model.quantizer.lookup(torch.arange(32)[None, None]).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_gradients_pass_the_codebook_straight_through() -> None:
    model = tiny(codebook_distance="euclidean").train()
    latents = torch.randn(2, 4, 3, 3, requires_grad=True)
    weight = torch.randn(2, 4, 3, 3)
    (model.quantizer(latents).quantized * weight).sum().backward()
    torch.testing.assert_close(latents.grad, weight)


@pytest.mark.parametrize("stem", [1, 2])
def test_every_parameter_gets_a_gradient(stem: int) -> None:
    model = tiny(stem=stem).train()
    x = images()
    result = model(x)
    ((result.images - x).abs().mean() + result.losses["commitment"]).backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


def test_training_updates_the_codebook_and_evaluation_does_not() -> None:
    model = tiny()
    before = model.quantizer.vq.codebook.clone()
    model.eval()(images())
    assert torch.equal(before, model.quantizer.vq.codebook)
    model.train()(images())
    assert not torch.equal(before, model.quantizer.vq.codebook)


def test_dead_codes_are_replaced_by_recent_latents() -> None:
    model = tiny(dead_code_threshold=0.5, codebook_size=64, codebook_decay=0.5).train()
    used = torch.zeros(64, dtype=torch.bool)
    for _ in range(20):
        used[model(images(8)).codes.unique()] = True
    assert used.float().mean() > 0.9


@torch.no_grad()
def test_oblong_images_have_an_oblong_grid() -> None:
    model = tiny().eval()
    codes = model.encode(images(height=32, width=8))
    assert codes.shape == (2, 16, 4)
    assert codes.dtype == torch.int64
    assert model.decode(codes).shape == (2, 3, 32, 8)


@torch.no_grad()
def test_decoded_images_stay_in_range() -> None:
    model = tiny().eval()
    model.decoder.conv_out.weight.mul_(100)
    decoded = model.decode(model.encode(images()))
    assert decoded.min() >= -1
    assert decoded.max() <= 1


@torch.no_grad()
def test_the_quantizer_computes_in_float32_under_autocast() -> None:
    model = tiny().eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.quantize(images()).quantized.dtype == torch.float32


@torch.no_grad()
def test_the_first_and_last_layers_of_the_encoder_stay_in_float32_under_autocast() -> None:
    seen = {}
    model = tiny().eval()
    half, last = "encoder.levels.0", f"encoder.levels.{len(model.encoder.levels) - 1}"  # type: ignore[arg-type]
    names = ("encoder.conv_in", half, last, "encoder.middle", "encoder.conv_out", "to_codebook")
    for name in names:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        model.encode(images())
    assert seen == dict.fromkeys(names, torch.float32) | {half: torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        model.train().encode(images())
    inner = (half, last, "encoder.middle")
    assert seen == dict.fromkeys(names, torch.float32) | dict.fromkeys(inner, torch.bfloat16)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 1, 16, 16), (2, 3, 15, 16)])
def test_images_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError):
        tiny().encode(torch.zeros(shape))


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 15},
        {"image_size": (16, 15)},
        {"image_size": (16, 16, 3)},
        {"attention_levels": (2,)},
        {"norm_groups": 3},
        {"multipliers": ()},
    ],
)
def test_invalid_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        tiny(**wrong)


@pytest.mark.parametrize(
    ("given", "held"), [((16, 16), 16), ([16, 16], 16), ("16x16", 16), ([16, 24], (16, 24))]
)
def test_a_square_is_held_as_its_side(given: Any, held: Any) -> None:
    config = replace(tiny().config, image_size=given)
    assert config.image_size == held
    assert config == build(TokenizerConfig, to_dict(config))
    assert config.size == ((held, held) if isinstance(held, int) else held)
    assert config.grid == tuple(side // 2 for side in config.size)


def test_the_nearest_multiples_are_named() -> None:
    for size, near in ((6, "4 or 8"), ((5, 8), "4x8 or 8"), ((8, 30), "8x28 or 8x32"), (1, "4")):
        with pytest.raises(ConfigError, match=f"the nearest multiples are {near}$"):
            tiny(image_size=size, multipliers=(1, 2, 4))


def test_levels_and_attention_follow_the_configuration() -> None:
    model = tiny(multipliers=(1, 2, 4), attention_levels=(2,), blocks=2)
    assert model.config.factor == 4
    attention = [[type(a).__name__ for a in level.attentions] for level in model.encoder.levels]
    assert attention == [["Identity"] * 2, ["Identity"] * 2, ["SelfAttention"] * 2]
    assert [len(level.blocks) for level in model.decoder.levels] == [3, 3, 3]
