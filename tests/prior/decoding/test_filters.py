"""From logits to codes: filters, and the choice of a code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from imgtf.prior.config import SamplingConfig
from imgtf.prior.decoding import filters
from imgtf.prior.decoding.filters import BLOCK, COLUMN, choose, draw_codes, kth_largest, probabilities

V = 64 * BLOCK


def test_codes_occur_as_often_as_their_probability() -> None:
    p = torch.tensor([[0.5, 0.0, 0.3, 0.2]], dtype=torch.float64)
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    counts = torch.bincount(choose(p.expand(1000, 4), uniforms), minlength=4)
    assert counts.tolist() == [500, 0, 300, 200]


def test_the_edges_of_the_distribution() -> None:
    p = torch.tensor([[0.0, 0.4, 0.6, 0.0]], dtype=torch.float64).expand(2, 4)
    assert choose(p, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 2]


def kept(**settings: float) -> list[float]:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.10]]).log()
    return probabilities(logits, SamplingConfig(**settings), settings.get("temperature", 1.0))[0].tolist()  # type: ignore[arg-type]


def test_filters_against_values_computed_by_hand() -> None:
    assert kept() == pytest.approx([0.5, 0.25, 0.15, 0.10])
    assert kept(top_k=2) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert kept(top_k=4) == kept(top_k=99) == pytest.approx(kept())
    assert kept(top_p=0.7) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert kept(top_p=0.8) == pytest.approx([5 / 9, 2.5 / 9, 1.5 / 9, 0])
    assert kept(top_p=1e-6) == pytest.approx([1, 0, 0, 0])
    assert kept(min_p=0.4) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    squares = [0.25, 0.0625, 0.0225, 0.01]
    assert kept(temperature=0.5) == pytest.approx([s / sum(squares) for s in squares])


def test_a_new_filter_is_one_function_in_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    def even_codes(p: Tensor, settings: SamplingConfig) -> Tensor:
        kept = p.masked_fill(torch.arange(p.shape[-1]) % 2 == 1, 0)
        return kept / kept.sum(-1, keepdim=True)

    monkeypatch.setattr(filters, "PROBABILITY_FILTERS", (*filters.PROBABILITY_FILTERS, even_codes))
    codes = draw_codes(torch.randn(50, 16), torch.rand(50), SamplingConfig(top_k=12), None)
    assert (codes % 2 == 0).all()


def test_filters_that_are_off_return_their_input() -> None:
    x = torch.randn(3, 16)
    for keep in (*filters.LOGIT_FILTERS, *filters.PROBABILITY_FILTERS):
        assert keep(x, SamplingConfig()) is x


def test_a_temperature_may_be_a_tensor() -> None:
    logits, settings = torch.randn(3, 16), SamplingConfig(top_k=5)
    expected = probabilities(logits, settings, 0.7)
    torch.testing.assert_close(probabilities(logits, settings, torch.tensor([0.7])), expected)
    assert torch.equal(probabilities(logits, settings, None), probabilities(logits, settings, 1))


@pytest.mark.parametrize("k", [1, 7, 100])
def test_the_kth_largest_is_found_among_candidates(k: int) -> None:
    assert 4 * k * COLUMN <= V
    for x in (torch.randn(5, V), torch.randint(50, (5, V)).float(), torch.randn(5, V).bfloat16()):
        assert torch.equal(kth_largest(x, k), x.topk(k).values[:, -1:])


def test_top_k_keeps_exactly_k_codes() -> None:
    p = probabilities(torch.randn(4, V), SamplingConfig(top_k=20), 0.8)
    assert (p > 0).sum(-1).tolist() == [20] * 4
    torch.testing.assert_close(p.sum(-1), torch.ones(4))


def test_sums_by_blocks_choose_the_same_codes() -> None:
    p = (3 * torch.randn(400, V)).softmax(-1)
    uniforms = torch.rand(400, dtype=torch.float64)
    cumulative = p.double().cumsum(-1)
    expected = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]
    assert torch.equal(choose(p, uniforms), expected)


def test_impossible_codes_are_never_chosen() -> None:
    p = torch.zeros(3, V)
    p[:, [5, 700, 701, V - 9]] = torch.tensor([0.3, 0.1, 0.2, 0.4])
    edges = torch.tensor([0.0, 0.3, 0.4, 0.6, 1 - 2**-53], dtype=torch.float64)
    for uniform in torch.cat([edges, torch.rand(200, dtype=torch.float64)]):
        assert set(choose(p, uniform.expand(3)).tolist()) <= {5, 700, 701, V - 9}
    assert choose(p, edges[[0, 4, 4]]).tolist() == [5, V - 9, V - 9]
