"""Layouts of folders: what other tools write."""

from __future__ import annotations

import json
import tarfile
import zipfile
from dataclasses import replace

import datasets
import pytest
from PIL import Image

from imgtf.data.config import ConditionDataConfig, DataConfig
from imgtf.data.splits import split_in_stem, split_level, split_word
from imgtf.errors import DataError
from imgtf.pipelines.condition_loader import RunData
from imgtf.pipelines.conditions import TextLoader
from imgtf.prior.recipe import CacheRecipe

from .reading import named, opened, texts


@pytest.fixture
def images(tmp_path, save):
    """images(name, ...): write images with these names, each of another colour; return the folder."""
    counter = iter(range(1000))

    def make(*names: str):
        for name in names:
            save(tmp_path / name, (next(counter), 7, 7))
        return tmp_path

    return make


@pytest.mark.parametrize("suffix", ["txt", "caption"])
def test_captions_next_to_the_images(images, suffix, caplog):
    root = images("0.png", "1.png", "2.jpg", "3.png")
    for i in range(3):
        (root / f"{i}.{suffix}").write_text(f"a tile, number {i}\n", encoding="utf-8-sig")
    (root / f"3.{suffix}").write_text(" \n")
    with caplog.at_level("INFO", "imgtf"):
        train, _ = opened(root)
    assert texts(train) == [*(f"a tile, number {i}" for i in range(3)), None]
    assert train.findings.splits[0].captions == 3
    assert "images with captions in .txt or .json files next to them: 3" in caplog.text
    assert "images with an empty caption file: 1 (3.png)" in caplog.text


def test_each_line_of_a_caption_file_is_a_caption(images, caplog):
    root = images("0.png", "1.png")
    (root / "0.txt").write_text("a cat\n\na red cat\r\n")
    (root / "1.txt").write_text("a dog")
    with caplog.at_level("INFO", "imgtf"):
        train, _ = opened(root)
    assert texts(train) == ["a cat", "a red cat", "a dog"]
    assert "caption files with several lines, each a caption of its image: 1" in caplog.text


def test_captions_in_a_folder_of_their_own(images):
    root = images("images/a/0.png", "images/b/1.png")
    for i, name in enumerate("ab"):
        (root / "texts" / name).mkdir(parents=True)
        (root / "texts" / name / f"{i}.txt").write_text(f"caption {i}")
    train, _ = opened(root)
    assert (texts(train), named(train)) == (["caption 0", "caption 1"], ["a", "b"])


def test_box_files_are_not_captions(images, caplog):
    root = images("0.png", "1.png", "labels.png")
    (root / "0.txt").write_text("0 0.5 0.5 0.25 0.25\n3 0.1 0.2 0.3 0.4\n")
    (root / "1.txt").write_text("7")
    train, _ = opened(root)
    assert texts(train) == [None, "7", None]
    assert ".txt files with boxes instead of captions, which are not read: 1 (0.png)" in caplog.text


def test_a_caption_file_that_is_not_utf_8(images):
    root = images("0.png")
    (root / "0.txt").write_bytes(b"line\ncaf\xe9")
    with pytest.raises(DataError, match=r"0.txt: line 2 is not UTF-8 text .*iconv"):
        opened(root)


def test_captions_of_the_metadata_and_of_files(images, caplog):
    root = images("0.png", "1.png")
    for i in range(2):
        (root / f"{i}.txt").write_text(f"file {i}")
    (root / "metadata.csv").write_text("file_name,text\n0.png,metadata 0\n")
    with caplog.at_level("INFO", "imgtf"):
        train, _ = opened(root)
    assert texts(train) == ["metadata 0", "file 1"]
    assert "images with captions in the metadata, which are used, and in files next to them: 1" in caplog.text


def test_img2dataset(images, caplog):
    root = images(*(f"0000{s}/0000{s}000{i}.jpg" for s in range(2) for i in range(3)))
    for s in range(2):
        keys = [f"0000{s}000{i}" for i in range(3)]
        for key in keys:
            (root / f"0000{s}" / f"{key}.txt").write_text(f"caption {key}")
            (root / f"0000{s}" / f"{key}.json").write_text(json.dumps({"key": key, "caption": "x"}))
        rows = {
            "key": [*keys, "gone"],
            "caption": ["x"] * 4,
            "status": ["success"] * 3 + ["failed_to_download"],
        }
        datasets.Dataset.from_dict(rows).to_parquet(root / f"0000{s}.parquet")
        (root / f"0000{s}_stats.json").write_text('{"count": 4}')
    with caplog.at_level("INFO", "imgtf"):
        train, _ = opened(root)
    assert (len(train), train.class_names) == (6, ())
    assert texts(train)[0] == "caption 000000000"
    assert "the folders 00000, 00001 are shards of img2dataset, not classes" in caplog.text


def test_img2dataset_with_captions_in_json_or_parquet_only(images):
    root = images("00000/000000000.jpg", "00000/000000001.jpg")
    rows = {"key": ["000000000", "000000001", "000000002"], "caption": ["p0", "p1", "p2"]}
    datasets.Dataset.from_dict(rows).to_parquet(root / "00000.parquet")
    train, _ = opened(root)
    assert (texts(train), len(train.findings.missing)) == (["p0", "p1"], 1)
    for i in range(2):
        (root / "00000" / f"00000000{i}.json").write_text(json.dumps({"caption": f"j{i}", "width": 8}))
    assert texts(opened(root)[0]) == ["j0", "j1"]


def coco(path, images, captions=(), objects=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    annotations = [{"id": n, "image_id": i, "caption": c} for n, (i, c) in enumerate(captions)]
    annotations += [{"id": n, "image_id": i, "category_id": c} for n, (i, c) in enumerate(objects)]
    content = {"info": {}, "images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path.write_text(json.dumps(content))


def test_coco_captions(images):
    root = images(
        *(f"{s}2017/{i:012}.jpg" for s in ("train", "val") for i in range(3 if s == "train" else 2))
    )
    for split, count in (("train", 3), ("val", 2)):
        rows = [{"id": i, "file_name": f"{i:012}.jpg"} for i in range(count)]
        # the same names in both splits: each file of annotations means its own split
        for row in rows:
            row["file_name"] = f"{split}2017/{row['file_name']}"
        captions = [(i, f"{split} {i} {j}") for i in range(count) for j in range(2)]
        coco(root / "annotations" / f"captions_{split}2017.json", rows, captions)
    train, held_out = opened(root)
    assert (train.split, held_out.split, train.class_names) == ("train2017", "val2017", ())
    assert texts(train)[:3] == ["train 0 0", "train 0 1", "train 1 0"]
    assert texts(held_out) == ["val 0 0", "val 0 1", "val 1 0", "val 1 1"]
    assert [split.images for split in train.findings.splits] == [3, 2]


def test_coco_objects(images):
    root = images("0.jpg", "1.jpg")
    rows = [{"id": i, "file_name": f"{i}.jpg"} for i in range(2)]
    coco(root / "instances.json", rows, objects=[(0, 1), (0, 1), (1, 2)])
    assert named(opened(root)[0]) == ["cat", "dog"]
    coco(root / "instances.json", rows, objects=[(0, 1), (0, 2), (1, 2)])
    assert opened(root)[0].class_names == ()
    coco(root / "metadata.json", rows, captions=[(9, "x")])
    with pytest.raises(DataError, match=r"metadata.json: annotation 1 is of an unknown image \(9\)"):
        opened(root)


def rows_of_images(count: int) -> datasets.Dataset:
    cells = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(count)]
    return datasets.Dataset.from_dict(
        {"image": cells}, features=datasets.Features({"image": datasets.Image()})
    )


def test_a_table_among_images(images, caplog):
    root = images("banner.png", "docs/plot.png")
    rows_of_images(5).to_parquet(root / "train.parquet")
    (root / "README.md").write_text("x")
    train, _ = opened(root)
    assert (len(train), train.findings.found, train.findings.used) == (5, 7, 5)
    assert train.findings.other_files == {".md": 1}
    assert "5 rows in 1 .parquet files are read; 2 image files in the same folder are left out" in caplog.text


def test_images_around_a_small_table(images, caplog):
    root = images(*(f"{i}.png" for i in range(6)))
    rows_of_images(5).to_parquet(root / "old.parquet")
    train, _ = opened(root)
    assert (len(train), train.findings.found, train.findings.used) == (6, 11, 6)
    assert "6 image files are read; 5 rows in 1 .parquet files in the same folder are left out" in caplog.text


@pytest.mark.parametrize(
    ("train_name", "held_out_name"),
    [
        ("train", "val"), ("Train", "Test"), ("training_set", "test_set"), ("train_images", "test_images"),
        ("train2017", "val2017"), ("set/train", "set/valid"), ("images/train", "images/dev"), ("training", "testing"),
    ],
)  # fmt: skip
def test_names_of_split_folders(images, train_name, held_out_name):
    root = images(f"{train_name}/a/0.png", f"{train_name}/b/1.png", f"{held_out_name}/a/2.png")
    train, held_out = opened(root)
    assert (named(train), named(held_out)) == (["a", "b"], ["a"])
    assert train.split == train_name.split("/")[-1]


def test_folders_without_images_say_what_is_there(tmp_path):
    for name in ("a", "b", "x.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"no images .* in it; it has 2 without suffix, 1 \.txt"):
        opened(tmp_path)


def test_captions_of_late_images_only(images):
    root = images(*(f"{i:03}.png" for i in range(120)))
    run = RunData(DataConfig(), ConditionDataConfig(), CacheRecipe(), opened(root)[0], None)
    assert "add a metadata.csv, or .txt files next to the images" in TextLoader.missing(run)
    (root / "119.txt").write_text("a caption")
    assert TextLoader.missing(replace(run, train=opened(root)[0])) == ""


def test_splits_inside_of_classes(images):
    root = images("cat/train/0.png", "cat/test/1.png", "dog/train/2.png", "dog/test/3.png")
    train, held_out = opened(root)
    assert (named(train), named(held_out)) == (["cat", "dog"], ["cat", "dog"])


def test_images_outside_of_the_splits(images, caplog):
    root = images("train/a/0.png", "train/b/1.png", "val/a/2.png", "extra/3.png", "readme.png")
    train, held_out = opened(root)
    assert (len(train), len(held_out), train.class_names) == (2, 1, ("a", "b"))
    assert (
        "2 images outside the split folders train, val are left out: extra/3.png, readme.png" in caplog.text
    )
    assert (train.findings.found, train.findings.used) == (5, 3)


def test_splits_of_the_metadata(images, caplog):
    root = images(*(f"{i}.png" for i in range(4)))
    for name, numbers in (("train", (0, 1)), ("val", (2, 3))):
        lines = ["image,label", *(f"{i}.png,{i % 2}" for i in numbers)]
        (root / f"{name}.csv").write_text("\n".join(lines))
    train, held_out = opened(root)
    assert (train.split, held_out.split) == ("train", "val")
    assert (named(train), named(held_out)) == (["0", "1"], ["0", "1"])
    (root / "val.csv").write_text("image,label\n0.png,0\n")
    with pytest.raises(DataError, match=r"0.png: the metadata puts it in several splits \(train, val\)"):
        opened(root)


def test_a_column_of_splits(images):
    root = images(*(f"{i}.png" for i in range(4)))
    lines = ["file,split", *(f"{i}.png,{'test' if i == 2 else 'Train'}" for i in range(4))]
    (root / "metadata.csv").write_text("\n".join(lines))
    train, held_out = opened(root)
    assert [len(train), len(held_out), held_out.split] == [3, 1, "test"]


def test_nested_classes(images, caplog):
    root = images("animal/cat/0.png", "animal/dog/1.png", "plant/oak/2.png")
    with caplog.at_level("INFO", "imgtf"):
        train, _ = opened(root)
    assert named(train) == ["animal", "animal", "plant"]
    assert (
        "the classes are the folders animal, plant; folders below them, such as 'animal/cat'" in caplog.text
    )
    assert train.findings.alternatives == ("classes from the innermost folders",)


def test_wrapping_folders_and_a_stray_image(images):
    root = images("stray.png", "data/images/cat/0.png", "data/images/dog/1.png")
    assert named(opened(root)[0]) == ["cat", "dog", None]


def test_the_training_split_decides_the_level_of_the_classes(images):
    root = images("train/cat/a/0.png", "train/dog/a/1.png", "val/cat/a/2.png", "val/cat/b/3.png")
    assert named(opened(root)[1]) == ["cat", "cat"]


def test_class_names_in_two_normal_forms(images):
    root = images("train/e\u0301/0.png", "train/z/1.png", "val/\u00e9/2.png")
    train, held_out = opened(root)
    assert train.class_names == ("z", "\u00e9")
    assert named(held_out) == ["\u00e9"]


def test_labels_in_cls_files(images):
    root = images("0.jpg", "1.jpg", "2.jpg")
    for i in range(2):
        (root / f"{i}.cls").write_text(f"{i * 10}\n")
    assert named(opened(root)[0]) == ["0", "10", None]


def test_cls_files_without_a_label(images, caplog):
    root = images(*(f"{i}.png" for i in range(5)))
    for i, text in enumerate(("a", "b", "\n", "-1", "nan")):
        (root / f"{i}.cls").write_text(text)
    train, _ = opened(root)
    assert named(train) == ["a", "b", None, None, None]
    assert "3 of 5 rows have no label" in caplog.text


def test_archives_are_refused(tmp_path, images):
    root = images("d/0.png")
    with zipfile.ZipFile(tmp_path / "my set.zip", "w") as archive:
        archive.write(root / "d" / "0.png", "0.png")
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(root / "d", "d")
    with pytest.raises(
        DataError, match=r"archives are not read: unpack it first, .*unzip '.*my set.zip' -d '.*my set'"
    ):
        opened(tmp_path / "my set.zip")
    with pytest.raises(DataError, match=r"tar -xf '.*set.tar.gz'"):
        opened(tmp_path / "set.tar.gz")
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("d/0.png", "e/0.png"):
        images(name)
    with tarfile.open(shards / "00000.tar", "w") as archive:
        archive.add(root / "d", "d")
        archive.add(root / "e", "e")
    with pytest.raises(DataError, match=r"images in folders \(d, e\), not samples .*tar -xf '.*00000.tar'"):
        opened(shards)


def test_archives_among_images_are_logged(images, caplog):
    root = images("0.png")
    (root / "more.zip").write_bytes(b"")
    train, _ = opened(root)
    assert "archives that are not read: 1 (more.zip)" in caplog.text
    assert train.findings.other_files == {".zip": 1}


def test_a_table_in_a_txt_file(images):
    root = images("Images/a.jpg", "Images/b.jpg")
    (root / "captions.txt").write_text('image,caption\na.jpg,one\na.jpg,"two, three"\nb.jpg,four\n')
    (root / "readme.txt").write_text("images, captions and more")
    train, _ = opened(root)
    assert texts(train) == ["one", "two, three", "four"]
    assert train.findings.layout == "image files, captions.txt"
    (root / "results.csv").write_text("image_name| comment_number| comment\na.jpg| 0| x\nb.jpg| 0| y\n")
    (root / "captions.txt").unlink()
    assert texts(opened(root)[0]) == ["x", "y"]


def test_a_list_of_captions_in_a_table(tmp_path, caplog):
    table = rows_of_images(2).add_column("captions", [["a", "b"], []])
    table.to_parquet(tmp_path / "x.parquet")
    with caplog.at_level("INFO", "imgtf"):
        train, _ = opened(tmp_path / "x.parquet")
    assert texts(train) == ["a", None]
    assert "of several captions in 'captions', the first is used" in caplog.text


def test_metadata_in_each_split(images, caplog):
    root = images("train/0.png", "train/1.png", "test/0.png")
    (root / "train" / "metadata.csv").write_text("file_name,label\n0.png,a\n1.png,b\n2.png,b\n")
    (root / "test" / "metadata.csv").write_text("file_name\n0.png\n")
    train, held_out = opened(root)
    assert (named(train), named(held_out)) == (["a", "b"], [None])
    assert train.findings.missing == ("train/metadata.csv line 4: no image 2.png",)


def test_a_metadata_file_as_the_data_set(images):
    root = images("0.png")
    (root / "metadata.csv").write_text("file_name,text\n0.png,x\n")
    with pytest.raises(DataError, match="metadata of images; give the folder of the images"):
        opened(root / "metadata.csv")


def test_formats_that_cannot_be_read_are_counted(images, monkeypatch, caplog):
    monkeypatch.setattr("imgtf.data.files.find_spec", lambda name: None)
    root = images("0.png")
    (root / "a.heic").write_bytes(b"x")
    (root / "b.HEIC").write_bytes(b"x")
    (root / "c.nef").write_bytes(b"x")
    train, _ = opened(root)
    assert (train.findings.found, train.findings.used) == (4, 1)
    assert "2 of 4 files are .heic, which cannot be read: run `pip install pillow-heif`" in caplog.text
    assert {one.names for one in train.findings.left_out} == {("a.heic", "b.HEIC"), ("c.nef",)}
    (root / "0.png").unlink()
    with pytest.raises(DataError, match=r"2 of 3 files are \.heic"):
        opened(root)


def test_words_for_splits():
    assert [split_word(name) for name in ("train", "VAL", "test2014", "training_set", "Test Images")] == [
        "train", "val", "test", "training", "test",
    ]  # fmt: skip
    assert not any(map(split_word, ("trains", "contest", "cat", "train_bus", "", "val7")))
    assert [split_in_stem(s) for s in ("captions_val2017", "train", "a-test-b", "train_val", "contest")] == [
        "val", "train", "test", None, None,
    ]  # fmt: skip


def test_levels_of_splits():
    assert split_level([("train",), ("test",)]) == 0
    assert split_level([("train",), ("car",), ("bus",)]) is None
    assert split_level([("train",), ("val",), ("bus",)]) == 0
    assert split_level([("cat", "train"), ("dog", "val"), ("dog", "train")]) == 1
    assert split_level([("cat", "train"), ("dog", "train")]) is None
    assert split_level([("x", "train"), ("x", "test"), ()]) == 1
    assert split_level([]) is None
