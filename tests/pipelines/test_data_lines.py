"""What `tokenizer train` says about its images, the size that it takes, and broken images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgtf.data.config import DataConfig
from imgtf.data.probe import read_headers
from imgtf.data.source import open_source
from imgtf.pipelines.data_lines import fitting_preset, other_preset
from imgtf.pipelines.initial import tokenizer_config
from imgtf.pipelines.readable import LIST_FILE
from imgtf.pipelines.settings import Settings, preset_values

from .conftest import run

TINY = ["--steps", "1", "--batch-size", "8", "--width", "8", "--latent-width", "16", "--norm-groups", "4"]


def write(
    folder: Path, count: int, size: tuple[int, int], name: str = "{:03}.png", mode: str = "RGB"
) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for i in range(count):
        pixels = np.random.RandomState(i).randint(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / name.format(i))
    return folder


def trained(folder: Path, data: Path, capsys: Any, *options: str) -> tuple[dict[str, Any], list[str]]:
    """The configuration of a tokenizer trained for a step, and the lines about the data."""
    assert run("tokenizer", "train", "--data", data, "--model", folder, *TINY, *options) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("data: ")]
    return json.loads((folder / "tokenizer" / "config.json").read_text()), lines


@pytest.mark.parametrize(("outlier", "count"), [((5, 5), 1), ((3, 90), 2), ((1, 1), 3)])
def test_a_few_small_images_do_not_decide_the_size(
    outlier: tuple[int, int], count: int, tmp_path: Path, capsys: Any
) -> None:
    data = write(tmp_path / "d", 40, (64, 64))
    write(data, count, outlier, "icon{}.png")
    config, lines = trained(tmp_path / "m", data, capsys)
    assert config["image_size"] == 32
    assert len(lines) <= 5
    text = "\n".join(lines)
    assert f"{count} of {40 + count} smaller than 32 px are enlarged: icon" in text
    assert ("longer than 4:1" in text) == (outlier == (3, 90))


def test_images_smaller_than_the_preset_are_not_enlarged(tmp_path: Path, capsys: Any) -> None:
    config, lines = trained(tmp_path / "m", write(tmp_path / "d", 20, (22, 19)), capsys)
    assert config["image_size"] == 16
    assert "22x19 px, trained at 16x16 px" in lines[-1]


def test_images_below_the_factor_of_the_network_are_refused(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "d", 20, (3, 9))
    assert run("tokenizer", "train", "--data", data, "--model", tmp_path / "m", *TINY) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "most images have a side of 3 px, less than the network's factor 4; pass --image-size" in error


def test_the_preset_that_fits_is_named(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "d", 12, (128, 150))
    _, lines = trained(tmp_path / "m", data, capsys)
    assert "--preset medium (128 px) fits" in lines[-1]
    _, lines = trained(tmp_path / "n", data, capsys, "--image-size", "32")
    assert "--preset" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("side", "size", "preset", "named"),
    [
        (128, 32, "tiny", "--preset medium (128 px)"),
        (600, 32, "tiny", "--preset base (256 px)"),
        (600, 64, "small", "--preset base (256 px)"),
        (128, 64, "small", "--preset medium (128 px)"),
        (100, 64, "small", ""),
        (40, 32, "tiny", ""),
        (64, 32, "tiny", "--preset small (64 px)"),
    ],
)
def test_presets_by_the_side_of_the_images(side: int, size: int, preset: str, named: str) -> None:
    line = other_preset(side, size, preset)
    assert named in line
    assert bool(line) == bool(named)


@pytest.mark.parametrize(
    ("size", "named"),
    [
        ((48, 32), "loses 33% of most images; --image-size 32x48 has"),
        ((32, 64), "--image-size 64x32"),
        ((38, 32), ""),
    ],
)
def test_the_shape_of_most_images_is_named(
    size: tuple[int, int], named: str, tmp_path: Path, capsys: Any
) -> None:
    data = write(tmp_path / "d", 12, size)
    config, lines = trained(tmp_path / "m", data, capsys)
    assert config["image_size"] == 32  # a preset stays square
    assert named in lines[-1]
    assert ("--image-size" in lines[-1]) == bool(named)
    chosen = f"{size[1] // 4 * 4}x{size[0] // 4 * 4}"
    config, lines = trained(tmp_path / "n", data, capsys, "--image-size", chosen)
    assert config["image_size"] == [int(side) for side in chosen.split("x")]
    assert f"{size[0]}x{size[1]} px, trained at {chosen} px (height x width)" in lines[-1]


def test_images_that_a_size_that_is_not_square_enlarges_or_cuts_are_named(
    tmp_path: Path, capsys: Any
) -> None:
    data = write(write(tmp_path / "d", 20, (24, 16)), 1, (23, 16), "narrow{}.png")
    write(data, 1, (16, 100), "tall{}.png")
    _, lines = trained(tmp_path / "m", data, capsys, "--image-size", "16x24")
    assert "2 of 22 smaller than 16x24 px are enlarged: tall0.png (16x100), narrow0.png (23x16)" in lines[-1]
    assert "1 of 22 more than 4 times as long or wide as 16x24 px lose all but the centre: tall0" in lines[-1]


@pytest.mark.parametrize(
    ("images", "expected"),
    [((48, 32), (32, 48)), ((25, 40), (16, 24)), ((24, 18), (16, 24)), ((400, 300), (32, 48))],
)
def test_a_preset_that_is_not_square_is_reduced_in_its_shape(
    images: tuple[int, int], expected: tuple[int, int], tmp_path: Path
) -> None:
    """No preset is so today."""
    source = open_source(DataConfig(data=str(write(tmp_path / "d", 12, images)), held_out=0))[0]
    values = preset_values("tokenizer", "tiny") | {"image_size": [32, 48]}
    config = tokenizer_config(Settings("wide", values, frozenset()), read_headers(source))
    assert config.size == expected


def test_the_smallest_preset_fits_the_smallest_images() -> None:
    assert [fitting_preset(side) for side in (8, 32, 63, 64, 1000)] == [
        "tiny",
        "tiny",
        "tiny",
        "small",
        "base",
    ]


def test_labels_captions_and_animations_are_counted(tmp_path: Path, capsys: Any) -> None:
    for name in ("cat", "dog"):
        write(tmp_path / "d" / name, 8, (16, 16), name + "{}.png")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "d" / "cat" / "a.gif", save_all=True, append_images=frames[1:])
    _, lines = trained(tmp_path / "m", tmp_path / "d", capsys)
    assert "(class folders): 17 images" in lines[0]
    assert lines[1] == "data: 2 classes of 8 to 9 images"
    assert "1 of 17 have several frames, only the first is used: cat/a.gif" in lines[-1]


def break_images(data: Path, count: int) -> None:
    for file in sorted(data.iterdir())[:count]:
        file.write_bytes(file.read_bytes()[:-30])


@pytest.mark.parametrize("count", [2, 9])
def test_all_broken_images_are_named_before_the_first_step(count: int, tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "d", 40, (16, 16))
    break_images(data, count)
    assert run("tokenizer", "train", "--data", data, "--model", tmp_path / "m", *TINY) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{count} of 40 images cannot be read, more than 1 %" in error
    listed = error if count <= 5 else (tmp_path / "m" / LIST_FILE).read_text()
    assert all(f"{number:03}.png: " in listed for number in range(count))
    assert (str(tmp_path / "m" / LIST_FILE) in error) == (count > 5)


def test_one_broken_image_is_left_out_and_named_once(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "d", 40, (16, 16))
    break_images(data, 1)
    assert run("tokenizer", "train", "--data", data, "--model", tmp_path / "m", *TINY, "--steps", "8") == 0
    log = capsys.readouterr().err
    assert log.count("000.png") == 1
    assert "1 of 40 images cannot be read and are left out: " in log
    assert "left out: 1 cannot be read" in log
    command = ["tokenizer", "train", "--data", data, "--model", tmp_path / "n", "--bad-images", "fail", *TINY]
    assert run(*command) == 1
    assert "000.png" in capsys.readouterr().err.splitlines()[-1]


def test_a_grey_data_set_with_one_colour_image_stays_grey(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "d", 120, (16, 16), mode="L")
    write(data, 1, (16, 16), "logo{}.png")
    config, lines = trained(tmp_path / "m", data, capsys)
    assert config["channels"] == 1
    assert "1 of 121 in colour become grey: logo0.png" in lines[-1]


def test_a_resumed_run_does_not_advise_another_preset(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "d", 12, (64, 64))
    trained(tmp_path / "m", data, capsys)
    assert run("tokenizer", "train", "--model", tmp_path / "m", "--resume", "--steps", "2") == 0
    assert "--preset" not in capsys.readouterr().err


def test_the_prior_names_all_broken_images_before_it_encodes(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "d", 40, (16, 16))
    trained(tmp_path / "m", data, capsys)
    break_images(data, 3)
    assert run("prior", "train", "--model", tmp_path / "m", "--steps", "1") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "3 of 40 images cannot be read" in error
    assert all(f"{number:03}.png" in error for number in range(3))


def test_the_model_card_describes_the_images(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "d", 30, (64, 64))
    write(data, 1, (5, 5), "icon{}.png")
    trained(tmp_path / "m", data, capsys)
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert "31 images, 28 for training, 3 held out" in card
    assert "1 of 31 smaller than 32 px are enlarged: icon0.png (5x5)" in card
    assert "--preset" not in card.split("All settings")[0].replace("train it again", "")


def test_a_resumed_run_warns_of_other_images(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "d", 20, (16, 16))
    trained(tmp_path / "m", data, capsys)
    resume = ["tokenizer", "train", "--model", tmp_path / "m", "--resume", "--steps"]
    assert run(*resume, "2") == 0
    assert "has changed since" not in capsys.readouterr().err
    write(data, 1, (16, 16), "new{}.png")
    assert run(*resume, "3") == 0
    assert "d has changed since the state was saved" in capsys.readouterr().err


def test_a_broken_image_with_several_captions_is_named_once(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "d", 40, (16, 16))
    rows = [{"file_name": f"{i:03}.png", "text": text} for i in range(40) for text in ("one", "two", "three")]
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    break_images(data, 1)
    assert run("tokenizer", "train", "--data", data, "--model", tmp_path / "m", *TINY) == 0
    log = capsys.readouterr().err
    assert "1 of 40 images cannot be read and are left out: " in log
    assert log.count("000.png") == 1
