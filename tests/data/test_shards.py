"""Tar shards of samples, as webdataset and img2dataset write them."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import datasets
import pytest
from PIL import Image

from imgtf.data.columns import TableRows
from imgtf.data.config import DataConfig
from imgtf.data.images import ImageDataset
from imgtf.data.loader import eval_batches
from imgtf.errors import DataError

from .reading import named, opened, texts


def image_bytes(colour: object = 0, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("L" if isinstance(colour, int) else "RGB", (8, 8), colour).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """Write a tar file with these members in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(number: int, suffix: str = "png", **others: bytes) -> dict[str, bytes]:
    key = f"{number:06d}"
    return {f"{key}.{suffix}": image_bytes(number)} | {f"{key}.{name}": data for name, data in others.items()}


def greys(source) -> list[int]:
    return [source.image(i).getpixel((0, 0)) for i in range(len(source))]


def test_images_labels_and_captions_of_a_shard(tmp_path, caplog):
    members: dict[str, bytes] = {}
    for i in range(4):
        members |= sample(i, cls=f"{i % 2}".encode(), txt=f"number {i}".encode())
    path = write_tar(tmp_path / "a.tar", members)
    with caplog.at_level("INFO", "imgtf"):
        train, _ = opened(path)
    assert greys(train) == [0, 1, 2, 3]
    assert named(train) == ["0", "1", "0", "1"]
    assert texts(train) == [f"number {i}" for i in range(4)]
    assert train.findings.layout == "1 tar shard"
    assert train.where(2) == f"{path}:000002.png"
    assert train.header(1).size == (8, 8)


def test_images_stay_in_the_shard(tmp_path):
    """Nothing is copied: a worker process reads the bytes at their place in the tar file."""
    path = write_tar(tmp_path / "a.tar", sample(3) | sample(5))
    train, _ = opened(path)
    assert isinstance(train.rows, TableRows)
    assert list(train.rows.byte_counts()) == [0, 0]
    images = ImageDataset(pickle.loads(pickle.dumps(train)), 8, 1, DataConfig())
    batch = next(eval_batches(images, 2, workers=1))
    assert ((batch["image"][:, 0, 0, 0] + 1) * 127.5).round().tolist() == [3, 5]


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "jpeg", "webp", "avif"])
def test_suffixes_may_differ_and_members_may_be_missing(tmp_path, suffix):
    other = {f"000001.{suffix}": image_bytes("red", "AVIF" if suffix == "avif" else "JPEG")}
    members = sample(0, cls=b"cat") | other | sample(2, txt=b"\xef\xbb\xbfa dog\nin the snow", cls=b"dog")
    train, _ = opened(write_tar(tmp_path / "a.tar", members | {"000003.txt": b"no image", "README": b""}))
    assert len(train) == 3
    assert named(train) == ["cat", None, "dog"]
    assert texts(train) == [None, None, "a dog in the snow"]
    assert train.image(1).convert("RGB").getpixel((4, 4))[0] > 200


def test_captions_and_labels_in_json(tmp_path):
    values = [{"caption": "one", "width": 8, "species": "owl"}, {"caption": "two", "sizes": [1]}, None]
    members: dict[str, bytes] = {}
    for i, value in enumerate(values):
        members |= sample(i, json=json.dumps(value).encode() if value else b"{broken")
    path = write_tar(tmp_path / "a.tar", members)
    assert texts(opened(path)[0]) == ["one", "two", None]
    assert named(opened(path, label_column="species")[0]) == ["owl", None, None]


def test_shards_of_a_folder_with_splits_and_tables(tmp_path):
    """The layout of img2dataset: a table of the captions next to each shard."""
    for name, numbers in {"set-train-000": (0, 1), "set-train-001": (2,), "set-val-000": (9,)}.items():
        members: dict[str, bytes] = {}
        for i in numbers:
            members |= sample(i, txt=b"x")
        write_tar(tmp_path / f"{name}.tar", members)
        datasets.Dataset.from_dict({"key": ["a"], "caption": ["b"]}).to_parquet(tmp_path / f"{name}.parquet")
        (tmp_path / f"{name}_stats.json").write_text("{}")
    train, held_out = opened(tmp_path)
    assert (greys(train), greys(held_out)) == ([0, 1, 2], [9])
    assert train.findings.layout == "3 tar shards"


def test_several_images_per_sample(tmp_path):
    members = (
        sample(0) | {"000000.map.png": image_bytes(100)} | sample(1) | {"000001.map.png": image_bytes(101)}
    )
    path = write_tar(tmp_path / "a.tar", members)
    train, _ = opened(path)
    assert greys(train) == [0, 1]
    from imgtf.data.source import open_source

    assert greys(open_source(DataConfig(data=str(path), held_out=0), "map")[0]) == [100, 101]
    both = write_tar(tmp_path / "b.tar", sample(0) | {"000000.jpg": image_bytes(50, "JPEG")})
    assert greys(opened(both, image_column="png")[0]) == [0]
    assert greys(opened(both)[0]) == [50]


@pytest.mark.parametrize("cut", [0, 100, 1000])
def test_damaged_shards_are_one_line(tmp_path, cut):
    path = write_tar(tmp_path / "a.tar", sample(0) | sample(1))
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with pytest.raises(DataError, match=r"a\.tar: (no tar file, or a damaged one|no samples)") as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(b"\x89PNG" + data)
    with pytest.raises(DataError, match="no tar file, or a damaged one"):
        opened(path)


@pytest.mark.parametrize("streaming", [False, True])
def test_shards_damaged_in_the_middle_are_not_taken_for_whole(tmp_path, streaming, caplog):
    members: dict[str, bytes] = {}
    for i in range(4):
        members |= sample(i)
    path = write_tar(tmp_path / "a.tar", members)
    data = path.read_bytes()
    path.write_bytes(data[:3072] + b"\1" * 512 + data[3584:])
    with pytest.raises(DataError, match=r"a\.tar: no tar file, or a damaged one \(.* at byte 3,072\)"):
        opened(path, streaming=streaming)
    path.write_bytes(data[:3072])
    assert len(opened(path, streaming=streaming)[0]) == 3
    assert "a.tar: the mark at the end is missing: it may have been cut" in caplog.text


def apart(path: Path, *order: str) -> Path:
    """A tar file of 30 samples: first all files of the first suffix, then all of the second."""
    members: dict[str, bytes] = {}
    for i in range(30):
        members |= sample(i, cls=f"{i % 2}".encode(), json=b'{"text": "other"}', txt=f"number {i}".encode())
    return write_tar(path, {name: members[name] for s in order for name in members if name.endswith(s)})


@pytest.mark.parametrize(
    "order", [("png", "txt", "cls"), ("cls", "txt", "png"), ("txt", "png", "json", "cls")]
)
def test_members_of_a_sample_that_lie_apart_are_joined(tmp_path, order, caplog):
    path = apart(tmp_path / "a.tar", *order)
    train, _ = opened(path)
    assert greys(train) == list(range(30))
    assert texts(train) == [f"number {i}" for i in range(30)]
    assert named(train) == [str(i % 2) for i in range(30)]
    count = 30 * (len(order) - 1)
    assert f"joined with them by name: {count} (first 000000.{order[1]})" in caplog.text
    assert "left out" not in caplog.text


@pytest.mark.parametrize("order", [("png", "txt", "cls"), ("cls", "txt", "png")])
def test_members_that_lie_apart_cannot_be_streamed(tmp_path, order):
    with pytest.raises(
        DataError, match=r"a\.tar: the files of the sample '000000' do not follow.*--sort=name"
    ):
        opened(apart(tmp_path / "a.tar", *order), streaming=True)


def test_a_name_that_comes_again_is_another_sample(tmp_path, caplog):
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, sample(0, txt=b"x") | sample(1))
    joined = (tmp_path / "a.tar").read_bytes()[:3072] + (tmp_path / "b.tar").read_bytes()
    (tmp_path / "c.tar").write_bytes(joined)
    train, _ = opened(tmp_path / "c.tar")
    assert "samples with the name of an earlier one, which are samples of their own: 2 (first" in caplog.text
    assert len(train) >= 3
    assert len(opened(tmp_path / "c.tar", streaming=True)[0]) == len(train)


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_not_read_of_a_shard_is_said(tmp_path, streaming, caplog):
    others = {"1.txt": b"no image", "2.exr": b"", "README": b"", "._3.png": b""}
    broken = sample(4, json=b"{broken") | sample(5, json=b"[1]") | sample(6, txt="ä".encode("latin-1"))
    path = write_tar(tmp_path / "a.tar", sample(0, txt=b"a") | others | broken)
    train, _ = opened(path, streaming=streaming)
    assert texts(train) == ["a", None, None, None]
    opened(path, streaming=streaming)
    for line in (
        "samples without an image, which are left out: 1 (first 1)",
        ".exr files, which are not read: 1 (first 2.exr)",
        "files without a suffix, which are not read: 1 (first README)",
        "hold no object or are damaged, which are not read: 2 (first 000004.json)",
        "captions and labels that are not UTF-8 text, which are not read: 1 (first 000006.txt)",
    ):
        assert caplog.text.count(line) == 2
    assert "._3" not in caplog.text


def test_archives_that_are_no_samples(tmp_path):
    compressed = write_tar(tmp_path / "a.tar", sample(0), "w:gz")
    with pytest.raises(DataError, match=r"compressed, so its samples cannot be read in place.*tar -xf"):
        opened(compressed)
    dates = {f"IMG_2020.01.{i:02d}.jpg": image_bytes(i, "JPEG") for i in range(20)}
    with pytest.raises(DataError, match=r"share the name 'IMG_2020' up to the first dot.*tar -xf"):
        opened(write_tar(tmp_path / "b.tar", dates))
    with pytest.raises(DataError, match="no samples with an image"):
        opened(write_tar(tmp_path / "c.tar", {"a.txt": b"x"}))
