"""Grids of any size, sampled window by window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imgtf.errors import DataError
from imgtf.pipelines.canvas import Window
from imgtf.pipelines.windows import _padded_uniforms, plan_windows, sample_windows
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.conditions.image import ImageConfig
from imgtf.prior.config import SamplingConfig
from imgtf.prior.decoding import cache
from imgtf.prior.decoding.decoder import Decoder
from imgtf.prior.decoding.sampler import image_uniforms, sample

from ..prior.test_model import tiny

OBJECTIVES = ["raster", "random", "masked"]
GRID = (4, 6)


def canvas(B: int, h: int, w: int, **known: int) -> Tensor:
    """A canvas (B, h, w) whose known codes fill the rectangle top, left, bottom, right."""
    codes = torch.full((B, h, w), -1)
    if known:
        part = codes[:, known["top"] : known["bottom"], known["left"] : known["right"]]
        part.copy_(torch.randint(16, part.shape, generator=torch.Generator().manual_seed(5)))
    return codes


def filled(codes: Tensor, objective: str = "raster", first: int = 0, **settings: Any) -> Tensor:
    """The canvas, sampled from a tiny prior."""
    B, h, w = codes.shape
    decoder = Decoder(tiny(grid=GRID, objective=objective))
    labels = torch.arange(first, first + B) % 3
    return sample_windows(
        decoder, lambda _: Condition(label=labels), image_uniforms(3, first, B, h * w), SamplingConfig(**settings),
        codes,
    )  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("size", [(4, 6), (4, 24), (9, 7), (2, 13), (3, 3)])
def test_every_code_of_any_grid_is_sampled(objective: str, size: tuple[int, int]) -> None:
    codes = filled(canvas(2, *size), objective)
    assert codes.shape == (2, *size)
    assert ((codes >= 0) & (codes < 16)).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_known_codes_are_kept_and_the_canvas_is_not_changed(objective: str) -> None:
    given = canvas(2, 7, 13, top=2, left=5, bottom=6, right=11)
    before = given.clone()
    codes = filled(given, objective)
    assert torch.equal(given, before)
    assert torch.equal(codes[before >= 0], before[before >= 0])
    assert (codes >= 0).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("known", [{}, {"top": 0, "left": 2, "bottom": 3, "right": 5}])
def test_a_canvas_of_the_trained_grid_is_sampled_as_without_windows(
    objective: str, known: dict[str, int]
) -> None:
    codes = canvas(3, *GRID, **known)
    uniforms, condition = image_uniforms(3, 0, 3, 24), Condition(label=torch.arange(3))
    whole = sample(
        tiny(grid=GRID, objective=objective), condition, uniforms, SamplingConfig(), known=codes.flatten(1)
    )
    assert torch.equal(filled(codes, objective), whole.view_as(codes))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_image_is_the_same_in_any_batch(objective: str) -> None:
    known = {"top": 0, "left": 3, "bottom": 4, "right": 6}
    together = filled(canvas(5, 5, 14, **known)[:1].expand(5, -1, -1), objective, cfg_scale=2.0)
    alone = filled(canvas(1, 5, 14, **known), objective, first=3, cfg_scale=2.0)
    assert torch.equal(together[3:4], alone)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("known", [{}, {"top": 3, "left": 9, "bottom": 8, "right": 14}])
def test_windows_cover_the_canvas_from_the_known_codes_outwards(known: dict[str, int], parts: int) -> None:
    h, w = 12, 24
    mask = (canvas(1, h, w, **known)[0] >= 0).numpy()
    windows = plan_windows(mask, GRID, parts)
    shares = []
    for window in windows:
        assert (window.height, window.width) == GRID
        assert 0 <= window.top <= h - 4
        assert 0 <= window.left <= w - 6
        part = mask[window.top : window.top + 4, window.left : window.left + 6]
        shares.append(part.mean())
        part[:] = True
    assert mask.all()
    assert max(shares) < 1  # each samples something
    assert min(shares[1:]) >= 0.25  # each but the first of a blank canvas continues what is there


def test_a_blank_canvas_is_filled_in_raster_order() -> None:
    windows = plan_windows(np.zeros((8, 18), bool), GRID, 2)
    assert [(w.top, w.left) for w in windows] == [
        (top, left) for top in (0, 2, 4) for left in (0, 3, 6, 9, 12)
    ]


def test_windows_start_at_whole_latents() -> None:
    windows = plan_windows(np.zeros((4, 20), bool), GRID, 2, codes_per_latent=2)
    assert {window.left % 2 for window in windows} == {0}
    assert len(windows) == 8  # a stride of 2, not 3


def test_each_window_has_its_own_condition() -> None:
    image = ImageConfig(grid=GRID, codebook_size=7)
    decoder = Decoder(tiny(grid=GRID, objective="random", conditions=(image,)))
    source = torch.randint(7, (2, 4, 15), generator=torch.Generator().manual_seed(0))
    seen: list[Window] = []

    def condition_at(window: Window) -> Condition:
        seen.append(window)
        return Condition(image=source[:, window.top :, window.left : window.left + window.width].clone())

    uniforms = image_uniforms(0, 0, 2, 60)
    codes = sample_windows(decoder, condition_at, uniforms, SamplingConfig(), canvas(2, 4, 15))
    assert seen == [Window(0, left, *GRID) for left in (0, 3, 6, 9)]
    source[:, :, 12:] = 0  # only the last window reads it
    changed = sample_windows(decoder, condition_at, uniforms, SamplingConfig(), canvas(2, 4, 15))
    assert torch.equal(codes[:, :, :12], changed[:, :, :12])
    assert not torch.equal(codes, changed)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("size", [(4, 6), (8, 15), (2, 9)])
def test_progress_counts_the_codes_of_the_canvas(objective: str, size: tuple[int, int]) -> None:
    counts: list[int] = []
    codes = canvas(2, *size, top=0, left=1, bottom=1, right=4)
    sample_windows(
        Decoder(tiny(grid=GRID, objective=objective)), lambda _: Condition(), image_uniforms(0, 0, 2, codes[0].numel()),
        SamplingConfig(), codes, counts.append,
    )  # fmt: skip
    assert sum(counts) == int((codes < 0).sum())


def test_the_cache_does_not_grow_with_the_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    def longest(w: int) -> int:
        lengths: list[int] = []
        new: Callable[..., None] = cache.KVCache.__init__

        def recorded(self: cache.KVCache, config: Any, rows: int, length: int, *rest: Any) -> None:
            lengths.append(rows * length)
            new(self, config, rows, length, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(cache.KVCache, "__init__", recorded)
            filled(canvas(2, 4, w))
        return max(lengths)

    assert longest(40) == longest(6)


def test_all_positions_of_a_window_beyond_a_small_canvas_have_numbers_of_their_own() -> None:
    """Equal numbers would leave the order of a random prior to chance."""
    uniforms = image_uniforms(0, 0, 1, 2).view(1, 2, 1, 2)
    padded = _padded_uniforms(uniforms, GRID)
    assert torch.equal(padded[..., :1, :2], uniforms)
    assert ((padded >= 0) & (padded < 1)).all()
    assert all(len(own.unique()) == 24 for own in padded[0])


@pytest.mark.parametrize("size", [(8, 8), (2, 6)])
def test_uniforms_of_another_size_are_refused(size: tuple[int, int]) -> None:
    decoder = Decoder(tiny(grid=GRID))
    with pytest.raises(DataError, match=r"uniforms must be \(1, 2, 24\)"):
        sample_windows(
            decoder, lambda _: Condition(), image_uniforms(0, 0, 1, size[0] * size[1]), SamplingConfig(),
            canvas(1, *GRID),
        )  # fmt: skip


def test_rows_with_different_known_codes_are_refused() -> None:
    codes = canvas(2, 4, 12)
    codes[0, 0, 0] = 1
    with pytest.raises(DataError, match="same positions"):
        filled(codes)


def test_no_images_give_no_codes() -> None:
    assert filled(canvas(0, 4, 12)).shape == (0, 4, 12)


def test_the_canvas_is_watched_window_by_window() -> None:
    codes, seen = canvas(1, 4, 12), []
    result = sample_windows(
        Decoder(tiny(grid=GRID)), lambda _: Condition(), image_uniforms(0, 0, 1, 48), SamplingConfig(), codes,
        watch=lambda own: seen.append(own.clone()),
    )  # fmt: skip
    assert len(seen) > 1
    assert torch.equal(seen[-1], result)
