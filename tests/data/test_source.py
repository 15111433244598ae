import io
import json
import subprocess
import sys

import datasets
import numpy as np
import pytest
from PIL import Image

from imgtf.data.config import AugmentationConfig, DataConfig, flips, worker_count
from imgtf.data.decode import BadImage
from imgtf.data.probe import count_channels, read_headers
from imgtf.data.source import hold_out, open_source
from imgtf.errors import ConfigError, DataError
from imgtf.options import build


def opened(data, **options):
    return open_source(DataConfig(data=str(data), **options))


def png(colour="red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def table(count=20, **columns) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image()})
    cells = [{"bytes": png((i, 0, 0)), "path": None} for i in range(count)]
    result = datasets.Dataset.from_dict({"image": cells}, features=features)
    for name, values in columns.items():
        result = result.add_column(name, values)
    return result


def test_the_config_is_light():
    code = (
        "import sys, imgtf.data.config as c; c.DataConfig(); "
        "assert not {'torch', 'datasets', 'PIL', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_options_are_checked():
    assert build(DataConfig, {}) == DataConfig()
    for wrong in ({"held_out": 0.95}, {"bad_images": "ask"}, {"workers": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            build(DataConfig, wrong)
    with pytest.raises(ConfigError, match="crop"):
        build(AugmentationConfig, {"crop": "left"})


def test_automatic_choices(monkeypatch):
    assert flips(DataConfig(data="x"), AugmentationConfig())
    assert not flips(DataConfig(), AugmentationConfig())
    assert flips(DataConfig(), AugmentationConfig(flip=True))
    assert worker_count(DataConfig(workers=3)) == 3
    assert worker_count(DataConfig()) == 0
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(12), raising=False)
    assert worker_count(DataConfig(data="x")) == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count(DataConfig(data="x")) == 1


def test_digits():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    train, held = open_source(DataConfig())
    assert (len(train), len(held)) == (1500, 297)
    target = sklearn_datasets.load_digits().target
    assert [train.label(i) for i in (0, 7, 1499)] == target[[0, 7, 1499]].tolist()
    assert [held.label(i) for i in (0, 296)] == target[[1500, 1796]].tolist()
    image = train.image(0)
    assert (image.mode, image.size) == ("L", (32, 32))
    assert np.asarray(image).min() == 0
    assert np.asarray(image).max() > 230
    assert train.class_names == tuple("0123456789")
    assert train.fingerprint != held.fingerprint
    assert count_channels(read_headers(train)) == 1


def test_a_folder_called_digits_is_not_the_built_in_digits(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("WARNING", "imgtf"):
        open_source(DataConfig())
        assert not caplog.records
        (tmp_path / "digits").mkdir()
        assert len(open_source(DataConfig())[0]) == 1500
    assert caplog.messages == ["digits: the built-in digits, not the folder; its name as data is ./digits"]
    with pytest.raises(DataError, match=r"^digits: no images"):
        open_source(DataConfig(data="./digits"))


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install imgtf\[demo\]"):
        open_source(DataConfig())


def test_class_folders(tmp_path, save):
    for name in ("cat", "dog"):
        for i in range(10):
            save(tmp_path / name / f"{i}.png", (i, len(name), ord(name[0])))
    save(tmp_path / "cat" / "test_9.JPG")  # `test` in the name of a file means nothing
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    save(tmp_path / ".hidden" / "x.png")
    train, held = opened(tmp_path)
    assert (len(train), len(held)) == (19, 2)
    assert train.class_names == held.class_names == ("cat", "dog")
    assert (train.split, held.split) == ("train", "train[held-out]")
    names = {source.where(i) for source in (train, held) for i in range(len(source))}
    assert len(names) == 21
    for i in range(len(train)):
        assert train.class_names[train.label(i)] == train.where(i).split("/")[-2]


def test_unusual_folder_names_and_links(tmp_path, save):
    root = tmp_path / "my [1] dür * x"
    save(root / "a b" / "é 1.png")
    save(root / "a b" / "deep" / "2.png")
    save(root / "c" / "3.png")
    (tmp_path / "link").symlink_to(root)
    (root / "loop").symlink_to(tmp_path)
    for path in (root, tmp_path / "link"):
        train, held = opened(path, held_out=0)
        assert (len(train), len(held)) == (3, 0)
        assert train.class_names == ("a b", "c")


def test_flat_single_and_uneven_folders(tmp_path, save, caplog):
    for i in range(3):
        save(tmp_path / "flat" / f"{i}.png")
        save(tmp_path / "single" / "only" / f"{i}.png")
        save(tmp_path / "wrapped" / "images" / f"class {i}" / "x.png")
        save(tmp_path / "uneven" / f"{i}.png")
        save(tmp_path / "uneven" / "sub" / f"{i}.png")
    assert opened(tmp_path / "flat")[0].class_names == ()
    assert opened(tmp_path / "flat")[0].label(0) is None
    assert opened(tmp_path / "single")[0].class_names == ("only",)
    assert opened(tmp_path / "wrapped")[0].class_names == ("class 0", "class 1", "class 2")
    assert opened(tmp_path / "uneven")[0].class_names == ()
    assert "the images have no labels" in caplog.text


def test_split_folders(tmp_path, save):
    for split in ("train", "validation", "test"):
        for name in ("x", "y"):
            save(tmp_path / split / name / f"{split}.png")
    train, held = opened(tmp_path)
    assert (train.split, held.split) == ("train", "validation")
    assert train.class_names == ("x", "y")
    assert opened(tmp_path, held_out_split="test")[1].split == "test"
    with pytest.raises(DataError, match=r"no split 'dev' \(--split\); splits are test, train, validation"):
        opened(tmp_path, split="dev")


def test_flat_split_folders_have_no_labels(tmp_path, save):
    for split in ("train", "val"):
        save(tmp_path / split / "x.png")
    train, held = opened(tmp_path)
    assert (train.split, held.split, train.class_names) == ("train", "val", ())


def test_a_class_named_train(tmp_path, save):
    for name in ("bus", "car", "train"):
        save(tmp_path / name / "x.png")
    assert opened(tmp_path)[0].class_names == ("bus", "car", "train")


def test_a_single_split_is_the_training_split(tmp_path, save):
    for i in range(10):
        save(tmp_path / "test" / f"{i}.png")
    train, held = opened(tmp_path)
    assert (train.split, held.split, len(train), len(held)) == ("test", "test[held-out]", 9, 1)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata(tmp_path, save, kind, caplog):
    for i in range(4):
        save(tmp_path / f"{i}.png", (i, 0, 0))
    rows = [(f"{i}.png", f"number {i}, red", i % 2) for i in range(3)]
    if kind == "jsonl":
        lines = [json.dumps(dict(zip(("file_name", "text", "label"), row, strict=True))) for row in rows]
    else:
        lines = ["file_name,text,label"] + [f'{name},"{text}",{label}' for name, text, label in rows]
    (tmp_path / f"metadata.{kind}").write_text("\n".join(lines) + "\n")
    train, _ = opened(tmp_path, held_out=0)
    assert [train.text(i) for i in range(3)] == ["number 0, red", "number 1, red", "number 2, red"]
    assert [train.label(i) for i in range(3)] == [0, 1, 0]
    assert train.class_names == ("0", "1")
    assert (train.label(3), train.text(3)) == (None, None)
    assert f"1 of 4 images have no row in metadata.{kind}" in caplog.text


def test_metadata_with_class_folders(tmp_path, save):
    for name in ("cat", "dog"):
        save(tmp_path / "train" / name / "0.png")
    lines = [
        json.dumps({"file_name": f"train/{n}/0.png", "caption": f"a {n}", "n": [1]}) for n in ("dog", "cat")
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    train, _ = opened(tmp_path, held_out=0)
    assert [(train.class_names[train.label(i)], train.text(i)) for i in range(2)] == [
        ("cat", "a cat"),
        ("dog", "a dog"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"file_name": "9.png"}',
            r"metadata.jsonl: none of its 1 rows names an image .* line 1: no image 9.png",
        ),
        ('{"text": "x"}', r"metadata.jsonl: no column of file names such as file_name; columns are text"),
        ("{", r"line 1 is not JSON"),
        ("[1]", r"line 1 is not a JSON object"),
    ],
)
def test_broken_metadata(tmp_path, save, line, message):
    save(tmp_path / "0.png")
    (tmp_path / "metadata.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_unreadable_images_are_named(tmp_path, save):
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("text")
    (tmp_path / "c.png").write_bytes(b"")
    (tmp_path / "d.png").symlink_to(tmp_path / "gone.png")
    source, _ = opened(tmp_path, held_out=0)
    for i, why in ((1, "not an image"), (2, "empty"), (3, "no such file")):
        with pytest.raises(BadImage, match=why):
            source.image(i)
    assert count_channels(read_headers(source)) == 3


def test_data_sets_that_do_not_exist(tmp_path):
    with pytest.raises(DataError, match="no images"):
        opened(tmp_path)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(DataError, match="no images"):
        opened(tmp_path)
    for path in (tmp_path / "gone", "./gone", "~/gone-from-here", "gone.parquet", "a/b/c"):
        with pytest.raises(DataError, match="no such file or folder"):
            opened(path)
    with pytest.raises(DataError, match="not a data set"):
        opened(tmp_path / "x.txt")
    (tmp_path / "y.parquet").write_bytes(b"PAR0")
    with pytest.raises(DataError, match=r"parquet files cannot be read: ") as caught:
        opened(tmp_path / "y.parquet")
    assert "\n" not in str(caught.value)


def test_held_out_rows_are_always_the_same():
    kept, held_out = hold_out(100, 0.1)
    assert sorted([*kept, *held_out]) == list(range(100))
    assert held_out.tolist() == np.sort(np.random.RandomState(0).permutation(100)[:10]).tolist()
    assert [len(hold_out(n, 0.1)[1]) for n in (1, 2, 5, 100_000)] == [0, 1, 1, 5000]
    assert len(hold_out(10, 0)[1]) == 0


def test_fingerprints(tmp_path, save):
    for i in range(6):
        save(tmp_path / "a" / f"{i}.png")
    first, held = opened(tmp_path / "a")
    assert first.fingerprint == opened(tmp_path / "a")[0].fingerprint != held.fingerprint
    assert first.fingerprint != opened(tmp_path / "a", held_out=0.5)[0].fingerprint
    (tmp_path / "a").rename(tmp_path / "b")
    assert first.fingerprint == opened(tmp_path / "b")[0].fingerprint
    save(tmp_path / "b" / "0.png", "blue")
    replaced = opened(tmp_path / "b")[0].fingerprint
    save(tmp_path / "b" / "7.png")
    assert len({first.fingerprint, replaced, opened(tmp_path / "b")[0].fingerprint}) == 3


def test_parquet_and_arrow(tmp_path):
    rows = table(20, label=[f"class {i % 2}" for i in range(20)], caption=[f"row {i}" for i in range(20)])
    root = tmp_path / "set [1]"
    (root / "data").mkdir(parents=True)
    rows.to_parquet(root / "data" / "train-00000-of-00001.parquet")
    rows.select(range(5)).to_parquet(root / "data" / "test-00000-of-00001.parquet")
    rows.to_parquet(tmp_path / "my test.parquet")
    rows.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=rows, valid=rows).save_to_disk(tmp_path / "both")
    shard = next((tmp_path / "saved").glob("*.arrow"))
    held_out = "train[held-out]"
    cases = {
        root: "test",
        tmp_path / "my test.parquet": held_out,
        tmp_path / "saved": held_out,
        shard: held_out,
    }
    cases[tmp_path / "both"] = "valid"
    for path, split in cases.items():
        train, held = opened(path)
        assert held.split == split
        assert train.class_names == ("class 0", "class 1")
        assert train.text(0).startswith("row ")
        assert train.image(0).size == (8, 8)
        assert train.where(0).endswith(" of train")
        assert train.fingerprint == opened(path)[0].fingerprint


def test_columns(tmp_path):
    path = tmp_path / "x.parquet"
    rows = table(10, other=list(range(10, 20)), label=[-1, 3, 5, 3, 3, 5, 3, 3, 3, 3])
    cells = rows.cast_column("image", datasets.Image(decode=False))["image"][:]
    rows = rows.add_column("second", cells).cast_column("second", datasets.Image())
    rows.to_parquet(path)
    train, _ = opened(path, held_out=0)
    assert train.class_names == ("3", "5")
    assert [train.label(i) for i in range(3)] == [None, 0, 1]
    assert opened(path, label_column="other")[0].class_names[0] == "10"
    assert opened(path, text_column="other", held_out=0)[0].text(2) == "12"
    with pytest.raises(
        DataError, match=r"no column 'x' \(--image-column\); columns are image, other, label, second"
    ):
        opened(path, image_column="x")
    rows.rename_column("image", "first").to_parquet(path)
    with pytest.raises(DataError, match=r"several columns hold images \(first, second\); .* --image-column"):
        opened(path)
    assert len(opened(path, image_column="second", held_out=0)[0]) == 10
    datasets.Dataset.from_dict({"a": [1], "b": ["x"]}).to_parquet(path)
    with pytest.raises(DataError, match="no column holds images; columns are a, b"):
        opened(path)
    with pytest.raises(DataError):  # not images: an error at the first access
        opened(path, image_column="b")[0].image(0)


def test_plain_struct_of_bytes(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = pa.array([{"bytes": png(), "path": "a.png"}] * 3)
    pq.write_table(pa.table({"picture": cells, "cls": pa.array([0, 1, 2])}), tmp_path / "x.parquet")
    train, _ = opened(tmp_path / "x.parquet", held_out=0)
    assert train.image(2).size == (8, 8)
    assert train.class_names == ("0", "1", "2")


def test_the_hub(monkeypatch, caplog):
    asked = []

    def load(name, config=None, **options):
        asked.append((name, config))
        return datasets.DatasetDict(train=table(10), other=table(4))

    monkeypatch.setattr(datasets, "load_dataset", load)
    with caplog.at_level("INFO", "imgtf"):
        train, held = opened("someone/pictures:small")
    assert (
        "someone/pictures:small: no such file or folder; requesting a data set of this name from the Hub"
        in caplog.text
    )
    assert asked == [("someone/pictures", "small")]
    assert (train.name, len(train), len(held)) == ("someone/pictures:small", 9, 1)
    assert len(opened("someone/pictures", held_out_split="other")[1]) == 4


def test_the_hub_is_not_reachable():
    with pytest.raises(
        DataError, match=r"nothing: no such file or folder, and (not in the Hub's cache|the Hub )"
    ):
        opened("nothing")


def test_background_is_checked_when_the_data_are_opened(tmp_path):
    with pytest.raises(ConfigError, match="is not a colour"):
        opened(tmp_path, background="whiteish")


@pytest.mark.parametrize(
    ("name", "channels", "classes", "held_out"),
    [
        ("cifar10", 3, 10, "test"),
        ("dcss_tiles32", 3, 7, "test"),
        ("facades128", 3, 0, "validation"),
        ("imagenette224", 3, 10, "validation"),
        ("chest_xray128_gray8", 1, 2, "test"),
    ],
)
def test_real_data(shared, name, channels, classes, held_out):
    train, held = opened(shared(name))
    assert count_channels(read_headers(train)) == channels
    assert len(train.class_names) == classes
    assert held.split == held_out
    if name == "dcss_tiles32":
        assert train.text(0)
    if name == "facades128":
        assert train.image(0).format == "JPEG"  # of two image columns the one called image
        assert opened(shared(name), image_column="conditioning_image")[0].image(0).mode == "P"
