"""Pictures of every tab of `imgtf web`, by Chromium: python benchmarks/web_screenshots.py MODEL IMAGE OUT

Each tab does its work first: it samples, reconstructs IMAGE, inpaints a part of it, and so on. Needs playwright and a
Chromium. docs/web-*.png are made by it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright import sync_api

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
VIEWPORT = {"width": 1200, "height": 520}
MOST_BYTES = 240_000
COLOURS = 256
"""Of a picture that would be larger."""
PATIENCE = 120_000
"""Milliseconds."""


@contextmanager
def served(model: Path) -> Iterator[str]:
    """Yield the address of a page of a model."""
    command = [sys.executable, "-m", "imgtf", "web", str(model), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[0]
    finally:
        process.terminate()
        process.communicate()


class Visitor:
    """Uses the tabs of a page as a person would."""

    def __init__(self, page: Any, image: Path, out: Path) -> None:
        self.page, self.image, self.out = page, image, out

    def visit(self) -> None:
        """Use each tab that the page has."""
        self.page.get_by_role("tab", name="Training").wait_for()
        for name in [tab.inner_text() for tab in self.page.get_by_role("tab").all()]:
            self.page.get_by_role("tab", name=name, exact=True).click()
            panel = self.page.get_by_role("tabpanel").filter(visible=True)
            getattr(self, name.lower())(panel)
            self.page.wait_for_timeout(700)
            self.save(name.lower())

    def save(self, name: str) -> None:
        path = self.out / f"web-{name}.png"
        self.page.screenshot(path=path, full_page=True)
        with Image.open(path) as image:
            image.convert("RGB").save(path, optimize=True)
            if path.stat().st_size > MOST_BYTES:
                image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)

    def sample(self, panel: Any) -> None:
        panel.get_by_label("Images", exact=False).first.fill("12")
        self._press(panel, "Sample", "Seed 0.")

    def reconstruct(self, panel: Any) -> None:
        self._upload(panel)
        self._press(panel, "Reconstruct", "dB PSNR from")

    def translate(self, panel: Any) -> None:
        self._upload(panel)
        self._press(panel, "Translate", "Seed 0.")

    def upscale(self, panel: Any) -> None:
        self._upload(panel)
        self._press(panel, "Upscale", "Seed 0.")

    def surprise(self, panel: Any) -> None:
        self._upload(panel)
        self._press(panel, "Show the surprise", "per pixel")

    def training(self, panel: Any) -> None:
        panel.locator(".plots canvas, .plots svg").first.wait_for()
        self.page.wait_for_timeout(2000)

    def inpaint(self, panel: Any) -> None:
        zoom = panel.get_by_text(re.compile(r"^\d+%$")).first
        zoom.wait_for()
        before = zoom.inner_text()
        panel.locator("input[type=file]").first.set_input_files(self.image)
        sync_api.expect(zoom).not_to_have_text(before)
        sync_api.expect(zoom).to_have_text(re.compile(r"^1?\d\d%$"))
        self._draw(panel.locator("canvas").first)
        self._press(panel, "Inpaint", "Seed 0.")

    def _draw(self, canvas: Any) -> None:
        box, mouse = canvas.bounding_box(), self.page.mouse
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        mouse.move(x - 60, y + 20)
        mouse.down()
        for dx, dy in ((60, 20), (60, 60), (-60, 60), (-60, 40), (60, 40)):
            mouse.move(x + dx, y + dy, steps=6)
        mouse.up()
        self.page.wait_for_timeout(500)

    def _upload(self, panel: Any) -> None:
        panel.locator("input[type=file]").first.set_input_files(self.image)
        panel.locator(".upload img").first.wait_for()

    def _press(self, panel: Any, button: str, result: str) -> None:
        panel.get_by_role("button", name=button, exact=True).click()
        panel.get_by_text(result).wait_for()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with served(given.model) as url, sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = chromium.new_page(viewport=VIEWPORT)
        page.set_default_timeout(PATIENCE)
        sync_api.expect.set_options(timeout=PATIENCE)
        page.goto(url)
        Visitor(page, given.image, given.out).visit()
        chromium.close()


if __name__ == "__main__":
    main()
