"""Sampling: the cache, the filters, guidance, and randomness that belongs to the image."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from imgtf.prior.conditions.condition import Condition
from imgtf.prior.config import SamplingConfig
from imgtf.prior.decoding.filters import choose, probabilities
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.prior.model import Prior

from ..test_model import tiny


def uncached(
    prior: Prior, label: Tensor, uniforms: Tensor, settings: SamplingConfig, known: Tensor | None = None
) -> Tensor:
    """Sample by running the whole sequence for every code that is not known."""
    B, _, T = uniforms.shape
    codes = torch.zeros(B, T, dtype=torch.long) if known is None else known.clamp_min(0)
    for t in range(T):
        if known is not None and known[0, t] >= 0:
            continue
        logits = prior(codes, label)[:, t]
        if settings.cfg_scale != 1:
            without = prior(codes)[:, t]
            logits = without + settings.cfg_scale * (logits - without)
        codes[:, t] = choose(probabilities(logits, settings, settings.temperature), uniforms[:, 0, t])
    return codes


@pytest.mark.parametrize(
    "settings",
    [
        SamplingConfig(),
        SamplingConfig(top_k=3, temperature=0.7),
        SamplingConfig(cfg_scale=2.5, top_p=0.9),
        SamplingConfig(cfg_scale=0.0, min_p=0.05),
    ],
)
@torch.no_grad()
def test_cached_sampling_equals_uncached(settings: SamplingConfig) -> None:
    prior = tiny(grid=(4, 4))
    label, uniforms = torch.arange(9) % 3, image_uniforms(7, 0, 9, 16)
    assert torch.equal(
        sample(prior, Condition(label=label), uniforms, settings), uncached(prior, label, uniforms, settings)
    )


@pytest.mark.parametrize("positions", [[0, 1, 2], [2], [5, 6, 7, 9, 15], list(range(16)), list(range(1, 16))])
@pytest.mark.parametrize("settings", [SamplingConfig(), SamplingConfig(cfg_scale=3.0)])
@torch.no_grad()
def test_known_codes_of_a_raster_prior_are_read_and_take_no_step(
    positions: list[int], settings: SamplingConfig
) -> None:
    prior = tiny(grid=(4, 4))
    label, uniforms = torch.arange(5) % 3, image_uniforms(1, 0, 5, 16)
    steps: list[int] = []
    known = torch.full((5, 16), -1)
    known[:, positions] = torch.randint(16, (5, len(positions)), generator=torch.Generator().manual_seed(0))
    sampled = sample(prior, Condition(label=label), uniforms, settings, steps.append, known=known)
    assert torch.equal(sampled, uncached(prior, label, uniforms, settings, known))
    assert sum(steps) == 5 * (16 - len(positions))


def test_an_image_is_the_same_in_any_batch() -> None:
    prior = tiny(grid=(4, 4))
    settings, label = SamplingConfig(cfg_scale=2.0, top_k=10), torch.arange(21) % 3
    together = sample(prior, Condition(label=label), image_uniforms(3, 0, 21, 16), settings)
    for size in (1, 7):
        parts = [
            sample(prior, Condition(label=label[i : i + size]), image_uniforms(3, i, size, 16), settings)
            for i in range(0, 21, size)
        ]
        assert torch.equal(together, torch.cat(parts))


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
def test_no_rows_are_no_codes(objective: str) -> None:
    codes = sample(tiny(objective=objective), Condition(), image_uniforms(0, 0, 0, 6), SamplingConfig())
    assert codes.shape == (0, 6)
    assert codes.dtype == torch.int64


def test_uniforms_belong_to_seed_and_image() -> None:
    rows = image_uniforms(5, 0, 8, 32)
    assert torch.equal(rows[3:6], image_uniforms(5, 3, 3, 32))
    assert not torch.equal(rows[0], rows[1])
    assert not torch.equal(rows, image_uniforms(6, 0, 8, 32))
    assert rows.min() >= 0
    assert rows.max() < 1


def test_sampling_leaves_the_global_generator_alone() -> None:
    prior = tiny()
    before = torch.get_rng_state()
    sample(prior, Condition(), image_uniforms(0, 0, 2, 6), SamplingConfig())
    assert torch.equal(before, torch.get_rng_state())


def test_guidance_with_scale_one_equals_none() -> None:
    prior, uniforms, label = tiny(), image_uniforms(0, 0, 5, 6), torch.arange(5) % 3
    plain = sample(prior, Condition(label=label), uniforms, SamplingConfig())
    near = sample(prior, Condition(label=label), uniforms, SamplingConfig(cfg_scale=1 + 1e-9))
    assert torch.equal(plain, near)


def test_guidance_zero_ignores_the_label() -> None:
    prior, uniforms = tiny(), image_uniforms(0, 0, 5, 6)
    ignored = sample(prior, Condition(label=torch.arange(5) % 3), uniforms, SamplingConfig(cfg_scale=0.0))
    assert torch.equal(ignored, sample(prior, Condition(), uniforms, SamplingConfig()))


def test_a_prior_without_labels_samples_with_any_guidance() -> None:
    prior, uniforms = tiny(conditions=()), image_uniforms(0, 0, 5, 6)
    plain = sample(prior, Condition(), uniforms, SamplingConfig())
    assert torch.equal(plain, sample(prior, Condition(), uniforms, SamplingConfig(cfg_scale=3.0)))
    assert len(plain.unique(dim=0)) == 5


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
def test_codes_are_watched_as_they_are_sampled(objective: str) -> None:
    """Every step adds codes that stay, and what is watched last is the result."""
    prior = tiny(grid=(4, 4), objective=objective)
    seen: list[Tensor] = []
    codes = sample(
        prior, Condition(), image_uniforms(0, 0, 3, 16), SamplingConfig(), watch=lambda own: seen.append(own.clone())
    )  # fmt: skip
    drawn = [int((own >= 0).sum()) for own in seen]
    assert drawn == sorted(set(drawn)) and torch.equal(seen[-1], codes)  # noqa: PT018
    for before, after in itertools.pairwise(seen):
        assert torch.equal(after[before >= 0], before[before >= 0])
