"""What is redrawn: masks, boxes, the token grid, and the seam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgtf.data.image import cropped
from imgtf.errors import ConfigError, DataError
from imgtf.pipelines.editing.region import (
    box_region,
    centre_crop,
    masked_region,
    region_around,
    region_below,
)
from imgtf.pipelines.editing.seam import carried_inwards, paste_kept
from imgtf.pipelines.editing.source import fill_in, without
from imgtf.tokenizer.config import TokenizerConfig

SQUARE = TokenizerConfig(image_size=16, multipliers=(1, 1, 1))
"""16 px, tokens of 4 px: 4x4."""
WIDE = TokenizerConfig(image_size=(8, 16), multipliers=(1, 1, 1), quantizer="residual_vq", residual_codes=2)
"""8x16 px: 2x4 tokens of two codes."""


def white(
    size: tuple[int, int], box: tuple[int, int, int, int], mode: str = "L", value: Any = None
) -> Image.Image:
    """A mask (width, height) with a white box."""
    image = Image.new(mode, size)
    image.paste(
        {"I;16": 65535, "RGB": (255,) * 3, "RGBA": (255,) * 4, "LA": (255, 255)}.get(mode, 255)
        if value is None
        else value,
        box,
    )
    return image


def test_a_token_is_redrawn_where_one_of_its_pixels_is_marked() -> None:
    region = box_region((3, 4, 5, 5), (16, 16), SQUARE)
    expected = np.zeros((4, 4), bool)
    expected[1, :2] = True
    assert (region.latents == expected).all()
    assert region.redrawn.shape == (16, 16)
    assert region.redrawn[4:8, :8].all()
    assert region.redrawn.sum() == 32


@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, 3), (4, 0), (15, 15), (7, 12)])
def test_each_pixel_belongs_to_its_token(x: int, y: int) -> None:
    latents = box_region((x, y, x + 1, y + 1), (16, 16), SQUARE).latents
    assert np.argwhere(latents).tolist() == [[y // 4, x // 4]]


@pytest.mark.parametrize("size", [(16, 16), (37, 50), (50, 37), (13, 64), (160, 90), (8, 5)])
@pytest.mark.parametrize("config", [SQUARE, WIDE])
def test_a_mask_goes_through_the_crop_and_resize_of_the_image(
    size: tuple[int, int], config: TokenizerConfig
) -> None:
    """The pixels that a resized mask marks lie in redrawn tokens, and no token is redrawn far from them."""
    width, height = size
    box = (width // 3, height // 3, width // 2 + 1, height // 2 + 1)
    region = masked_region(white(size, box), size, config)
    exact = np.asarray(cropped(white(size, box), config.image_size)) > 127
    assert (region.redrawn >= exact).all()
    f = config.factor
    touched = exact.reshape(exact.shape[0] // f, f, -1, f).any((1, 3))
    near = np.array([[touched[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].any() for j in range(touched.shape[1])]
                     for i in range(touched.shape[0])])  # fmt: skip
    assert not (region.latents & ~near).any()


@pytest.mark.parametrize("size", [(37, 50), (50, 37), (1001, 998)])
def test_the_crop_is_that_of_the_image(size: tuple[int, int]) -> None:
    top, left, height, width = centre_crop(size, SQUARE)
    rows, columns = np.mgrid[: size[1], : size[0]].astype(np.float32)
    for ramp, start, length in ((rows, top, height), (columns, left, width)):
        mean = np.asarray(cropped(Image.fromarray(ramp), SQUARE.image_size)).mean()
        assert mean == pytest.approx(start + (length - 1) / 2, abs=0.2)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "I;16", "P"])
def test_masks_of_any_mode_mark_the_same(mode: str) -> None:
    box = (4, 4, 8, 12)
    mask = white((16, 16), box).convert("P") if mode == "P" else white((16, 16), box, mode)
    assert (masked_region(mask, (16, 16), SQUARE).latents == box_region(box, (16, 16), SQUARE).latents).all()


@pytest.mark.parametrize(
    "kind", ["bool array", "bool tensor", "float array", "uint8 array", "float tensor", "path"]
)
def test_masks_can_be_arrays_tensors_and_files(kind: str, tmp_path: Path) -> None:
    box = (4, 4, 8, 12)
    marked = np.asarray(white((16, 16), box)) > 0
    white((16, 16), box).save(tmp_path / "mask.png")
    mask = {
        "bool array": marked,
        "bool tensor": torch.from_numpy(marked)[None],
        "float array": marked.astype(float),
        "uint8 array": marked.astype(np.uint8) * 255,
        "float tensor": torch.from_numpy(marked)[None] * 2.0 - 1,
        "path": tmp_path / "mask.png",
    }[kind]
    assert (masked_region(mask, (16, 16), SQUARE).latents == box_region(box, (16, 16), SQUARE).latents).all()


def test_grey_from_128_on_is_marked_and_transparent_white_is_not() -> None:
    size, box = (16, 16), (0, 0, 4, 4)
    assert masked_region(white(size, box, value=128), size, SQUARE).latents.sum() == 1
    with pytest.raises(DataError, match="the mask marks nothing"):
        masked_region(white(size, box, value=127), size, SQUARE)
    with pytest.raises(DataError, match="the mask marks nothing"):
        masked_region(white(size, box, "RGBA", (255, 255, 255, 0)), size, SQUARE)


def test_a_rotated_mask_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    white((16, 32), (0, 0, 16, 4)).save(tmp_path / "mask.jpg", exif=exif, quality=100)
    region = masked_region(tmp_path / "mask.jpg", (32, 16), WIDE)
    assert np.argwhere(region.latents)[:, 1].tolist() == [3, 3]


def test_a_mask_in_the_cropped_part_marks_nothing() -> None:
    with pytest.raises(DataError, match="the mask marks nothing in the centre"):
        masked_region(white((48, 16), (0, 0, 8, 16)), (48, 16), SQUARE)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match=r"the mask has 8x9 px and the image 16x16 px"):
        masked_region(white((8, 9), (0, 0, 4, 4)), (16, 16), SQUARE)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 17, 4), "not inside the image of 16x16 px"),
        ((-1, 0, 4, 4), "not inside"),
        ((4, 4, 4, 8), "is empty"),
        ((8, 4, 4, 8), "is empty"),
        ((1, 2, 3), "a box is x0, y0, x1, y1"),
        ("0,0,4,4", "a box is x0, y0, x1, y1"),
        (3, "a box is x0, y0, x1, y1"),
        ((0, 0, 4.5, 4), "whole number"),
        ((0, 0, 2**40, 4), "side of the box must be"),
    ],
)
def test_a_bad_box_is_refused(box: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        box_region(box, (16, 16), SQUARE)


def test_around_a_box_only_whole_tokens_are_kept() -> None:
    region = region_around((3, 4, 12, 12), (16, 16), SQUARE)
    assert np.argwhere(~region.latents).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    with pytest.raises(DataError, match="holds no whole token"):
        region_around((1, 1, 7, 7), (16, 16), SQUARE)
    with pytest.raises(DataError, match="marks nothing"):
        region_around((0, 0, 16, 16), (16, 16), SQUARE)


@pytest.mark.parametrize(("share", "rows"), [(0.5, 2), (0.01, 1), (0.99, 3), (0.7, 3)])
@pytest.mark.parametrize("size", [(16, 16), (33, 50), (5, 3)])
def test_a_share_of_the_rows_is_kept(share: float, rows: int, size: tuple[int, int]) -> None:
    region = region_below(share, size, SQUARE)
    assert not region.latents[:rows].any()
    assert region.latents[rows:].all()
    top, _, height, _ = centre_crop(size, SQUARE)
    border = top + rows * height / 4
    assert not region.marked[: int(border)].any()
    assert region.marked[int(np.ceil(border)) :].all()


@pytest.mark.parametrize("share", [0, 1, -1, float("nan"), "half", None])
def test_a_bad_share_is_refused(share: Any) -> None:
    with pytest.raises(ConfigError, match="keep must be above 0 and below 1"):
        region_below(share, (16, 16), SQUARE)


def test_a_grid_of_one_row_has_no_top() -> None:
    with pytest.raises(ConfigError, match="one row of tokens"):
        region_below(0.5, (16, 4), TokenizerConfig(image_size=(4, 16), multipliers=(1, 1, 1)))


def test_all_codes_of_a_latent_are_sampled_together() -> None:
    region = box_region((4, 0, 5, 1), (16, 8), WIDE)
    codes = region.codes(torch.arange(16).view(2, 8))
    assert codes.tolist() == [[0, 1, -1, -1, 4, 5, 6, 7], list(range(8, 16))]


def noise(mode: str, seed: int, size: int = 16) -> Image.Image:
    top, shape = (
        (65535, (size, size)) if mode == "I;16" else (255, (size, size, 3) if mode == "RGB" else (size, size))
    )
    pixels = np.random.default_rng(seed).integers(0, top + 1, shape)
    return Image.fromarray(pixels.astype(np.uint16 if mode == "I;16" else np.uint8))


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
@pytest.mark.parametrize("feather", [0, 1, 3, 100])
def test_kept_pixels_are_identical_and_the_middle_is_the_decoded_image(mode: str, feather: int) -> None:
    redrawn = box_region((4, 4, 12, 12), (16, 16), SQUARE).redrawn
    decoded, kept = noise(mode, 0), noise(mode, 1)
    result = paste_kept(decoded, kept, redrawn, feather)
    assert result.mode == mode
    new, old, pasted = (np.asarray(image) for image in (decoded, kept, result))
    assert (pasted[~redrawn] == old[~redrawn]).all()
    inner = slice(4 + min(feather, 4), 12 - min(feather, 4))
    assert (pasted[inner, inner] == new[inner, inner]).all()


def test_the_hidden_pixels_of_the_kept_image_do_not_show() -> None:
    redrawn = box_region((4, 4, 12, 12), (16, 16), SQUARE).redrawn
    decoded, kept = noise("L", 0), noise("L", 1)
    blotted = np.array(kept)
    blotted[redrawn] = 0
    results = [paste_kept(decoded, image, redrawn, 3) for image in (kept, Image.fromarray(blotted))]
    assert results[0].tobytes() == results[1].tobytes()


def test_the_seam_fades_from_the_difference_to_nothing() -> None:
    redrawn = torch.zeros(1, 16, dtype=torch.bool)
    redrawn[0, 4:] = True
    carried = carried_inwards(torch.full((1, 1, 16), 8.0), redrawn, 3)
    assert carried[0, 0].tolist() == [0] * 4 + [6, 4, 2] + [0] * 9


def test_hidden_pixels_are_filled_with_the_colours_around_them() -> None:
    known = torch.ones(1, 13, 9)
    known[:, 3:9, 2:7] = 0
    values = torch.full((2, 13, 9), 5.0)
    values[:, known[0] == 0] = 99
    torch.testing.assert_close(fill_in(values, known), torch.full((2, 13, 9), 5.0))
    assert fill_in(values, torch.zeros_like(known)).abs().max() == 0


@pytest.mark.parametrize("mode", ["L", "RGB", "F"])
def test_a_filled_image_keeps_its_other_pixels(mode: str) -> None:
    image = noise("RGB" if mode == "RGB" else "L", 3)
    image = Image.fromarray(np.asarray(image, np.float32) / 255) if mode == "F" else image
    hidden = np.zeros((16, 16), bool)
    hidden[5:9, 1:8] = True
    filled = without(image, hidden)
    assert filled.mode == mode
    assert (np.asarray(filled)[~hidden] == np.asarray(image)[~hidden]).all()
    assert not (np.asarray(filled)[hidden] == np.asarray(image)[hidden]).all()
