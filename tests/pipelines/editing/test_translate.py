"""Translation and upscaling: sizes, the conditioning image of each window, numbers of the images, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgtf import Pipeline, Prior, Tokenizer
from imgtf.data.image import to_pil, transform
from imgtf.errors import ConfigError, DataError
from imgtf.pipelines.canvas import Window
from imgtf.pipelines.conditioning_images import ImageLoader, enlarged, reduced
from imgtf.pipelines.editing import translate
from imgtf.pipelines.editing.translate import Conditioning, translated, translation, upscaling
from imgtf.prior.conditions.base import ConditionConfig
from imgtf.prior.conditions.image import ImageConfig
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.config import PriorConfig
from imgtf.tokenizer.config import TokenizerConfig

LABELS = LabelConfig(class_names=("red", "green"))


def tokenizer(**settings: Any) -> Tokenizer:
    torch.manual_seed(0)
    small = {
        "width": 8,
        "multipliers": (1, 1, 1),
        "latent_width": 8,
        "norm_groups": 4,
        "middle_attention": False,
    }
    return Tokenizer(
        TokenizerConfig(**{"image_size": 16, "codebook_size": 8, "codebook_dim": 4} | small | settings)
    )


def tiny(
    reduced_size: int = 0, *others: ConditionConfig, own: Tokenizer | None = None, **settings: Any
) -> Pipeline:
    """Random models with weights so large that the condition changes the images. A token is 4 px."""
    images, conditioning = tokenizer(**settings), own or tokenizer(**settings)
    image = ImageConfig(
        grid=conditioning.config.grid, codebook_size=8, tokenizer_sha256=conditioning.codes_sha256(),
        reduced_size=reduced_size,
    )  # fmt: skip
    torch.manual_seed(1)
    config = PriorConfig(
        grid=images.config.grid, codebook_size=8, width=16, depth=1, heads=2, encoder_depth=1,
        conditions=(*others, image),
    )  # fmt: skip
    prior = Prior(config)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Pipeline(images, prior, conditioning_tokenizer=conditioning)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def loader(pipeline: Pipeline) -> ImageLoader:
    (found,) = (own for own in pipeline.loaders if isinstance(own, ImageLoader))
    return found


def images_of(pipeline: Pipeline, images: Any, n: int = 1, **given: Any) -> list[Image.Image]:
    return [sample.image for sample in translated(pipeline, images, n, **given)]


@pytest.mark.parametrize(
    ("given", "result"),
    [((4, 4), (16, 16)), ((6, 8), (24, 32)), ((4, 13), (16, 52)), ((2, 3), (8, 12)), ((1, 1), (4, 4))],
)
def test_upscaling_enlarges_any_image_by_the_same_factor(
    given: tuple[int, int], result: tuple[int, int]
) -> None:
    (image,) = images_of(tiny(4), noise(*given), upscale=True)
    assert image.size == result[::-1]


@pytest.mark.parametrize(
    ("given", "result"),
    [((16, 16), (16, 16)), ((32, 32), (16, 16)), ((30, 45), (16, 24)), ((8, 5), (26, 16))],
)
def test_translation_keeps_the_ratio_of_the_sides(given: tuple[int, int], result: tuple[int, int]) -> None:
    (image,) = images_of(tiny(), noise(*given))
    assert image.size == result[::-1]


def test_models_that_are_not_square() -> None:
    (image,) = images_of(tiny(image_size=(16, 24)), noise(16, 24))
    assert image.size == (24, 16)
    (image,) = images_of(tiny(image_size=(16, 24)), noise(24, 24))
    assert image.size == (24, 24)
    (image,) = images_of(tiny(4, image_size=(16, 24)), noise(8, 6), upscale=True)
    assert image.size == (24, 32)


def test_a_small_image_is_not_reduced_again() -> None:
    pipeline, full = tiny(4), noise(16, 16)
    small = torch.nn.functional.interpolate(
        transform(full, 16, 3)[None], (4, 4), mode="bicubic", antialias=True, align_corners=False
    )[0]
    expected = reduced(transform(full, 16, 3)[None], 4)[0]
    assert loader(pipeline).pixels(full) == pytest.approx(expected)
    assert loader(pipeline).pixels(to_pil(small)) == pytest.approx(expected, abs=0.02)  # rounded to 8 bits
    twice = reduced(transform(to_pil(small), 16, 3)[None], 4)[0]
    assert float(twice.std()) < 0.9 * float(expected.std())  # more blurred


def test_each_window_of_an_upscaled_image_reads_its_own_pixels() -> None:
    small = noise(6, 8)
    canvas = upscaling(tiny(4), small)
    assert canvas.grid == (6, 8)
    assert canvas.values_at is not None
    part = canvas.values_at(Window(2, 3, 4, 4))["image"]
    assert np.array_equal(pixels(part), pixels(small)[2:6, 3:7])
    expected = enlarged(transform(part, 4, 3)[None], (16, 16))[0]
    assert loader(tiny(4)).pixels(part) == pytest.approx(expected)


def test_each_window_of_a_translated_image_reads_its_own_pixels() -> None:
    canvas = translation(tiny(), noise(16, 40))
    assert canvas.values_at is not None
    part = canvas.values_at(Window(0, 3, 4, 4))["image"]
    assert np.array_equal(pixels(part), pixels(noise(16, 40))[:, 12:28])


def test_conditioning_images_may_be_finer_than_the_images() -> None:
    pipeline = tiny(own=tokenizer(image_size=32))
    canvas = translation(pipeline, noise(32, 80))
    assert canvas.grid == (4, 10)
    assert canvas.values_at is not None
    part = canvas.values_at(Window(0, 3, 4, 4))["image"]
    assert np.array_equal(pixels(part), pixels(noise(32, 80))[:, 24:56])
    (image,) = images_of(pipeline, noise(32, 80))
    assert image.size == (40, 16)


def test_a_translated_image_of_the_models_shape_is_read_as_in_training() -> None:
    pipeline, image = tiny(), noise(37, 37)
    canvas = translation(pipeline, image)
    assert canvas.values_at is not None
    part = canvas.values_at(Window(0, 0, 4, 4))["image"]
    assert torch.equal(loader(pipeline).pixels(part), transform(image, 16, 3))


def test_palette_images_are_resized_in_colour_as_in_training() -> None:
    pipeline, image = tiny(), noise(64, 64).quantize(8)
    canvas = translation(pipeline, image)
    assert canvas.values_at is not None
    part = canvas.values_at(Window(0, 0, 4, 4))["image"]
    assert torch.equal(loader(pipeline).pixels(part), transform(image, 16, 3))


def test_beyond_its_border_an_image_is_continued_by_its_mirror_image() -> None:
    canvas = upscaling(tiny(4), noise(4, 5))
    assert canvas.values_at is not None
    part = pixels(canvas.values_at(Window(0, 0, *canvas.grid))["image"])
    assert np.array_equal(part, pixels(noise(4, 5))[:, :4])
    small = upscaling(tiny(4), noise(2, 3))
    assert small.values_at is not None
    part = pixels(small.values_at(Window(0, 0, 4, 4))["image"])
    assert np.array_equal(part[:2, :3], pixels(noise(2, 3)))
    assert np.array_equal(part[2:], part[1::-1])


def test_windows_between_small_pixels_and_images_of_16_bits() -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (5, 9), dtype=np.uint16))
    (image,) = images_of(
        tiny(2, channels=1, bit_depth=16), grey, upscale=True
    )  # 8 px per pixel, a token is 4 px
    assert (image.size, image.mode) == ((72, 40), "I;16")
    (image,) = images_of(tiny(channels=1), grey)
    assert (image.size, image.mode) == ((29, 16), "L")


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_images_do_not_depend_on_the_batches(batch_size: int) -> None:
    pipeline = tiny(0, LABELS)
    given = [noise(16, 16, seed=0), noise(32, 32, seed=1), noise(16, 24, seed=2), noise(16, 16, seed=3)]
    expected = [
        sample.image
        for i, image in enumerate(given)
        for sample in pipeline.stream(
            2, first=5 + 2 * i, seed=3, canvas=translation(pipeline, image), label="green"
        )
    ]
    samples = list(translated(pipeline, given, 2, seed=3, first=5, label="green", batch_size=batch_size))
    assert [sample.index for sample in samples] == list(range(5, 13))
    assert [sample.image for sample in samples] == expected
    assert {sample.label for sample in samples} == {"green"}


def test_the_image_decides_the_result() -> None:
    pipeline = tiny()
    first, second = images_of(pipeline, [noise(16, 16, 0), noise(16, 16, 1)])
    assert first != second
    canvas = translation(pipeline, noise(16, 16))
    alone = next(iter(pipeline.stream(1, canvas=canvas))).image
    assert alone == pipeline.sample(1, image=noise(16, 16))[0]
    assert alone == first
    assert alone != pipeline.sample(1)[0]


def test_processes_share_the_images() -> None:
    pipeline = tiny()
    given = [noise(16, 16, seed) for seed in range(5)] + [noise(16, 30)]
    whole = list(translated(pipeline, given, 2, batch_size=4))
    parts = [list(translated(pipeline, given, 2, batch_size=4, shard=(rank, 2))) for rank in range(2)]
    assert min(map(len, parts)) > 0
    merged = sorted((sample for part in parts for sample in part), key=lambda sample: sample.index)
    assert [sample.image for sample in merged] == [sample.image for sample in whole]


def test_progress_counts_every_code_once() -> None:
    pipeline, drawn = tiny(), [0]
    conditioning = Conditioning(pipeline, upscale=False)
    given = [noise(16, 16), noise(16, 30), noise(32, 32)]
    assert [conditioning.tokens((image.height, image.width)) for image in given] == [16, 32, 16]

    def count(codes: int) -> None:
        drawn[0] += codes

    list(translated(pipeline, given, 3, progress=count))
    assert drawn[0] == 3 * 64


def test_several_codes_per_latent() -> None:
    (image,) = images_of(tiny(quantizer="residual_vq"), noise(16, 28))
    assert image.size == (28, 16)


def test_images_of_every_kind(tmp_path: Path) -> None:
    pipeline, image = tiny(), noise(16, 16)
    image.save(tmp_path / "a.png")
    expected = images_of(pipeline, image)
    assert images_of(pipeline, str(tmp_path / "a.png")) == expected
    assert images_of(pipeline, pixels(image)) == expected
    assert images_of(pipeline, transform(image, 16, 3)) == expected


@pytest.mark.parametrize(
    ("upscale", "option"), [(True, "--conditioning-size"), (False, "--conditioning-column")]
)
def test_priors_without_conditioning_image_are_refused(upscale: bool, option: str) -> None:
    own = tokenizer()
    config = PriorConfig(grid=(4, 4), codebook_size=8, width=16, depth=1, heads=2, conditions=(LABELS,))
    pipeline = Pipeline(own, Prior(config))
    with pytest.raises(ConfigError, match=f"conditioned on label, not on an image: train one with {option}"):
        translated(pipeline, noise(16, 16), upscale=upscale)


def test_priors_of_the_other_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="use `imgtf edit upscale`"):
        translation(tiny(4), noise(16, 16))
    with pytest.raises(ConfigError, match="use `imgtf edit translate`"):
        upscaling(tiny(), noise(16, 16))


def test_wrong_arguments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny()
    for given, message in (
        ({"n": 0}, "n must be from 1"), ({"batch_size": 0}, "batch_size must be from 1"), ({"top_q": 1}, "top_q"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            translated(pipeline, noise(16, 16), **given)
    with pytest.raises(DataError, match="no images"):
        translated(pipeline, [])
    monkeypatch.setattr(translate, "MOST_PIXELS", 500)
    with pytest.raises(DataError, match="the result would have 64x16 pixels, more than 500; reduce it"):
        translation(pipeline, noise(16, 64))
