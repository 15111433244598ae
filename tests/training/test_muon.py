"""Muon: orthogonal updates, which weights it trains, skipped updates, and its state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from imgtf.pretrained import PretrainedModel
from imgtf.prior.config import PriorConfig
from imgtf.prior.model import Prior
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.model import Tokenizer
from imgtf.training.config import TrainingConfig
from imgtf.training.muon import LR_RATIO, Muon, orthogonalised
from imgtf.training.optimizers import make_optimizers

from .line import LineModel, trainer


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (2, 40, 8)])
def test_orthogonalised_matrices_keep_their_directions_and_have_equal_singular_values(
    shape: tuple[int, ...], bf16: bool
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100
    u, values, v = torch.linalg.svd(orthogonalised(matrices, bf16=bf16), full_matrices=False)
    assert values.min() > 0.6
    assert values.max() < 1.3
    own_u, _, own_v = torch.linalg.svd(matrices, full_matrices=False)
    assert (u @ v * (own_u @ own_v)).sum((1, 2)).div(min(shape[1:])).min() > 0.9


@pytest.mark.parametrize("bf16", [False, True])
def test_matrices_of_low_rank_stay_bounded(bf16: bool) -> None:
    """Gradients often have a low rank, and rounding errors in the other directions must not grow."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(shape, generator=generator) for shape in ((1, 64, 3), (1, 3, 256)))
    values = torch.linalg.svdvals(orthogonalised(left @ right, bf16=bf16))[0]
    assert values[:3].min() > 0.6
    assert values.max() < 1.3


def test_a_convolution_moves_as_the_matrix_of_its_weights() -> None:
    conv, gradient = nn.Conv2d(4, 8, 3, bias=False), torch.randn(8, 4, 3, 3)
    matrix = nn.Parameter(conv.weight.detach().flatten(1).clone())
    conv.weight.grad, matrix.grad = gradient.clone(), gradient.flatten(1)
    before = conv.weight.detach().clone()
    for weight in (conv.weight, matrix):
        Muon([weight], 1e-3, weight_decay=0.1).step()
    torch.testing.assert_close(conv.weight.flatten(1), matrix)
    length = (conv.weight - before * (1 - 1e-4)).flatten(1)
    assert torch.linalg.matrix_norm(length, 2).item() == pytest.approx(1e-3 * LR_RATIO, rel=0.3)


def test_an_update_that_is_skipped_changes_neither_weights_nor_momentum() -> None:
    weight = nn.Parameter(torch.randn(6, 6))
    optimizer = Muon([weight], 1e-3, weight_decay=0.1)
    weight.grad = torch.randn(6, 6)
    optimizer.step()
    before, momentum = weight.detach().clone(), optimizer.state[weight]["momentum"].clone()
    weight.grad = torch.full((6, 6), torch.nan)
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(weight, before)
    assert torch.equal(optimizer.state[weight]["momentum"], momentum)


def tokenizer(**changes: object) -> Tokenizer:
    settings = {"image_size": 8, "width": 8, "latent_width": 8, "norm_groups": 4, "codebook_size": 16}
    return Tokenizer(TokenizerConfig(**settings | changes))  # type: ignore[arg-type]


MODELS = {
    "conv": (lambda: tokenizer(multipliers=(1, 2), stem=2), ("conv_in", "to_pixels", "conv_out", "codebook")),
    "vit": (lambda: tokenizer(network="vit", heads=2), ("embed", "pixels", "conv_out", "codebook")),
    "prior": (lambda: Prior(PriorConfig((2, 2), 16, width=16, depth=1, heads=2)), ("head", "embedding")),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_is_in_one_optimizer_and_the_outer_layers_are_with_adamw(name: str) -> None:
    make, outer = MODELS[name]
    model: PretrainedModel = make()
    optimizers = make_optimizers(model, TrainingConfig(optimizer="muon", weight_decay=0.1))
    names = {id(p): name for name, p in model.named_parameters()}
    found = {key: [names[id(p)] for p in parameters(one)] for key, one in optimizers.items()}
    assert sorted(found["optimizer"] + found["muon"]) == sorted(names.values())
    assert all(weight.endswith("weight") for weight in found["muon"])
    assert not [weight for weight in found["muon"] if any(part in weight for part in outer)]
    assert set(make_optimizers(model, TrainingConfig())) == {"optimizer"}


def test_adamw_beside_muon_follows_the_ratio_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first update of AdamW moves a weight by the learning rate."""
    monkeypatch.setattr(LineModel, "adamw_lr_ratio", 5.0)
    for name, ratio in (("adamw", 1.0), ("muon", 5.0)):
        run = trainer(tmp_path / name, optimizer=name, steps=1, ema_decay=0.0)
        before = run.stage.model.line.bias.detach().clone()
        run.run()
        moved = (run.stage.model.line.bias - before).abs().item()
        assert moved == pytest.approx(0.05 * ratio, rel=1e-3)


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
