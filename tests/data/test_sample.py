"""The decoded sample of a data set, and images that look alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgtf.data.config import DataConfig
from imgtf.data.probe import Headers, read_headers, used_bits
from imgtf.data.sample import Sample, decode_sample, near_duplicates
from imgtf.data.source import open_source


def image_of(seed: int, side: int = 96) -> Image.Image:
    """A smooth image, as a photograph is."""
    pixels = np.random.RandomState(seed).randint(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def sampled(folder: Path, **options: object) -> tuple[list[Headers], Sample]:
    headers = [read_headers(source) for source in open_source(DataConfig(data=str(folder), **options))]
    return headers, decode_sample(headers)


def pairs(folder: Path, **options: object) -> list[set[str]]:
    headers, sample = sampled(folder, **options)
    names = [Path(headers[image.source].source.where(image.row)).name for image in sample.images]
    return [{names[a], names[b]} for a, b in near_duplicates(sample.images)]


@pytest.mark.parametrize("change", ["smaller", "jpeg", "brighter", "format"])
def test_copies_of_another_size_quality_or_format_look_alike(tmp_path, change):
    for seed in range(8):
        image_of(seed).save(tmp_path / f"{seed}.png")
    copy = image_of(3)
    if change == "smaller":
        copy.resize((70, 70)).save(tmp_path / "copy.png")
    elif change == "jpeg":
        copy.save(tmp_path / "copy.jpg", quality=40)
    elif change == "brighter":
        copy.point(lambda value: min(255, value + 3)).save(tmp_path / "copy.png")
    else:
        copy.save(tmp_path / "copy.webp", quality=80)
    assert pairs(tmp_path, held_out=0.3) == [{"3.png", next(tmp_path.glob("copy.*")).name}]


def test_different_images_flat_images_and_other_colours_do_not_look_alike(tmp_path):
    for seed in range(12):
        image_of(seed).save(tmp_path / f"{seed}.png")
    for level in (100, 101, 250):
        Image.new("RGB", (64, 64), (level, level, level)).save(tmp_path / f"flat{level}.png")
    image_of(3).convert("L").save(tmp_path / "grey.png")
    assert pairs(tmp_path, held_out=0) == []


def test_equal_images_are_duplicates_and_do_not_count_as_alike(tmp_path):
    for seed in (0, 1, 2):
        image_of(seed).save(tmp_path / f"{seed}.png")
    image_of(1).save(tmp_path / "copy.bmp")
    assert pairs(tmp_path, held_out=0) == []


def test_a_sample_is_spread_over_the_data_set(tmp_path, monkeypatch):
    for seed in range(20):
        image_of(seed, 8).save(tmp_path / f"{seed:02}.png")
    monkeypatch.setattr("imgtf.data.sample.MOST_IMAGES", 5)
    monkeypatch.setattr("imgtf.data.sample.FEWEST_IMAGES", 5)
    headers, sample = sampled(tmp_path, held_out=0)
    assert [image.row for image in sample.images] == [0, 4, 8, 12, 16]
    assert len(decode_sample(headers, everything=True).images) == 20


def test_a_sample_knows_grey_content_and_the_used_range(tmp_path, noise):
    noise(9, 8).convert("L").convert("RGB").save(tmp_path / "a.png")
    noise(9, 8).save(tmp_path / "b.png")
    Image.fromarray(np.full((8, 9), 4000, np.uint16)).save(tmp_path / "c.png")
    images = sampled(tmp_path, held_out=0)[1].images
    assert [image.is_grey for image in images] == [True, False, True]
    assert [image.top for image in images] == [0, 0, 4000]
    assert [used_bits(tops) for tops in ([4000, 12], [65535], [3], [])] == [12, 16, 8, 8]


def test_images_that_cannot_be_decoded_are_named(tmp_path, monkeypatch, noise):
    monkeypatch.setattr("imgtf.data.probe.DECODED_PIXELS", 0)
    for seed in range(4):
        noise(30, 30, seed).save(tmp_path / f"{seed}.png")
    damaged = bytearray((tmp_path / "2.png").read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 100] = bytes(100)
    (tmp_path / "2.png").write_bytes(damaged)
    sample = sampled(tmp_path, held_out=0)[1]
    assert [Path(error.where).name for error in sample.broken] == ["2.png"]
    assert len(sample.images) == 3
