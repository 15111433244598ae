"""The tokenizer's figures against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from imgtf.tokenizer.config import TokenizerRecipe
from imgtf.tokenizer.losses import codebook_losses, loss_weights, reconstruction_losses, weighted_sum
from imgtf.tokenizer.metrics import CodeCounts, frechet_distance, psnr
from imgtf.tokenizer.model import Reconstruction


def test_psnr_of_a_known_error() -> None:
    black, grey = torch.full((2, 1, 4, 4), -1.0), torch.full((2, 1, 4, 4), -0.8)
    # 0.2 of a range of 2 is an error of a tenth: 20 dB
    torch.testing.assert_close(psnr(black, grey), torch.full((2,), 20.0))


def test_psnr_clamps_what_a_picture_cannot_show() -> None:
    white = torch.ones(1, 1, 2, 2)
    assert psnr(white, white * 3) == psnr(white, white)


def test_usage_and_perplexity() -> None:
    counts = CodeCounts(8)
    counts.add(torch.tensor([[0, 1], [2, 3]]))
    assert counts.figures() == {"usage": 0.5, "perplexity": pytest.approx(4.0)}
    counts.reset()
    assert counts.figures() == {}
    counts.add(torch.tensor([5, 5, 5]))
    assert counts.figures() == {"usage": 1 / 8, "perplexity": pytest.approx(1.0)}


def test_losses_by_name_and_their_weighted_sum() -> None:
    images = torch.zeros(1, 1, 2, 2)
    result = Reconstruction(torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, 1, 1), torch.tensor(3.0))
    losses = reconstruction_losses(images, result) | codebook_losses(result, "vq")
    assert {name: float(v) for name, v in losses.items()} == {"l1": 0.5, "l2": 0.25, "commitment": 3.0}
    assert codebook_losses(result, "lfq").keys() == {"commitment", "entropy"}
    weights = loss_weights(TokenizerRecipe(l1_weight=2, l2_weight=4, commitment_weight=0.5))
    assert math.isclose(weighted_sum(losses, weights).item(), 1.0 + 1.0 + 1.5)


def test_frechet_distance_of_gaussians() -> None:
    torch.manual_seed(0)
    features = torch.randn(20_000, 3)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    # means one apart; standard deviations 1 and 2 on each of 3 axes: 1 + 3 * (1 + 4 - 2 * 2)
    others = 2 * torch.randn(20_000, 3) + torch.tensor([1.0, 0.0, 0.0])
    assert frechet_distance(features, others) == pytest.approx(4.0, rel=0.05)
