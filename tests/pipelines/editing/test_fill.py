"""Completion and inpainting: what is kept, what is read, priors of every objective."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgtf import Pipeline, Prior
from imgtf.errors import ConfigError, DataError
from imgtf.pipelines.canvas import Canvas
from imgtf.pipelines.editing.fill import completion, inpainting
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.config import PriorConfig

from .test_translate import noise, pixels, tokenizer

OBJECTIVES = pytest.mark.parametrize("objective", ["raster", "random", "masked"])
LABELS = LabelConfig(class_names=("red", "green"))


def tiny(objective: str = "raster", *, labels: bool = False, **settings: Any) -> Pipeline:
    """Random models of 16 px with tokens of 4 px."""
    images = tokenizer(**settings)
    torch.manual_seed(1)
    config = PriorConfig(
        grid=images.config.grid, codebook_size=images.config.codebook_size, width=16, depth=1, heads=2,
        objective=objective, conditions=(LABELS,) if labels else (),
    )  # fmt: skip
    prior = Prior(config)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Pipeline(images, prior)


def results(pipeline: Pipeline, canvas: Canvas, n: int = 1, **given: Any) -> list[np.ndarray]:
    return [pixels(sample.image) for sample in pipeline.stream(n, canvas=canvas, **given)]


@OBJECTIVES
def test_kept_pixels_are_identical_and_kept_codes_unchanged(objective: str) -> None:
    pipeline, image = tiny(objective), noise(16, 16)
    canvas = inpainting(pipeline, image, box=(5, 4, 11, 9))
    redrawn = np.zeros((16, 16), bool)
    redrawn[4:12, 4:12] = True
    assert canvas.missing == 4
    for sample in pipeline.stream(3, canvas=canvas):
        assert (pixels(sample.image)[~redrawn] == pixels(image)[~redrawn]).all()
        assert (pixels(sample.image)[redrawn] != pixels(image)[redrawn]).any()
        kept = canvas.codes >= 0
        assert torch.equal(sample.codes[kept], canvas.codes[kept])


@OBJECTIVES
def test_a_picture_is_the_same_at_any_batch_size(objective: str) -> None:
    pipeline = tiny(objective, labels=True)
    canvas = completion(pipeline, noise(16, 16))
    given: dict[str, Any] = {"label": ["red", "green"], "cfg_scale": 2.0, "seed": 7}
    together = results(pipeline, canvas, 5, batch_size=5, **given)
    alone = results(pipeline, canvas, 5, batch_size=2, **given)
    assert all((a == b).all() for a, b in zip(together, alone, strict=True))
    assert any((together[0] != other).any() for other in together[1:])
    last = results(pipeline, canvas, 1, first=4, **given)
    assert (last[0] == together[4]).all()


@OBJECTIVES
def test_marked_pixels_are_never_read(objective: str) -> None:
    pipeline, image = tiny(objective), noise(24, 40)
    mask = np.zeros((24, 40), bool)
    mask[9:17, 14:21] = True
    other = np.array(image)
    other[mask] = 255 - other[mask]
    found = [
        results(pipeline, inpainting(pipeline, one, mask=mask, keep_decoded=True))[0]
        for one in (image, Image.fromarray(other))
    ]
    assert (found[0] == found[1]).all()


def test_completion_keeps_the_top_or_a_box() -> None:
    pipeline, image = tiny(), noise(16, 16)
    half = completion(pipeline, image).codes
    assert (half[:2] >= 0).all()
    assert (half[2:] == -1).all()
    box = completion(pipeline, image, box=(4, 4, 13, 12)).codes
    assert np.argwhere(box.numpy() >= 0).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_keep_decoded_leaves_the_image_of_the_decoder() -> None:
    pipeline = tiny()
    canvas = inpainting(pipeline, noise(16, 16), box=(0, 0, 4, 4), keep_decoded=True)
    sample = next(pipeline.stream(1, canvas=canvas))
    assert (pixels(sample.image) == pixels(pipeline.decode(sample.codes[None])[0])).all()


def test_the_feather_reaches_no_farther_than_its_pixels() -> None:
    pipeline, image = tiny(), noise(16, 16)
    hard, soft = (
        results(pipeline, inpainting(pipeline, image, box=(4, 4, 16, 16), feather=feather))[0]
        for feather in (0, 2)
    )
    changed = (hard != soft).any(-1)
    assert not changed[6:, 6:].any()
    assert changed[4:6, 4:].any()


def test_grey_images_of_16_bits_stay_16_bits() -> None:
    pipeline = tiny(channels=1, bit_depth=16)
    given = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.uint16)
    canvas = inpainting(pipeline, given, box=(0, 0, 8, 8))
    (result,) = results(pipeline, canvas)
    assert result.dtype == np.uint16
    assert (result[8:] == given[8:]).all()
    assert canvas.shown[0][1].mode == "I;16"


@pytest.mark.parametrize(
    "settings", [{"image_size": (8, 16)}, {"quantizer": "residual_vq", "codebook_learned": True}]
)
def test_other_shapes_and_several_codes_per_latent(settings: dict[str, Any]) -> None:
    pipeline = tiny(**settings)
    h, w = pipeline.tokenizer.config.size
    image = noise(h, w)
    canvas = inpainting(pipeline, image, box=(w - 3, 0, w, 3))
    (result,) = results(pipeline, canvas)
    assert canvas.missing == pipeline.tokenizer.config.codes_per_latent
    assert (result[4:] == pixels(image)[4:]).all()
    assert (result[:, : w - 4] == pixels(image)[:, : w - 4]).all()


def test_a_resize_is_said_in_one_line(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    noise(24, 40).save(tmp_path / "a.png")
    with caplog.at_level(logging.INFO, "imgtf"):
        inpainting(tiny(), tmp_path / "a.png", box=(16, 8, 20, 12))
        inpainting(tiny(), noise(16, 16), box=(0, 0, 4, 4))
    expected = f"{tmp_path / 'a.png'} (40x24 px) was cropped and resized to the model's 16 pixels"
    assert [record.message for record in caplog.records] == [expected]


def test_a_mask_of_everything_is_allowed_and_said(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = tiny()
    with caplog.at_level(logging.INFO, "imgtf"):
        canvas = inpainting(pipeline, noise(16, 16), mask=np.ones((16, 16), bool), keep_decoded=True)
    assert [record.message for record in caplog.records] == [
        "everything is redrawn: no token of the image is kept"
    ]
    assert (results(pipeline, canvas)[0] == pixels(pipeline.sample()[0])).all()


def test_transparent_pixels_show_the_background() -> None:
    pipeline, image = tiny(), Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    (result,) = results(pipeline, inpainting(pipeline, image, box=(0, 0, 4, 4), background="#0000ff"))
    assert (result[8:] == (0, 0, 255)).all()


def test_the_input_is_shown_with_grey_in_the_redrawn_tokens() -> None:
    image = noise(16, 16)
    ((caption, shown),) = inpainting(tiny(), image, box=(0, 0, 3, 3)).shown
    assert caption == "input"
    assert (pixels(shown)[:4, :4] == 128).all()
    assert (pixels(shown)[4:] == pixels(image)[4:]).all()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ConfigError, "either a mask or a box"),
        ({"box": (0, 0, 4, 4), "mask": np.ones((16, 16), bool)}, ConfigError, "either a mask or a box"),
        ({"box": (0, 0, 4, 4), "feather": -1}, ConfigError, "feather must be from 0"),
        ({"box": (0, 0, 4, 4), "background": "nocolour"}, ConfigError, "not a colour"),
        ({"box": (0, 0, 40, 4)}, ConfigError, "not inside"),
        ({"mask": np.zeros((16, 16), bool)}, DataError, "marks nothing"),
        ({"mask": "missing.png"}, DataError, "missing.png"),
        ({"mask": np.zeros((16, 16), np.int64)}, DataError, "the mask: pixels must be"),
        ({"mask": Image.new("F", (16, 16), 9.0)}, DataError, "the mask: pixels of mode F"),
    ],
)
def test_bad_arguments_are_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        inpainting(tiny(), noise(16, 16), **given)


@pytest.mark.parametrize(
    "image", ["missing.png", np.zeros((16, 16, 2), np.uint8), Image.new("F", (16, 16), -1.0)]
)
def test_a_bad_image_is_refused(image: Any) -> None:
    with pytest.raises(DataError):
        completion(tiny(), image)


def test_without_a_label_an_edit_is_unconditional() -> None:
    pipeline, image = tiny(labels=True), noise(16, 16)
    canvas = inpainting(pipeline, image, box=(0, 0, 16, 12))
    assert [sample.label for sample in pipeline.stream(2, canvas=canvas)] == [None, None]
    assert [sample.label for sample in pipeline.stream(2, "green", canvas=canvas)] == ["green", "green"]
    assert [sample.label for sample in pipeline.stream(2)] == ["red", "green"]


def test_guidance_without_a_condition_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = tiny(labels=True)
    canvas = inpainting(pipeline, noise(16, 16), box=(0, 0, 16, 12))
    with caplog.at_level(logging.INFO, "imgtf"):
        pipeline.stream(1, canvas=canvas)
        pipeline.stream(1, canvas=canvas, cfg_scale=1)
        pipeline.stream(1, "green", canvas=canvas, cfg_scale=6)
        pipeline.stream(1, cfg_scale=6)  # the classes take turns
        assert caplog.messages == []
        pipeline.stream(1, canvas=canvas, cfg_scale=6)
        tiny().stream(1, cfg_scale=6)
        pipeline.mix(noise(16, 16), noise(16, 16), steps=4, cfg_scale=6)
    assert caplog.messages == [
        "guidance has no effect: no condition is given (--label)",
        "guidance has no effect: this prior has no conditions",
        "guidance has no effect: no condition is given (--label)",
    ]
