"""Encoding and decoding in half precision: its default, its error, and that token caches record it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf.data.codes import open_codes
from imgtf.data.config import DataConfig
from imgtf.data.source import open_source
from imgtf.errors import ConfigError
from imgtf.pipelines.encode import CacheSettings, describe_cache, encode, find_cache
from imgtf.tokenizer.codec import CHANNELS_LAST_WIDTH, Codec, codec_precision, memory_format
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.model import Tokenizer

from ..pipelines.conftest import draw_images


def tokenizer(width: int = 16, **changes: Any) -> Tokenizer:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "image_size": 16,
        "multipliers": (1, 2),
        "norm_groups": 4,
        "codebook_size": 16,
    }
    return Tokenizer(TokenizerConfig(width=width, **settings | changes)).eval()


def test_auto_is_bf16_on_fast_hardware_for_wide_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast in (True, False):
        monkeypatch.setattr("imgtf.runtime.precision.fast_bf16_cpu", lambda fast=fast: fast)
        assert codec_precision("auto", tokenizer(64)) == ("bf16" if fast else "fp32")
        assert codec_precision("auto", tokenizer(16)) == "fp32"
        assert codec_precision("bf16", tokenizer(16)) == "bf16"
        assert codec_precision("fp32", tokenizer(64)) == "fp32"
    with pytest.raises(ConfigError, match="fp16"):
        codec_precision("fp16", tokenizer())


def test_fp32_equals_the_tokenizer_bit_for_bit() -> None:
    model, images = tokenizer(), torch.rand(2, 3, 16, 16) * 2 - 1
    exact = Codec(model, "fp32")
    codes = model.encode(images)
    assert torch.equal(exact.encode(images), codes)
    assert torch.equal(exact.decode(codes), model.decode(codes))
    assert torch.equal(exact(images).images, model(images).images)


@pytest.mark.parametrize("network", ["conv", "vit"])
def test_bf16_is_close_and_does_not_change_the_weights(network: str) -> None:
    model, images = tokenizer(network=network), torch.rand(4, 3, 16, 16) * 2 - 1
    codes, sha = model.encode(images), model.weights_sha256()
    pixels = model.decode(codes)
    half = Codec(model, "bf16")
    decoded = half.decode(codes)
    assert decoded.dtype == torch.float32
    assert (decoded - pixels).abs().mean() < 0.02
    assert not torch.equal(decoded, pixels)
    assert (
        half.encode(images) == codes
    ).float().mean() > 0.7  # random weights: many latents are halfway between codes
    assert not decoded.requires_grad
    assert model.weights_sha256() == sha
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_cache_of_another_precision_is_not_found(tmp_path: Path) -> None:
    data = DataConfig(data=str(draw_images(tmp_path / "images")))
    source, model = open_source(data)[0], tokenizer()
    written = encode(tmp_path / "codes", model, source, CacheSettings.held_out(data, "bf16"))
    assert open_codes(written).info.precision == "bf16"
    wanted = {p: describe_cache(model, source, CacheSettings.held_out(data, p)) for p in ("fp32", "bf16")}
    found = {p: find_cache(tmp_path / "codes", info) for p, info in wanted.items()}
    assert found == {"fp32": None, "bf16": written}


def test_wide_networks_are_channels_last() -> None:
    assert memory_format(CHANNELS_LAST_WIDTH) is torch.channels_last


def test_the_first_level_decides_whether_a_network_is_wide() -> None:
    half = CHANNELS_LAST_WIDTH // 2
    assert tokenizer(half, multipliers=(2, 4)).config.first_level_width == CHANNELS_LAST_WIDTH
    assert tokenizer(half, multipliers=(1, 2)).config.first_level_width == half
    assert tokenizer(half, network="vit").config.first_level_width == half
