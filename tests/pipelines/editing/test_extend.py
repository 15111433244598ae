"""Outpainting and pictures of any size: sizes, kept pixels and codes, refusals."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgtf import Pipeline, Prior
from imgtf.errors import ConfigError, DataError
from imgtf.pipelines.canvas import Canvas
from imgtf.pipelines.editing import extend
from imgtf.pipelines.editing.extend import blank, outpainting
from imgtf.prior.config import PriorConfig

from .test_translate import noise, pixels, tokenizer


def tiny(objective: str = "raster", **settings: Any) -> Pipeline:
    """Random models of 16 px with tokens of 4 px."""
    images = tokenizer(**settings)
    torch.manual_seed(1)
    config = PriorConfig(
        grid=images.config.grid, codebook_size=8, width=16, depth=1, heads=2, objective=objective
    )
    prior = Prior(config)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Pipeline(images, prior)


def first(pipeline: Pipeline, canvas: Canvas, **given: Any) -> Image.Image:
    return next(pipeline.stream(1, canvas=canvas, **given)).image


@pytest.mark.parametrize("size", [64, (16, 64), (17, 30), (5, 3), (40, 7)])
def test_a_blank_canvas_gives_a_picture_of_exactly_its_size(size: Any) -> None:
    pipeline = tiny()
    height, width = (size, size) if isinstance(size, int) else size
    canvas = blank(pipeline, size)
    assert canvas.grid == (-(-height // 4), -(-width // 4))
    assert first(pipeline, canvas).size == (width, height)


def test_a_blank_canvas_of_the_trained_size_is_a_sample() -> None:
    pipeline = tiny()
    canvas = blank(pipeline, 16)
    assert pixels(first(pipeline, canvas, seed=4)).tolist() == pixels(pipeline.sample(seed=4)[0]).tolist()


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
@pytest.mark.parametrize(
    ("added", "offset", "size"),
    [
        ({"left": 8, "right": 4}, (8, 0), (28, 16)),
        ({"left": 5, "top": 3}, (5, 3), (21, 19)),
        ({"right": 1, "bottom": 22}, (0, 0), (17, 38)),
        ({"size": (16, 64)}, (24, 0), (64, 16)),
        ({"size": 21}, (2, 2), (21, 21)),
    ],
)
def test_the_image_is_kept_where_it_lies(
    objective: str, added: dict[str, Any], offset: tuple[int, int], size: tuple[int, int]
) -> None:
    pipeline, image = tiny(objective), noise(16, 16)
    picture = first(pipeline, outpainting(pipeline, image, **added))
    assert picture.size == size
    x, y = offset
    assert np.array_equal(pixels(picture)[y : y + 16, x : x + 16], pixels(image))


@pytest.mark.parametrize("settings", [{}, {"quantizer": "residual_vq"}, {"channels": 1, "bit_depth": 16}])
def test_known_codes_are_those_of_the_image(settings: dict[str, Any]) -> None:
    pipeline = tiny(**settings)
    q = pipeline.tokenizer.config.codes_per_latent
    image = (
        noise(16, 16)
        if not settings.get("channels")
        else Image.fromarray(np.full((16, 16), 30000, np.uint16))
    )
    canvas = outpainting(pipeline, image, left=6, bottom=4)
    codes = pipeline.tokenizer.encode_images(image)[0]
    assert canvas.grid == (5, 6 * q)
    assert torch.equal(canvas.codes[:4, 2 * q :], codes)
    assert canvas.missing == 5 * 6 * q - 16 * q
    picture = first(pipeline, canvas)
    assert picture.size == (22, 20)
    assert picture.mode == ("I;16" if settings.get("bit_depth") else "RGB")


@pytest.mark.parametrize(("added", "columns"), [({"right": 3}, 4), ({"bottom": 4}, 5)])
def test_a_token_that_the_image_fills_in_part_is_sampled_where_the_picture_goes_on(
    added: dict[str, int], columns: int
) -> None:
    canvas = outpainting(tiny(), noise(16, 18), **added)
    known = canvas.codes[:4] >= 0
    assert known.all(0).tolist() == [True] * columns + [False] * (canvas.grid[1] - columns)


def test_an_image_keeps_its_shape_and_is_resized_to_the_scale_of_the_model(caplog: Any) -> None:
    pipeline = tiny()
    with caplog.at_level(logging.INFO, "imgtf"):
        picture = first(pipeline, outpainting(pipeline, noise(64, 160), right=8))
    assert picture.size == (48, 16)
    assert "resized from 64x160 to 16x40 px (height x width)" in caplog.text


def test_a_picture_can_be_continued_again() -> None:
    pipeline = tiny()
    wide = first(pipeline, outpainting(pipeline, noise(16, 16), right=16))
    wider = first(pipeline, outpainting(pipeline, wide, left=16), seed=1)
    assert wider.size == (48, 16)
    assert np.array_equal(pixels(wider)[:, 16:], pixels(wide))


def test_keep_decoded_leaves_the_picture_of_the_decoder() -> None:
    pipeline, image = tiny(), noise(16, 16)
    decoded = pixels(first(pipeline, outpainting(pipeline, image, right=8, keep_decoded=True)))
    pasted = pixels(first(pipeline, outpainting(pipeline, image, right=8, feather=2)))
    assert not np.array_equal(decoded[:, :16], pixels(image))
    assert np.array_equal(decoded[:, 18:], pasted[:, 18:])


def test_variants_are_the_same_in_any_batch() -> None:
    pipeline = tiny()
    canvas = outpainting(pipeline, noise(16, 16), left=20, top=6)
    together = [pixels(s.image) for s in pipeline.stream(3, canvas=canvas, batch_size=3, seed=2)]
    one_by_one = [pixels(s.image) for s in pipeline.stream(3, canvas=canvas, batch_size=1, seed=2)]
    assert all(np.array_equal(a, b) for a, b in zip(together, one_by_one, strict=True))
    assert not np.array_equal(together[0], together[1])


def test_the_shown_image_is_the_input_with_grey_around() -> None:
    canvas = outpainting(tiny(), noise(16, 16), left=5)
    ((caption, shown),) = canvas.shown
    assert (caption, shown.size) == ("input", (21, 16))
    assert (pixels(shown)[:, :5] == 128).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "name what to add"),
        ({"left": -1}, "left must be from 0"),
        ({"left": 2.5}, "left must be a whole number"),
        ({"left": 4, "size": 32}, "either the size .* or what to add"),
        ({"size": "wide"}, "size must be one side"),
        ({"size": 0}, "must be from 1"),
        ({"left": 2**30}, "more than"),
        ({"left": 4, "feather": -1}, "feather must be from 0"),
        ({"left": 4, "background": "nocolour"}, "is not a colour"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        outpainting(tiny(), noise(16, 16), **given)


@pytest.mark.parametrize("size", [16, 8, (12, 64)])
def test_a_size_that_adds_nothing_is_refused(size: Any) -> None:
    with pytest.raises(DataError, match=r"has 16x16 px .* name a larger size"):
        outpainting(tiny(), noise(16, 16), size=size)


def test_an_image_that_is_missing_is_refused() -> None:
    with pytest.raises(DataError, match=r"missing\.png"):
        outpainting(tiny(), "missing.png", left=4)


def test_a_picture_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extend, "MOST_PIXELS", 1000)
    with pytest.raises(ConfigError, match=r"32x32 px .* more than 1,000 pixels"):
        blank(tiny(), 32)
