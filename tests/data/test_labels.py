"""Labels: images without one, numbers, names, and their order."""

from __future__ import annotations

import enum
import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from imgtf.data.labels import NotALabel, class_name, class_names, in_order, number_of
from imgtf.errors import ConfigError, DataError
from imgtf.pipelines.conditions import LabelLoader
from imgtf.prior.conditions.label import LabelConfig

from .reading import named, opened


def parquet(path, labels, **columns):
    """A parquet file of random images with labels."""
    cells = []
    for i in range(len(labels)):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (i, 0, 0)).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    table = datasets.Dataset.from_dict(
        {"image": cells}, features=datasets.Features({"image": datasets.Image()})
    )
    for name, values in {"label": labels, **columns}.items():
        table = table.add_column(name, values)
    table.to_parquet(path)
    return path


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, None), (-1, None), (float("nan"), None), ("", None), (" ", None), ("NaN", None), ("null", None),
        ("-1", None), (-1.0, None), (np.int64(-1), None), (3, "3"), (3.0, "3"), (np.float32(3), "3"),
        (np.int8(3), "3"), ("3.0", "3.0"), ("007", "007"), (True, "True"), (np.bool_(False), "False"),
        (b"cat", "cat"), (Colour.RED, "red"), ("--5", "--5"), (-5, "-5"), ("none", "none"), ("NA", "NA"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)  # fmt: skip
def test_what_a_value_names(value, name):
    assert class_name(value) == name


def test_values_that_are_not_classes():
    for value in (0.5, [1], {"a": 1}, float("inf")):
        with pytest.raises(NotALabel):
            class_name(value)


def test_texts_of_whole_floats_are_numbers_if_all_are():
    assert class_names(["1.0", "0.0", "", "2.0"]) == {"1.0": "1", "0.0": "0", "": None, "2.0": "2"}
    assert class_names(["v1.0", "1.5"]) == {"v1.0": "v1.0", "1.5": "1.5"}
    with pytest.raises(NotALabel, match="is not a whole number"):
        class_names(["1.0", "1.5"])
    assert class_names(["01", "2.0"]) == {"01": "01", "2.0": "2.0"}


def test_minus_one_and_one_alone_are_two_classes():
    assert class_names([-1, 1]) == {-1: "-1", 1: "1"}
    assert class_names([-1, 0, 1])[-1] is None


def test_natural_order():
    assert in_order(str(i) for i in range(12)) == tuple(str(i) for i in range(12))
    assert in_order(["b10", "b2", "a", "10", "9", "007"]) == ("007", "9", "10", "a", "b2", "b10")
    assert in_order(["red", "blue", "green"]) == ("blue", "green", "red")


def test_numbers_mean_names_if_all_names_are_numbers():
    assert number_of(("3", "5", "10"), 10) == 2
    assert number_of(("3", "5", "10"), 0) is None
    assert number_of(("007", "008"), 7) == 0
    assert number_of(("7", "007"), 7) is None
    assert number_of(("cat", "dog"), 1) == 1
    assert number_of(("cat", "dog"), 2) is None


def test_labels_given_to_sampling():
    def values(names, label):
        return LabelLoader(LabelConfig(class_names=names), None).values({"label": label})

    numbers = ("0", "1", "10", "11")
    assert values(numbers, 10) == values(numbers, "10") == values(numbers, np.int64(10)) == [2]
    assert values(numbers, [10.0, b"11", np.float32(1)]) == [2, 3, 1]
    assert values(("blue", "red"), Colour.RED) == values(("blue", "red"), 1) == [1]
    assert values(("False", "True"), True) == values(("False", "True"), np.bool_(True)) == [1]
    assert values(("-1", "1"), "-1") == values(("-1", "1"), -1) == [0]
    for wrong in (2, "2", 0.5, True, None):
        with pytest.raises(ConfigError, match="no label"):
            values(numbers, [wrong])


def test_class_folders_of_numbers(tmp_path, save):
    for i in range(12):
        save(tmp_path / str(i) / "x.png", (i, 0, 0))
    assert opened(tmp_path)[0].class_names == tuple(map(str, range(12)))


def test_files_outside_of_class_folders_are_unlabelled(tmp_path, save, caplog):
    save(tmp_path / "stray.png", "green")
    for i, name in enumerate(("cat", "dog", "unlabeled")):
        save(tmp_path / name / "x.png", (i, 0, 0))
    train, _ = opened(tmp_path)
    assert train.class_names == ("cat", "dog")
    assert sorted(map(str, named(train))) == ["None", "None", "cat", "dog"]
    assert "2 of 4 rows have no label" in caplog.text
    assert train.findings.splits[0].unlabelled == 2
    assert train.findings.splits[0].class_counts == (1, 1)


@pytest.mark.parametrize("flat", ["test", "val"])
def test_a_held_out_split_without_labels(tmp_path, save, caplog, flat):
    for i, name in enumerate(("train/cat", "train/dog", flat)):
        save(tmp_path / name / "x.png", (i, 0, 0))
    train, held_out = opened(tmp_path)
    assert (train.class_names, named(train), named(held_out)) == (("cat", "dog"), ["cat", "dog"], [None])
    assert f"{flat}: 1 of 1 rows have no label" in caplog.text


def test_classes_of_the_held_out_split_only(tmp_path, save, caplog):
    for i, name in enumerate(("train/cat", "train/dog", "test/cat", "test/unknown")):
        save(tmp_path / name / "x.png", (i, 0, 0))
    train, held_out = opened(tmp_path)
    assert train.class_names == held_out.class_names == ("cat", "dog")
    assert named(held_out) == ["cat", None]
    assert "held-out images of classes without training images: 1 (unknown)" in caplog.text


@pytest.mark.parametrize(
    ("labels", "classes", "names"),
    [
        (["cat", None, "dog", ""], ("cat", "dog"), ["cat", None, "dog", None]),
        ([1, -1, 0, 10], ("0", "1", "10"), ["1", None, "0", "10"]),
        ([1.0, float("nan"), 0.0, None], ("0", "1"), ["1", None, "0", None]),
        ([True, False, None, True], ("False", "True"), ["True", "False", None, "True"]),
        ([3, "cat", None, "dog"], ("3", "cat", "dog"), ["3", "cat", None, "dog"]),
    ],
)
def test_gaps_in_the_labels_of_jsonl(tmp_path, save, labels, classes, names):
    for i in range(4):
        save(tmp_path / f"{i}.png", (i, 0, 0))
    rows = [{"file_name": f"{i}.png", "label": label} for i, label in enumerate(labels)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, _ = opened(tmp_path)
    assert (train.class_names, named(train)) == (classes, names)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["0.0", "1.0", "", "10.0"], ("0", "1", "10")),
        (["--5", "-5", "5", "-1"], ("-5", "5", "--5")),
        (["007", "010", "008", ""], ("007", "008", "010")),
        (["none", "NA", "nan", "null"], ("NA", "none")),
    ],
)
def test_labels_of_csv(tmp_path, save, labels, classes):
    for i in range(4):
        save(tmp_path / f"{i}.png", (i, 0, 0))
    lines = ["file_name,label", *(f"{i}.png,{label}" for i, label in enumerate(labels))]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    assert opened(tmp_path)[0].class_names == classes


@pytest.mark.parametrize(
    ("labels", "classes", "unlabelled"),
    [
        ([0.0, 1.0, None, float("nan")], ("0", "1"), 2),
        ([True, False, True, None], ("False", "True"), 1),
        ([b"cat", b"dog", b"cat", None], ("cat", "dog"), 1),
        ([-1, -1, 4, 2], ("2", "4"), 2),
    ],
)
def test_labels_of_parquet(tmp_path, labels, classes, unlabelled):
    train, _ = opened(parquet(tmp_path / "x.parquet", labels))
    assert train.class_names == classes
    assert train.findings.splits[0].unlabelled == unlabelled


def test_nearly_as_many_classes_as_rows_are_logged(tmp_path, caplog):
    opened(parquet(tmp_path / "x.parquet", [f"caption {i}" for i in range(30)]))
    assert "has 30 classes in 30 rows; if these are captions, use --text-column label" in caplog.text


def test_class_labels_of_splits_are_matched_by_name(tmp_path):
    for split, labels, names in (("train", [0, 1, -1], ["a", "b"]), ("test", [0, 1, -1], ["b", "a"])):
        path = parquet(tmp_path / "x.parquet", labels)
        table = datasets.Dataset.from_parquet(str(path)).cast_column(
            "label", datasets.ClassLabel(names=names)
        )
        (tmp_path / "d" / split).mkdir(parents=True)
        table.to_parquet(tmp_path / "d" / split / "0.parquet")
    train, held_out = opened(tmp_path / "d")
    assert (named(train), named(held_out)) == (["a", "b", None], ["b", "a", None])


def test_texts_in_one_split_and_numbers_in_the_other(tmp_path):
    for split, labels in (("train", ["0", "10"]), ("test", [10, 0])):
        (tmp_path / split).mkdir()
        parquet(tmp_path / split / "0.parquet", labels)
    train, held_out = opened(tmp_path)
    assert (named(train), named(held_out)) == (["0", "10"], ["10", "0"])


def test_captions_and_labels_of_numbers_in_a_table(tmp_path):
    train, _ = opened(parquet(tmp_path / "x.parquet", [0.0, None], text=[7, 8]))
    assert (named(train), [train.text(0), train.text(1)]) == (["0", None], ["7", "8"])


def test_categories_of_pandas(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = parquet(tmp_path / "x.parquet", ["b", "a", "b"])
    table = pq.read_table(path).replace_schema_metadata(None)
    column = table["label"].combine_chunks().dictionary_encode()
    pq.write_table(table.set_column(1, "label", pa.chunked_array([column])), path)
    assert named(opened(path)[0]) == ["b", "a", "b"]


def test_a_column_of_measurements_is_not_a_label(tmp_path, caplog):
    path = parquet(tmp_path / "x.parquet", [1, 2], target=[0.5, 0.25])
    with pytest.raises(DataError, match=r"'target' does not hold class labels: 0.* is not a whole number"):
        opened(path, label_column="target")
    assert opened(path)[0].class_names == ("1", "2")
    path = parquet(tmp_path / "y.parquet", [0.5, 0.25])
    assert opened(path)[0].class_names == ()
    assert "the column 'label' is not used as labels" in caplog.text


def test_a_held_out_table_without_the_label_column(tmp_path, caplog):
    parquet(tmp_path / "train.parquet", ["a", "b"])
    parquet(tmp_path / "test.parquet", ["a", "b"])
    table = datasets.Dataset.from_parquet(str(tmp_path / "test.parquet")).remove_columns("label")
    table.to_parquet(tmp_path / "test.parquet")
    (tmp_path / "d").mkdir()
    for name in ("train", "test"):
        (tmp_path / "d" / name).mkdir()
        (tmp_path / f"{name}.parquet").rename(tmp_path / "d" / name / "0.parquet")
    train, held_out = opened(tmp_path / "d")
    assert (train.class_names, named(held_out)) == (("a", "b"), [None, None])
    assert "the split 'test' has no label column 'label'" in caplog.text
