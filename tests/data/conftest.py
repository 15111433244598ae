"""Image files in a temporary folder, and a temporary cache for `datasets`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use neither the user's cache nor the network. `datasets` reads its environment variables on import only."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def save():
    """save(path, colour, size, mode): write an image file, creating its folders."""

    def make(path: Path, colour: object = "red", size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, colour).save(path)
        return path

    return make


@pytest.fixture
def noise():
    """noise(width, height): an RGB image of random pixels."""

    def make(width: int, height: int, seed: int = 0) -> Image.Image:
        return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8))

    return make


@pytest.fixture
def shared():
    """shared(name): the folder of a real data set. Skips the test if it is missing."""

    def find(name: str) -> str:
        if not (SHARED / name).is_dir():
            pytest.skip(f"no {SHARED / name}")
        return str(SHARED / name)

    return find
