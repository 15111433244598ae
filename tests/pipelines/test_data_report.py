"""`imgtf data`: the facts, the text, the page."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgtf.data.config import DataConfig
from imgtf.pipelines.data_html import to_html
from imgtf.pipelines.data_report import DataReport, describe_data
from imgtf.pipelines.data_text import to_lines

from .conftest import run
from .test_data_lines import write

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Checks that tags are closed in order, and collects what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.references += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with odd files: small, long, animated, broken, a copy, a name with markup."""
    root = tmp_path_factory.mktemp("data") / "<b>猫 & dogs"
    write(root / "cat", 30, (64, 48), "c{}.png")
    for i in range(30):
        pixels = np.random.RandomState(100 + i).randint(0, 256, (5, 5, 3), np.uint8)
        (root / "狗").mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(root / "狗" / f"d{i}.png")
    with Image.open(root / "狗" / "d7.png") as image:
        image.save(root / "狗" / "near.jpg", quality=70)
    (root / "cat" / "copy.png").write_bytes((root / "cat" / "c0.png").read_bytes())
    write(root / "cat", 1, (5, 5), "icon{}.png")
    write(root / "狗", 1, (400, 50), "banner{}.png")
    (root / "cat" / "broken.jpg").write_bytes(b"nothing")
    (root / "cat" / "notes.txt").write_text("x")
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(root / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    return root


@pytest.fixture(scope="module")
def report(folder: Path) -> DataReport:
    return describe_data(DataConfig(data=str(folder)))


def test_every_file_is_accounted_for(report: DataReport) -> None:
    facts = report.facts
    assert facts["found"] == 66
    assert (
        facts["used"] + sum(one["count"] for one in facts["left_out"]) + len(facts["broken"])
        == facts["found"]
    )
    assert [error.split(":")[0] for error in facts["broken"]] == ["cat/broken.jpg"]
    assert facts["classes"]["images"] == {"cat": 34, "狗": 32}
    assert facts["decoded"] == facts["used"]


def test_sizes_shapes_and_kinds(report: DataReport) -> None:
    facts = report.facts
    assert facts["sizes"]["smallest"] == "5x5"
    assert facts["sizes"]["typical_side"] == 48
    assert sum(bar["count"] for bar in facts["sizes"]["histogram"]) == facts["used"]
    assert facts["sizes"]["extreme_shapes"] == {"count": 1, "names": ["狗/banner0.png (400x50)"]}
    assert facts["kinds"]["animated"] == {"count": 1, "names": ["cat/moving.gif (64x64)"]}
    assert facts["kinds"]["formats"] == {"PNG": 63, "JPEG": 1, "GIF": 1}
    assert facts["fits"]["preset"] == "tiny"
    assert facts["fits"]["enlarged"]["names"] == ["cat/icon0.png (5x5)"]


def test_duplicates_are_counted_and_named(report: DataReport) -> None:
    found = report.facts["duplicates"]
    assert found["exact"] == 1
    assert found["near"] == 1
    assert set(found["near_pairs"][0]) == {"狗/d7.png", "狗/near.jpg"}
    assert [len(images) for images in report.alike.values()] == [2]


def test_the_contact_sheet_has_images_of_every_class(report: DataReport) -> None:
    assert {name: len(images) for name, images in report.sheet.items()} == {"cat": 10, "狗": 10}
    assert all(max(image.size) <= 64 for images in report.sheet.values() for image in images)


def test_the_page_is_complete_and_loads_nothing(report: DataReport) -> None:
    page = to_html(report)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert "<b>猫" not in page
    assert "&lt;b&gt;猫 &amp; dogs" in page
    assert len(checker.references) == 3  # two classes and a pair
    for reference in checker.references:
        assert reference.startswith("data:image/png;base64,")
        with Image.open(io.BytesIO(base64.b64decode(reference.partition(",")[2]))) as image:
            assert image.width > 64
    assert not re.search(r"https?://", page)


def test_the_text_names_what_is_unusual(report: DataReport) -> None:
    text = "\n".join(to_lines(report.facts))
    for part in (
        "66 found, 65 used",
        "cat/broken.jpg: not an image",
        "狗 (32)",
        "cat/moving.gif",
        "1 exact; 1 pairs",
    ):
        assert part in text


@pytest.mark.parametrize("everything", [False, True])
def test_the_command_prints_json_and_writes_a_page(
    everything: bool, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    page = tmp_path / "new" / "page.html"
    command = ["data", folder, "--json", "--report", page, *(["--all"] if everything else [])]
    assert run(*command) == 0
    assert json.loads(capsys.readouterr().out)["found"] == 66
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert run(*command) == 1
    assert "page.html exists" in capsys.readouterr().err
    assert run(*command, "--force") == 0


def test_captions_are_measured(tmp_path: Path) -> None:
    write(tmp_path / "d", 12, (16, 16))
    rows = [{"file_name": f"{i:03}.png", "text": "é" * (i + 1)} for i in range(12)]
    (tmp_path / "d" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    captions = describe_data(DataConfig(data=str(tmp_path / "d"))).facts["captions"]
    assert (captions["count"], captions["different"], captions["longest_bytes"]) == (12, 12, 24)
    assert captions["length"] == {"min": 1, "median": 6, "max": 12}
    assert len(captions["examples"]) >= 5


def test_digits_and_sets_without_labels(tmp_path: Path) -> None:
    digits = describe_data(DataConfig())
    assert digits.facts["fits"]["channels"] == 1
    assert len(digits.sheet) == 10
    plain = describe_data(DataConfig(data=str(write(tmp_path / "d", 50, (16, 16))), held_out=0))
    assert {name: len(images) for name, images in plain.sheet.items()} == {"all images": 40}
    assert to_lines(plain.facts)[-1].startswith("token cache")


def test_images_too_small_for_every_preset_are_a_line_of_the_report(tmp_path: Path) -> None:
    facts = describe_data(DataConfig(data=str(write(tmp_path / "d", 10, (3, 3))))).facts
    assert "less than the network's factor" in facts["fits"]["problem"]
    assert any("less than the network's factor" in line for line in to_lines(facts))


def test_grey_colour_images_and_unused_ranges_are_hints(tmp_path: Path, capsys: Any) -> None:
    for i in range(12):
        grey = np.random.RandomState(i).randint(0, 4096, (16, 16)).astype(np.uint16)
        (tmp_path / "deep").mkdir(exist_ok=True)
        Image.fromarray(grey).save(tmp_path / "deep" / f"{i}.png")
        (tmp_path / "grey").mkdir(exist_ok=True)
        Image.fromarray((grey // 16).astype(np.uint8)).convert("RGB").save(tmp_path / "grey" / f"{i}.png")
    (hint,) = describe_data(DataConfig(data=str(tmp_path / "deep"))).facts["fits"]["hints"]
    assert "values up to 4,095 (12 bits) of 65,535" in hint
    assert "multiply them by 16" in hint
    (hint,) = describe_data(DataConfig(data=str(tmp_path / "grey"))).facts["fits"]["hints"]
    assert hint == "all decoded images are grey: --channels 1 is enough"
    command = ["tokenizer", "train", "--data", tmp_path / "deep", "--model", tmp_path / "m", "--steps", "1"]
    assert (
        run(*command, "--batch-size", "4", "--width", "8", "--latent-width", "16", "--norm-groups", "4") == 0
    )
    assert "multiply them by 16" in capsys.readouterr().err


def test_the_token_cache_has_the_estimated_size(tmp_path: Path) -> None:
    data = write(tmp_path / "d", 400, (32, 32), mode="L")
    command = [
        "tokenizer",
        "train",
        "--data",
        data,
        "--model",
        tmp_path / "m",
        "--steps",
        "1",
        "--batch-size",
        "4",
    ]
    assert run(*command, "--width", "8", "--latent-width", "16", "--norm-groups", "4") == 0
    assert run("tokenizer", "encode", "--model", tmp_path / "m", "--flip") == 0
    size = sum(file.stat().st_size for file in (tmp_path / "m" / "codes").rglob("*.arrow"))
    promised = describe_data(DataConfig(data=str(data))).facts["token_cache"]["disk_bytes"]
    assert promised == pytest.approx(size, rel=0.05)


def test_long_lists_of_names_are_counted_in_full(tmp_path: Path) -> None:
    data = write(tmp_path / "d", 30, (64, 64))
    write(data, 30, (70, 7), "long{:02}.png")
    line = next(
        line
        for line in to_lines(describe_data(DataConfig(data=str(data))).facts)
        if line.startswith("shapes")
    )
    assert line.count("long") == 8
    assert line.endswith("and 22 more")


def test_an_image_with_several_captions_counts_once(tmp_path: Path) -> None:
    data = write(tmp_path / "d", 20, (16, 16))
    rows = [{"file_name": f"{i:03}.png", "text": text} for i in range(20) for text in ("one", "two", "three")]
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (data / "004.png").write_bytes(b"nothing")
    facts = describe_data(DataConfig(data=str(data))).facts
    assert (facts["found"], facts["used"], len(facts["broken"])) == (20, 19, 1)
    assert facts["captions"]["count"] == 60
    assert sum(split["images"] for split in facts["splits"]) == 19
