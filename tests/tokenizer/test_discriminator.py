"""The discriminator and its training: shapes, norms, and that neither side's step touches the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from imgtf.errors import ConfigError
from imgtf.tokenizer.config import TokenizerRecipe
from imgtf.tokenizer.discriminator import Adversary, Discriminator, FeatureDiscriminator, frozen
from imgtf.tokenizer.perceptual import Perceptual
from imgtf.training.accelerator import make_accelerator
from imgtf.training.config import TrainingConfig


def adversary(precision: str = "fp32", perceptual: Perceptual | None = None, **changes: object) -> Adversary:
    torch.manual_seed(0)
    settings = {"discriminator_weight": 1.0, "discriminator_width": 8, "discriminator_layers": 2}
    recipe = TokenizerRecipe(**settings | changes)  # type: ignore[arg-type]
    made = Adversary(recipe, channels=3, image_size=16, perceptual=perceptual)
    config = TrainingConfig(device="cpu", precision=precision)
    made.prepare(make_accelerator(config), config)
    return made


def images(n: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def check_that_it_learns(one: Adversary, real: torch.Tensor, fake: torch.Tensor) -> None:
    for _ in range(40):
        loss, figures = one.losses(real, fake)
        loss.backward()
        one.optimized.optimizer.step()
        one.optimized.optimizer.zero_grad()
    assert figures["accuracy_real"] > 0.9
    assert figures["accuracy_fake"] > 0.9


@pytest.mark.parametrize("norm", ["spectral", "group"])
def test_one_logit_a_patch(norm: str) -> None:
    (logits,) = Discriminator(1, 8, 3, norm)(torch.zeros(2, 1, 32, 64))
    assert logits.shape == (2, 1, 2, 6)


def test_spectral_norm_bounds_every_layer() -> None:
    torch.manual_seed(0)
    model = Discriminator(3, 8, 2, "spectral").train()
    with torch.no_grad():
        for layer in model.layers:
            if hasattr(layer, "parametrizations"):
                layer.parametrizations.weight.original.mul_(50)
        for _ in range(100):  # one power iteration each
            model(images())
    model.eval()
    norms = [torch.linalg.matrix_norm(m.weight.flatten(1), 2) for m in model.layers if hasattr(m, "weight")]
    torch.testing.assert_close(torch.stack(norms), torch.ones(4), atol=0.02, rtol=0)


@pytest.mark.parametrize("norm", ["spectral", "group"])
def test_half_precision_hardly_changes_the_logits(norm: str) -> None:
    model = Discriminator(3, 8, 2, norm).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (half,) = model(images())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), model(images())[0].detach(), atol=0.03, rtol=0.05)


def test_too_small_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="too small for discriminator_layers 3"):
        adversary(discriminator_layers=3)


def test_the_judgement_leaves_the_discriminator_alone() -> None:
    one = adversary()
    before = {k: v.clone() for k, v in one.model.state_dict().items()}
    fake = images().requires_grad_()
    one.judgement(fake).backward()
    assert fake.grad.abs().sum() > 0
    assert [name for name, p in one.model.named_parameters() if p.grad is not None] == []
    assert all(torch.equal(v, before[k]) for k, v in one.model.state_dict().items())
    assert all(p.requires_grad for p in one.model.parameters())
    assert one.model.training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_discriminators_losses_leave_the_autoencoder_alone(precision: str) -> None:
    one = adversary(precision, r1_weight=1.0)
    fake = images().requires_grad_()
    loss, figures = one.losses(-images(), fake)
    loss.backward()
    assert fake.grad is None
    assert all(p.grad.abs().sum() > 0 for p in one.model.parameters())
    assert set(figures) == {"discriminator_loss", "accuracy_real", "accuracy_fake", "lecam", "r1"}
    terms = figures["discriminator_loss"] + 0.05 * figures["lecam"] + figures["r1"]
    torch.testing.assert_close(loss, terms)


def test_accuracies_count_patches_on_the_right_side() -> None:
    one = adversary(lecam_weight=0.0)
    with torch.no_grad():
        one.model.layers[-1].bias.fill_(100.0)
    figures = one.losses(images(), images())[1]
    assert (figures["accuracy_real"].item(), figures["accuracy_fake"].item()) == (1, 0)


def test_lecam_remembers_the_mean_logits() -> None:
    one = adversary(discriminator_norm="group")
    with torch.no_grad():
        logits = one.model(images())[0], one.model(-images())[0]
    one.losses(images(), -images())
    expected = torch.stack([x.mean() for x in logits]) * 0.01  # from zero, with decay 0.99
    torch.testing.assert_close(one.model.averages, expected)


def test_training_learns_to_tell_real_from_fake() -> None:
    one = adversary(discriminator_lr=3e-3)
    real, fake = images(8), images(8).roll(1, 0).lerp(torch.zeros(()), 0.7)
    check_that_it_learns(one, real, fake)


@pytest.fixture(scope="module")
def backbone(backbone_weights: Path) -> Perceptual:
    return Perceptual("squeeze", backbone_weights)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_map_for_each_layer_of_the_backbone(channels: int, backbone: Perceptual) -> None:
    maps = FeatureDiscriminator(backbone, 4)(torch.zeros(2, channels, 64, 64))
    assert [logits.shape for logits in maps[:3]] == [(2, 1, 31, 31), (2, 1, 15, 15), (2, 1, 7, 7)]
    assert len(maps) == 7


def test_every_map_counts_the_same_and_the_backbone_stays_as_it_is(backbone: Perceptual) -> None:
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    one = adversary(perceptual=backbone, discriminator="features", discriminator_lr=1e-2, lecam_weight=0.0)
    assert not [name for name in one.model.state_dict() if "backbone" in name or "lpips" in name]
    with torch.no_grad():
        for number, head in enumerate(one.model.heads):
            head[-1].bias.fill_(1e4 * number)  # far beyond what the weights add
    assert one.judgement(images()).item() == pytest.approx(-3e4, rel=1e-2)  # the mean of 0 to 6
    loss, figures = one.losses(images(), images())
    assert figures["accuracy_real"] >= 6 / 7
    loss.backward()
    one.optimized.optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not any(p.requires_grad for p in backbone.parameters())


def test_features_teach_the_autoencoder_and_the_heads(backbone: Perceptual) -> None:
    one = adversary(perceptual=backbone, discriminator="features", discriminator_lr=3e-3, r1_weight=1e-3)
    real, fake = images(8), images(8).roll(1, 0).lerp(torch.zeros(()), 0.7).requires_grad_()
    one.judgement(fake).backward()
    assert fake.grad.abs().sum() > 0
    check_that_it_learns(one, real, fake)


def test_its_rate_is_its_own_on_the_common_schedule() -> None:
    group = adversary(discriminator_lr=5e-4).optimized.optimizer.param_groups[0]
    assert group["lr_ratio"] == pytest.approx(0.5)  # of the default 1e-3


def test_frozen_ends_also_after_an_error() -> None:
    model = Discriminator(3, 8, 2, "group")
    with pytest.raises(RuntimeError), frozen(model):
        model(torch.zeros(1, 1, 16, 16))  # one channel instead of three
    assert all(p.requires_grad for p in model.parameters())
    assert model.training
