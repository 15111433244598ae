"""Damaged, hostile and odd image files: an image or a `BadImage` with the file, never anything else."""

from __future__ import annotations

import io
import os
import random
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imgtf.benchmarks import fuzz_images
from imgtf.data.decode import BadImage, load_image, open_image
from imgtf.data.image import plain, transform


@pytest.fixture(scope="module", autouse=True)
def _pillow_may_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_mutated_file_is_read_right_or_refused(tmp_path_factory, seed):
    folder = tmp_path_factory.getbasetemp() / "mutated"
    folder.mkdir(exist_ok=True)
    _, outcome, note = fuzz_images.case(seed, folder)
    assert outcome in ("correct", "error"), note


@pytest.mark.parametrize("suffix", sorted(fuzz_images.MODES))
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for mode in fuzz_images.MODES[suffix]:
        whole = fuzz_images.original(suffix, mode, 0)
        stream = random.Random(0)
        for end in sorted({*stream.sample(range(len(whole)), 8), len(whole) - 1}):
            path.write_bytes(whole[:end])
            outcome, note = fuzz_images.judge(path, whole[:end], whole, stream, f"{suffix} {mode} to {end}")
            assert outcome in ("correct", "error"), note


def test_a_palette_that_is_missing_is_one_line():
    image = Image.new("P", (4, 4))
    image.palette = None
    with pytest.raises(BadImage, match="AssertionError"):
        plain(image, 3, "white")


def test_a_pcx_that_ends_in_its_palette_is_refused():
    whole = fuzz_images.original("pcx", "P", 0)
    assert load_image(whole, "a").mode == "P"
    with pytest.raises(BadImage, match="a: image file is truncated"):
        load_image(whole[:-1], "a")


@pytest.mark.parametrize("read", [open_image, load_image])
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path, read):
    os.mkfifo(tmp_path / "x.png")
    for path in (tmp_path / "x.png", Path("/dev/zero")):
        with pytest.raises(BadImage, match="a pipe or a device, not a file"):
            read(str(path), str(path))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(BadImage, match="a folder, not an image"):
        read(str(tmp_path / "folder.png"), "folder.png")


def test_a_bomb_is_refused_and_a_long_image_is_read():
    bomb = fuzz_images.with_header(fuzz_images.original("png", "RGB", 0), 65500, 65500)
    for read in (open_image, load_image):
        with pytest.raises(BadImage, match=r"a: Image size .* exceeds limit"):
            read(bomb, "a")
    out = io.BytesIO()
    Image.new("RGB", (1, 20_000), "red").save(out, "PNG")
    assert transform(load_image(out.getvalue(), "a"), 8, 3).shape == (3, 8, 8)
