"""Codes that are replaced: how many, by which, and that the same numbers give the same codes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from imgtf.tokenizer.code_noise import NEIGHBOURS, CodeNoise, code_vectors, neighbours
from imgtf.tokenizer.model import Tokenizer
from imgtf.tokenizer.tune import _seeded_rand

from .test_codes_identity import QUANTIZERS, tiny


def noisy(model: Tokenizer, codes: torch.Tensor, most: float, seed: int = 0) -> torch.Tensor:
    return CodeNoise(model, most)(codes, partial(_seeded_rand, torch.Generator().manual_seed(seed)))


def codes_of(model: Tokenizer, n: int = 64) -> torch.Tensor:
    h, w = model.config.grid
    return torch.randint(model.config.codebook_size, (n, h, w), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("changes", QUANTIZERS)
def test_a_fraction_of_each_image_is_replaced_by_other_codes(changes: dict[str, Any]) -> None:
    model = tiny(**changes, image_size=32)
    codes = codes_of(model)
    replaced = (noisy(model, codes, 0.5) != codes).flatten(1).float().mean(1)
    assert replaced.max() < 0.65
    assert replaced.min() < 0.1
    assert 0.2 < replaced.mean() < 0.3
    found = noisy(model, codes, 1.0)
    assert found.dtype == torch.int64
    assert found.min() >= 0
    assert found.max() < model.config.codebook_size


def test_without_noise_nothing_changes_and_no_number_is_drawn() -> None:
    model = tiny()
    codes, state = codes_of(model), torch.get_rng_state()
    assert torch.equal(CodeNoise(model, 0.0)(codes), codes)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_numbers_replace_the_same_codes() -> None:
    model = tiny()
    codes = codes_of(model)
    assert torch.equal(noisy(model, codes, 0.5), noisy(model, codes, 0.5))
    assert not torch.equal(noisy(model, codes, 0.5), noisy(model, codes, 0.5, seed=1))


@pytest.mark.parametrize("changes", QUANTIZERS)
def test_neighbours_are_the_nearest_other_codes_of_the_same_codebook(changes: dict[str, Any]) -> None:
    model = tiny(**changes)
    vectors, near = code_vectors(model), neighbours(model)
    q, V = model.config.codes_per_latent, model.config.codebook_size
    assert near.shape == (q, V, min(NEIGHBOURS, V - 1))
    for book, rows in zip(vectors, near, strict=True):
        distances = torch.cdist(book, book)
        distances.fill_diagonal_(torch.inf)
        farthest = distances.gather(1, rows).amax(1)
        others = distances.scatter(1, rows, torch.inf).amin(1)
        assert (farthest <= others + 1e-4).all()
        assert (rows != torch.arange(V)[:, None]).all()


def test_more_than_chance_of_the_replaced_codes_are_near() -> None:
    model = tiny(codebook_size=256, image_size=32)
    codes = codes_of(model, 256)
    found, near = noisy(model, codes, 1.0), neighbours(model)[0]
    changed = found != codes
    close = (near[codes[changed]] == found[changed][:, None]).any(1).float().mean()
    assert 0.45 < close < 0.6
