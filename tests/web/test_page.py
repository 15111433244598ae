"""The page of `imgtf web`, over HTTP and in Chromium: every tab does its work, nothing leaves this machine."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("gradio", reason="the page needs gradio")
pytest.importorskip("playwright", reason="the test drives Chromium through playwright")

from playwright import sync_api

from ..pipelines.editing.test_translate import LABELS, noise, tiny

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 90_000
"""Milliseconds: the machine may be busy."""


@dataclass
class Server:
    """`imgtf web` in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    model: Path
    work: Path
    """Its working folder, which must stay empty."""

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Send a signal; return the exit code and stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


def start(model: Path, folder: Path, *options: str) -> Server:
    """Start a page at a free port, in an empty folder with an empty home."""
    for name in ("work", "home", "tmp"):
        (folder / name).mkdir()
    environment = os.environ | {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "imgtf", "web", str(model), "--port", "0", "--device", "cpu", *options]
    process = subprocess.Popen(
        command, cwd=folder / "work", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:"), process.communicate()[1]
    return Server(process, line.split()[0], model, folder / "work")


def write_log(model: Path, steps: int) -> None:
    """Write the log of a run of the prior, of 100 steps."""
    folder = model / "training" / "prior"
    (folder / "previews").mkdir(parents=True, exist_ok=True)
    rows = [
        {"step": i, "loss": 5 - i / 50, "lr": 1e-3, "images_per_second": 9.0} for i in range(1, steps + 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    noise(16, 16, 0).save(folder / "previews" / f"step-{steps:08d}.png")
    (model / "prior" / "train.toml").write_text("steps = 100\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A page of a model with every tab: its prior reads a class and a conditioning image."""
    folder = tmp_path_factory.mktemp("page")
    tiny(0, LABELS).save_pretrained(folder / "m")
    write_log(folder / "m", 20)
    started = start(folder / "m", folder, "--max-upload", "1")
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.communicate()


@dataclass
class Browser:
    """The page, and what it did on the network and on its console."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, tab: str) -> Any:
        """Choose a tab and return its panel."""
        self.page.get_by_role("tab", name=tab, exact=True).click()
        return self.page.get_by_role("tabpanel").filter(visible=True)

    def upload(self, panel: Any, name: str = "a.png", data: bytes | None = None) -> None:
        file = io.BytesIO()
        noise(16, 16, 0).save(file, "PNG")
        payload = {
            "name": name,
            "mimeType": "image/png",
            "buffer": file.getvalue() if data is None else data,
        }
        panel.locator("input[type=file]").first.set_input_files(payload)


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("the test needs Chromium")
    with sync_api.sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        chromium = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1280, "height": 900}
        )
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE)
        sync_api.expect.set_options(timeout=PATIENCE)
        found = Browser(page)
        page.on("request", lambda request: found.requests.append(request.url))
        page.on("pageerror", lambda error: found.errors.append(str(error)))
        page.goto(server.url)
        page.get_by_role("tab", name="Sample").wait_for()
        page.wait_for_timeout(1000)  # values that are typed before gradio has started are lost
        yield found
        chromium.close()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        yield client


def test_the_page_has_a_policy_that_allows_no_other_machine(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example"])
def test_another_name_of_the_host_is_refused(client: httpx.Client, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("path", ["/etc/passwd", "../m/tokenizer/config.json", "here.txt", "{work}/here.txt"])
def test_other_files_are_not_served(client: httpx.Client, server: Server, path: str) -> None:
    here = server.work / "here.txt"
    here.write_text("private")
    answer = client.get(f"/gradio_api/file={path.format(work=server.work)}")
    here.unlink()
    assert answer.status_code in (403, 404)


def test_a_large_upload_is_refused(client: httpx.Client) -> None:
    answer = client.post("/gradio_api/upload", files={"files": ("a.png", bytes(2**20 + 1))})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1:{port}/a.png", "/etc/passwd", "../m/tokenizer/config.json"]
)
def test_files_by_their_address_are_refused(client: httpx.Client, path: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        named = path.format(port=listener.getsockname()[1])
        given = {"path": named, "meta": {"_type": "gradio.FileData"}}
        answer = client.post("/gradio_api/run/reconstruct", json={"data": [given]})
        with pytest.raises(BlockingIOError):  # nobody has connected
            listener.accept()
    assert answer.status_code == 500
    assert "root:" not in answer.text


def test_samples_are_drawn_and_downloaded(browser: Browser) -> None:
    panel = browser.open("Sample")
    panel.get_by_label("Seed").fill("5")
    panel.get_by_role("button", name="Sample", exact=True).click()
    panel.get_by_text("Seed 5.").wait_for()
    assert panel.locator(".pictures img").count() == 8
    assert [own.inner_text() for own in panel.locator("figcaption").all()][:3] == ["red", "green", "red"]
    assert "imgtf sample --n 8 --seed 5" in panel.locator(".command textarea").input_value()
    name = "Download images and settings"
    with browser.page.expect_download() as download:
        panel.get_by_role("link", name=name).or_(panel.get_by_role("button", name=name)).first.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        names = set(archive.namelist())
    assert {"000000.png", "000007.png", "samples.json", "options.toml", "command.txt"} <= names
    with browser.page.expect_download() as download:
        panel.locator(".pictures a").nth(2).click()
    assert download.value.suggested_filename == "000002.png"


def test_an_image_is_reconstructed(browser: Browser) -> None:
    panel = browser.open("Reconstruct")
    browser.upload(panel)
    panel.locator(".upload img").first.wait_for()
    panel.get_by_role("button", name="Reconstruct", exact=True).click()
    panel.get_by_text("dB PSNR from").wait_for()
    assert panel.locator(".pictures img").count() == 3


def test_an_image_is_translated(browser: Browser) -> None:
    panel = browser.open("Translate")
    browser.upload(panel)
    panel.locator(".upload img").first.wait_for()
    panel.get_by_role("button", name="Translate", exact=True).click()
    panel.get_by_text("Seed 0.").wait_for()
    assert panel.locator(".pictures img").count() == 4


def test_the_surprise_is_shown(browser: Browser) -> None:
    panel = browser.open("Surprise")
    browser.upload(panel)
    panel.locator(".upload img").first.wait_for()
    panel.get_by_role("button", name="Show the surprise", exact=True).click()
    panel.get_by_text("per pixel").wait_for()
    assert panel.locator(".pictures img").count() == 2


def test_a_run_is_followed(browser: Browser, server: Server) -> None:
    panel = browser.open("Training")
    panel.get_by_text("step 20 of 100").wait_for()
    panel.locator(".plots canvas, .plots svg").first.wait_for()
    panel.get_by_text("Preview at step 20").wait_for()
    write_log(server.model, 30)
    panel.get_by_text("step 30 of 100").wait_for()
    panel.get_by_text("Preview at step 30").wait_for()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("bad.png", b"no image", "bad.png: not an image that Pillow can read"),
        ("big.png", bytes(2**20 + 1), "exceed the maximum allowed size"),
    ],
)
def test_a_wrong_upload_is_one_message(browser: Browser, name: str, data: bytes, message: str) -> None:
    panel = browser.open("Surprise")
    if panel.get_by_label("Remove Image").count():
        panel.get_by_label("Remove Image").click()
    browser.upload(panel, name, data)
    if name == "bad.png":
        panel.locator(".upload img").first.wait_for(state="attached")
        panel.get_by_role("button", name="Show the surprise", exact=True).click()
    browser.page.get_by_text(message).first.wait_for()


def test_a_seed_of_text_is_one_message(browser: Browser) -> None:
    panel = browser.open("Sample")
    panel.get_by_label("Seed").fill("seven")
    panel.get_by_role("button", name="Sample", exact=True).click()
    browser.page.get_by_text("The seed must be a whole number from 0 to").first.wait_for()
    panel.get_by_role("button", name="New seed").click()
    sync_api.expect(panel.get_by_label("Seed")).not_to_have_value("seven")


def test_sampling_is_stopped(browser: Browser) -> None:
    panel = browser.open("Sample")
    panel.get_by_label("Images", exact=False).first.fill("64")
    panel.get_by_role("button", name="Sample", exact=True).click()
    panel.get_by_role("button", name="Stop").click()
    panel.get_by_text("Stopped.").or_(panel.get_by_text("Click an image")).first.wait_for()


def test_a_part_that_is_drawn_over_is_inpainted(browser: Browser) -> None:
    """Late: once it is open, the editor draws all the time, in software."""
    panel = browser.open("Inpaint")
    zoom = panel.get_by_text(re.compile(r"^\d+%$")).first
    zoom.wait_for()  # the editor is ready
    before = zoom.inner_text()
    browser.upload(panel)
    sync_api.expect(zoom).not_to_have_text(before)
    sync_api.expect(zoom).to_have_text(re.compile(r"^1?\d\d%$"))  # the image at the model's size, enlarged
    panel.get_by_role("button", name="Inpaint", exact=True).click()
    browser.page.get_by_text("Draw over the part that is to be redrawn first.").first.wait_for()
    draw_line(browser.page, panel.locator("canvas").first)
    panel.get_by_role("button", name="Inpaint", exact=True).click()
    panel.get_by_text("Seed 0.").wait_for()
    assert panel.locator(".pictures img").count() == 4
    assert "imgtf edit inpaint input.png --mask mask.png" in panel.locator(".command textarea").input_value()


def draw_line(page: Any, canvas: Any) -> None:
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)  # the editor sends what was drawn


def test_nothing_leaves_this_machine_and_nothing_is_left_behind(browser: Browser, server: Server) -> None:
    """The last test: it ends the server."""
    foreign = [url for url in browser.requests if not url.startswith((server.url, "data:", "blob:"))]
    assert foreign == []
    assert browser.errors == []
    assert not browser.page.locator("footer").filter(visible=True).count()
    code, errors = server.stop()
    assert code == 130
    assert errors.strip().splitlines()[-1] == "Interrupted."
    assert "Traceback" not in errors
    for name in ("work", "tmp", "home"):
        assert list((server.work.parent / name).iterdir()) == []
