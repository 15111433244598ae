"""Variants of an image, and the way from one to another."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from imgtf.errors import ConfigError, DataError
from imgtf.pipelines.editing.mixing import mixing, taken
from imgtf.pipelines.editing.variation import bits_of, largest, variation

from .test_fill import OBJECTIVES, results, tiny
from .test_translate import noise, pixels

CHOICES = pytest.mark.parametrize("choose", ["least-likely", "random"])


@OBJECTIVES
@CHOICES
@pytest.mark.parametrize(("strength", "missing"), [(1e-6, 1), (0.3, 5), (1.0, 16)])
def test_the_share_of_the_tokens_is_sampled_and_the_others_are_kept(
    objective: str, choose: str, strength: float, missing: int
) -> None:
    pipeline, image = tiny(objective), noise(16, 16)
    canvas = variation(pipeline, image, strength=strength, choose=choose)
    assert canvas.missing == missing
    kept = canvas.codes >= 0
    assert torch.equal(canvas.codes[kept], pipeline.tokenizer.encode_images(image)[0][kept])
    for sample in pipeline.stream(2, canvas=canvas):
        assert torch.equal(sample.codes[kept], canvas.codes[kept])


@OBJECTIVES
def test_a_variant_is_the_same_at_any_batch_size(objective: str) -> None:
    pipeline = tiny(objective)
    canvas = variation(pipeline, noise(16, 16), strength=0.5)
    together, alone = (results(pipeline, canvas, 4, batch_size=size) for size in (4, 1))
    assert all((a == b).all() for a, b in zip(together, alone, strict=True))


def test_the_least_likely_codes_of_a_raster_prior_are_exactly_those() -> None:
    pipeline, image = tiny(labels=True), noise(16, 16)
    codes = pipeline.tokenizer.encode_images(image)
    for label in (None, "red", ["green", "red"]):
        number = None if label is None else torch.tensor([0 if label == "red" else 1])
        with torch.no_grad():
            exact = pipeline.prior.log_prob(codes.flatten(1), number)[0]
        canvas = variation(pipeline, image, strength=0.25, label=label)
        assert set(np.flatnonzero(canvas.codes.flatten() < 0)) == set(exact.argsort()[:4].tolist())


def test_a_random_choice_has_a_seed() -> None:
    pipeline, image = tiny(), noise(16, 16)
    chosen = [variation(pipeline, image, choose="random", seed=seed).codes for seed in (0, 0, 1, 2**64 - 1)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


def test_all_codes_of_a_latent_are_chosen_together() -> None:
    values = torch.tensor([[1.0, 1.0, 0.0, 3.0], [0.0, 0.0, 4.0, 0.0]])
    assert largest(values, 0.5, 2).tolist() == [[False, False, True, True], [False, False, True, True]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strength": 0}, "strength must be above 0 and at most 1"),
        ({"strength": 1.01}, "strength must be above 0 and at most 1"),
        ({"strength": float("nan")}, "strength must be"),
        ({"strength": "much"}, "strength must be"),
        ({"choose": "best"}, "choose must be one of least-likely, random"),
        ({"seed": -1}, "seed must be"),
        ({"label": "red"}, "not on label"),
        ({"background": "nocolour"}, "not a colour"),
    ],
)
def test_bad_arguments_of_a_variation_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        variation(tiny(), noise(16, 16), **given)


@OBJECTIVES
def test_a_strip_goes_from_one_reconstruction_to_the_other(objective: str) -> None:
    pipeline, images = tiny(objective), [noise(16, 16, seed) for seed in (0, 1)]
    canvases = mixing(pipeline, *images, steps=5, strength=0.5)
    assert [canvas.missing for canvas in canvases] == [0, 6, 8, 6, 0]
    ends = pipeline.tokenizer.encode_images(images)
    assert torch.equal(canvases[0].codes, ends[0])
    assert torch.equal(canvases[-1].codes, ends[1])
    (last,) = results(pipeline, canvases[-1])
    assert (last == pixels(pipeline.decode(ends[1:])[0])).all()
    for canvas in canvases:
        known = canvas.codes >= 0
        assert ((canvas.codes == ends[0]) | (canvas.codes == ends[1]))[known].all()


def test_without_strength_nothing_is_sampled() -> None:
    assert [
        canvas.missing for canvas in mixing(tiny(), noise(16, 16), noise(9, 20, 1), steps=3, strength=0)
    ] == [0] * 3


def test_a_larger_share_holds_every_smaller_one_and_is_spread() -> None:
    grid = torch.Size((8, 16))
    shares = [taken(grid, share, 2) for share in (0, 0.25, 0.5, 1)]
    assert [int(own.sum()) for own in shares] == [0, 32, 64, 128]
    assert all((small <= large).all() for small, large in pairwise(shares))
    quarters = shares[2].view(2, 4, 2, 8).sum((1, 3))
    assert (quarters - 16).abs().max() <= 4


def test_the_bits_of_codes_are_reproducible() -> None:
    pipeline = tiny("masked")
    codes = pipeline.tokenizer.encode_images(noise(16, 16))[0]
    assert torch.equal(bits_of(pipeline, codes, {}), bits_of(pipeline, codes, {}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 1}, "steps must be from 2"),
        ({"steps": 100}, "steps must be from 2"),
        ({"strength": -0.1}, "strength must be from 0 to 1"),
        ({"label": "red"}, "not on label"),
        ({"background": "nocolour"}, "not a colour"),
    ],
)
def test_bad_arguments_of_a_mix_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mixing(tiny(), noise(16, 16), noise(16, 16), **given)


def test_a_bad_image_of_a_mix_is_named() -> None:
    with pytest.raises(DataError, match="the second image: an array must be"):
        mixing(tiny(), noise(16, 16), np.zeros((16, 16, 2), np.uint8))
