"""The transformer network, and properties of both networks: sizes, channels, gradient checkpointing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from imgtf.errors import ConfigError
from imgtf.nn.rotary import rotate
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.model import Tokenizer
from imgtf.tokenizer.vit import attention_inputs

NETWORKS: dict[str, dict[str, Any]] = {
    "conv": {"width": 8, "multipliers": (1, 2, 2), "attention_levels": (1,), "latent_width": 8, "norm_groups": 4},
    "vit": {"network": "vit", "width": 16, "patch": 4, "depth": 2, "heads": 2},
    "vit_registers": {"network": "vit", "width": 16, "patch": 4, "depth": 2, "heads": 2, "registers": 3},
}  # fmt: skip
every_network = pytest.mark.parametrize("network", NETWORKS)


def tiny(network: str, **changes: Any) -> Tokenizer:
    torch.manual_seed(0)
    settings = {"image_size": 16, "codebook_size": 32, "codebook_dim": 4, "dead_code_threshold": 0.0}
    return Tokenizer(TokenizerConfig(**settings | NETWORKS[network] | changes))


def images(channels: int = 3, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@every_network
@pytest.mark.parametrize("channels", [1, 3, 4])
@torch.no_grad()
def test_any_channels_and_any_multiple_of_the_factor_work(network: str, channels: int) -> None:
    model = tiny(network, channels=channels).eval()
    assert model.config.factor == 4
    for height, width in [(16, 16), (32, 8), (4, 20)]:
        x = images(channels, height, width)
        result = model(x)
        assert result.images.shape == x.shape
        assert result.codes.shape == (2, height // 4, width // 4)
        torch.testing.assert_close(model.decode(result.codes), result.images.clamp(-1, 1))


@every_network
def test_every_parameter_gets_a_gradient(network: str) -> None:
    model = tiny(network).train()
    x = images()
    result = model(x)
    ((result.images - x).square().mean() + result.losses["commitment"]).backward()
    names = [n for n, p in model.named_parameters() if p.numel()]
    assert [n for n in names if model.get_parameter(n).grad.abs().sum() == 0] == []


@every_network
@torch.no_grad()
def test_a_loaded_tokenizer_is_the_same(network: str, tmp_path: Path) -> None:
    model = tiny(network, gradient_checkpointing=True).eval()
    model.save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(images()).images, model(images()).images)


@every_network
def test_checkpointing_stores_less_and_changes_no_gradient(network: str) -> None:
    gradients, stored = [], []
    for checkpointing in (False, True):
        model = tiny(network, gradient_checkpointing=checkpointing).train()
        count = Count()
        with saved_tensors_hooks(count, lambda x: x):
            result = model(images())
        (result.images.square().mean() + result.losses["commitment"]).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
        stored.append(count.numbers)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
    assert stored[1] < 0.6 * stored[0]


class Count:
    """Counts the numbers that autograd stores for the backward pass."""

    def __init__(self) -> None:
        self.numbers = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.numbers += x.numel()
        return x


@every_network
def test_the_network_learns_an_image(network: str) -> None:
    model = tiny(network).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    x = images()[:1].mul(0).add(torch.linspace(-1, 1, 16))
    losses = []
    for _ in range(60):
        result = model(x)
        loss = (result.images - x).square().mean() + 0.25 * result.losses["commitment"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@torch.no_grad()
def test_attention_scores_depend_on_relative_positions_only() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8)
    rotary = attention_inputs((5, 7), 8, registers=1, device=torch.device("cpu")).rotary
    assert rotary is not None
    queries, keys = (rotate(x.expand(1, 1, 36, 8), rotary.query) for x in (q, k))
    scores = (queries @ keys.mT)[0, 0]

    def score(a: tuple[int, int], b: tuple[int, int]) -> Tensor:
        return scores[1 + a[0] * 7 + a[1], 1 + b[0] * 7 + b[1]]

    torch.testing.assert_close(score((0, 0), (1, 2)), score((3, 4), (4, 6)))
    assert not torch.isclose(score((0, 0), (1, 2)), score((0, 0), (2, 1)))
    assert not torch.isclose(score((0, 0), (1, 2)), score((1, 2), (0, 0)))
    torch.testing.assert_close(scores[0, 0], (q * k).sum())  # registers are not rotated


@torch.no_grad()
def test_equal_patches_at_different_positions_have_different_latents() -> None:
    """Fifteen patches are equal: without positions their latents would be equal too."""
    model = tiny("vit").eval()
    x = torch.zeros(1, 3, 16, 16)
    x[..., :4, :4] = 1
    latents = model.encoder(x)[0].flatten(1).mT  # (T, D)
    assert torch.cdist(latents, latents).add(torch.eye(16)).min() > 1e-5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 3}, "multiple of 4"),
        ({"width": 12, "heads": 2}, "multiple of 4"),
        ({"patch": 5}, "image_size 16 is not a multiple of 5"),
    ],
)
def test_invalid_configurations_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny("vit", **wrong)


def test_settings_of_the_other_network_are_ignored() -> None:
    assert tiny("vit", norm_groups=7, multipliers=()).config.factor == 4
    assert tiny("conv", heads=3, patch=5).config.factor == 4
