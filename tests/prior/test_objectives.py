"""Raster, random order and masked: what each may see, and that its likelihood is exact."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from imgtf.errors import ConfigError, DataError
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.conditions.features import FeaturesConfig
from imgtf.prior.conditions.image import ImageConfig
from imgtf.prior.conditions.text import TextConfig, caption_bytes
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.prior.model import Prior
from imgtf.prior.objectives import (
    log_likelihood,
    random_fraction,
    random_mask,
    training_loss,
    training_orders,
)
from imgtf.prior.recipe import PriorRecipe

from .test_model import LABELS, some_codes, tiny

TEXT, FEATURES = TextConfig(max_bytes=8), FeaturesConfig(width=5, tokens=4)
IMAGE, FINE_IMAGE = ImageConfig(grid=(2, 2), codebook_size=7), ImageConfig(grid=(4, 6), codebook_size=7)
KINDS: dict[str, dict[str, object]] = {
    "label": {},
    "text": {"conditions": (TEXT,)},
    "features": {"conditions": (FEATURES,)},
    "prefix features": {"conditions": (dataclasses.replace(FEATURES, prefix=True),)},
    "image": {"conditions": (IMAGE,)},
    "label and image": {"conditions": (LABELS, FINE_IMAGE)},
    "all": {"conditions": (LABELS, TEXT, FEATURES, IMAGE)},
}


def some_condition(prior: Prior, n: int) -> Condition:
    """A value for every condition that the prior has."""
    config, generator = prior.config, torch.Generator().manual_seed(1)
    image = config.condition("image")
    values = {
        "label": torch.arange(n) % 3,
        "text": caption_bytes([("ab", "xyzxyz", "q")[i % 3] for i in range(n)], 8),
        "features": torch.randn(n, 4, 5, generator=generator),
        "image": torch.randint(7, (n, *image.grid), generator=generator) if image else None,
    }
    return Condition(**{kind: values[kind] for kind in config.condition_kinds})


def some_orders(n: int, T: int) -> Tensor:
    return torch.rand(n, T, generator=torch.Generator().manual_seed(2)).argsort(1)


@pytest.mark.parametrize("rotary", ["held", "target"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_in_any_order_a_code_changes_only_later_predictions(kind: str, rotary: str) -> None:
    prior = tiny(objective="random", rotary=rotary, **KINDS[kind])
    codes, order = some_codes(prior), some_orders(4, 6)
    condition = some_condition(prior, 4)
    before = prior(codes, **condition, order=order).gather(1, order[..., None].expand(-1, -1, 16))
    for t in range(6):
        changed = codes.scatter(1, order[:, t : t + 1], (codes.gather(1, order[:, t : t + 1]) + 1) % 16)
        after = prior(changed, **condition, order=order).gather(1, order[..., None].expand(-1, -1, 16))
        torch.testing.assert_close(before[:, : t + 1], after[:, : t + 1], atol=1e-5, rtol=0)
        assert t == 5 or not torch.allclose(before[:, t + 1], after[:, t + 1], atol=1e-3)


@torch.no_grad()
def test_raster_order_given_or_not_is_the_same() -> None:
    prior = tiny(objective="random")
    codes = some_codes(prior)
    torch.testing.assert_close(prior(codes), prior(codes, order=torch.arange(6)))


@torch.no_grad()
def test_a_masked_prior_reads_known_codes_on_both_sides_and_no_unknown_one() -> None:
    prior = tiny(objective="masked")
    codes = some_codes(prior)
    hidden = codes.clone()
    hidden[:, [1, 4]] = -1
    before = prior(hidden)
    for position in range(6):
        changed = hidden.clone()
        changed[:, position] = torch.where(hidden[:, position] < 0, -1, (codes[:, position] + 1) % 16)
        same = torch.allclose(before[:, 1], prior(changed)[:, 1])
        assert same == (position in (1, 4))


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
@pytest.mark.parametrize("kind", ["label", "all"])
@torch.no_grad()
def test_the_probabilities_of_all_grids_sum_to_one(objective: str, kind: str) -> None:
    prior = tiny(grid=(2, 2), codebook_size=3, objective=objective, **KINDS[kind])
    grids = torch.tensor(list(itertools.product(range(3), repeat=4)))
    one = some_condition(prior, 1)
    condition = {name: part.expand(81, *part.shape[1:]) for name, part in one.items()}
    orders = [None] if objective == "raster" else [None, torch.tensor([2, 0, 3, 1])]
    for order in orders:
        total = prior.log_prob(grids, **condition, order=order).sum(1).double().exp().sum()
        assert math.isclose(total, 1, abs_tol=1e-5)


@torch.no_grad()
def test_the_estimate_of_a_masked_likelihood_is_the_mean_over_orders() -> None:
    prior = tiny(grid=(1, 3), codebook_size=4, objective="masked")
    codes = torch.tensor([[0, 3, 1]])
    exact = [prior.log_prob(codes, order=torch.tensor(o)).mean() for o in itertools.permutations(range(3))]
    generator = torch.Generator().manual_seed(0)
    draws = log_likelihood(prior, codes.expand(20000, 3), Condition(), generator)
    assert float(draws.mean()) == pytest.approx(
        float(torch.stack(exact).mean()), abs=4 * float(draws.std()) / 141
    )


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(objective: str, kind: str) -> None:
    parts = {"dropout": 0.1, "condition_dropout": 0.3, "qk_norm": True, "drop_path": 0.2} | KINDS[kind]
    prior = tiny(objective=objective, attention_dropout=0.1, **parts).train()
    torch.manual_seed(0)
    condition = some_condition(prior, 48)
    recipe = PriorRecipe(code_noise=0.1, label_smoothing=0.1, z_loss=1e-3)
    training_loss(prior, prior.config, recipe, some_codes(prior, 48), condition, 0.5)["loss"].backward()
    assert [n for n, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("kind", ["text", "features"])
@torch.no_grad()
def test_padding_is_not_read(kind: str) -> None:
    prior = tiny(**KINDS[kind])
    codes = some_codes(prior, 2)
    if kind == "text":
        given = caption_bytes(["ab", "abcdefgh"], 8)
        prior.conditions.embeddings["text"].table.weight[0] += 100.0  # the row that padding looks up
        changed = tiny(**KINDS[kind])(codes, text=given)
        assert torch.equal(changed, prior(codes, text=given))
        return
    features = torch.randn(2, 4, 5)
    features[0, 2:] = 0
    before = prior(codes, features=features)
    prior.conditions.encoder.position[3] += (
        100.0  # the first padding: after the null state and two of features
    )
    after = prior(codes, features=features)
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


@pytest.mark.parametrize("kind", ["text", "features", "image", "all"])
@torch.no_grad()
def test_a_condition_changes_the_first_prediction_and_none_is_none(kind: str) -> None:
    prior = tiny(**KINDS[kind])
    codes = some_codes(prior)
    given = some_condition(prior, 4)
    with_it, without = prior(codes, **given), prior(codes)
    assert (with_it - without).abs().amax(-1).min() > 1e-4
    if kind == "text":
        torch.testing.assert_close(prior(codes, text=torch.zeros(4, 8, dtype=torch.long)), without)
    if kind == "image":
        torch.testing.assert_close(prior(codes, image=torch.full((4, 2, 2), -1)), without)


def test_dropped_conditions_equal_no_conditions() -> None:
    prior = tiny(condition_dropout=1.0, dropout=0.0, token_dropout=0.0, **KINDS["all"])
    codes = some_codes(prior)
    hidden = prior.train()(codes, **some_condition(prior, 4))
    torch.testing.assert_close(hidden, prior.eval()(codes))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("label", {"text": torch.zeros(4, 8, dtype=torch.long)}, "takes label, not text"),
        ("text", {"label": torch.zeros(4, dtype=torch.long)}, "takes text, not label"),
        ("image", {"features": torch.zeros(4, 4, 5)}, "takes image, not features"),
        (
            "image",
            {"image": torch.zeros(4, 3, 3, dtype=torch.long)},
            r"image must be \(B, 4\) for this prior, got \(4, 9\)",
        ),
        ("text", {"text": torch.zeros(3, 8, dtype=torch.long)}, "4 images need 4 values of text, got 3"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(kind: str, given: dict[str, Tensor], message: str) -> None:
    prior = tiny(**KINDS[kind])
    with pytest.raises(DataError, match=message):
        prior(some_codes(prior), **given)


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
def test_a_prior_with_every_condition_survives_saving(objective: str, tmp_path: Path) -> None:
    prior = tiny(objective=objective, kv_heads=1, **KINDS["all"])
    prior.save_pretrained(tmp_path)
    codes, condition = some_codes(prior), some_condition(prior, 4)
    assert torch.equal(Prior.from_pretrained(tmp_path)(codes, **condition), prior(codes, **condition))


@pytest.mark.parametrize("positions", ["none", "sinusoidal", "sinusoidal-2d"])
@torch.no_grad()
def test_without_learned_positions_other_grids_are_modelled(positions: str) -> None:
    prior = tiny(positions=positions, rotary="target")
    wide = torch.randint(16, (2, 4, 5))
    assert prior(wide).shape == (2, 20, 16)
    with pytest.raises(DataError, match=r"grid \(2, 3\)"):
        tiny()(wide)


@torch.no_grad()
def test_position_embeddings_distinguish_positions_without_rotary_ones() -> None:
    """With equal codes, predictions differ only by the position embedding."""
    for positions in ("learned", "sinusoidal", "sinusoidal-2d"):
        logits = tiny(rotary="none", positions=positions)(torch.zeros(1, 6, dtype=torch.long))[0]
        assert torch.pdist(logits[1:]).min() > 1e-4


@pytest.mark.parametrize("kv_heads", [1, 2])
@torch.no_grad()
def test_shared_keys_equal_keys_that_were_copied(kv_heads: int) -> None:
    shared = tiny(heads=4, kv_heads=kv_heads)
    copied = tiny(heads=4)
    state = shared.state_dict()
    for name in [name for name in state if name.endswith("qkv.weight")]:
        q, k, v = state[name].split([32, 8 * kv_heads, 8 * kv_heads])
        k, v = (x.view(kv_heads, 8, 32).repeat_interleave(4 // kv_heads, 0).flatten(0, 1) for x in (k, v))
        state[name] = torch.cat([q, k, v])
    copied.load_state_dict(state)
    codes = some_codes(shared)
    torch.testing.assert_close(shared(codes), copied(codes))


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        prior = tiny(
            gradient_checkpointing=recompute, dropout=0.0, token_dropout=0.0, condition_dropout=0.0
        ).train()
        prior.log_prob(torch.arange(6)[None]).sum().backward()
        gradients.append([p.grad for p in prior.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_masks_hide_at_least_one_code_and_more_than_half_on_average() -> None:
    torch.manual_seed(0)
    hidden = random_mask(torch.zeros(2000, 10, dtype=torch.long))
    assert hidden.sum(1).min() == 1
    assert hidden.sum(1).max() == 10
    assert float(hidden.float().mean()) == pytest.approx(
        2 / math.pi + 0.05, abs=0.02
    )  # ceil adds half a code


def test_annealing_turns_random_orders_into_raster_order() -> None:
    assert [random_fraction((0.5, 0.75), p) for p in (0.0, 0.5, 0.625, 0.75, 1.0)] == [1, 1, 0.5, 0, 0]
    assert random_fraction((), 0.9) == 1
    assert random_fraction((0.5, 0.5), 0.4) == 1
    assert random_fraction((0.5, 0.5), 0.5) == 0
    codes = torch.zeros(400, 6, dtype=torch.long)
    raster = (training_orders(codes, 0.25) == torch.arange(6)).all(1).float().mean()
    assert 0.65 < raster < 0.85


def test_label_smoothing_and_z_loss_against_values_worked_out_by_hand() -> None:
    logits = torch.tensor([[[2.0, 0.0, 0.0, 0.0]]])
    codes = torch.tensor([[0]])
    config = PriorConfig(grid=(1, 1), codebook_size=4, width=32)
    figures = training_loss(
        lambda read: logits, config, PriorRecipe(label_smoothing=0.2, z_loss=0.5), codes, Condition(), 0.0
    )
    z = math.log(math.exp(2) + 3)
    assert float(figures["loss"]) == pytest.approx(0.85 * (z - 2) + 0.15 * z + 0.5 * z**2, abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 4, "kv_heads": 3}, "kv_heads 3"),
        ({"objective": "random", "rotary": "none"}, "needs rotary"),
        ({"objective": "sorted"}, "objective"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, object], message: str) -> None:
    from imgtf.options import build

    with pytest.raises(ConfigError, match=message):
        build(PriorConfig, {"grid": [2, 3], "codebook_size": 8, "width": 32} | wrong)


def test_an_order_for_a_raster_prior_or_with_a_repeated_position_is_refused() -> None:
    with pytest.raises(DataError, match="raster order only"):
        tiny()(torch.zeros(1, 6, dtype=torch.long), order=torch.arange(6))
    with pytest.raises(DataError, match="once"):
        tiny(objective="random")(torch.zeros(1, 6, dtype=torch.long), order=torch.tensor([0, 1, 2, 3, 4, 4]))


@pytest.mark.parametrize("objective", ["raster", "random"])
@torch.no_grad()
def test_the_conditioning_image_is_added_where_its_grid_position_is_predicted(objective: str) -> None:
    """With cross-attention switched off, a conditioning code first matters where its grid position is predicted."""
    prior = tiny(objective=objective, conditions=(FINE_IMAGE,), encoder_depth=0)
    for block in prior.blocks:
        block.cross.proj.weight.zero_()
    codes, image = some_codes(prior), torch.zeros(4, 4, 6, dtype=torch.long)
    changed = image.clone()
    changed[:, 1, 2] = 3  # one of the four codes at grid position (0, 1)
    order = None if objective == "raster" else torch.tensor([5, 3, 1, 0, 2, 4])
    before, after = (prior(codes, image=given, order=order) for given in (image, changed))
    when = torch.arange(6) if order is None else order
    first = int((when == 1).nonzero())
    differs = ~torch.isclose(before, after, atol=1e-6).all(-1).all(0)  # (T,), by grid position
    assert not differs[when[:first]].any()
    assert differs[1]


@torch.no_grad()
def test_a_finer_conditioning_image_has_one_token_per_grid_position() -> None:
    prior = tiny(conditions=(FINE_IMAGE,), encoder_depth=0)
    grid = prior.config.grid
    assert (FINE_IMAGE.patch(grid), FINE_IMAGE.cells(grid)) == ((2, 2), (2, 3))
    assert prior.config.encoder_length == 1 + 6
    image = torch.randint(7, (2, 4, 6), generator=torch.Generator().manual_seed(0))
    by_token = prior.conditions.embeddings["image"].patches(image)
    assert by_token[0, 4].tolist() == image[0, 2:4, 2:4].flatten().tolist()  # the token at (1, 1)
    changed = image.clone()
    changed[:, 0, 0] = (image[:, 0, 0] + 1) % 7
    one, other = (prior.encode(Condition(image=given), 2).states for given in (image, changed))
    assert one is not None
    assert other is not None
    differs = (one - other).abs().sum(-1) > 0
    assert differs[:, 1].all()
    assert not differs[:, 2:].any()


@torch.no_grad()
def test_a_coarser_conditioning_image_has_a_token_per_code() -> None:
    coarse = ImageConfig(grid=(1, 2), codebook_size=7)
    prior = tiny(conditions=(coarse,))
    assert (coarse.patch(prior.config.grid), prior.config.encoder_length) == ((1, 1), 3)
    assert prior.encode(Condition(image=torch.tensor([[1, 2]])), 1).aligned is not None


def test_orders_by_row_without_learned_positions_are_guided_too() -> None:
    prior = tiny(objective="random", positions="none")
    label, uniforms = torch.arange(4) % 3, image_uniforms(0, 0, 4, 6)
    codes = sample(prior, Condition(label=label), uniforms, SamplingConfig(cfg_scale=2.0, sampling_steps=3))
    assert codes.min() >= 0


def test_a_raster_prior_with_several_codes_per_step_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="sampling_steps: a raster prior samples one code per step"):
        tiny(sampling=SamplingConfig(sampling_steps=3))
