"""A folder of small images in three classes, and a model trained on it for a moment."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgtf.cli import main

SMALL = [
    "--batch-size",
    "8",
    "--eval-every",
    "4",
    "--save-every",
    "100",
    "--log-every",
    "2",
    "--preview-every",
    "4",
]
SMALL_TOKENIZER = [
    "--image-size", "16", "--width", "8", "--multipliers", "1,2", "--latent-width", "8", "--norm-groups", "4",
    "--codebook-size", "16", "--codebook-dim", "4", *SMALL,
]  # fmt: skip
SMALL_PRIOR = ["--width", "16", "--depth", "2", "--heads", "2", *SMALL]


def run(*arguments: str | os.PathLike[str]) -> int:
    """Runs the command line in this process and returns its exit code."""
    with pytest.raises(SystemExit) as stopped:
        main([os.fspath(a) for a in arguments])
    return int(stopped.value.code or 0)


def draw_images(folder: Path, per_class: int = 10) -> Path:
    """Red, green and blue images with noise, in class folders."""
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = generator.integers(0, 60, (20, 20, 3), dtype=np.uint8)
            pixels[..., channel] += 160
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images") / "colours")


@pytest.fixture(scope="session")
def model(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with both stages; tests must not change it."""
    folder = tmp_path_factory.mktemp("model") / "m"
    assert (
        run("tokenizer", "train", "--data", images, "--model", folder, "--steps", "8", *SMALL_TOKENIZER) == 0
    )
    assert run("prior", "train", "--model", folder, "--steps", "8", *SMALL_PRIOR) == 0
    return folder
