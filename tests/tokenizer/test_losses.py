"""Losses against values computed by hand, and their registry."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from imgtf.tokenizer.config import QUANTIZERS, TokenizerConfig
from imgtf.tokenizer.discriminator import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    lecam,
    r1,
    ramp,
)
from imgtf.tokenizer.losses import (
    LOSSES,
    loss_weights,
    reconstruction_losses,
    register,
    weighted_sum,
)
from imgtf.tokenizer.quantizer import make_quantizer
from imgtf.tokenizer.recipe import TokenizerRecipe

REAL, FAKE = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("given", "seen"), [((16, 24), (64, 96)), ((32, 32), (64, 64)), ((80, 64), (80, 64))]
)
def test_lpips_sees_small_images_enlarged(given: tuple[int, int], seen: tuple[int, int]) -> None:
    sizes = []

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        sizes.extend([tuple(a.shape[2:]), tuple(b.shape[2:])])
        return (a - b).square().mean((1, 2, 3))

    images = torch.rand(2, 3, *given)
    losses = reconstruction_losses(images, images, {"lpips": 1.0}, distance)  # type: ignore[arg-type]
    assert losses["lpips"] == 0
    assert sizes == [seen, seen]


def test_hinge() -> None:
    # real: (0 + 1) / 2, fake: (0 + 2) / 2, halved
    assert discriminator_loss(REAL, FAKE, "hinge").item() == pytest.approx(0.75)
    assert generator_loss(FAKE, "hinge").item() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["non-saturating", "vanilla"])
def test_cross_entropy_of_the_discriminator(kind: str) -> None:
    by_hand = (softplus(-2) + softplus(0)) / 2 + (softplus(-2) + softplus(1)) / 2
    assert discriminator_loss(REAL, FAKE, kind).item() == pytest.approx(by_hand / 2)


def test_cross_entropy_of_the_generator() -> None:
    by_hand = (softplus(2) + softplus(-1)) / 2
    loss = generator_loss(FAKE, "non-saturating")
    assert loss.item() == pytest.approx(by_hand)
    # LlamaGen swaps logits and targets here; this is the right order.
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(FAKE, torch.ones(2)))
    assert generator_loss(FAKE, "vanilla").item() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["hinge", "non-saturating", "vanilla"])
def test_the_gradients_of_both_sides_have_the_right_sign(kind: str) -> None:
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    discriminator_loss(real, fake, kind).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    fake.grad = None
    generator_loss(fake, kind).backward()
    assert (fake.grad < 0).all()


def test_lecam() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.75])
    averages = torch.tensor([0.5, -1.0])
    # real minus the fake average: (2^2 + 4^2) / 2; the real average minus fake: (2.5^2 + 0) / 2
    assert lecam(real, fake, averages).item() == pytest.approx(10 + 3.125)


def test_r1_and_its_gradient() -> None:
    layer = torch.nn.Conv2d(1, 1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 3.0)
    # The gradient of the mean of 4 logits 3x is 3/4 at each of 4 pixels: 4 * 9/16, halved.
    penalty = r1(lambda x: [layer(x)], torch.randn(5, 1, 2, 2))
    assert penalty.item() == pytest.approx(1.125)
    penalty.backward()
    assert layer.weight.grad.item() == pytest.approx(0.75)  # derivative of k^2 / 8


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_adaptive_weight(scale: float) -> None:
    last = torch.tensor([[1.0, -1.0]], requires_grad=True)
    reconstruction = (last * torch.tensor([6.0, 8.0])).sum()  # gradient norm 10
    generator = (last * torch.tensor([0.3, 0.4])).sum()  # norm 0.5
    weight = adaptive_weight(reconstruction, generator, last, scale)
    assert weight.item() == pytest.approx(10 / (0.5 + 1e-4))
    assert not weight.requires_grad


def test_adaptive_weight_is_bounded() -> None:
    last = torch.ones(1, 2, requires_grad=True)
    assert adaptive_weight(1e6 * last.sum(), 0 * last.sum(), last).item() == 1e4
    assert adaptive_weight(last.sum() * float("nan"), last.sum(), last).item() == 0


def test_the_ramp_rises_linearly_from_its_start_to_one() -> None:
    assert [ramp(step, 3, 3) for step in (0, 2, 3, 4, 5, 6, 99)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert [ramp(step, 3, 0) for step in (2, 3)] == [0, 1]


def test_losses_by_name_and_their_weighted_sum() -> None:
    images, reconstructions = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)
    weights = loss_weights(TokenizerRecipe(l1_weight=2, l2_weight=4, commitment_weight=0.5))
    losses = reconstruction_losses(images, reconstructions, weights)
    assert {name: float(v) for name, v in losses.items()} == {"l1": 0.5, "l2": 0.25}
    losses["commitment"] = torch.tensor(3.0)
    assert weighted_sum(losses, weights).item() == pytest.approx(1.0 + 1.0 + 1.5)


def test_a_loss_of_weight_zero_is_not_computed_except_l1_and_l2() -> None:
    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().flatten(1).mean(1)

    images = torch.zeros(1, 1, 2, 2)
    zero = loss_weights(TokenizerRecipe(l1_weight=0, l2_weight=0))
    assert list(reconstruction_losses(images, images, zero, distance)) == ["l1", "l2"]  # type: ignore[arg-type]
    one = loss_weights(TokenizerRecipe(lpips_weight=1))
    assert list(reconstruction_losses(images, images, one, distance)) == ["l1", "l2", "lpips"]  # type: ignore[arg-type]
    assert list(reconstruction_losses(images, images, one)) == ["l1", "l2"]  # no network of LPIPS


def test_a_registered_loss_is_weighed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgtf.tokenizer.losses.LOSSES", dict(LOSSES))

    @register("bias")
    def bias(images: torch.Tensor, reconstructions: torch.Tensor, perceptual: object) -> torch.Tensor:
        return (reconstructions - images).mean().square()

    images = torch.zeros(1, 1, 2, 2)
    weights = {"l1": 0.0, "l2": 0.0, "bias": 3.0}
    losses = reconstruction_losses(images, images + 0.5, weights)
    assert weighted_sum(losses, weights).item() == pytest.approx(0.75)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_every_loss_of_a_quantizer_has_a_weight(quantizer: str) -> None:
    model = make_quantizer(TokenizerConfig(quantizer=quantizer, fsq_levels=(3, 3))).train()
    d = 2 if quantizer == "fsq" else 8
    assert model(torch.randn(1, d, 2, 2)).losses.keys() <= loss_weights(TokenizerRecipe()).keys()


def test_every_reconstruction_loss_has_a_weight() -> None:
    assert LOSSES.keys() <= loss_weights(TokenizerRecipe()).keys()
