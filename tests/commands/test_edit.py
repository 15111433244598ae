"""`imgtf edit complete`, `inpaint`, `vary` and `mix`: files, records, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgtf.commands.edit import fill as fill_command
from imgtf.commands.edit import variation as variation_command
from imgtf.pipelines.editing import fill, mixing, variation

from ..pipelines.conftest import run
from .conftest import COMMANDS


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and masks, good and bad. The model's images have 16 px, its tokens 2 px."""
    folder = tmp_path_factory.mktemp("edit")
    generator = np.random.default_rng(0)
    for name, size in (("a", (16, 16)), ("b", (16, 16)), ("large", (40, 24))):
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    mask = Image.new("L", (16, 16))
    mask.save(folder / "empty.png")
    mask.paste(255, (5, 4, 8, 10))
    mask.save(folder / "mask.png")
    mask.resize((8, 8)).save(folder / "small.png")
    (folder / "text.png").write_text("not an image")
    (folder / "cut.png").write_bytes((folder / "large.png").read_bytes()[:900])
    return folder


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def edit(name: str, model: Path, out: Path, *arguments: object) -> int:
    return run("edit", name, *map(str, arguments), "--model", model, "--out", out)


def test_inpaint_writes_variants_a_grid_and_a_record(
    model: Path, files: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert (
        edit("inpaint", model, out, files / "a.png", "--mask", files / "mask.png", "-n", 3, "--label", "red")
        == 0
    )
    assert capsys.readouterr().out.strip() == str(out / "grid.png")
    names = {file.name for file in out.iterdir()}
    assert names == {"grid.png", "samples.json", *(f"00000{i}.png" for i in range(3))}
    original = pixels(files / "a.png")
    for i in range(3):
        found = pixels(out / f"00000{i}.png")
        assert (found[:4] == original[:4]).all()
        assert (found[:, 8:] == original[:, 8:]).all()
        assert (found[4:10, 4:8] != original[4:10, 4:8]).any()
    record = json.loads((out / "samples.json").read_text())
    assert record["edit"] == "inpaint"
    assert record["image"] == str(files / "a.png")
    assert record["mask"] == str(files / "mask.png")
    assert (record["box"], record["feather"], record["keep_decoded"]) == (None, 4, False)
    assert [row["label"] for row in record["images"]] == ["red"] * 3


def test_the_grid_starts_with_the_input(model: Path, files: Path, tmp_path: Path) -> None:
    assert edit("inpaint", model, tmp_path / "out", files / "a.png", "--box", "0,0,8,8", "-n", 2) == 0
    grid = pixels(tmp_path / "out" / "grid.png")  # images of 16 px are enlarged to 64
    assert grid.shape[1] == 2 + 3 * 66
    assert (grid[2:34, 2:34] == 128).all()
    assert (grid[34:66:4, 2:66:4] == pixels(files / "a.png")[8:]).all()


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [([], slice(0, 8)), (["--keep", "0.25"], slice(0, 4)), (["--box", "0,6,16,16"], slice(6, 16))],
)
def test_complete_keeps_its_part(
    arguments: list[str], kept: slice, model: Path, files: Path, tmp_path: Path
) -> None:
    assert edit("complete", model, tmp_path / "out", files / "a.png", "-n", 2, *arguments) == 0
    for name in ("000000", "000001"):
        found, original = pixels(tmp_path / "out" / f"{name}.png"), pixels(files / "a.png")
        changed = (found != original).any((1, 2))
        assert not changed[kept].any()
        assert changed.any()


def test_results_go_to_the_next_free_folder_and_a_resize_is_said(
    model: Path, files: Path, tmp_path: Path, capsys: Any
) -> None:
    own = Path(shutil.copytree(model, tmp_path / "m"))
    assert run("edit", "vary", files / "large.png", "--model", own, "-n", "1", "--json") == 0
    captured = capsys.readouterr()
    grid = Path(json.loads(captured.out)["grid"])
    assert grid == own / "edits" / "001" / "grid.png"
    said = f"{files / 'large.png'} (40x24 px) was cropped and resized to the model's 16 pixels"
    assert said in captured.err
    record = json.loads((grid.parent / "samples.json").read_text())
    assert (record["edit"], record["strength"], record["choose"]) == ("vary", 0.3, "least-likely")


def test_variants_are_the_same_at_any_batch_size(model: Path, files: Path, tmp_path: Path) -> None:
    for size in ("1", "4"):
        assert edit("vary", model, tmp_path / size, files / "a.png", "--seed", 5, "--batch-size", size) == 0
    for i in range(4):
        name = f"00000{i}.png"
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "4" / name).read_bytes()


def test_mix_writes_strips(model: Path, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        edit("mix", model, out, files / "a.png", files / "b.png", "--steps", 3, "-n", 2, "--label", "red")
        == 0
    )
    names = [f"00000{strip}-0{step}.png" for strip in range(2) for step in range(3)]
    record = json.loads((out / "samples.json").read_text())
    assert [(row["file"], row["index"], row["step"]) for row in record["images"]] == [
        (name, i // 3, i % 3) for i, name in enumerate(names)
    ]
    assert record["images_mixed"] == [str(files / "a.png"), str(files / "b.png")]
    ends = [pixels(out / name) for name in names]
    assert (ends[0] == ends[3]).all()
    assert (ends[2] == ends[5]).all()
    assert (ends[1] != ends[4]).any()
    assert pixels(out / "grid.png").shape[1] == 2 + 3 * 66


def test_the_commands_have_the_defaults_of_the_library() -> None:
    defaults = {
        (name, param.name): param.default
        for name in ("complete", "inpaint", "vary", "mix")
        for param in COMMANDS["edit", name].params
    }
    assert defaults["inpaint", "feather"] == defaults["complete", "feather"] == fill.FEATHER
    assert fill_command.MAX_FEATHER == fill.MAX_FEATHER
    assert defaults["vary", "strength"] == variation.STRENGTH
    assert defaults["mix", "strength"] == mixing.STRENGTH
    assert defaults["mix", "steps"] == mixing.STEPS
    assert variation_command.CHOICES == variation.CHOICES
    assert variation_command.MAX_STEPS == mixing.MAX_STEPS


BAD: list[tuple[str, list[str], int, str]] = [
    ("inpaint", ["a.png"], 2, "either --mask or --box"),
    ("inpaint", ["a.png", "--mask", "mask.png", "--box", "0,0,4,4"], 2, "either --mask or --box"),
    ("inpaint", ["a.png", "--mask", "small.png"], 1, "small.png has 8x8 px and the image 16x16 px"),
    ("inpaint", ["large.png", "--mask", "mask.png"], 1, "mask.png has 16x16 px and the image 40x24 px"),
    ("inpaint", ["a.png", "--mask", "empty.png"], 1, "empty.png marks nothing"),
    ("inpaint", ["a.png", "--mask", "missing.png"], 1, "missing.png"),
    ("inpaint", ["a.png", "--mask", "text.png"], 1, "text.png"),
    ("inpaint", ["a.png", "--box", "0,0,17,4"], 1, "not inside the image of 16x16 px"),
    ("inpaint", ["a.png", "--box", "-2,0,4,4"], 1, "not inside the image"),
    ("inpaint", ["a.png", "--box", "4,4,4,8"], 1, "is empty"),
    ("inpaint", ["a.png", "--box", "8,8,4,4"], 1, "is empty"),
    ("inpaint", ["a.png", "--box", "1,2,3"], 2, "is not a box"),
    ("inpaint", ["a.png", "--box", "a,b,c,d"], 2, "is not a box"),
    ("inpaint", ["large.png", "--box", "0,0,4,4"], 1, "marks nothing in the centre"),
    ("inpaint", ["a.png", "--box", "0,0,4,4", "--feather", "-1"], 2, "feather"),
    ("inpaint", ["a.png", "--box", "0,0,4,4", "--background", "nocolour"], 1, "not a colour"),
    ("inpaint", ["a.png", "--box", "0,0,4,4", "--label", "purple"], 1, "no label 'purple'"),
    ("inpaint", ["a.png", "--box", "0,0,4,4", "--text", "a cat"], 1, "not on text"),
    ("inpaint", ["missing.png", "--box", "0,0,4,4"], 1, "missing.png"),
    ("inpaint", ["cut.png", "--box", "0,0,4,4"], 1, "cut.png"),
    ("inpaint", [".", "--box", "0,0,4,4"], 2, "is a directory"),
    ("complete", ["text.png"], 1, "text.png"),
    ("complete", ["a.png", "--keep", "0"], 2, "keep"),
    ("complete", ["a.png", "--keep", "1"], 2, "keep"),
    ("complete", ["a.png", "--keep", "nan"], 2, "keep"),
    ("complete", ["a.png", "--keep", "0.5", "--box", "0,0,4,4"], 2, "exclude each other"),
    ("complete", ["a.png", "--box", "1,1,3,3"], 1, "holds no whole token"),
    ("complete", ["a.png", "--box", "0,0,16,16"], 1, "marks nothing"),
    ("vary", ["missing.png"], 1, "missing.png"),
    ("vary", ["a.png", "--strength", "0"], 2, "strength"),
    ("vary", ["a.png", "--strength", "1.5"], 2, "strength"),
    ("vary", ["a.png", "--choose", "best"], 2, "best"),
    ("vary", ["a.png", "--label", "purple"], 1, "no label 'purple'"),
    ("vary", ["a.png", "--order", "halton"], 1, "order"),
    ("mix", ["a.png"], 2, "Missing argument 'B'"),
    ("mix", ["a.png", "missing.png"], 1, "missing.png"),
    ("mix", ["a.png", "b.png", "--steps", "1"], 2, "steps"),
    ("mix", ["a.png", "b.png", "--strength", "2"], 2, "strength"),
    ("mix", ["a.png", "b.png", "--label", "purple"], 1, "no label 'purple'"),
]


@pytest.mark.parametrize(
    ("name", "arguments", "code", "message"),
    BAD,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_nothing_is_written(
    name: str, arguments: list[str], code: int, message: str, model: Path, files: Path, tmp_path: Path, capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(files)
    out = tmp_path / "out"
    assert edit(name, model, out, *arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    errors = [line for line in captured.err.splitlines() if "was cropped and resized" not in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not out.exists()


def test_a_folder_with_files_is_refused_before_the_model_is_loaded(
    files: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "old.txt").write_text("")
    assert edit("complete", tmp_path / "no-model", tmp_path, files / "a.png") == 1
    assert "is not empty" in capsys.readouterr().err
