"""The transformer: causality, conditions, exact probabilities, 2-D positions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from imgtf.errors import ConfigError, DataError
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.conditions.image import ImageConfig
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.config import PriorConfig
from imgtf.prior.layers import attend
from imgtf.prior.model import Prior
from imgtf.prior.positions import grid_places, rotary_table, rotate

LABELS = LabelConfig(class_names=("a", "b", "c"))


def tiny(**changes: object) -> Prior:
    """A prior whose logits are far from uniform, in evaluation mode."""
    torch.manual_seed(0)
    settings = {
        "grid": (2, 3), "codebook_size": 16, "conditions": (LABELS,), "width": 32, "depth": 2, "heads": 2,
    }  # fmt: skip
    prior = Prior(PriorConfig(**settings | changes))  # type: ignore[arg-type]
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return prior.eval()


def some_codes(prior: Prior, n: int = 4) -> Tensor:
    return torch.randint(prior.config.codebook_size, (n, prior.config.tokens))


@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_a_code_changes_only_later_predictions(qk_norm: bool) -> None:
    prior = tiny(qk_norm=qk_norm)
    codes = some_codes(prior)
    before = prior(codes)
    for t in range(prior.config.tokens):
        changed = codes.clone()
        changed[:, t] = (changed[:, t] + 1) % 16
        after = prior(changed)
        assert torch.equal(before[:, : t + 1], after[:, : t + 1])
        assert t == prior.config.tokens - 1 or not torch.allclose(before[:, t + 1], after[:, t + 1])


@torch.no_grad()
def test_the_label_changes_every_prediction_from_the_first() -> None:
    prior = tiny()
    codes = some_codes(prior)
    a, b = prior(codes, torch.zeros(4, dtype=torch.long)), prior(codes, torch.ones(4, dtype=torch.long))
    assert (a - b).abs().amax(-1).min() > 1e-3


@torch.no_grad()
def test_no_label_and_minus_one_are_the_same() -> None:
    prior = tiny()
    codes = some_codes(prior)
    assert torch.equal(prior(codes), prior(codes, torch.full((4,), -1)))
    assert not torch.allclose(prior(codes), prior(codes, torch.zeros(4, dtype=torch.long)))


@torch.no_grad()
def test_grids_and_sequences_are_the_same() -> None:
    prior = tiny()
    codes = some_codes(prior)
    assert torch.equal(prior(codes), prior(codes.view(4, 2, 3)))


@torch.no_grad()
def test_the_probabilities_of_all_grids_sum_to_one() -> None:
    prior = tiny(grid=(2, 2), codebook_size=3)
    grids = torch.tensor(list(itertools.product(range(3), repeat=4)))
    for label in (None, torch.full((81,), 2)):
        assert math.isclose(prior.log_prob(grids, label).sum(1).double().exp().sum(), 1, abs_tol=1e-5)


def test_a_new_prior_knows_nothing() -> None:
    prior = Prior(PriorConfig(grid=(2, 2), codebook_size=64, width=32, heads=2)).eval()
    expected = torch.full((3, 4), -math.log(64))
    torch.testing.assert_close(prior.log_prob(some_codes(prior, 3)), expected)


def test_a_new_prior_adds_as_much_of_the_conditioning_image_as_of_a_code() -> None:
    config = PriorConfig(
        codebook_size=64, grid=(4, 4), width=64, depth=1, heads=2,
        conditions=(ImageConfig(grid=(4, 4), codebook_size=64),),
    )
    torch.manual_seed(0)
    prior = Prior(config)
    encoded = prior.encode(Condition(image=torch.arange(64).view(4, 4, 4)), 4, (4, 4))
    assert encoded.aligned is not None
    share = encoded.aligned.std() / prior.code_embedding.weight.std()
    assert 0.7 < share < 1.4


def test_every_parameter_gets_a_gradient() -> None:
    prior = tiny(dropout=0.1).train()
    (-prior.log_prob(some_codes(prior, 16), torch.arange(16) % 3)).mean().backward()
    assert [n for n, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_labels_are_hidden_in_training_at_the_rate_asked_for() -> None:
    prior = tiny(condition_dropout=0.25).train()
    null = prior.conditions.embeddings["label"].table.weight[-1]
    tokens = prior.encode(Condition(label=torch.zeros(4000, dtype=torch.long)), 4000).prefix[:, 0]
    share = (tokens == null).all(-1).float().mean()
    assert 0.2 < share < 0.3
    tokens = prior.eval().encode(Condition(label=torch.zeros(100, dtype=torch.long)), 100).prefix[:, 0]
    assert not (tokens == null).all(-1).any()


@torch.no_grad()
def test_rotary_products_depend_on_the_grid_offset_alone() -> None:
    h, w, width = 4, 5, 16
    table = rotary_table(grid_places((h, w)), width, 10000.0)
    q, k = torch.randn(width), torch.randn(width)
    turned_q = rotate(q.expand(1, 1, h * w, width), table)[0, 0]
    turned_k = rotate(k.expand(1, 1, h * w, width), table)[0, 0]
    scores = turned_q @ turned_k.T
    place = {t: divmod(t, w) for t in range(h * w)}
    by_offset: dict[tuple[int, int], list[float]] = {}
    for (i, (r, c)), (j, (s, d)) in itertools.product(place.items(), repeat=2):
        by_offset.setdefault((r - s, c - d), []).append(float(scores[i, j]))
    assert max(max(v) - min(v) for v in by_offset.values()) < 1e-4
    assert abs(by_offset[0, 1][0] - by_offset[1, 0][0]) > 1e-3


@torch.no_grad()
def test_the_condition_slot_is_not_turned() -> None:
    x, prior = torch.randn(1, 1, 6, 16), tiny()
    table = prior.places(None, (2, 3)).key
    assert torch.equal(rotate(x, table)[:, :, 0], x[:, :, 0])
    assert not torch.allclose(rotate(x, table)[:, :, 2], x[:, :, 2])


def test_short_attention_in_bf16_equals_the_fused_one() -> None:
    q, k, v = (torch.randn(2, 3, 20, 8) for _ in range(3))
    fused = attend(q, k, v, None, True, 0.0)
    plain = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), None, True, 0.0)
    assert plain.dtype == torch.bfloat16
    torch.testing.assert_close(plain.float(), fused, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 2), (4,)])
def test_codes_of_another_grid_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="2"):
        tiny()(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("label", [3, -2])
def test_unknown_labels_are_refused(label: int) -> None:
    with pytest.raises(DataError, match=str(label)):
        tiny()(torch.zeros(1, 6, dtype=torch.long), torch.tensor([label]))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads"):
        tiny(heads=3)
