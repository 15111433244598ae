"""Images that are not square, end to end: both stages trained, sampled, reconstructed, measured, loaded again."""

from __future__ import annotations

import json
import logging
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgtf import Pipeline, Tokenizer
from imgtf.bench.cost import coding_flops
from imgtf.bench.random_data import noise_images
from imgtf.data.codes import open_codes
from imgtf.errors import ConfigError
from imgtf.pipelines.conditioning_images import reduced
from imgtf.pipelines.memory import decoded_at_once, image_bytes
from imgtf.pipelines.python import train_tokenizer
from imgtf.pipelines.tensor_bytes import decoder_bytes
from imgtf.tokenizer.config import TokenizerConfig

from .conftest import SMALL, SMALL_PRIOR, run

SIZE = (16, 24)
"""Height and width of the images that are trained on."""
COMMON: list[Any] = [
    "--image-size",
    "16x24",
    "--codebook-size",
    "16",
    "--codebook-dim",
    "4",
    "--steps",
    "4",
    *SMALL,
]
CONV = ["--width", "8", "--multipliers", "1,2,2", "--latent-width", "8", "--norm-groups", "4", *COMMON]
VIT = ["--network", "vit", "--width", "16", "--depth", "1", "--heads", "2", "--patch", "4", *COMMON]
PATCHES = ["--discriminator-weight", "0.5", "--discriminator-start", "1", "--discriminator-width", "8"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Landscapes, 36 px wide and 24 px high: bright on the left, dark on the right, in two classes."""
    folder, generator = tmp_path_factory.mktemp("photos") / "photos", np.random.default_rng(0)
    for name, colour in (("red", (1, 0.2, 0.2)), ("blue", (0.2, 0.2, 1))):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            ramp = np.linspace(240, 20, 36)[None, :, None] * np.array(colour)
            pixels = ramp + generator.integers(0, 16, (24, 36, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def train(photos: Path, folder: Path, network: list[Any], prior: tuple[str, ...] = ()) -> Path:
    assert run("tokenizer", "train", "--data", photos, "--model", folder, *network) == 0
    assert run("prior", "train", "--model", folder, "--steps", "4", *SMALL_PRIOR, *prior) == 0
    return folder


@pytest.fixture(scope="module", params=["conv", "vit"])
def model(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with both stages; tests must not change it."""
    network = CONV + PATCHES if request.param == "conv" else VIT
    return train(photos, tmp_path_factory.mktemp("model") / "m", network)


def read_config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "tokenizer" / "config.json").read_text()))


def test_both_stages_have_the_shape(model: Path) -> None:
    assert read_config(model)["image_size"] == [16, 24]
    assert tomllib.loads((model / "tokenizer" / "train.toml").read_text())["image_size"] == [16, 24]
    pipeline = Pipeline.from_pretrained(model, "cpu")
    assert pipeline.tokenizer.config.size == SIZE
    assert pipeline.tokenizer.config.grid == pipeline.prior.config.grid == (4, 6)
    assert "16x24" in repr(pipeline.tokenizer)
    assert "16x24 px, 4x6 tokens" in repr(pipeline)
    assert "16x24 pixels (height x width)" in (model / "README.md").read_text()


def test_caches_hold_the_grid_and_the_size(model: Path) -> None:
    infos = [open_codes(cache).info for cache in (model / "codes").iterdir()]
    assert {info.grid for info in infos} == {(4, 6)}
    assert {info.image_size for info in infos} == {SIZE}


def test_samples_are_the_same_at_every_batch_size(model: Path, tmp_path: Path) -> None:
    assert run("sample", "--model", model, "--n", "5", "--seed", "3", "--out", tmp_path / "s") == 0
    with Image.open(tmp_path / "s" / "000004.png") as image:
        assert image.size == (24, 16)
        written = np.asarray(image)
    pipeline = Pipeline.from_pretrained(model, "cpu")
    for batch_size in (2, 5):
        images = pipeline.sample(5, seed=3, batch_size=batch_size)
        assert (np.asarray(images[4]) == written).all()


def test_reconstructions_show_the_whole_image(model: Path, photos: Path, tmp_path: Path) -> None:
    image = photos / "red" / "0.png"
    assert run("tokenizer", "reconstruct", image, "--model", model, "--out", tmp_path / "r") == 0
    with Image.open(tmp_path / "r" / "0.png") as pair:
        assert pair.width / pair.height == pytest.approx(2 * 24 / 16, abs=0.1)
    tokenizer = Tokenizer.from_pretrained(model / "tokenizer", "cpu")
    codes = tokenizer.encode_images(image)
    assert codes.shape == (1, 4, 6)
    assert tokenizer.decode_images(codes)[0].size == (24, 16)


def test_both_stages_are_measured(model: Path, photos: Path, capsys: Any) -> None:
    assert run("tokenizer", "eval", "--model", model, "--json") == 0
    assert run("prior", "eval", "--model", model, "--json") == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = measured["bits_per_token"] * 24 / (16 * 24)
    assert measured["bits_per_pixel"] == pytest.approx(expected)


def test_info_names_the_shape(model: Path, capsys: Any) -> None:
    assert run("info", model, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["tokenizer"]["image"], facts["tokenizer"]["grid"]) == ("16x24x3", "4x6")


def test_a_run_is_resumed_and_repeated_with_its_size(tokenizer_only: Path, tmp_path: Path) -> None:
    shutil.copytree(tokenizer_only, tmp_path / "m")
    assert run("tokenizer", "train", "--model", tmp_path / "m", "--resume", "--steps", "6") == 0
    assert read_config(tmp_path / "m")["image_size"] == [16, 24]
    again: list[Any] = [
        "--config",
        tokenizer_only / "tokenizer" / "train.toml",
        "--model",
        tmp_path / "again",
    ]
    assert run("tokenizer", "train", *again, "--steps", "1") == 0
    assert read_config(tmp_path / "again")["image_size"] == [16, 24]


def test_a_square_tokenizer_is_continued_at_another_shape(model: Path, photos: Path, tmp_path: Path) -> None:
    """Weights of either network do not depend on the size, so a square tokenizer may be fine-tuned."""
    command: list[Any] = ["tokenizer", "train", "--data", photos, "--batch-size", "8", "--steps", "1"]
    assert run(*command, "--model", tmp_path / "a", "--init-from", model, "--image-size", "16") == 0
    assert read_config(tmp_path / "a")["image_size"] == 16
    assert (
        run(*command, "--model", tmp_path / "b", "--init-from", tmp_path / "a", "--image-size", "24x16") == 0
    )
    assert Tokenizer.read_config(tmp_path / "b" / "tokenizer").grid == (6, 4)


@pytest.mark.parametrize(("objective", "order"), [("random", "halton"), ("masked", "confidence")])
def test_other_objectives_and_orders(
    objective: str, order: str, photos: Path, tmp_path: Path, tokenizer_only: Path
) -> None:
    shutil.copytree(tokenizer_only, tmp_path / "m")
    prior = ["--objective", objective, "--positions", "learned", "--conditioning-size", "4"]
    assert run("prior", "train", "--model", tmp_path / "m", "--steps", "2", *SMALL_PRIOR, *prior) == 0
    pipeline = Pipeline.from_pretrained(tmp_path / "m", "cpu")
    image = photos / "blue" / "1.png"
    sampled = pipeline.sample(2, "red", image=str(image), order=order, sampling_steps=5)
    assert [one.size for one in sampled] == [(24, 16)] * 2


@pytest.fixture(scope="module")
def tokenizer_only(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "m"
    assert run("tokenizer", "train", "--data", photos, "--model", folder, *CONV) == 0
    return folder


def test_conditioning_images_of_another_shape_are_refused(
    photos: Path, tokenizer_only: Path, tmp_path: Path, capsys: Any
) -> None:
    other: list[Any] = ["--data", photos, "--model", tmp_path / "square", *CONV, "--image-size", "16"]
    assert run("tokenizer", "train", *other) == 0
    command: list[Any] = ["prior", "train", "--model", tokenizer_only, "--steps", "1", *SMALL_PRIOR]
    images: list[Any] = ["--conditioning-size", "4", "--conditioning-model", tmp_path / "square"]
    capsys.readouterr()
    assert run(*command, *images) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "its images have 16x16 px (height x width), those of the model 16x24 px" in line
    assert not (tokenizer_only / "prior").exists()


def test_reduced_images_keep_their_shape() -> None:
    noise = torch.rand(1, 1, 16, 16) * 2 - 1
    wide = torch.cat([noise, noise], dim=3)
    assert reduced(wide, 4).shape == wide.shape
    assert torch.allclose(reduced(wide, 4).mT, reduced(wide.mT.contiguous(), 4), atol=1e-5)


def test_a_size_that_is_no_multiple_of_the_factor_is_refused(
    photos: Path, tmp_path: Path, capsys: Any
) -> None:
    command: list[Any] = ["tokenizer", "train", "--data", photos, "--model", tmp_path / "m", *CONV]
    assert run(*command, "--image-size", "19x24") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "image_size 19x24 is not a multiple of 4" in line
    assert line.endswith("the nearest multiples are 16x24 or 20x24")
    assert not (tmp_path / "m").exists()


def test_training_from_python(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = {"width": 8, "latent_width": 8, "norm_groups": 4, "steps": 1, "batch_size": 8}
    with caplog.at_level(logging.INFO, "imgtf"):
        train_tokenizer(tmp_path / "m", data=photos, image_size=(24, 16), **small)
    assert Tokenizer.read_config(tmp_path / "m" / "tokenizer").size == (24, 16)
    assert "trained at 24x16 px (height x width)" in caplog.text
    with pytest.raises(ConfigError, match="image_size must be one side, such as 64, or height and width"):
        train_tokenizer(tmp_path / "other", data=photos, image_size=(8, 8, 8), **small)


def test_sizes_and_operations_follow_the_area(tmp_path: Path) -> None:
    """A picture twice as wide takes twice the memory and the operations of convolutions."""
    square = TokenizerConfig(
        image_size=16, width=8, norm_groups=4, multipliers=(1, 2), middle_attention=False
    )
    wide = replace(square, image_size=(16, 32))
    assert image_bytes(wide, 3, 2) == 2 * image_bytes(square, 3, 2)
    assert decoded_at_once(wide) * 2 == decoded_at_once(square)
    assert decoder_bytes(wide, 2) == pytest.approx(2 * decoder_bytes(square, 2), rel=0.01)
    assert coding_flops(wide) == pytest.approx([2 * flops for flops in coding_flops(square)], rel=0.01)
    noise_images(tmp_path / "noise", wide, 1)
    with Image.open(tmp_path / "noise" / "0.png") as image:
        assert image.size == (32, 16)
