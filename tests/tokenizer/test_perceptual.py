"""LPIPS with random weights of the backbone, and with the published ones where they are available."""

from __future__ import annotations

import importlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf.errors import CheckpointError, ImgtfError
from imgtf.tokenizer import perceptual
from imgtf.tokenizer.perceptual import Perceptual, backbone_file

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "weights" / "torch_home"


@pytest.fixture(scope="module")
def lpips(backbone_weights: Path) -> Perceptual:
    return Perceptual("squeeze", backbone_weights)


def images(n: int = 2, channels: int = 3, side: int = 40) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("channels", "side"), [(3, 40), (1, 40), (4, 40), (3, 16), (1, 8)])
def test_zero_for_equal_images_else_positive(lpips: Perceptual, channels: int, side: int) -> None:
    x = images(channels=channels, side=side)
    assert (lpips(x, x) == 0).all()
    distances = lpips(x, -x)
    assert distances.shape == (2,)
    assert (distances > 0).all()


def test_it_equals_the_package(lpips: Perceptual) -> None:
    x, y = images(), images().flip(0)
    torch.testing.assert_close(lpips(x, y), lpips.lpips(x, y).flatten(), atol=1e-5, rtol=1e-4)


def test_grey_equals_colour_with_equal_channels(lpips: Perceptual) -> None:
    x, y = images(channels=1), images(channels=1).flip(0)
    torch.testing.assert_close(lpips(x, y), lpips(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1)))


def test_it_is_frozen_and_only_the_reconstruction_gets_a_gradient(lpips: Perceptual) -> None:
    x, y = images().requires_grad_(), images().flip(0).requires_grad_()
    lpips.train()(x, y).sum().backward()
    assert y.grad.abs().sum() > 0
    assert x.grad is None
    assert not any(p.requires_grad or p.grad is not None for p in lpips.parameters())
    assert not any(module.training for module in lpips.modules())


def test_black_images_have_finite_gradients(lpips: Perceptual) -> None:
    y = torch.full((1, 3, 40, 40), -1.0, requires_grad=True)
    lpips(images(1), y).sum().backward()
    assert y.grad.isfinite().all()


def test_half_precision_hardly_changes_it(lpips: Perceptual) -> None:
    x, y = images(), images().flip(0)
    with torch.autocast("cpu", torch.bfloat16):
        half = lpips(x, y)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, lpips(x, y), rtol=0.05, atol=0)


def test_building_it_does_not_advance_the_global_rng(backbone_weights: Path) -> None:
    before = torch.get_rng_state()
    Perceptual("squeeze", backbone_weights)
    assert torch.equal(before, torch.get_rng_state())


def no_network(*arguments: Any, **keywords: Any) -> None:
    raise urllib.error.URLError("no network")


def test_missing_weights_give_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(CheckpointError) as error:
        Perceptual("vgg")
    message = str(error.value)
    assert "\n" not in message
    for part in ("vgg16-397923af.pth", str(tmp_path / "hub" / "checkpoints"), "no network", "--lpips-file"):
        assert part in message


def test_weights_in_torch_home_are_found(
    backbone_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    target = tmp_path / "hub" / "checkpoints" / backbone_weights.name
    target.parent.mkdir(parents=True)
    target.symlink_to(backbone_weights)
    assert backbone_file("squeeze") == target


@pytest.mark.parametrize("what", ["absent", "text", "other"])
def test_wrong_weights_give_a_one_line_error(what: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if what == "text":
        path.write_text("not weights")
    elif what == "other":
        torch.save({"features.0.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"weights\.pth: (no such file|not the weights)") as error:
        Perceptual("squeeze", path)
    assert "\n" not in str(error.value)


def test_a_failed_import_gives_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("libcudart is missing\nand more")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImgtfError, match="libcudart is missing\\): install it, and a torchvision"):
        perceptual.import_with_torchvision("lpips")


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs the published weights")
def test_the_published_weights_order_noise_by_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(PUBLISHED))
    lpips = Perceptual("squeeze")
    x = images(side=64)
    weak, strong = (
        x + s * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)) for s in (0.1, 0.5)
    )
    assert (lpips(x, weak) < lpips(x, strong)).all()
