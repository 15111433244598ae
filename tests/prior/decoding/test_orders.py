"""Orders and steps of every objective: cached equals uncached, known codes stay, schedules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from imgtf.errors import ConfigError, DataError
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.prior.decoding.filters import choose, guide, probabilities
from imgtf.prior.decoding.orders import halton_order
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.prior.decoding.schedules import group_sizes, guidance_scale, temperature_at
from imgtf.prior.model import Prior

from ..test_model import tiny
from ..test_objectives import KINDS, some_condition


def uncached(
    prior: Prior,
    condition: Condition,
    uniforms: Tensor,
    settings: SamplingConfig,
    order: Tensor,
    sizes: list[int],
) -> Tensor:
    """Sample in random order, several codes per step, by running the whole sequence for each code of each step.

    Code j of a step is sampled as if it came next: its position comes before the others of the step.
    """
    B, T = uniforms.shape[0], uniforms.shape[2]
    codes, done = torch.zeros(B, T, dtype=torch.long), 0
    for k in sizes:
        drawn = []
        for j in range(k):
            changed = order.clone()
            changed[:, [done, done + j]] = order[:, [done + j, done]]
            position = changed[:, done : done + 1]
            logits = [
                prior(codes, **given, order=changed).gather(1, position[..., None].expand(-1, -1, 16))[:, 0]
                for given in (condition, prior.conditions.without(condition))
            ]
            fraction = done / (T - 1)
            scale = guidance_scale(settings, fraction)
            logits = guide(torch.cat(logits), scale) if scale != 1 else logits[0]
            p = probabilities(logits, settings, temperature_at(settings, fraction))
            drawn.append(choose(p, uniforms[:, 0].gather(1, position)[:, 0]))
        for j in range(k):
            codes.scatter_(1, order[:, done + j : done + j + 1], drawn[j][:, None])
        done += k
    return codes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        SamplingConfig(top_k=5),
        SamplingConfig(sampling_steps=4, step_schedule="even", cfg_scale=2.0),
        SamplingConfig(sampling_steps=5, cfg_scale=3.0, cfg_schedule="linear", final_temperature=0.5),
        SamplingConfig(sampling_steps=3, step_schedule="cosine", order="halton", cfg_scale=0.0),
        SamplingConfig(sampling_steps=1),
    ],
)
@torch.no_grad()
def test_random_order_with_a_cache_equals_without(kind: str, settings: SamplingConfig) -> None:
    prior = tiny(grid=(3, 4), objective="random", rotary="target", **KINDS[kind])
    condition, uniforms = some_condition(prior, 5), image_uniforms(3, 0, 5, 12)
    order = uniforms[:, 1].argsort(1) if settings.order is None else halton_order((3, 4)).expand(5, 12)
    sizes = group_sizes(12, settings.sampling_steps or 12, settings.step_schedule)
    expected = uncached(prior, condition, uniforms, settings, order, sizes)
    assert torch.equal(sample(prior, condition, uniforms, settings), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kv_heads", [None, 1])
@torch.no_grad()
def test_raster_order_with_a_cache_equals_without(kind: str, kv_heads: int | None) -> None:
    prior = tiny(grid=(3, 4), kv_heads=kv_heads, qk_norm=True, **KINDS[kind])
    condition, uniforms = some_condition(prior, 5), image_uniforms(3, 0, 5, 12)
    settings = SamplingConfig(cfg_scale=3.0, cfg_schedule="power-cosine", top_p=0.9)
    codes, without = torch.zeros(5, 12, dtype=torch.long), prior.conditions.without(condition)
    for t in range(12):
        logits = torch.cat([prior(codes, **condition)[:, t], prior(codes, **without)[:, t]])
        p = probabilities(guide(logits, guidance_scale(settings, t / 11)), settings, 1.0)
        codes[:, t] = choose(p, uniforms[:, 0, t])
    assert torch.equal(sample(prior, condition, uniforms, settings), codes)


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
@pytest.mark.parametrize("kind", ["label", "all"])
def test_an_image_is_the_same_in_any_batch(objective: str, kind: str) -> None:
    prior = tiny(grid=(3, 4), objective=objective, **KINDS[kind])
    steps = None if objective == "raster" else 5
    settings, condition = SamplingConfig(cfg_scale=2.0, sampling_steps=steps), some_condition(prior, 9)
    together = sample(prior, condition, image_uniforms(3, 0, 9, 12), settings)
    parts = []
    for i, size in ((0, 1), (1, 4), (5, 4)):
        some = Condition(**{name: part[i : i + size] for name, part in condition.items()})
        parts.append(sample(prior, some, image_uniforms(3, i, size, 12), settings))
    assert torch.equal(together, torch.cat(parts))
    assert len(together.unique(dim=0)) == 9


@pytest.mark.parametrize("order", ["random", "halton", "raster"])
@torch.no_grad()
def test_a_masked_prior_with_one_code_per_step_samples_from_its_own_conditionals(order: str) -> None:
    prior = tiny(grid=(2, 3), objective="masked")
    uniforms, settings = image_uniforms(1, 0, 4, 6), SamplingConfig(sampling_steps=6, order=order)
    positions = {"halton": halton_order((2, 3)), "raster": torch.arange(6)}.get(
        order, uniforms[:, 1].argsort(1)
    )
    codes = torch.full((4, 6), -1)
    for position in positions.expand(4, 6).T:  # (4,), the next position of each row
        logits = prior(codes)[torch.arange(4), position]
        codes[torch.arange(4), position] = choose(
            probabilities(logits, settings, 1.0), uniforms[torch.arange(4), 0, position]
        )
    assert torch.equal(sample(prior, Condition(), uniforms, settings), codes)


@torch.no_grad()
def test_confidence_keeps_the_most_likely_codes_first() -> None:
    prior = tiny(grid=(2, 3), objective="masked")
    uniforms = image_uniforms(1, 0, 4, 6)
    read: list[Tensor] = []
    masked_logits = prior.masked_logits
    prior.masked_logits = lambda codes, *rest: (read.append(codes.clone()), masked_logits(codes, *rest))[1]  # type: ignore
    settings = SamplingConfig(
        sampling_steps=3, step_schedule="even", order="confidence", confidence_noise=0.0
    )
    codes = sample(prior, Condition(), uniforms, settings)
    p = probabilities(prior(read[0]), settings, 1.0)
    drawn = choose(p, uniforms[:, 0])
    likeliest = p.gather(-1, drawn[..., None])[..., 0].topk(2, dim=1).indices
    assert torch.equal((read[1] >= 0).nonzero()[:, 1].view(4, 2), likeliest.sort(1).values)
    assert torch.equal(codes.gather(1, likeliest), drawn.gather(1, likeliest))


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
@torch.no_grad()
def test_known_codes_stay_and_the_rest_is_sampled(objective: str) -> None:
    prior = tiny(grid=(3, 4), objective=objective)
    uniforms = image_uniforms(0, 0, 6, 12)
    known = torch.full((6, 12), -1)
    known[:, [0, 1, 5, 9]] = torch.randint(16, (6, 4))
    steps = None if objective == "raster" else 4
    codes = sample(prior, Condition(), uniforms, SamplingConfig(sampling_steps=steps), known=known)
    assert torch.equal(codes[:, [0, 1, 5, 9]], known[:, [0, 1, 5, 9]])
    assert codes.min() >= 0
    assert torch.equal(sample(prior, Condition(), uniforms, SamplingConfig(), known=codes), codes)
    uneven = known.clone()
    uneven[0, 3] = 1
    with pytest.raises(DataError, match="same positions"):
        sample(prior, Condition(), uniforms, SamplingConfig(), known=uneven)


@torch.no_grad()
def test_a_random_prior_reads_known_codes_at_any_position() -> None:
    prior = tiny(objective="random", rotary="target")
    uniforms, known = image_uniforms(0, 0, 32, 6), torch.full((32, 6), -1)
    known[:, 5] = 3
    first = sample(prior, Condition(), uniforms, SamplingConfig(), known=known)
    known[:, 5] = 4
    assert not torch.equal(
        first[:, :5], sample(prior, Condition(), uniforms, SamplingConfig(), known=known)[:, :5]
    )


@torch.no_grad()
def test_unconditional_rows_catch_up_when_guidance_starts_later() -> None:
    """The linear schedule has scale 1 at the first code, whose step computes no unconditional rows."""
    prior = tiny(grid=(3, 4))
    uniforms, condition = image_uniforms(5, 0, 8, 12), some_condition(prior, 8)
    lazy = SamplingConfig(cfg_scale=4.0, cfg_schedule="linear")
    codes, without = torch.zeros(8, 12, dtype=torch.long), prior.conditions.without(condition)
    for t in range(12):
        logits = torch.cat([prior(codes, **condition)[:, t], prior(codes, **without)[:, t]])
        p = probabilities(guide(logits, 1 + 3 * t / 11), lazy, 1.0)
        codes[:, t] = choose(p, uniforms[:, 0, t])
    assert torch.equal(sample(prior, condition, uniforms, lazy), codes)


@torch.no_grad()
def test_unconditional_rows_are_skipped_without_guidance() -> None:
    for objective in ("raster", "masked"):
        prior = tiny(grid=(3, 4), objective=objective)
        rows: list[int] = []
        prior.blocks[0].register_forward_pre_hook(lambda _, args, rows=rows: rows.append(len(args[0])))
        steps = None if objective == "raster" else 4
        settings = SamplingConfig(cfg_scale=1.0, sampling_steps=steps)
        sample(prior, some_condition(prior, 5), image_uniforms(0, 0, 5, 12), settings)
        assert set(rows) == {5}


@torch.no_grad()
def test_other_grids_are_sampled_without_learned_positions() -> None:
    for objective in ("raster", "random", "masked"):
        prior = tiny(positions="none", objective=objective)
        codes = sample(prior, Condition(), image_uniforms(0, 0, 2, 20), SamplingConfig(), grid=(4, 5))
        assert codes.shape == (2, 20)
        assert codes.min() >= 0


@pytest.mark.parametrize("schedule", ["even", "cosine"])
@pytest.mark.parametrize(("codes", "steps"), [(64, 12), (64, 64), (7, 9), (5, 1), (0, 3), (256, 100)])
def test_every_step_samples_at_least_one_code_and_all_are_sampled(
    schedule: str, codes: int, steps: int
) -> None:
    sizes = group_sizes(codes, steps, schedule)
    assert sum(sizes) == codes
    assert len(sizes) == min(codes, steps)
    assert min(sizes, default=1) >= 1


def test_the_cosine_schedule_starts_slowly() -> None:
    assert group_sizes(64, 8, "cosine") == sorted(group_sizes(64, 8, "cosine"))
    assert group_sizes(64, 8, "even") == [8] * 8


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (16, 16), (3, 7)])
def test_the_halton_order_contains_every_position_once(grid: tuple[int, int]) -> None:
    assert sorted(halton_order(grid).tolist()) == list(range(grid[0] * grid[1]))


def test_the_first_positions_of_the_halton_order_are_far_apart() -> None:
    rows, columns = halton_order((8, 8))[:4] // 8, halton_order((8, 8))[:4] % 8
    positions = torch.stack([rows, columns], dim=1).float()
    assert torch.pdist(positions).min() > 2


def test_guidance_and_temperature_schedules_against_values_computed_by_hand() -> None:
    def weights(**settings: object) -> list[float]:
        return [
            guidance_scale(SamplingConfig(cfg_scale=3.0, **settings), fraction)
            for fraction in (0.0, 0.5, 1.0)
        ]  # type: ignore

    assert weights() == [3, 3, 3]
    assert weights(cfg_schedule="linear") == [1, 2, 3]
    assert weights(cfg_schedule="cosine") == pytest.approx([1, 2, 3])
    middle = 1 + (1 - math.cos(math.pi * 0.25))
    assert weights(cfg_schedule="power-cosine", cfg_power=2.0) == pytest.approx([1, middle, 3])
    cooling = SamplingConfig(temperature=1.2, final_temperature=0.8)
    assert [temperature_at(cooling, fraction) for fraction in (0.0, 0.5, 1.0)] == pytest.approx(
        [1.2, 1.0, 0.8]
    )
    assert temperature_at(SamplingConfig(temperature=0.7), 0.3) == 0.7


@pytest.mark.parametrize(
    ("objective", "settings", "message"),
    [
        ("raster", {"order": "halton"}, "order halton .* raster"),
        ("random", {"order": "confidence"}, "order confidence .* random"),
        ("raster", {"sampling_steps": 3}, "one code per step"),
    ],
)
def test_orders_of_other_objectives_are_refused(
    objective: str, settings: dict[str, object], message: str
) -> None:
    prior = tiny(objective=objective)
    with pytest.raises(ConfigError, match=message):
        sample(prior, Condition(), image_uniforms(0, 0, 1, 6), SamplingConfig(**settings))  # type: ignore[arg-type]
    if "order" in settings:
        with pytest.raises(ConfigError, match="order"):
            PriorConfig((2, 3), 8, objective=objective, sampling=SamplingConfig(**settings))  # type: ignore[arg-type]
