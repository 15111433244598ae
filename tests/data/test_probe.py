"""Headers, the size that fits, and images that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgtf.data.config import DataConfig
from imgtf.data.probe import Headers, bit_depth, count_channels, read_headers
from imgtf.data.sizes import common_aspect, extreme_shapes, fitting_size, smaller_than, typical_side
from imgtf.data.source import open_source
from imgtf.errors import DataError


def headers(folder: Path, everything: bool = False) -> Headers:
    return read_headers(open_source(DataConfig(data=str(folder), held_out=0))[0], everything)


def write(folder: Path, *sizes: tuple[int, int], mode: str = "RGB") -> Path:
    """One noise image per size, because equal images are duplicates."""
    folder.mkdir(exist_ok=True)
    start = len(list(folder.iterdir()))
    for number, (width, height) in enumerate(sizes, start=start):
        pixels = np.random.RandomState(number).randint(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number:03}.png")
    return folder


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(64, 64)] * 40 + [(5, 5)], 64),
        ([(64, 80)] * 30 + [(1, 1)] * 4, 32),  # more than 10 % are tiny: half of the median
        ([(64, 64)] * 18 + [(48, 60)] * 4, 48),
        ([(32, 32)] * 10 + [(256, 256)] * 10, 72),
        ([(28, 28)] * 12 + [(256, 256)] * 8, 28),
        ([(300, 20)] + [(100, 90)] * 19, 90),
        ([(7, 9)], 7),
    ],
)
def test_the_typical_side_is_robust_to_a_few_images(tmp_path, sizes, side):
    assert typical_side(headers(write(tmp_path / "d", *sizes))) == side


def test_small_and_long_images_are_found(tmp_path):
    found = headers(write(tmp_path / "d", (64, 64), (64, 8), (400, 50), (6, 6), (100, 25)))
    assert [(h.width, h.height) for h in smaller_than(found, 32)] == [(6, 6), (64, 8), (100, 25)]
    assert [(h.width, h.height) for h in extreme_shapes(found)] == [(64, 8), (400, 50)]
    assert found.where(smaller_than(found, 32)[0]).endswith("003.png (6x6)")
    assert (fitting_size(100, 16), fitting_size(7, 8)) == (96, 0)


def test_sizes_that_are_not_square_are_compared_side_by_side(tmp_path):
    found = headers(write(tmp_path / "d", (96, 64), (64, 96), (95, 64), (96, 63), (400, 80), (80, 30)))
    assert [(h.width, h.height) for h in smaller_than(found, (64, 96))] == [
        (80, 30), (64, 96), (96, 63), (95, 64),
    ]  # fmt: skip
    tall, wide = (extreme_shapes(found, shape) for shape in ((96, 24), (20, 100)))
    assert [(h.width, h.height) for h in tall] == [(400, 80), (80, 30), (96, 63), (96, 64), (95, 64)]
    assert [(h.width, h.height) for h in wide] == [(64, 96)]


@pytest.mark.parametrize(("shape", "side"), [((64, 96), 40), ((32, 48), 40), (1, 40), ((96, 64), 26)])
def test_the_typical_side_is_that_of_the_largest_crop(tmp_path, shape, side):
    assert typical_side(headers(write(tmp_path / "d", *[(60, 40)] * 10)), shape) == side


@pytest.mark.parametrize(
    ("sizes", "aspect"),
    [
        ([(60, 40)] * 9 + [(40, 60)], 1.5),
        ([(60, 40)] * 8 + [(40, 60)] * 2, None),
        ([(30, 40), (31, 40), (30, 41)], 0.75),
        ([(8, 8)], 1),
    ],
)
def test_the_aspect_of_most_images(tmp_path, sizes, aspect):
    assert common_aspect(headers(write(tmp_path / "d", *sizes))) == (
        aspect and pytest.approx(aspect, rel=0.02)
    )


def test_rotated_images_have_their_upright_size(tmp_path, noise):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(60, 20).save(tmp_path / "a.jpg", exif=exif)
    (header,) = headers(tmp_path).found
    assert (header.width, header.height) == (20, 60)


def test_a_single_image_of_another_kind_does_not_decide(tmp_path):
    write(tmp_path / "d", *[(8, 8)] * 150, mode="L")
    write(tmp_path / "d", (8, 8))
    assert count_channels(headers(tmp_path / "d")) == 1
    write(tmp_path / "d", (8, 8))
    assert count_channels(headers(tmp_path / "d")) == 3


def test_bits_are_those_of_the_files(tmp_path, noise):
    noise(8, 8).convert("L").save(tmp_path / "a.png")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(tmp_path / "b.png")
    noise(8, 8).convert("1").save(tmp_path / "c.png")
    Image.fromarray(np.random.rand(8, 8).astype(np.float32)).save(tmp_path / "d.tif")
    found = headers(tmp_path)
    assert [header.bits for header in found.found] == [8, 16, 1, 32]
    assert bit_depth(found) == 16


def test_animations_are_found(tmp_path, noise):
    frames = [noise(8, 8, seed) for seed in range(3)]
    for kind in ("gif", "webp", "png"):
        frames[0].save(tmp_path / f"moving.{kind}", save_all=True, append_images=frames[1:])
        frames[1].save(tmp_path / f"still.{kind}")
    found = headers(tmp_path)
    moving = [Path(found.source.where(h.row)).stem for h in found.found if h.animated]
    assert moving == ["moving"] * 3


def test_every_broken_image_of_a_small_data_set_is_found(tmp_path):
    write(tmp_path / "d", *[(40, 30)] * 12)
    files = sorted((tmp_path / "d").iterdir())
    data = files[1].read_bytes()
    files[1].write_bytes(data[: len(data) // 2])  # cut
    files[3].write_bytes(b"no image")
    damaged = bytearray(files[5].read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 200] = bytes(200)  # in the middle
    files[5].write_bytes(damaged)
    files[7].write_bytes(b"")
    found = headers(tmp_path / "d")
    assert [Path(error.where).name for _, error in found.broken] == [
        "001.png",
        "003.png",
        "005.png",
        "007.png",
    ]
    assert (found.total, len(found.found), len(found.readable())) == (12, 8, 8)
    assert all(found.readable().image(i) for i in range(8))


def test_the_end_of_the_files_of_a_large_data_set_is_checked(tmp_path, monkeypatch):
    write(tmp_path / "d", *[(40, 30)] * 6)
    files = sorted((tmp_path / "d").iterdir())
    data = files[2].read_bytes()
    files[2].write_bytes(data[: len(data) // 2])
    monkeypatch.setattr("imgtf.data.probe.DECODED_PIXELS", 0)
    assert [row for row, _ in headers(tmp_path / "d").broken] == [2]


def test_large_data_sets_are_sampled(tmp_path, monkeypatch):
    write(tmp_path / "d", *[(8, 8)] * 20)
    monkeypatch.setattr("imgtf.data.probe.MOST_HEADERS", 5)
    found = headers(tmp_path / "d")
    assert [h.row for h in found.found] == [0, 4, 8, 12, 16]
    assert not found.complete
    assert headers(tmp_path / "d", everything=True).complete


def test_a_data_set_without_a_readable_image_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    with pytest.raises(DataError, match=r"no image can be read \(.*a\.png: not an image"):
        headers(tmp_path)


def test_no_held_out_images_have_no_headers(tmp_path):
    source = open_source(DataConfig(data=str(write(tmp_path / "d", (8, 8))), held_out=0))[1]
    assert read_headers(source).found == ()
