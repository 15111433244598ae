"""A small random feature network, real images with texture, and weights of a SqueezeNet in torch's cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from imgtf.data.config import DataConfig
from imgtf.data.source import ImageSource, open_source
from imgtf.evaluation.features import FeatureNetwork, custom
from imgtf.evaluation.references import RealImages

from ..pipelines.conftest import images, model
from ..tokenizer.conftest import backbone_weights

__all__ = ["backbone_weights", "images", "model"]


@pytest.fixture
def network() -> FeatureNetwork:
    """Means of random filters, at two scales."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return custom("random filters", layers.requires_grad_(False))


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 training and 80 held-out images: smooth random fields of random colours, in two classes."""
    folder = tmp_path_factory.mktemp("textures")
    random = np.random.default_rng(0)
    for split, count in (("train", 80), ("test", 40)):
        for name, cells in (("fine", 8), ("coarse", 3)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                field = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
                Image.fromarray(field).resize((16, 16), 3).save(folder / split / name / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="session")
def data(textures: Path) -> DataConfig:
    return DataConfig(data=str(textures), workers=0)


@pytest.fixture(scope="session")
def sources(data: DataConfig) -> tuple[ImageSource, ImageSource]:
    return open_source(data)


@pytest.fixture
def held_out(sources: tuple[ImageSource, ImageSource], data: DataConfig) -> RealImages:
    return RealImages(sources[1], data, (16, 16), 3)


@pytest.fixture
def training(sources: tuple[ImageSource, ImageSource], data: DataConfig) -> RealImages:
    return RealImages(sources[0], data, (16, 16), 3)


@pytest.fixture
def torch_home(tmp_path: Path, backbone_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache with a SqueezeNet of random weights, and no network to download others."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / backbone_weights.name).write_bytes(backbone_weights.read_bytes())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(url: str) -> None:
        raise OSError("no network")

    for module in ("inception", "perceptual"):
        monkeypatch.setattr(f"imgtf.tokenizer.{module}.reachable", refuse)
    return folder
