"""Encoding and decoding in half precision: chosen with care, close to float32, kept apart from its codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf.data.codes import open_codes
from imgtf.data.config import DataConfig
from imgtf.data.source import open_source
from imgtf.errors import ConfigError
from imgtf.pipelines.encode import describe, encode, find_codes
from imgtf.tokenizer import coder
from imgtf.tokenizer.codec import Codec, codec_precision
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


def test_auto_is_bf16_where_machine_and_network_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast in (True, False):
        monkeypatch.setattr("imgtf.runtime.device.fast_bf16_cpu", lambda fast=fast: fast)
        assert codec_precision("auto", tokenizer(64)) == ("bf16" if fast else "fp32")
        assert codec_precision("auto", tokenizer(16)) == "fp32"
        assert codec_precision("bf16", tokenizer(16)) == "bf16"
        assert codec_precision("fp32", tokenizer(64)) == "fp32"
    with pytest.raises(ConfigError, match="fp16"):
        codec_precision("fp16", tokenizer())


def test_fp32_is_the_tokenizer_to_the_bit() -> None:
    model, images = tokenizer(), torch.rand(2, 3, 16, 16) * 2 - 1
    exact = Codec(model, "fp32")
    codes = model.encode(images)
    assert torch.equal(exact.encode(images), codes)
    assert torch.equal(exact.decode(codes), model.decode(codes))
    assert torch.equal(exact(images).images, model(images).images)


@pytest.mark.parametrize("network", ["conv", "vit"])
def test_bf16_is_near_and_leaves_the_weights_theirs(network: str) -> None:
    model, images = tokenizer(network=network), torch.rand(4, 3, 16, 16) * 2 - 1
    codes, sha = model.encode(images), model.weights_sha256()
    pixels = model.decode(codes)
    half = Codec(model, "bf16")
    decoded = half.decode(codes)
    assert decoded.dtype == torch.float32
    assert (decoded - pixels).abs().mean() < 0.02
    assert not torch.equal(decoded, pixels)
    assert (half.encode(images) == codes).float().mean() > 0.7  # random weights: latents lie between codes
    assert not decoded.requires_grad
    assert model.weights_sha256() == sha
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_codes_of_another_precision_are_not_taken_for_these(tmp_path: Path) -> None:
    data = DataConfig(data=str(draw_images(tmp_path / "images")))
    source, model = open_source(data)[0], tokenizer()
    folder = encode(model, source, data, tmp_path / "codes", flips=False, precision="bf16")
    assert open_codes(folder).info.precision == "bf16"
    find = {
        p: find_codes(tmp_path / "codes", describe(model, source, data, flips=False, precision=p))
        for p in ("fp32", "bf16")
    }
    assert find == {"fp32": None, "bf16": folder}


def test_a_cache_from_before_precisions_were_told_was_fp32(tmp_path: Path) -> None:
    data = DataConfig(data=str(draw_images(tmp_path / "images")))
    source, model = open_source(data)[0], tokenizer()
    folder = encode(model, source, data, tmp_path / "codes", flips=False, precision="fp32")
    path = folder / "cache.json"
    values = json.loads(path.read_text())
    del values["precision"]
    path.write_text(json.dumps(values))
    assert (
        find_codes(tmp_path / "codes", describe(model, source, data, flips=False, precision="fp32")) == folder
    )
    assert (
        find_codes(tmp_path / "codes", describe(model, source, data, flips=False, precision="bf16")) is None
    )


def test_narrow_networks_keep_the_layout_that_suits_them() -> None:
    from imgtf.tokenizer.train import memory_format

    assert memory_format(coder.NARROW) is torch.channels_last
