"""16-bit greyscale images keep their range from the file to the metrics and back to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgtf import Pipeline, Tokenizer
from imgtf.data.config import DataConfig
from imgtf.data.grid import draw_grid
from imgtf.data.image import to_pil, transform
from imgtf.data.source import open_source
from imgtf.pipelines.evaluate import evaluate_tokenizer, reconstruct
from imgtf.tokenizer.metrics import psnr

from .conftest import SMALL_PRIOR, SMALL_TOKENIZER, run

SIDE = 16


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of 256 neighbouring values each: in 8 bits each would be a single grey."""
    folder = tmp_path_factory.mktemp("scans")
    for i in range(20):
        values = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) + 257 * 12 * i).astype(np.uint16)
        Image.fromarray(values).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def deep(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep") / "m"
    data = ["--data", scans, "--model", folder, "--steps", "2"]
    assert run("tokenizer", "train", *data, *SMALL_TOKENIZER) == 0
    assert run("prior", "train", "--model", folder, "--steps", "2", *SMALL_PRIOR) == 0
    return folder


def test_the_bit_depth_follows_the_images(deep: Path, model: Path) -> None:
    config = Tokenizer.from_pretrained(deep / "tokenizer").config
    assert (config.channels, config.bit_depth) == (1, 16)
    assert "16-bit greyscale" in (deep / "README.md").read_text()
    assert Tokenizer.from_pretrained(model / "tokenizer").config.bit_depth == 8


def test_reconstruct_writes_16_bits_and_keeps_the_original_values(
    scans: Path, deep: Path, tmp_path: Path, capsys: Any
) -> None:
    assert run("tokenizer", "reconstruct", scans / "3.png", "--model", deep, "--out", tmp_path) == 0
    with Image.open(tmp_path / "3.png") as grid, Image.open(scans / "3.png") as original:
        assert grid.mode == "I;16"
        pixels, expected = np.asarray(grid), np.asarray(original)
    scale = (pixels.shape[0] - 4) // SIDE
    left = pixels[2 : 2 + scale * SIDE : scale, 2 : 2 + scale * SIDE : scale]
    assert (left == expected).all()
    right = pixels[2 : 2 + scale * SIDE : scale, 4 + scale * SIDE : -2 : scale]
    assert right.shape == left.shape
    assert (right % 257 != 0).any()  # an 8-bit value v is 257 * v in 16


def test_samples_and_their_grid_have_16_bits(deep: Path, tmp_path: Path) -> None:
    assert Pipeline.from_pretrained(deep).sample(n=1)[0].mode == "I;16"
    assert run("sample", "--model", deep, "--n", "2", "--out", tmp_path / "s") == 0
    with (
        Image.open(tmp_path / "s" / "000001.png") as image,
        Image.open(tmp_path / "s" / "grid.png") as grid,
    ):
        assert (image.mode, grid.mode) == ("I;16", "I;16")


def test_an_8_bit_tokenizer_keeps_the_range_of_a_16_bit_image(
    scans: Path, deep: Path, tmp_path: Path
) -> None:
    config = json.loads((deep / "tokenizer" / "config.json").read_text())
    (tmp_path / "t").mkdir()
    del config["bit_depth"]  # the default is 8
    (tmp_path / "t" / "config.json").write_text(json.dumps(config))
    (tmp_path / "t" / "model.safetensors").symlink_to(deep / "tokenizer" / "model.safetensors")
    shallow = Tokenizer.from_pretrained(tmp_path / "t")
    assert shallow.config.bit_depth == 8
    with Image.open(reconstruct(shallow, [scans / "1.png"], tmp_path, "white")[0]) as grid:
        assert grid.mode == "I;16"


class OneStepOff(torch.nn.Module):
    """A tokenizer whose reconstructions are one 16-bit step too bright."""

    config = None

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.device = torch.device("cpu")

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes + 2 / 65535

    def forward(self, images: torch.Tensor) -> Any:
        from imgtf.tokenizer.model import Reconstruction

        codes = torch.zeros(len(images), 1, 1, dtype=torch.long)
        return Reconstruction(self.decode(images), codes, torch.zeros(()))


def test_psnr_uses_the_16_bit_range(scans: Path, deep: Path) -> None:
    """An error of one step of 65,535 is 20 log10(65535) = 96.3 dB; in 8 bits it would be no error or 48 dB."""
    config = Tokenizer.from_pretrained(deep / "tokenizer").config
    data = DataConfig(data=str(scans))
    metrics = evaluate_tokenizer(OneStepOff(config), open_source(data)[1], data)  # type: ignore[arg-type]
    assert metrics["psnr"] == pytest.approx(96.33, abs=0.1)


def test_every_16_bit_value_survives_reading_and_writing() -> None:
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    pixels = transform(Image.fromarray(values), 256, 1)
    assert (np.asarray(to_pil(pixels, 16)) == values).all()
    worst = psnr(pixels[None], transform(to_pil(pixels), 256, 1)[None])
    assert worst.item() == pytest.approx(20 * np.log10(255 * np.sqrt(12)), abs=0.1)


def test_16_bits_need_greyscale_images() -> None:
    with pytest.raises(ValueError, match="grey"):
        to_pil(torch.zeros(3, 4, 4), 16)


def test_a_grid_of_mixed_depths_has_8_bits_and_the_same_greys() -> None:
    deep = Image.fromarray(np.full((64, 64), 128 * 257, np.uint16))
    grid = draw_grid([deep, Image.new("L", (64, 64), 128)], columns=2)
    assert grid.mode == "L"
    assert set(np.unique(np.asarray(grid))) == {128, 255}
    captioned = draw_grid([deep, deep], captions=["a", "b"])
    assert captioned.mode == "I;16"
    assert np.asarray(captioned).min() < 128 * 257  # the caption is dark
    assert {128 * 257, 65535} <= set(np.unique(np.asarray(captioned)))
