"""The discriminator and its training: shapes, norms, and that the losses of each side leave the other unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.discriminator import (
    Discriminator,
    DiscriminatorTrainer,
    FeatureDiscriminator,
    frozen,
    halving_layers,
)
from imgtf.tokenizer.perceptual import Perceptual
from imgtf.tokenizer.recipe import TokenizerRecipe
from imgtf.training.accelerator import make_accelerator
from imgtf.training.config import TrainingConfig


def make_trainer(
    precision: str = "fp32", perceptual: Perceptual | None = None, **changes: object
) -> DiscriminatorTrainer:
    torch.manual_seed(0)
    settings = {"discriminator_weight": 1.0, "discriminator_width": 8}
    recipe = TokenizerRecipe(**settings | changes)  # type: ignore[arg-type]
    made = DiscriminatorTrainer(recipe, TokenizerConfig(image_size=16), perceptual)
    config = TrainingConfig(device="cpu", precision=precision)
    made.prepare(make_accelerator(config), config)
    return made


def images(n: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def check_that_it_learns(trainer: DiscriminatorTrainer, real: torch.Tensor, fake: torch.Tensor) -> None:
    for _ in range(40):
        loss, metrics = trainer.loss(real, fake)
        loss.backward()
        trainer.optimized.optimizers[0].step()
        trainer.optimized.optimizers[0].zero_grad()
    assert metrics["accuracy_real"] > 0.9
    assert metrics["accuracy_fake"] > 0.9


def test_one_logit_per_patch() -> None:
    (logits,) = Discriminator(1, 8, 3)(torch.zeros(2, 1, 32, 64))
    assert logits.shape == (2, 1, 2, 6)


def test_small_images_have_fewer_halving_layers() -> None:
    sizes = {4: 0, 5: 0, 6: 1, 11: 1, 12: 2, 23: 2, 24: 3, 32: 3, 256: 3}
    assert {size: halving_layers(size) for size in sizes} == sizes


@pytest.mark.parametrize("size", [4, 6, 12, 24])
def test_the_smallest_images_of_each_depth_have_a_logit(size: int) -> None:
    (logits,) = Discriminator(3, 8, halving_layers(size))(torch.zeros(1, 3, size, size))
    assert logits.numel() >= 1


def test_the_shorter_side_decides_about_the_depth() -> None:
    recipe = TokenizerRecipe(discriminator_weight=1.0, discriminator_width=8)
    for size in ((8, 64), (64, 8)):
        model = DiscriminatorTrainer(recipe, TokenizerConfig(image_size=size)).model
        (logits,) = model(torch.zeros(1, 3, *size))
        assert logits.shape[2] < logits.shape[3] if size[0] < size[1] else logits.shape[2] > logits.shape[3]


def test_spectral_norm_bounds_every_layer() -> None:
    torch.manual_seed(0)
    model = Discriminator(3, 8, 2).train()
    with torch.no_grad():
        for layer in model.layers:
            if hasattr(layer, "parametrizations"):
                layer.parametrizations.weight.original.mul_(50)
        for _ in range(100):  # one power iteration each
            model(images())
    model.eval()
    norms = [torch.linalg.matrix_norm(m.weight.flatten(1), 2) for m in model.layers if hasattr(m, "weight")]
    torch.testing.assert_close(torch.stack(norms), torch.ones(4), atol=0.02, rtol=0)


def test_half_precision_hardly_changes_the_logits() -> None:
    model = Discriminator(3, 8, 2).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (half,) = model(images())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), model(images())[0].detach(), atol=0.03, rtol=0.05)


def test_the_generator_loss_does_not_change_the_discriminator() -> None:
    trainer = make_trainer()
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    fake = images().requires_grad_()
    trainer.generator_loss(fake).backward()
    assert fake.grad.abs().sum() > 0
    assert [name for name, p in trainer.model.named_parameters() if p.grad is not None] == []
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
    assert all(p.requires_grad for p in trainer.model.parameters())
    assert trainer.model.training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_discriminators_loss_gives_the_autoencoder_no_gradient(precision: str) -> None:
    trainer = make_trainer(precision, r1_weight=1.0)
    fake = images().requires_grad_()
    loss, metrics = trainer.loss(-images(), fake)
    loss.backward()
    assert fake.grad is None
    assert all(p.grad.abs().sum() > 0 for p in trainer.model.parameters())
    assert set(metrics) == {"discriminator_loss", "accuracy_real", "accuracy_fake", "lecam", "r1"}
    terms = metrics["discriminator_loss"] + 0.05 * metrics["lecam"] + metrics["r1"]
    torch.testing.assert_close(loss, terms)


def test_accuracies_are_the_fractions_of_correct_patches() -> None:
    trainer = make_trainer(lecam_weight=0.0)
    with torch.no_grad():
        trainer.model.layers[-1].bias.fill_(100.0)
    metrics = trainer.loss(images(), images())[1]
    assert (metrics["accuracy_real"].item(), metrics["accuracy_fake"].item()) == (1, 0)


def test_lecam_averages_the_mean_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without spectral norm, whose power iteration changes the weights in every pass.
    monkeypatch.setattr("imgtf.tokenizer.discriminator.spectral_norm", lambda layer: layer)
    trainer = make_trainer()
    with torch.no_grad():
        logits = trainer.model(images())[0], trainer.model(-images())[0]
    trainer.loss(images(), -images())
    expected = torch.stack([x.mean() for x in logits]) * 0.01  # from zero, with decay 0.99
    torch.testing.assert_close(trainer.model.averages, expected)


def test_training_learns_to_classify_real_and_fake() -> None:
    trainer = make_trainer(discriminator_lr=3e-3)
    real, fake = images(8), images(8).roll(1, 0).lerp(torch.zeros(()), 0.7)
    check_that_it_learns(trainer, real, fake)


@pytest.fixture(scope="module")
def backbone(backbone_weights: Path) -> Perceptual:
    return Perceptual("squeeze", backbone_weights)


@pytest.mark.parametrize("channels", [1, 3])
def test_there_is_a_map_for_each_layer_of_the_backbone(channels: int, backbone: Perceptual) -> None:
    maps = FeatureDiscriminator(backbone, 4)(torch.zeros(2, channels, 64, 64))
    assert [logits.shape for logits in maps[:3]] == [(2, 1, 31, 31), (2, 1, 15, 15), (2, 1, 7, 7)]
    assert len(maps) == 7


def test_every_map_has_equal_weight_and_the_backbone_is_frozen(backbone: Perceptual) -> None:
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    trainer = make_trainer(
        perceptual=backbone, discriminator="features", discriminator_lr=1e-2, lecam_weight=0.0
    )
    assert not [name for name in trainer.model.state_dict() if "backbone" in name or "lpips" in name]
    with torch.no_grad():
        for number, head in enumerate(trainer.model.heads):
            head[-1].bias.fill_(1e4 * number)  # far larger than the logits
    assert trainer.generator_loss(images()).item() == pytest.approx(-3e4, rel=1e-2)  # the mean of 0 to 6
    loss, metrics = trainer.loss(images(), images())
    assert metrics["accuracy_real"] >= 6 / 7
    loss.backward()
    trainer.optimized.optimizers[0].step()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not any(p.requires_grad for p in backbone.parameters())


def test_gradients_of_features_reach_the_autoencoder_and_the_heads(backbone: Perceptual) -> None:
    trainer = make_trainer(
        perceptual=backbone, discriminator="features", discriminator_lr=3e-3, r1_weight=1e-3
    )
    real, fake = images(8), images(8).roll(1, 0).lerp(torch.zeros(()), 0.7).requires_grad_()
    trainer.generator_loss(fake).backward()
    assert fake.grad.abs().sum() > 0
    check_that_it_learns(trainer, real, fake)


def test_its_learning_rate_follows_the_common_schedule() -> None:
    group = make_trainer(discriminator_lr=5e-4).optimized.optimizers[0].param_groups[0]
    assert group["lr_ratio"] == pytest.approx(0.5)  # relative to the default 1e-3


def test_frozen_ends_after_an_error() -> None:
    model = Discriminator(3, 8, 2)
    with pytest.raises(RuntimeError), frozen(model):
        model(torch.zeros(1, 1, 16, 16))  # one channel instead of three
    assert all(p.requires_grad for p in model.parameters())
    assert model.training
