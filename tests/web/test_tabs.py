"""What the tabs do, without a browser: previews, results, and downloads that make the same result again."""

from __future__ import annotations

import io
import json
import os
import shlex
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs gradio")

from imgtf.errors import ConfigError, DataError
from imgtf.web import drawing
from imgtf.web.drawing import Drawing
from imgtf.web.inpaint_tab import inpainted
from imgtf.web.reconstruct_tab import reconstructed
from imgtf.web.results import Result
from imgtf.web.sample_tab import sampled
from imgtf.web.site import Site, open_site
from imgtf.web.surprise_tab import surprise
from imgtf.web.translate_tab import translated
from imgtf.web.uploads import drawn, read_file, read_upload, reduced, to_draw_on
from imgtf.web.worker import Worker, message_of

from ..pipelines.conftest import run
from ..pipelines.editing.test_translate import noise

ASKED = {"n": 3, "seed": "7", "label": ["blue", "red"], "temperature": 0.8, "top_k": 5, "cfg_scale": 1.5}


def result_of(events: Iterable[Drawing | Result]) -> Result:
    """The last event, which is the result."""
    *_, last = events
    assert isinstance(last, Result)
    return last


def pixels(images: Iterable[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


def repeat(result: Result, folder: Path, *more: str) -> Path:
    """Unpack a download, run its command there, and return the folder of what it wrote."""
    with zipfile.ZipFile(result.archive()) as archive:
        archive.extractall(folder)
    words = shlex.split((folder / "command.txt").read_text())
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert run(*words[1:], *more) == 0
    finally:
        os.chdir(before)
    return folder / "again"


def opened(folder: Path, names: Iterable[str]) -> Iterator[Image.Image]:
    return (Image.open(io.BytesIO((folder / name).read_bytes())) for name in names)


@pytest.mark.usefixtures("temporary")
def test_a_download_of_samples_makes_the_same_samples(site: Site, worker: Worker, tmp_path: Path) -> None:
    result = result_of(sampled(site, worker, ASKED))
    assert list(result.captions) == ["blue", "red", "blue"]
    again = repeat(result, tmp_path, "--out", "again")
    assert pixels(opened(again, result.images)) == pixels(result.images.values())
    here, there = (json.loads((folder / "samples.json").read_text()) for folder in (tmp_path, again))
    same = ("settings", "seed", "tokenizer_sha256", "prior_sha256", "precision", "images")
    assert {key: here[key] for key in same} == {key: there[key] for key in same}
    assert run("sample", "--config", tmp_path / "options.toml", "--out", tmp_path / "by-file") == 0
    assert pixels(opened(tmp_path / "by-file", result.images)) == pixels(result.images.values())


@pytest.mark.usefixtures("temporary")
def test_a_download_of_inpainted_images_makes_them_again(site: Site, worker: Worker, tmp_path: Path) -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:9, 6:12] = True
    result = result_of(
        inpainted(site, worker, {"n": 2, "seed": "1", "label": ["red"]}, noise(16, 16, 0), mask)
    )
    again = repeat(result, tmp_path, "--out", "again")
    assert pixels(opened(again, result.images)) == pixels(result.images.values())
    kept = np.ones((16, 16), bool)
    kept[4:10, 6:12] = False  # tokens of 2 pixels
    given = np.asarray(noise(16, 16, 0))
    assert all((np.asarray(own)[kept] == given[kept]).all() for own in result.images.values())


@pytest.mark.parametrize("kind", ["translating", "upscaling"])
@pytest.mark.usefixtures("temporary")
def test_a_download_of_translated_images_makes_them_again(
    kind: str, worker: Worker, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    site = open_site(folder, str(folder), "cpu")
    result = result_of(
        translated(site, worker, {"n": 2, "seed": "3"}, noise(5, 4, 0) if site.enlarges else noise(16, 20, 0))
    )
    again = repeat(result, tmp_path, "--out", "again")
    names = [Path(name).name for name in result.images]
    assert pixels(opened(again, names)) == pixels(result.images.values())
    conditioned = result_of(sampled(site, worker, {"n": 1}, noise(16, 16, 0)))
    again = repeat(conditioned, tmp_path / "sampled", "--out", "again")
    assert pixels(opened(again, conditioned.images)) == pixels(conditioned.images.values())


@pytest.mark.usefixtures("temporary")
def test_a_reconstruction_and_its_psnr(site: Site, worker: Worker, tmp_path: Path) -> None:
    result = result_of(reconstructed(site, worker, noise(20, 20, 0)))
    original, decoded = (np.asarray(own, dtype=float) for own in list(result.images.values())[:2])
    expected = -10 * np.log10(((original - decoded) ** 2).mean() / 255**2)
    assert result.record["psnr"] == pytest.approx(expected, abs=0.05)
    repeat(result, tmp_path)
    assert (tmp_path / "reconstructed" / "input.png").exists()


@pytest.mark.usefixtures("temporary")
def test_the_surprise_of_an_image(site: Site, worker: Worker, tmp_path: Path) -> None:
    result = result_of(surprise(site, worker, noise(16, 16, 0), {"kind": "All bits", "label": ["green"]}))
    again = repeat(result, tmp_path, "--out", "again")
    row = dict(
        zip(*(line.split(",") for line in (again / "scores.csv").read_text().split()[:2]), strict=False)
    )
    assert float(row["bits_per_token"]) == pytest.approx(result.record["bits_per_token"], abs=1e-3)
    assert max(result.images["heatmap.png"].size) >= 256


def test_previews_show_the_codes_so_far(site: Site, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "PAUSE", 0)
    monkeypatch.setattr(drawing, "SHARE", 1)
    *previews, _ = sampled(site, worker, {"n": 2, "seed": 0})
    assert site.pipeline is not None
    assert [one.done for one in previews] == [
        2 * step for step in range(1, site.pipeline.prior.config.tokens + 1)
    ]
    first, last = np.asarray(previews[0].images[0]), np.asarray(previews[-1].images[0])
    assert (first == 128).mean() > 0.9 > (last == 128).mean()


def test_a_stopped_job_ends_and_the_next_one_starts(
    site: Site, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "PAUSE", 0)
    stopped = sampled(site, worker, {"n": 2, "seed": 0})
    next(stopped)
    stopped.close()
    assert result_of(sampled(site, worker, {"n": 1, "seed": 0})).images
    assert not worker.jobs


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"seed": "abc"}, "The seed must be a whole number"),
        ({"seed": "-1"}, "The seed must be a whole number"),
        ({"seed": str(2**64)}, "The seed must be a whole number"),
        ({"seed": "9" * 5000}, "The seed must be a whole number"),
        ({"seed": "٣"}, "The seed must be a whole number"),
        ({"n": 65}, "from 1 to 64"),
        ({"n": 1.5}, "whole number"),
        ({"n": "many"}, "whole number"),
        ({"label": ["nobody"]}, "nobody"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -3}, "top_k"),
        ({"top_p": "x"}, "top_p"),
        ({"cfg_schedule": "none"}, "cfg_schedule"),
        ({"text": "a caption"}, "not on text"),
    ],
)
def test_a_wrong_value_is_one_clear_message(
    site: Site, worker: Worker, value: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        list(sampled(site, worker, {"n": 1, "seed": 0} | value))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 60])
def test_a_damaged_upload_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "stored"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"^cat\.png: "):
        read_upload({"path": str(file), "orig_name": "cat.png"})


def test_no_upload_and_a_huge_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Choose an image first"):
        read_upload(None)
    Image.new("1", (10000, 6000)).save(tmp_path / "huge.png")
    with pytest.raises(DataError, match="10000x6000 px are more than 50,000,000"):
        read_file(tmp_path / "huge.png", "huge.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_an_upload_of_any_mode_is_kept_by_a_png(
    site: Site, worker: Worker, tmp_path: Path, mode: str
) -> None:
    image = Image.new(mode, (18, 16), 1)
    image.save(tmp_path / "a.tif")
    read = read_file(tmp_path / "a.tif", "a.tif")
    read.save(tmp_path / "b.png")
    assert Image.open(tmp_path / "b.png").tobytes() == read.tobytes()


def test_a_drawing_is_read_back_as_pixels_of_the_model(site: Site) -> None:
    assert site.tokenizer is not None
    image = noise(16, 16, 0)
    large = to_draw_on(image)
    layer = Image.new("RGBA", large.size)
    layer.paste((255, 0, 0, 255), (28 * 3, 28 * 5, 28 * 5 + 1, 28 * 6))
    background, marked = drawn({"background": large.convert("RGBA"), "layers": [layer]})
    small, mask = reduced(background, marked, site.tokenizer.config)
    assert small.tobytes() == image.tobytes()
    assert {tuple(place) for place in np.argwhere(mask)} == {(5, 3), (5, 4), (5, 5)}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "Choose an image"),
        ({"background": Image.new("RGBA", (8, 8)), "layers": []}, "Choose an image"),
        ({"background": noise(8, 8, 0), "layers": [Image.new("RGBA", (8, 8))]}, "Draw over the part"),
    ],
)
def test_nothing_drawn(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        drawn(value)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_one_message(error: Exception) -> None:
    assert message_of(error) == "out of memory: ask for fewer images"
