"""`imgtf edit outpaint`, `imgtf sample --size` and `imgtf tokenizer reconstruct --full-size`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgtf.pipelines import evaluate

from ..pipelines.conftest import run
from ..pipelines.editing.test_extend import tiny
from ..pipelines.editing.test_translate import noise


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("any_size") / "m"
    tiny().save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    noise(16, 16).save(path)
    return path


def test_outpaint_writes_variants_around_the_image(model: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["edit", "outpaint", photo, "--model", model, "-n", "2", "--out", out]
    assert run(*command, "--left", "8", "--bottom", "3") == 0
    for name in ("000000.png", "000001.png"):
        with Image.open(out / name) as picture, Image.open(photo) as image:
            assert picture.size == (24, 19)
            assert np.array_equal(np.asarray(picture)[:16, 8:], np.asarray(image))
    record = json.loads((out / "samples.json").read_text())
    assert (record["edit"], record["left"], record["size"]) == ("outpaint", 8, None)


def test_outpaint_to_a_size(model: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("edit", "outpaint", photo, "--model", model, "-n", "1", "--out", out, "--size", "16x40") == 0
    with Image.open(out / "000000.png") as picture:
        assert picture.size == (40, 16)
    assert json.loads((out / "samples.json").read_text())["size"] == "16x40"


def test_samples_of_another_size(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("sample", "--model", model, "-n", "2", "--out", out, "--size", "10x50") == 0
    with Image.open(out / "000001.png") as picture:
        assert picture.size == (50, 10)
    assert json.loads((out / "samples.json").read_text())["size"] == "10x50"


@pytest.mark.parametrize("size", [(30, 21), (3, 2), (16, 16)])
def test_reconstructions_at_the_own_size(
    model: Path, tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Image.Image] = []
    draw = evaluate.draw_grid
    monkeypatch.setattr(
        evaluate, "draw_grid", lambda pair, columns: drawn.extend(pair) or draw(pair, columns)
    )
    image = tmp_path / "large.png"
    noise(*size).save(image)
    command = ["tokenizer", "reconstruct", image, "--full-size", "--model", model, "--out", tmp_path / "r"]
    assert run(*command) == 0
    original, reconstruction = drawn
    assert np.array_equal(np.asarray(original), np.asarray(noise(*size)))
    assert reconstruction.size == original.size
    assert (tmp_path / "r" / "large.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name what to add"),
        (["--left", "4", "--size", "32"], 2, "name what to add"),
        (["--left", "-4"], 2, "--left"),
        (["--size", "wide"], 2, "--size"),
        (["--size", "8"], 1, "name a larger size"),
        (["--left", "999999999"], 1, "more than"),
        (["--left", "4", "--background", "nocolour"], 1, "is not a colour"),
        (["--left", "4", "--label", "cat"], 1, "not on label"),
    ],
)
def test_wrong_outpainting_is_one_line_and_writes_nothing(
    arguments: list[str], code: int, message: str, model: Path, photo: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert run("edit", "outpaint", photo, *arguments, "--model", model, "--out", out) == code
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_outpainting_of_a_broken_image_writes_nothing(model: Path, tmp_path: Path, capsys: Any) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    out = tmp_path / "out"
    assert run("edit", "outpaint", broken, "--left", "4", "--model", model, "--out", out) == 1
    assert "broken.png" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--size", "0"], 2, "--size"),
        (["--size", "99999x99999"], 1, "more than"),
        (["--size", "16x32", "--image", "a.png"], 2, "imgtf edit translate"),
        (["--size", "16x32", "--dry-run"], 2, "trained size"),
    ],
)
def test_wrong_sizes_are_one_line_and_write_nothing(
    arguments: list[str], code: int, message: str, model: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert run("sample", *arguments, "--model", model, "--out", out) == code
    assert message in capsys.readouterr().err
    assert not out.exists()
