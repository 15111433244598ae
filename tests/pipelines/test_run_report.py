"""report.html: complete without network and matplotlib, updated during the run, and never in the run's way."""

from __future__ import annotations

import json
import logging
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgtf.pipelines import report_parts, run_report
from imgtf.pipelines.run_log import PANELS, read_log
from imgtf.pipelines.run_record import command_line, read_record
from imgtf.pipelines.run_report import RunReport, write_report
from imgtf.pipelines.svg_chart import Scale, line_chart, usage_chart
from imgtf.training.loop import Trainer

from .conftest import SMALL_TOKENIZER, run


class Page(HTMLParser):
    """Tags, attributes, and the texts of a page; every element must be closed."""

    EMPTY = ("meta", "img", "br", "path", "rect", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_report_of_both_stages_needs_nothing_else(model: Path) -> None:
    text = (model / "report.html").read_text(encoding="utf-8")
    page, words = Page(text), " ".join(Page(text).texts)
    assert text.startswith("<!DOCTYPE html>")
    assert [attributes["id"] for attributes in page.of("section")] == ["tokenizer", "prior"]
    assert not page.of("link")
    assert not page.of("script")
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)\)|@import""", text)
    assert {one[0][:11] for one in addresses} <= {"data:image/", "#tokenizer", "#prior"}
    images = page.of("img")
    assert len(images) >= 2
    assert all(image["alt"] and image["width"] for image in images)
    assert all(chart["aria-label"] and chart["role"] == "img" for chart in page.of("svg"))
    for expected in (
        "finished",
        "bits per token",
        "PSNR (dB)",
        "codes in use",
        "codebook_size",
        "python",
        "torch",
    ):
        assert expected in words
    assert "imgtf tokenizer train" in words
    assert str(model) not in text, "a path of this machine"
    assert 'http-equiv="refresh"' not in text
    assert len(text) < 3_000_000


def test_the_page_follows_a_run(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[str] = []
    original = RunReport.update

    def update(self: RunReport) -> None:
        original(self)
        pages.append((tmp_path / "m" / "report.html").read_text(encoding="utf-8"))

    monkeypatch.setattr(run_report, "SECONDS", 0)
    monkeypatch.setattr(RunReport, "update", update)
    command = ["tokenizer", "train", "--data", images, "--model", tmp_path / "m", "--steps", "4"]
    assert run(*command, *SMALL_TOKENIZER, "--eval-every", "2") == 0
    pages.append((tmp_path / "m" / "report.html").read_text(encoding="utf-8"))
    words = [" ".join(Page(page).texts) for page in pages]
    assert ["2 of 4" in text for text in words] == [True, False, False]
    assert ['http-equiv="refresh"' in page for page in pages] == [True, True, False]
    assert "running" in words[0]
    assert "finished" in words[-1]
    record = read_record(tmp_path / "m" / "training" / "tokenizer")
    assert record is not None
    assert record.given["steps"] == 4
    assert record.given["data"] == images.name
    seconds = [row["seconds"] for row in read_log(tmp_path / "m" / "training" / "tokenizer" / "log.jsonl")[0]]
    assert seconds == sorted(seconds)


def test_a_failed_run_says_so(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail(self: Trainer) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Trainer, "_preview", fail)
    command = ["tokenizer", "train", "--data", images, "--model", tmp_path / "m", "--steps", "2"]
    assert run(*command, *SMALL_TOKENIZER) == 1
    record = read_record(tmp_path / "m" / "training" / "tokenizer")
    assert record is not None
    assert record.status == "failed"
    assert "failed" in Page((tmp_path / "m" / "report.html").read_text(encoding="utf-8")).texts


def test_a_report_that_cannot_be_written_is_one_warning(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def broken(folder: Path, stage: str) -> None:
        raise ValueError("a fault\nof the report")

    monkeypatch.setattr(run_report, "part_of", broken)
    monkeypatch.setattr(run_report, "SECONDS", 0)
    command = ["tokenizer", "train", "--data", images, "--model", tmp_path / "m", "--steps", "4"]
    assert run(*command, *SMALL_TOKENIZER, "--eval-every", "1") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "could not be written" in line]
    assert len(lines) == 1
    assert "report.html could not be written (ValueError: a fault of the report); the run goes on" in lines[0]
    logging.getLogger("imgtf").handlers.clear()


def test_broken_logs_and_absent_files(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    run_folder = tmp_path / "m" / "training" / "tokenizer"
    with (run_folder / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo\n[1]\n{"step": "x"}\n')
    text = " ".join(Page((write_report(tmp_path / "m") or tmp_path).read_text(encoding="utf-8")).texts)
    assert "3 lines of the log cannot be read" in text
    shutil.rmtree(tmp_path / "m" / "training")
    text = " ".join(Page((write_report(tmp_path / "m") or tmp_path).read_text(encoding="utf-8")).texts)
    assert "The log of the run is not there any more." in text
    assert "codebook_size" in text
    assert write_report(tmp_path / "empty") is None


def test_info_names_the_report(model: Path, capsys: Any) -> None:
    assert run("info", model, "--json") == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(model / "report.html")


def test_previews_are_few_and_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1024, 2048, 3), np.uint8)
    for step in range(1, 31):
        Image.fromarray(noise[:, :: 1 + step % 2]).save(tmp_path / f"step-{step:08d}.png", compress_level=0)
    shown = report_parts.previews(tmp_path)
    steps = [one["step"] for one in shown]
    assert (len(steps), steps[0], steps[-1]) == (report_parts.MOST_PREVIEWS, 30, 1)
    assert steps == sorted(steps, reverse=True)
    assert max(one["width"] for one in shown) <= report_parts.NEWEST_SIDE
    assert sum(len(one["uri"]) for one in shown) < 1_400_000
    assert report_parts.previews(tmp_path / "none") == []


def test_charts_hold_their_points() -> None:
    steps = list(range(1, 1001))
    series = {"training": (steps, [1 / s for s in steps]), "held-out": ([500, 1000], [0.5, 0.25])}
    chart = line_chart(PANELS[0], series, {"best weights": [500], "rollback": [100, 200]})
    assert chart.count('class="event"') == 2
    assert "held-out from 0.5 to 0.25" in chart
    assert len(chart) < 20_000
    lines = re.findall(r'<path class="(?:held|line0)" d="M([^"]*)"', chart)
    points = [tuple(map(float, point.split())) for line in lines for point in line.split("L")]
    assert len(points) == 252  # 1,000 points in groups of four, and two
    assert all(0 <= x <= 340 and 0 <= y <= 200 for x, y in points)
    for flat in ([0.0], [2.0, 2.0], [-1.0, 1e-12]):
        assert "nan" not in line_chart(PANELS[1], {"training": (list(range(1, len(flat) + 1)), flat)}, {})
    assert "2 of 4 codes are never used" in usage_chart(np.array([5, 0, 3, 0]))
    assert "4 of 4 codes" in usage_chart(np.zeros(4, np.int64))


@pytest.mark.parametrize(
    ("low", "high", "logarithmic"), [(0, 1, False), (110, 197, False), (0.2, 70, True), (1e-8, 3, True)]
)
def test_ticks_lie_on_the_axis(low: float, high: float, logarithmic: bool) -> None:
    scale = Scale(low, high, 0, 100, logarithmic)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(low <= tick <= high * 1.0001 for tick in ticks)
    assert [scale(low), scale(high)] == [0, 100]


def test_the_command_of_settings() -> None:
    given = {"data": "my images", "image_size": [64, 96], "flip": False, "rollback": True, "init_from": None}
    assert (
        command_line("tokenizer", given)
        == "imgtf tokenizer train --data 'my images' --image-size 64x96 --no-flip --rollback"
    )
