import dataclasses
import itertools
import json
import pickle
import time

import numpy as np
import pytest
import torch

from imgtf.data.codes import CodesInfo, open_codes, write_codes
from imgtf.data.loader import train_batches
from imgtf.errors import CheckpointError, DataError

INFO = CodesInfo(
    tokenizer_sha256="abc",
    source="digits",
    split="train",
    fingerprint="123",
    grid=(2, 3),
    codebook_size=512,
    class_names=("a", "b"),
    flips=False,
    image_size=32,
    preprocessing="crop=centre background=white",
)


def rows(count=5, size=512, length=6, **more):
    stream = np.random.RandomState(0)
    for i in range(count):
        codes = stream.randint(0, size, length)
        yield {"codes": codes, "codes_flipped": codes[::-1], "label": i % 2, "text": f"row {i}", **more}


def test_round_trip(tmp_path):
    write_codes(tmp_path / "c", INFO, rows(3000))  # more than one block
    codes = open_codes(tmp_path / "c")
    assert codes.info == INFO
    assert len(codes) == 3000
    for i, row in enumerate(rows(3000)):
        item = codes[i, 0]
        assert item["codes"].dtype == torch.int64
        assert item["codes"].tolist() == row["codes"].tolist()
        assert (item["label"], item["text"], item["index"], item["bad"]) == (i % 2, f"row {i}", i, "")
    with pytest.raises(IndexError):
        codes[3000]
    assert (tmp_path / "c" / "codes.arrow").stat().st_size < 3000 * 50


@pytest.mark.parametrize(("size", "dtype"), [(2**16, "uint16"), (2**16 + 1, "uint32")])
def test_the_width_of_a_code(tmp_path, size, dtype):
    import datasets

    info = dataclasses.replace(INFO, codebook_size=size)
    top = {"codes": np.full(6, size - 1), "codes_flipped": None, "label": None, "text": None}
    write_codes(tmp_path / "c", info, [top])
    item = open_codes(tmp_path / "c")[0]
    assert item["codes"].tolist() == [size - 1] * 6
    assert (item["label"], item["text"]) == (-1, "")
    plain = datasets.Dataset.from_file(str(tmp_path / "c" / "codes.arrow"))
    assert plain.features["codes"].feature.dtype == dtype


def test_flipped_codes_by_seed_epoch_and_index(tmp_path):
    write_codes(tmp_path / "c", dataclasses.replace(INFO, flips=True), rows(20))
    plain, augmented = open_codes(tmp_path / "c"), open_codes(tmp_path / "c", augment=True, seed=3)
    keys = [(i, e) for i in range(20) for e in range(3)]
    flipped = [augmented[key]["codes"].tolist() != plain[key]["codes"].tolist() for key in keys]
    assert 10 < sum(flipped) < 50
    key = keys[flipped.index(True)]
    assert augmented[key]["codes"].tolist() == plain[key]["codes"].tolist()[::-1]
    copy = pickle.loads(pickle.dumps(augmented))  # as a spawned worker gets it
    assert all(torch.equal(copy[key]["codes"], augmented[key]["codes"]) for key in keys)


def test_each_epoch_reads_one_of_the_views(tmp_path):
    info = dataclasses.replace(INFO, flips=True, views=3)
    names = ["codes", "codes_flipped", "codes_1", "codes_1_flipped", "codes_2", "codes_2_flipped"]
    row = {name: np.full(6, number) for number, name in enumerate(names)}
    write_codes(tmp_path / "c", info, [row] * 4)
    codes = open_codes(tmp_path / "c", augment=True, views=3, seed=2)
    seen = [int(codes[i, e]["codes"][0]) for i in range(4) for e in range(60)]
    assert all(20 < seen.count(number) < 60 for number in range(6))
    assert seen == [
        int(pickle.loads(pickle.dumps(codes))[i, e]["codes"][0]) for i in range(4) for e in range(60)
    ]
    assert {int(open_codes(tmp_path / "c", views=3)[0, e]["codes"][0]) for e in range(60)} == {0, 2, 4}
    assert {int(open_codes(tmp_path / "c")[0, e]["codes"][0]) for e in range(60)} == {0}
    assert codes.fits(info)
    assert not codes.fits(dataclasses.replace(info, views=2))


def test_fits(tmp_path):
    write_codes(tmp_path / "c", dataclasses.replace(INFO, flips=True), rows())
    codes = open_codes(tmp_path / "c")
    assert codes.fits(INFO)  # flipped codes to spare do no harm
    for change in ({"tokenizer_sha256": "x"}, {"fingerprint": "x"}, {"split": "x"}, {"image_size": 1},
                   {"preprocessing": "x"}):  # fmt: skip
        assert not codes.fits(dataclasses.replace(INFO, **change))
    write_codes(tmp_path / "c", INFO, rows())
    assert not open_codes(tmp_path / "c").fits(dataclasses.replace(INFO, flips=True))


def test_a_broken_off_write_leaves_the_old_cache(tmp_path):
    def breaking():
        yield from rows(2000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_codes(tmp_path / "c", INFO, breaking())
    assert not list(tmp_path.iterdir())
    write_codes(tmp_path / "c", INFO, rows(5))
    with pytest.raises(KeyboardInterrupt):
        write_codes(tmp_path / "c", INFO, breaking())
    assert len(open_codes(tmp_path / "c")) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"codes": np.zeros(5, int)}, r"row 1: codes is int64 \(5,\), expected whole numbers \(6,\)"),
        ({"codes": np.zeros(6)}, "row 1: codes is float64"),
        ({"codes": np.full(6, 512)}, "row 1: codes from 512 to 512, the codebook has 512"),
    ],
)
def test_wrong_codes_are_refused(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        write_codes(tmp_path / "c", INFO, itertools.chain(rows(1), [row]))
    with pytest.raises(DataError, match="no images to encode"):
        write_codes(tmp_path / "c", INFO, [])


def test_damage_is_named(tmp_path):
    folder = tmp_path / "c"
    with pytest.raises(CheckpointError, match="no token cache here"):
        open_codes(folder)
    for name, spoil in (
        ("codes.arrow", lambda data: data[: len(data) // 2]),
        ("codes.arrow", lambda data: b""),
        ("codes.arrow", lambda data: b"hello" * 100),
        ("cache.json", lambda data: data[:30]),
        ("cache.json", lambda data: b"[]"),
        ("cache.json", lambda data: data.replace(b'"split"', b'"splat"')),
        ("cache.json", lambda data: data.replace(b'"format": 1', b'"format": 9')),
        ("cache.json", lambda data: data.replace(b'"rows": 2500', b'"rows": 2501')),
    ):
        write_codes(folder, INFO, rows(2500))
        (folder / name).write_bytes(spoil((folder / name).read_bytes()))
        with pytest.raises(CheckpointError, match=r"(cache\.json|codes\.arrow): .*delete") as caught:
            open_codes(folder)
        assert "\n" not in str(caught.value)
    (folder / "codes.arrow").unlink()
    with pytest.raises(CheckpointError):
        open_codes(folder)
    assert json.loads(json.dumps(dataclasses.asdict(INFO)))["grid"] == [2, 3]


def test_it_is_fast(tmp_path):
    info = dataclasses.replace(INFO, grid=(8, 8), flips=True)
    write_codes(tmp_path / "c", info, rows(2000, length=64))
    batches = train_batches(open_codes(tmp_path / "c", augment=True), 64, seed=0)
    next(batches)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        assert next(batches)["codes"].shape == (64, 64)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005
