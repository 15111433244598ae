"""Code after code gives the logits of the whole pass, for every objective and condition, and always the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from imgtf.errors import DataError
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.decoding.decoder import Decoder
from imgtf.prior.decoding.stepwise import coding_order, stepwise
from imgtf.prior.model import Prior

from ..test_model import some_codes, tiny
from ..test_objectives import KINDS, some_condition

OBJECTIVES = ("raster", "random", "masked")


@torch.no_grad()
def stepped(prior: Prior, codes: Tensor, condition: Condition) -> Tensor:
    """The logits (T, V) by grid position."""
    order = coding_order(prior.config)
    steps = stepwise(Decoder(prior), condition, order)
    logits = []
    for position in order.tolist():
        logits.append(steps.logits())
        steps.append(int(codes[0, position]))
    assert torch.equal(steps.codes, codes)
    return torch.stack(logits)[order.argsort()]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_give_the_likelihood_of_the_whole_pass(objective: str, kind: str) -> None:
    prior = tiny(objective=objective, grid=(4, 6), codebook_size=7, **KINDS[kind])
    codes, condition = some_codes(prior, 1), some_condition(prior, 1)
    order = {} if objective == "raster" else {"order": coding_order(prior.config)}
    for given in (condition, Condition()):
        log_p = stepped(prior, codes, given).log_softmax(-1).gather(1, codes.T)[:, 0]
        with torch.no_grad():
            assert torch.allclose(log_p, prior.log_prob(codes, **given, **order)[0], atol=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_steps_are_equal_to_the_last_bit(objective: str) -> None:
    prior = tiny(objective=objective)
    codes = some_codes(prior, 1)
    assert torch.equal(stepped(prior, codes, Condition()), stepped(prior, codes, Condition()))


def test_the_order_covers_the_grid_once() -> None:
    for objective in OBJECTIVES:
        config = tiny(objective=objective, grid=(3, 5)).config
        assert coding_order(config).sort().values.tolist() == list(range(15))
    assert coding_order(tiny().config).tolist() == list(range(6))


def test_unknown_conditions_are_refused() -> None:
    with pytest.raises(DataError):
        stepwise(Decoder(tiny()), Condition(text=torch.zeros(1, 4)), torch.arange(6))
