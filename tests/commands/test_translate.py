"""`imgtf edit upscale` and `translate`: files and folders in, a folder out; wrong input is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgtf import Pipeline
from imgtf.pipelines.editing.translate import translated

from ..pipelines.conftest import run
from ..pipelines.editing.test_translate import noise, tiny


@pytest.fixture(scope="module")
def translating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("translating") / "m"
    tiny().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def upscaling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upscaling") / "m"
    tiny(4).save_pretrained(folder)
    return folder


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with images of several shapes, one of them broken, and a text."""
    folder = tmp_path / "inputs"
    (folder / "sub").mkdir(parents=True)
    noise(16, 16, 0).save(folder / "a.png")
    noise(16, 28, 1).save(folder / "grid.png")
    noise(32, 32, 2).save(folder / "sub" / "A.png")
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_folder_is_translated_with_names_and_shapes_kept(
    translating: Path, inputs: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    command = ["edit", "translate", inputs, "--model", translating, "-n", "2", "--seed", "5", "--out", out]
    assert run(*command, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"grid": str(out / "grid.png"), "n": 6}
    assert "1 of 4 images cannot be read and are left out:" in printed.err
    assert "broken.png: not an image" in printed.err
    assert "grid.png: sampled window by window at 28x16 pixels" in printed.err
    assert "1 of 3 images were resized to the model's 16 pixels" in printed.err
    names = ["a_1", "a_2", "grid-2_1", "grid-2_2", "A-2_1", "A-2_2"]
    assert {p.name for p in out.glob("*")} == {*(f"{name}.png" for name in names), "grid.png", "samples.json"}
    with Image.open(out / "grid-2_1.png") as wide:
        assert wide.size == (28, 16)
    found = json.loads((out / "samples.json").read_text())
    assert [row["file"] for row in found["images"]] == [f"{name}.png" for name in names]
    assert [Path(row["input"]).name for row in found["images"]][::2] == ["a.png", "grid.png", "A.png"]
    assert found["edit"] == "translate"
    files = [Path(row["input"]) for row in found["images"]][::2]
    expected = translated(Pipeline.from_pretrained(translating), files, 2, seed=5)
    for row, sample in zip(found["images"], expected, strict=True):
        with Image.open(out / row["file"]) as image:
            assert np.array_equal(np.asarray(image), np.asarray(sample.image))


def test_files_are_enlarged(upscaling: Path, tmp_path: Path, capsys: Any) -> None:
    noise(4, 4).save(tmp_path / "small.png")
    noise(6, 8).save(tmp_path / "wide.webp", lossless=True)
    files = [tmp_path / "small.png", tmp_path / "wide.webp"]
    assert run("edit", "upscale", *files, "--model", upscaling, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "grid.png")
    for name, size in (("small", (16, 16)), ("wide", (32, 24))):
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert image.size == size


def test_results_go_into_the_model_folder_by_default(upscaling: Path, tmp_path: Path) -> None:
    noise(4, 4).save(tmp_path / "small.png")
    for number in ("001", "002"):
        assert run("edit", "upscale", tmp_path / "small.png", "--model", upscaling) == 0
        assert (upscaling / "upscaled" / number / "small.png").exists()


def test_the_grid_shows_each_input_before_its_results(translating: Path, tmp_path: Path) -> None:
    map_ = Image.new("P", (16, 16), 1)
    map_.putpalette([0, 0, 0, 255, 0, 0])
    map_.save(tmp_path / "map.png")
    assert (
        run("edit", "translate", tmp_path / "map.png", "--model", translating, "--out", tmp_path / "out") == 0
    )
    with (
        Image.open(tmp_path / "out" / "grid.png") as grid,
        Image.open(tmp_path / "out" / "map.png") as result,
    ):
        cells = np.asarray(grid)[2:66, 2:66], np.asarray(grid)[2:66, 68:132]
        assert (cells[0] == (255, 0, 0)).all()
        assert np.array_equal(cells[1][::4, ::4], np.asarray(result))


def test_wrong_input_is_one_line_and_nothing_is_written(
    translating: Path, upscaling: Path, model: Path, inputs: Path, tmp_path: Path, capsys: Any
) -> None:
    image, empty, out = inputs / "a.png", tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    cases: list[tuple[str, Path, list[Any], int, str]] = [
        ("translate", upscaling, [image], 1, "use `imgtf edit upscale`"),
        ("upscale", translating, [image], 1, "use `imgtf edit translate`"),
        ("translate", model, [image], 1, "conditioned on label, not on an image"),
        ("translate", translating, [tmp_path / "none.png"], 1, "none.png: no such file or folder"),
        ("translate", translating, [image, tmp_path / "none.png"], 1, "none.png: no such file or folder"),
        ("translate", translating, [empty], 1, "no image files in this folder"),
        (
            "translate",
            translating,
            [inputs / "broken.png"],
            1,
            "broken.png: not an image that Pillow can read",
        ),
        ("translate", translating, [image, "--label", "red"], 1, "not on label"),
        ("translate", translating, [image, "--order", "halton"], 1, "order"),
        ("translate", tmp_path / "nowhere", [image], 1, "nowhere"),
        ("translate", translating, [], 2, "Missing argument"),
        ("upscale", upscaling, [image, "-n", "0"], 2, "--n"),
    ]
    for command, folder, arguments, code, message in cases:
        capsys.readouterr()
        assert run("edit", command, *arguments, "--model", folder, "--out", out) == code, arguments
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
        assert message in line
        assert not out.exists()
    assert run("edit", "translate", image, "--model", translating, "--out", inputs) == 1
    assert "is not empty" in capsys.readouterr().err


def test_a_source_image_is_never_overwritten(upscaling: Path, tmp_path: Path, capsys: Any) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
    noise(4, 4, 0).save(own / "a.png")
    noise(4, 4, 1).save(other / "b.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    (tmp_path / "link").symlink_to(own)
    for out in (own, tmp_path / "link"):
        arguments = [own / "a.png", other / "b.png", "--model", upscaling, "--out", out, "--force"]
        assert run("edit", "upscale", *arguments) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
        assert f"{out / 'a.png'} would replace the source image {own / 'a.png'}" in line
        assert "--out" in line
    noise(4, 4).save(own / "grid.png")  # its result has another name, but the grid has this one
    before[own / "grid.png"] = (own / "grid.png").read_bytes()
    assert run("edit", "upscale", own / "grid.png", "--model", upscaling, "--out", own, "--force") == 1
    assert {path: path.read_bytes() for path in (*own.iterdir(), *other.iterdir())} == before
    assert run("edit", "upscale", own / "a.png", "--model", upscaling, "--out", other, "--force") == 0
