"""Conditioning images of a stream: from a column of parquet files, and from second images in tar shards."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from imgtf.data import parts
from imgtf.data.codes import CodesDataset, open_codes
from imgtf.pipelines import encode

from ..training.processes import launch
from .conftest import SMALL_PRIOR, SMALL_TOKENIZER, run
from .test_shared_encoding import SMALL_BATCHES, files

COLUMN = ["--streaming", "--conditioning-column"]
MISSING = 17
"""Number of the pair whose conditioning image cannot be read."""


@pytest.fixture(scope="module")
def pairs(images: Path) -> list[tuple[bytes, bytes]]:
    """Colour images, each with its grey version, which has another suffix for the second half of them."""
    found = []
    for number, path in enumerate(sorted(images.rglob("*.png"), key=lambda path: path.stem)):
        grey = io.BytesIO()
        with Image.open(path) as image:
            image.convert("L").save(grey, "PNG" if number < 15 else "BMP")
        found.append((path.read_bytes(), grey.getvalue() if number != MISSING else b"no image"))
    return found


@pytest.fixture(scope="module")
def parquet(pairs: list[tuple[bytes, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of ten pairs, with the columns `image` and `map`."""
    folder = tmp_path_factory.mktemp("parquet")
    features = Features({"image": ImageFeature(), "map": ImageFeature()})
    for shard in range(3):
        own = pairs[shard * 10 :][:10]
        cells = {name: [{"bytes": pair[i], "path": None} for pair in own] for i, name in enumerate(features)}
        Dataset.from_dict(cells, features).to_parquet(folder / f"train-{shard}.parquet")
    return folder


@pytest.fixture(scope="module")
def tar(pairs: list[tuple[bytes, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pairs: `0001.png` with `0001.map.png`, later with `0001.map.bmp`, which the columns are not found by."""
    folder = tmp_path_factory.mktemp("tar")
    for shard in range(3):
        with tarfile.open(folder / f"s-{shard}.tar", "w") as archive:
            for number, pair in list(enumerate(pairs))[shard * 10 :][:10]:
                suffixes = ("png", "map.png" if number < 15 else "map.bmp", "json")
                for suffix, content in zip(suffixes, (*pair, b'{"place": "here"}'), strict=True):
                    info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def model(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    command = ["tokenizer", "train", "--data", images, "--model", folder, "--steps", "2", *SMALL_TOKENIZER]
    assert run(*command) == 0
    return folder


def encoded(
    model: Path, data: Path, out: Path, *more: Any, split: str = "train", crops: int = 1
) -> CodesDataset:
    """A new token cache: that of the training images, or of those held out. Epochs have other flips and crops."""
    command = ["tokenizer", "encode", "--model", model, "--data", data, "--out", out, "--flip"]
    assert run(*command, *map(str, more)) == 0
    (own,) = (p.parent for p in out.glob("*/cache.json") if open_codes(p.parent).info.split == split)
    return open_codes(own, flip=split == "train", crops=crops, seed=1)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_the_cache_is_that_of_the_same_shards_without_streaming(
    kind: str, model: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for later suffixes, and where a conditioning image is unreadable, which leaves out its row."""
    monkeypatch.setattr("imgtf.data.stream_shards.INSPECTED", 5)
    data, held = request.getfixturevalue(kind), ["--held-out", 0]
    streamed = encoded(model, data, tmp_path / "a", *COLUMN, "map", *held)
    copied = encoded(model, data, tmp_path / "b", "--conditioning-column", "map", *held)
    assert len(streamed) == len(copied) == 29
    for key in [(i, epoch) for i in range(29) for epoch in range(3)]:
        assert all(torch.equal(streamed[key][name], copied[key][name]) for name in ("codes", "image"))
    assert any(not torch.equal(streamed[i]["codes"], streamed[i]["image"]) for i in range(29))


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_images_and_conditioning_images_belong_together(
    kind: str, model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The images as their own conditioning images have the same codes, held out or not, in every crop."""
    data = request.getfixturevalue(kind)
    crops = ["--crop", "random", "--crop-scale", 0.5, "--crops-per-image", 2, "--held-out", 0.3]
    train = encoded(model, data, tmp_path / "a", *COLUMN, "image", *crops, crops=2)
    held_out = encoded(model, data, tmp_path / "b", *COLUMN, "image", *crops, split="train[held-out]")
    assert len(train) + len(held_out) == 30
    assert min(len(train), len(held_out)) > 3
    for codes in (train, held_out):
        drawn = [codes[i, epoch] for i in range(len(codes)) for epoch in range(6)]
        assert all(torch.equal(row["codes"], row["image"]) for row in drawn)


def test_two_processes_write_the_caches_of_one(
    model: Path, parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    command = ["tokenizer", "encode", "--model", model, "--data", parquet, *COLUMN, "map", "--out"]
    launch(tmp_path, [*command, two], before=SMALL_BATCHES)
    monkeypatch.setattr(encode, "BATCH_SIZE", 3)
    monkeypatch.setattr(parts, "PART", 5)
    assert run(*command, one) == 0
    assert files(one) == files(two)
    assert sum(name.endswith("codes-00001.arrow") for name in files(one)) == 1  # several parts


def test_a_prior_is_trained_on_pairs_of_a_stream(
    model: Path, parquet: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "tokenizer").symlink_to(model / "tokenizer")
    command = ["prior", "train", "--model", tmp_path / "m", "--data", parquet, *SMALL_PRIOR, "--steps", "2"]
    assert run(*command, *COLUMN, "map") == 0
    assert "conditions: image" in capsys.readouterr().err
    assert run("prior", "eval", "--model", tmp_path / "m") == 0


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("edges", "no column 'edges' (--conditioning-column); columns are image, map, place"),
        ("place", "the column 'place' holds no images; those that do are image, map"),
    ],
)
def test_columns_that_hold_no_images_are_refused(
    name: str, why: str, model: Path, tar: Path, tmp_path: Path, capsys: Any
) -> None:
    command = ["tokenizer", "encode", "--model", model, "--data", tar, "--out", tmp_path]
    assert run(*command, *COLUMN, name) == 1
    assert why in capsys.readouterr().err.splitlines()[-1]
