"""The held-out split: by image and by content."""

from __future__ import annotations

import io
import json
import time

import datasets
import numpy as np
import pytest
from PIL import Image

from imgtf.data.config import DataConfig
from imgtf.data.source import open_source
from imgtf.data.splits import hold_out


def opened(data, **options):
    return open_source(DataConfig(data=str(data), **options))


def contents(source) -> set[bytes]:
    return {source.image(i).convert("RGBA").tobytes() for i in range(len(source))}


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_groups_of_rows_stay_together():
    groups = np.repeat(np.arange(20), 5)
    kept, held_out = hold_out(100, 0.1, groups)
    assert len(held_out) == 10
    assert not set(groups[kept]) & set(groups[held_out])
    assert np.array_equal(hold_out(100, 0.1, np.arange(100))[1], hold_out(100, 0.1)[1])


def test_groups_larger_than_the_held_out_split():
    groups = np.repeat([0, 1, 2], [50, 30, 20])
    assert set(groups[hold_out(100, 0.1, groups)[1]]) == {2}
    assert len(hold_out(100, 0, groups)[1]) == 0
    assert len(hold_out(10, 0.1, np.zeros(10, int))[1]) == 1  # the same image everywhere: split by row


def test_several_captions_per_image(tmp_path, noise):
    rows = []
    for i in range(20):
        noise(8, 8, i).save(tmp_path / f"{i}.png")
        rows += [{"file_name": f"{i}.png", "text": f"{i} {j}"} for j in range(5)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, held_out = opened(tmp_path)
    assert (len(train), len(held_out)) == (90, 10)
    files = [{s.where(i) for i in range(len(s))} for s in (train, held_out)]
    assert not files[0] & files[1]
    assert [s.images for s in train.findings.splits] == [18, 2]
    assert train.findings.used == train.findings.found == 20


def test_copies_of_files_stay_on_one_side(tmp_path, noise, caplog):
    for i in range(20):
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
            noise(8, 8, i).save(tmp_path / name / f"{i}.png")
    train, held_out = opened(tmp_path)
    assert not contents(train) & contents(held_out)
    assert len(held_out) == 4
    assert train.findings.duplicates.images == 20
    assert len(train.findings.duplicates.groups) == 20
    assert "images that repeat others: 20, for example " in caplog.text


def test_a_held_out_split_that_is_larger_than_asked_for_is_said(tmp_path, noise, caplog):
    for image in range(2):
        for copy in range(10):
            noise(8, 8, image).save(tmp_path / f"{image}-{copy}.png")
    train, held_out = opened(tmp_path)
    assert (len(train), len(held_out)) == (10, 10)
    assert "10 rows are held out instead of 2" in caplog.text


def test_the_same_pixels_in_several_formats(tmp_path, noise):
    for i in range(10):
        image = noise(8, 8, i)
        image.save(tmp_path / f"{i}.png")
        image.save(tmp_path / f"{i}.bmp")
        image.convert("RGBA").save(tmp_path / f"{i}.webp", lossless=True)
    train, held_out = opened(tmp_path)
    assert train.findings.duplicates.pixels_compared
    assert train.findings.duplicates.images == 20
    assert not contents(train) & contents(held_out)


def test_the_same_bytes_in_a_table(tmp_path, noise):
    cells = [{"bytes": encoded(noise(8, 8, i % 10)), "path": f"{i}.png"} for i in range(30)]
    table = datasets.Dataset.from_dict(
        {"image": cells}, features=datasets.Features({"image": datasets.Image()})
    )
    table.to_parquet(tmp_path / "x.parquet")
    train, held_out = opened(tmp_path / "x.parquet")
    assert (len(train), len(held_out)) == (27, 3)
    assert not contents(train) & contents(held_out)
    assert (train.findings.found, train.findings.duplicates.images) == (30, 20)


def test_duplicates_across_given_splits_are_logged(tmp_path, noise, caplog):
    for i in range(6):
        (tmp_path / "train").mkdir(exist_ok=True)
        noise(8, 8, i).save(tmp_path / "train" / f"{i}.png")
    (tmp_path / "test").mkdir()
    for i in range(5, 8):
        noise(8, 8, i).save(tmp_path / "test" / f"{i}.bmp")
    train, held_out = opened(tmp_path)
    assert (len(train), len(held_out)) == (6, 3)
    assert train.findings.duplicates.across_splits == 1
    assert "held-out images that are also training images: 1; held-out metrics are too good" in caplog.text


def test_broken_images_are_not_duplicates(tmp_path, noise):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"")
        (tmp_path / f"b{i}.png").write_bytes(b"same text")
        (tmp_path / f"c{i}.png").symlink_to(tmp_path / "gone.png")
        noise(8, 8, i).save(tmp_path / f"d{i}.png")
    train, _ = opened(tmp_path)
    assert train.findings.duplicates.images == 3  # the bytes are the same, readable or not


def test_deep_images_are_compared(tmp_path):
    for i in range(4):
        pixels = np.full((8, 8), 1000 + i // 2, np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png" if i % 2 else tmp_path / f"{i}.tif")
    train, _ = opened(tmp_path)
    assert train.findings.duplicates.images == 2


def test_ten_thousand_files_are_opened_in_seconds(tmp_path):
    for i in range(10_000):
        path = tmp_path / str(i % 10)
        path.mkdir(exist_ok=True)
        (path / f"{i}.png").write_bytes(b"%05d" % i)  # nothing is decoded
        if i % 2:
            (path / f"{i}.txt").write_text(f"caption {i}")
    start = time.perf_counter()
    train, _ = opened(tmp_path, bad_images="skip")
    assert time.perf_counter() - start < 8
    assert train.findings.found == train.findings.used == 10_000


@pytest.mark.parametrize("name", ["cifar10", "facades128"])
def test_real_data_has_the_same_rows_as_before(shared, name):
    train, held_out = opened(shared(name))
    expected = {"cifar10": (12_000, 3_000), "facades128": (400, 100)}[name]
    assert (len(train), len(held_out)) == expected
