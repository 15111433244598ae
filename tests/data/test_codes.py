import dataclasses
import itertools
import json
import pickle

import numpy as np
import pytest
import torch

from imgtf.data.codes import CacheColumn, CodesInfo, column_suffix, open_codes, write_codes
from imgtf.data.loader import train_batches
from imgtf.errors import CheckpointError, ConfigError, DataError

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
IMAGE = CacheColumn("image", (4,), codebook_size=16, origin="abc", per_crop=True)
FEATURES = CacheColumn("features", (2, 5), origin="clip")


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
def test_codes_use_the_smallest_type_that_holds_the_codebook(tmp_path, size, dtype):
    import datasets

    info = dataclasses.replace(INFO, codebook_size=size)
    top = {"codes": np.full(6, size - 1), "codes_flipped": None, "label": None, "text": None}
    write_codes(tmp_path / "c", info, [top])
    item = open_codes(tmp_path / "c")[0]
    assert item["codes"].tolist() == [size - 1] * 6
    assert (item["label"], item["text"]) == (-1, "")
    plain = datasets.Dataset.from_file(str(tmp_path / "c" / "codes.arrow"))
    assert plain.features["codes"].feature.dtype == dtype


def test_other_columns_keep_their_shape_and_type(tmp_path):
    info = dataclasses.replace(INFO, columns=(IMAGE, FEATURES))
    features = np.random.RandomState(0).standard_normal((1500, 2, 5)).astype(np.float16)
    own = ({"image": np.arange(4) + i % 12, "features": features[i]} for i in range(1500))
    write_codes(tmp_path / "c", info, (row | more for row, more in zip(rows(1500), own, strict=True)))
    codes = open_codes(tmp_path / "c")
    assert codes.info == info
    item = codes[1499]
    assert item["image"].tolist() == [11, 12, 13, 14]
    assert item["image"].dtype == torch.int64
    assert item["features"].dtype == torch.float32
    assert item["features"].tolist() == features[1499].astype(np.float32).tolist()


def test_flipped_codes_depend_on_seed_epoch_and_index(tmp_path):
    write_codes(tmp_path / "c", dataclasses.replace(INFO, flips=True), rows(20))
    plain, flipping = open_codes(tmp_path / "c"), open_codes(tmp_path / "c", flip=True, seed=3)
    keys = [(i, e) for i in range(20) for e in range(3)]
    flipped = [flipping[key]["codes"].tolist() != plain[key]["codes"].tolist() for key in keys]
    assert 10 < sum(flipped) < 50
    key = keys[flipped.index(True)]
    assert flipping[key]["codes"].tolist() == plain[key]["codes"].tolist()[::-1]
    copy = pickle.loads(pickle.dumps(flipping))  # as a spawned worker receives it
    assert all(torch.equal(copy[key]["codes"], flipping[key]["codes"]) for key in keys)


def test_each_epoch_reads_one_crop_in_every_per_crop_column(tmp_path):
    info = dataclasses.replace(INFO, flips=True, crops=3, columns=(IMAGE, FEATURES))
    names = [column_suffix(crop, flipped) for crop in range(3) for flipped in (False, True)]
    assert names == ["", "_flipped", "_1", "_1_flipped", "_2", "_2_flipped"]
    row = {"codes" + name: np.full(6, number) for number, name in enumerate(names)}
    row |= {"image" + name: np.full(4, number) for number, name in enumerate(names)}
    write_codes(tmp_path / "c", info, [row | {"features": np.zeros((2, 5))}] * 4)
    codes = open_codes(tmp_path / "c", flip=True, crops=3, seed=2)
    items = [codes[i, e] for i in range(4) for e in range(60)]
    seen = [int(item["codes"][0]) for item in items]
    assert all(42 < seen.count(number) < 78 for number in (0, 1))  # the centre crop: half of the 240
    assert all(15 < seen.count(number) < 47 for number in (2, 3, 4, 5))
    assert seen == [int(item["image"][0]) for item in items]
    copy = pickle.loads(pickle.dumps(codes))
    assert seen == [int(copy[i, e]["codes"][0]) for i in range(4) for e in range(60)]
    assert {int(open_codes(tmp_path / "c", crops=3)[0, e]["codes"][0]) for e in range(60)} == {0, 2, 4}
    assert {int(open_codes(tmp_path / "c")[0, e]["codes"][0]) for e in range(60)} == {0}
    assert codes.fits(info)
    assert not codes.fits(dataclasses.replace(info, crops=2))


def test_fits(tmp_path):
    info = dataclasses.replace(INFO, columns=(IMAGE, FEATURES))
    row = {"image": np.zeros(4, int), "image_flipped": np.zeros(4, int), "features": np.zeros((2, 5))}
    write_codes(tmp_path / "c", dataclasses.replace(info, flips=True), rows(**row))
    codes = open_codes(tmp_path / "c")
    assert codes.fits(info)  # the flipped codes are not used
    assert codes.fits(dataclasses.replace(info, columns=(FEATURES, IMAGE)))
    for change in (
        {"tokenizer_sha256": "x"}, {"fingerprint": "x"}, {"split": "x"}, {"image_size": (8, 1)}, {"preprocessing": "x"},
        {"precision": "bf16"}, {"columns": ()}, {"columns": (IMAGE,)},
        {"columns": (IMAGE, dataclasses.replace(FEATURES, origin="t5"))},
        {"columns": (dataclasses.replace(IMAGE, codebook_size=17), FEATURES)},
    ):  # fmt: skip
        assert not codes.fits(dataclasses.replace(info, **change))
    write_codes(tmp_path / "c", info, rows(**row))
    assert not open_codes(tmp_path / "c").fits(dataclasses.replace(info, flips=True))


def test_column_names_are_unique():
    for columns in ((IMAGE, IMAGE), (CacheColumn("label", (1,)),), (CacheColumn("codes", (6,)),)):
        with pytest.raises(ConfigError, match="a column name is used twice"):
            dataclasses.replace(INFO, columns=columns)


def test_an_interrupted_write_keeps_the_old_cache(tmp_path):
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
        ({"codes": np.full(6, 512)}, "row 1: codes has values from 512 to 512, the codebook has 512"),
        ({"image": np.full(4, -1)}, "row 1: image has values from -1 to -1, the codebook has 16"),
        ({"image": np.zeros(6, int)}, r"row 1: image is int64 \(6,\), expected whole numbers \(4,\)"),
        ({"features": np.zeros(10)}, r"row 1: features is float64 \(10,\), expected numbers \(2, 5\)"),
        ({"features": np.full((2, 5), np.nan)}, "row 1: features has values from nan to nan, float16"),
        ({"features": np.full((2, 5), 1e6)}, "row 1: features has values .* float16 cannot hold them"),
        ({"features": None}, "row 1: features is object"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, row, message):
    info = dataclasses.replace(INFO, columns=(IMAGE, FEATURES))
    good = next(rows(1, image=np.zeros(4, int), features=np.zeros((2, 5))))
    with pytest.raises(DataError, match=message):
        write_codes(tmp_path / "c", info, [good, good | row])
    with pytest.raises(DataError, match="no images to encode"):
        write_codes(tmp_path / "c", info, [])


def test_damage_is_named(tmp_path):
    folder = tmp_path / "c"
    with pytest.raises(CheckpointError, match="not a token cache"):
        open_codes(folder)
    for name, spoil in (
        ("codes.arrow", lambda data: data[: len(data) // 2]),
        ("codes.arrow", lambda data: b""),
        ("codes.arrow", lambda data: b"hello" * 100),
        ("cache.json", lambda data: data[:30]),
        ("cache.json", lambda data: b"[]"),
        ("cache.json", lambda data: data.replace(b'"split"', b'"splat"')),
        ("cache.json", lambda data: data.replace(b'"format": 2', b'"format": 9')),
        ("cache.json", lambda data: data.replace(b'"rows": 2500', b'"rows": 2501')),
        ("cache.json", lambda data: data.replace(b'"columns": []', b'"columns": [{"name": "x"}]')),
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


def test_numpy_numbers_count_as_numbers(tmp_path):
    labelled = ({**row, "label": np.int64(row["label"])} for row in rows(8))
    write_codes(tmp_path / "c", INFO, labelled)
    codes = open_codes(tmp_path / "c", seed=np.int64(3))
    assert codes[np.int64(5), np.int64(2)]["label"] == 1
    assert next(train_batches(codes, np.int64(4), seed=np.int64(1)))["index"].dtype == torch.int64


def test_arrays_are_read_from_the_mapped_file_without_copies(tmp_path):
    write_codes(tmp_path / "c", dataclasses.replace(INFO, columns=(FEATURES,)),
                rows(2000, features=np.ones((2, 5))))  # fmt: skip
    codes = open_codes(tmp_path / "c")
    for blocks in codes._arrays.values():
        assert len(blocks) == 2
        assert not any(block.flags.owndata or block.flags.writeable for block in blocks)
    assert codes[0]["codes"].untyped_storage().nbytes() == 6 * 8  # one row is copied per item


def test_batches_have_every_column(tmp_path):
    write_codes(tmp_path / "c", dataclasses.replace(INFO, columns=(FEATURES,)),
                itertools.islice(rows(9, features=np.ones((2, 5))), 9))  # fmt: skip
    batch = next(train_batches(open_codes(tmp_path / "c"), 4, seed=0))
    assert batch["codes"].shape == (4, 6)
    assert batch["features"].shape == (4, 2, 5)
    assert len(batch["text"]) == 4
