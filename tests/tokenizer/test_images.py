"""Encoding and decoding of PIL images and image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgtf.data.image import transform
from imgtf.errors import ConfigError, DataError
from imgtf.tokenizer import model as model_module
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.model import Tokenizer


def tiny(**changes: Any) -> Tokenizer:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "image_size": 16, "width": 8, "multipliers": (1, 2), "latent_width": 8, "codebook_size": 32, "codebook_dim": 4,
        "norm_groups": 4,
    }  # fmt: skip
    return Tokenizer(TokenizerConfig(**settings | changes)).eval()


def noise(seed: int = 0, size: tuple[int, int] = (40, 24)) -> Image.Image:
    """An RGB image of (height, width)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def test_images_are_cropped_resized_and_encoded() -> None:
    model = tiny()
    images = [noise(0), noise(1, (16, 16)), noise(2, (20, 64)).convert("L")]
    codes = model.encode_images(images)
    assert codes.shape == (3, 8, 8)
    assert codes.dtype == torch.int64
    expected = torch.stack([transform(image, 16, 3) for image in images])
    assert torch.equal(codes, model.encode(expected))


def test_paths_and_images_give_the_same_codes(tmp_path: Path) -> None:
    model = tiny()
    noise().save(tmp_path / "a.png")
    expected = model.encode_images(noise())
    assert expected.shape == (1, 8, 8)
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), [tmp_path / "a.png"], (noise(),)):
        assert torch.equal(model.encode_images(given), expected)


def test_arrays_and_tensors_give_the_codes_of_the_image() -> None:
    model, image = tiny(), noise()
    array, expected = np.asarray(image), model.encode_images(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds = (
        array,
        array / 255,
        tensor,
        tensor.float() / 127.5 - 1,
        array[None],
        tensor[None],
        [array, tensor],
    )
    for given in kinds:
        codes = model.encode_images(given)
        assert torch.equal(codes, expected.expand_as(codes))
    grey = tiny(channels=1)
    deep = np.random.default_rng(0).integers(0, 65536, (16, 16)).astype(np.uint16)
    assert torch.equal(grey.encode_images(deep), grey.encode_images(deep / 65535))


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    images = [noise(i) for i in range(5)]
    codes = model.encode_images(images)
    decoded = model.decode_images(codes)
    monkeypatch.setattr(model_module, "BATCH", 2)
    assert torch.equal(model.encode_images(images), codes)
    pairs = zip(model.decode_images(codes), decoded, strict=True)
    assert max(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max() for a, b in pairs) <= 1


@pytest.mark.parametrize(
    ("changes", "mode"), [({}, "RGB"), ({"channels": 1}, "L"), ({"channels": 1, "bit_depth": 16}, "I;16")]
)
def test_decoded_images_have_the_mode_of_the_tokenizer(changes: dict[str, Any], mode: str) -> None:
    model = tiny(**changes)
    codes = torch.randint(32, (2, 8, 8))
    images = model.decode_images(codes)
    assert [(image.mode, image.size) for image in images] == [(mode, (16, 16))] * 2
    with torch.no_grad():
        expected = (model.decode(codes)[0, 0] + 1) / 2 * (65535 if mode == "I;16" else 255)
    pixels = np.asarray(images[0]).reshape(16, 16, -1)[:, :, 0]
    np.testing.assert_allclose(pixels, expected.numpy(), atol=0.51)


def test_images_of_16_bits_are_not_rounded_to_8() -> None:
    model = tiny(channels=1, bit_depth=16)
    ramp = (np.arange(16, dtype=np.uint16) + 30000).reshape(1, 16).repeat(16, 0)  # 16 levels in one of 8 bits
    deep = Image.fromarray(ramp)
    assert torch.equal(model.encode_images(deep), model.encode(transform(deep, 16, 1)[None]))
    assert transform(deep, 16, 1).unique().numel() == 16


def test_transparent_pixels_show_the_background() -> None:
    model = tiny()
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    for colour in ("white", "#336699"):
        codes = model.encode_images(clear, background=colour)
        assert torch.equal(codes, model.encode_images(Image.new("RGB", (16, 16), colour)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no images given"),
        ("missing.png", r"missing\.png: no such file"),
        (["missing.png"], r"missing\.png: no such file"),
        (torch.full((1, 3, 16, 16), 2.0), r"image 0 of the list: floats must be in \[0, 1\] for arrays"),
        (np.full((16, 16), np.nan), "image 0 of the list: floats must be"),
        (np.zeros((16, 16, 2), np.uint8), "image 0 of the list: an array must be"),
        (np.zeros((16, 16), np.int64), "image 0 of the list: pixels must be uint8"),
        (torch.zeros(16, 16), r"a tensor must be \(C, H, W\)"),
        ([noise(), 3], "image 1 of the list is int: give PIL images"),
        (None, "got NoneType"),
        (Image.fromarray(np.full((16, 16), -1.0, dtype=np.float32)), "image 0 of the list: pixels"),
    ],
)
def test_wrong_images_are_refused_by_name(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tiny().encode_images(given)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.png: "):
        tiny().encode_images(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened, pytest.raises(DataError, match="image 0 of the list: "):
        tiny().encode_images(opened)


def test_tokenizers_of_other_channels_have_no_pil_images() -> None:
    model = tiny(channels=4)
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        model.encode_images(noise())
    with pytest.raises(DataError, match="the tokenizer has 4; use decode"):
        model.decode_images(torch.zeros(1, 8, 8, dtype=torch.int64))


def test_codes_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"codes \(B, h, w\), got \(8, 8\)"):
        tiny().decode_images(torch.zeros(8, 8, dtype=torch.int64))


def test_repr_is_one_line_with_sizes() -> None:
    text = repr(tiny())
    assert "\n" not in text
    for part in (
        "conv",
        "16x16x3 images",
        "8x8 codes (f2)",
        "vq with 32 codes of dimension 4",
        "parameters",
        "cpu",
    ):
        assert part in text
