"""What both sides of the adversarial game minimise, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from imgtf.tokenizer.discriminator import (
    adaptive_weight,
    autoencoder_loss,
    discriminator_loss,
    lecam,
    r1,
    ramp,
)

REAL, FAKE = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_hinge() -> None:
    # real: (0 + 1) / 2, fake: (0 + 2) / 2, halved
    assert discriminator_loss(REAL, FAKE, "hinge").item() == pytest.approx(0.75)
    assert autoencoder_loss(FAKE, "hinge").item() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["non-saturating", "vanilla"])
def test_cross_entropy_of_the_discriminator(kind: str) -> None:
    by_hand = (softplus(-2) + softplus(0)) / 2 + (softplus(-2) + softplus(1)) / 2
    assert discriminator_loss(REAL, FAKE, kind).item() == pytest.approx(by_hand / 2)


def test_the_autoencoder_wants_to_be_taken_for_real() -> None:
    by_hand = (softplus(2) + softplus(-1)) / 2
    loss = autoencoder_loss(FAKE, "non-saturating")
    assert loss.item() == pytest.approx(by_hand)
    # LlamaGen hands logits and targets over the other way round; this is the right way.
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(FAKE, torch.ones(2)))
    assert autoencoder_loss(FAKE, "vanilla").item() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["hinge", "non-saturating", "vanilla"])
def test_both_sides_pull_the_logits_apart(kind: str) -> None:
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    discriminator_loss(real, fake, kind).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    fake.grad = None
    autoencoder_loss(fake, kind).backward()
    assert (fake.grad < 0).all()


def test_lecam() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.75])
    averages = torch.tensor([0.5, -1.0])
    # real against the average fake: (2^2 + 4^2) / 2; the average real against fake: (2.5^2 + 0) / 2
    assert lecam(real, fake, averages).item() == pytest.approx(10 + 3.125)


def test_r1_and_its_gradient() -> None:
    layer = torch.nn.Conv2d(1, 1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 3.0)
    # The mean of 4 logits 3x has the gradient 3/4 at each of 4 pixels: 4 * 9/16, halved.
    penalty = r1(lambda x: [layer(x)], torch.randn(5, 1, 2, 2))
    assert penalty.item() == pytest.approx(1.125)
    penalty.backward()
    assert layer.weight.grad.item() == pytest.approx(0.75)  # of k^2 / 8


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_adaptive_weight(scale: float) -> None:
    last = torch.tensor([[1.0, -1.0]], requires_grad=True)
    reconstruction = (last * torch.tensor([6.0, 8.0])).sum()  # gradient of length 10
    judgement = (last * torch.tensor([0.3, 0.4])).sum()  # of length 0.5
    weight = adaptive_weight(reconstruction, judgement, last, scale)
    assert weight.item() == pytest.approx(10 / (0.5 + 1e-4))
    assert not weight.requires_grad


def test_adaptive_weight_is_bounded() -> None:
    last = torch.ones(1, 2, requires_grad=True)
    assert adaptive_weight(1e6 * last.sum(), 0 * last.sum(), last).item() == 1e4
    assert adaptive_weight(last.sum() * float("nan"), last.sum(), last).item() == 0


def test_the_ramp_rises_from_the_start_to_one() -> None:
    assert [ramp(step, 3, 3) for step in (0, 2, 3, 4, 5, 6, 99)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert [ramp(step, 3, 0) for step in (2, 3)] == [0, 1]
