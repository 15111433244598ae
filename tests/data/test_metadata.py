"""Metadata files: dialects, encodings, names of columns and of files, rows that do not fit."""

from __future__ import annotations

import json
import unicodedata

import pytest

from imgtf.data.config import DataConfig
from imgtf.data.source import open_source
from imgtf.errors import DataError

from . import reading
from .reading import named, texts


def opened(data, **options):
    return reading.opened(data, **options)[0]


@pytest.fixture
def folder(tmp_path, save):
    """A folder of the images 000.png, 001.png and 002.png."""
    for i in range(3):
        save(tmp_path / "d" / f"{i:03}.png", (i, 0, 0))
    return tmp_path / "d"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ", "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_dialects_of_csv(folder, separator, encoding, newline):
    captions = ["a red, small; round | tile", 'the "old" café', "two\nlines"]
    lines = [separator.join(("file_name", "text"))]
    lines += [f'{i:03}.png{separator}"{c.replace(chr(34), chr(34) * 2)}"' for i, c in enumerate(captions)]
    (folder / "metadata.csv").write_bytes((newline.join(lines) + newline).encode(encoding))
    assert texts(opened(folder)) == captions


@pytest.mark.parametrize("name", ["metadata.tsv", "captions.csv", "labels.tsv", "Metadata.CSV"])
def test_names_of_metadata_files(folder, name):
    separator = "\t" if name.endswith("tsv") else ","
    rows = [separator.join(("image", "class")), *(f"{i:03}.png{separator}c{i}" for i in range(3))]
    (folder / name).write_text("\n".join(rows))
    assert named(opened(folder)) == ["c0", "c1", "c2"]


def test_a_file_of_excel(folder):
    rows = ["sep=;", "file_name;text", *(f"{i:03}.png;{i},5" for i in range(3)), ";"]
    (folder / "metadata.csv").write_text("\r\n".join(rows))
    assert texts(opened(folder)) == ["0,5", "1,5", "2,5"]


def test_the_index_of_pandas_and_empty_lines(folder):
    rows = [",file_name,text", "", *(f"{i},{i:03}.png, caption {i} " for i in range(3)), "", ""]
    (folder / "metadata.csv").write_text("\n".join(rows))
    assert texts(opened(folder)) == ["caption 0", "caption 1", "caption 2"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["file_name,text", "000.png,a", "001.png,a, b", "002.png,c"],
            "line 3 has 3 fields, the header has 2",
        ),
        (["file_name,text", "000.png,a,", "001.png,b"], "line 2 has 3 fields"),
        (["file_name,text", "000.png"], "line 2 has 1 fields"),
        (["file_name,text", "000.png,a", '001.png,"b', "002.png,c"], "line 3 cannot be read as CSV"),
        (["file_name,text", '000.png,"a" b'], "line 2 cannot be read as CSV"),
        (["000.png,a red tile", "001.png,b"], "no column of file names .* columns are 000.png, a red tile"),
        (["file_name,text,text", "000.png,a,b"], "two columns are called 'text'"),
        (["file_name,text", ",a"], "line 2 has no file_name"),
        (["file_name,text", "000.png,caf\xe9"], "line 2 is not UTF-8 text .byte 0xe9.*iconv"),
        (
            ["file_name,label", "000.png,a", "000.png,b"],
            "line 3: 000.png has the label 'b', another row says 'a'",
        ),
        (["", ""], "no names of columns"),
    ],
)
def test_rows_that_are_refused(folder, lines, message):
    (folder / "metadata.csv").write_bytes("\n".join(lines).encode("cp1252"))
    with pytest.raises(DataError, match=f"metadata.csv.*{message}"):
        opened(folder)


@pytest.mark.parametrize(
    "column", ["text", "caption", "prompt", "Caption", "PROMPT", "description", "sentence"]
)
def test_columns_of_captions(folder, column):
    rows = [{"file": f"{i:03}.png", column: f"{i:02}"} for i in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert texts(opened(folder)) == ["00", "01", "02"]


@pytest.mark.parametrize(
    "column", ["label", "class", "target", "category", "Class", "class_name", "Class Name"]
)
def test_columns_of_labels(folder, column):
    rows = [f"filename,{column}", *(f"{i:03}.png,00{i}" for i in range(3))]
    (folder / "metadata.csv").write_text("\n".join(rows))
    assert opened(folder).class_names == ("000", "001", "002")


@pytest.mark.parametrize(
    "column", ["file_name", "filename", "File Name", "image_path", "path", "img", "image_id", "key"]
)
def test_columns_of_file_names(folder, column):
    rows = [f"{column},text", *(f"{i:03},t{i}" for i in range(3))]
    (folder / "metadata.csv").write_text("\n".join(rows))
    assert texts(opened(folder)) == ["t0", "t1", "t2"]


@pytest.mark.parametrize("value", [7, 7.0, "7", "07"])
def test_captions_of_digits_are_text(folder, value):
    rows = [{"file_name": f"{i:03}.png", "text": value} for i in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert set(texts(opened(folder))) == {"07" if value == "07" else "7"}


@pytest.mark.parametrize(
    "content",
    [
        [{"file_name": f"{i:03}.png", "text": f"t{i}"} for i in range(3)],
        {"data": [{"file_name": f"{i:03}.png", "text": f"t{i}"} for i in range(3)]},
        {"file_name": [f"{i:03}.png" for i in range(3)], "text": [f"t{i}" for i in range(3)]},
        {f"{i:03}.png": f"t{i}" for i in range(3)},
        {f"{i:03}": {"caption": f"t{i}"} for i in range(3)},
    ],
)
def test_forms_of_json(folder, content):
    (folder / "metadata.json").write_text(json.dumps(content, indent=1))
    assert texts(opened(folder)) == ["t0", "t1", "t2"]


@pytest.mark.parametrize(
    "content",
    [
        {f"{i:03}.png": i * 5 for i in range(3)},
        {"labels": [[f"{i:03}.png", i * 5] for i in range(3)]},
        {"file": [f"{i:03}.png" for i in range(3)], "class": [0.0, 5.0, 10.0]},
    ],
)
def test_labels_in_json(folder, content):
    (folder / "dataset.json").write_text(json.dumps(content))
    assert opened(folder).class_names == ("0", "5", "10")


def test_a_sample_submission_is_not_metadata(folder):
    (folder / "sample_submission.csv").write_text("id,label\n000,0\n001,0\n")
    assert opened(folder).class_names == ()


def test_metadata_without_rows(folder, caplog):
    (folder / "metadata.csv").write_text("file_name,text\n")
    assert texts(opened(folder)) == [None] * 3
    assert "files that are not used as metadata: 1 (metadata.csv (no rows))" in caplog.text


def test_json_lines_under_another_name(folder):
    rows = [{"file_name": f"{i:03}.png", "text": "a\u2028b"} for i in range(3)]
    (folder / "metadata.json").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows))
    assert texts(opened(folder)) == ["a\u2028b"] * 3


def test_parquet_metadata(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"file_name": [f"{i:03}.png" for i in range(3)], "label": [1.0, None, 0.0]})
    pq.write_table(table, folder / "labels.parquet")
    assert named(opened(folder)) == ["1", None, "0"]


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("a/b.png", "a\\b.png"),
        ("a/b.png", ".\\a\\b.png"),
        ("a/b.png", "./a/b.png"),
        ("a/b.png", "b.png"),
        ("a/b.png", "C:\\data\\set\\a\\b.png"),
        ("a/b.png", "/home/me/set/a/b.png"),
        ("a/b.png", "A/B.PNG"),
        ("a/b.png", "a/b"),
        ("a/b.v2.png", "a/b.v2"),
        (unicodedata.normalize("NFD", "é.png"), unicodedata.normalize("NFC", "é.png")),
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")),
    ],
)
def test_file_names_as_people_write_them(tmp_path, save, file, written):
    save(tmp_path / file)
    save(tmp_path / "other.png", "blue")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": written, "text": "found"}))
    source = opened(tmp_path)
    assert {source.where(i).removeprefix(f"{tmp_path}/"): source.text(i) for i in range(2)} == {
        file: "found",
        "other.png": None,
    }


def test_a_backslash_in_a_name(tmp_path, save):
    save(tmp_path / "a\\b.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a\\b.png", "text": "found"}))
    assert texts(opened(tmp_path)) == ["found"]


@pytest.mark.parametrize(
    ("files", "written"),
    [
        (("a.png", "a.jpg"), "a"),
        (("x/a.png", "y/a.png"), "a.png"),
        (("A.png", "a.PNG"), "A.PNG"),
    ],
)
def test_names_that_fit_several_files_are_refused(tmp_path, save, files, written):
    for file in files:
        save(tmp_path / file)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": written, "text": "x"}))
    with pytest.raises(DataError, match=r"line 1: .* fits 2 images: .*; write the whole path"):
        opened(tmp_path)


def test_a_missing_file_is_not_taken_from_another_folder(tmp_path, save, caplog):
    for i, name in enumerate(("cat/1.png", "dog/2.png")):
        save(tmp_path / name, (i, 0, 0))
    rows = [{"file_name": name, "text": name} for name in ("cat/1.png", "cat/2.png", "dog/2.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = opened(tmp_path)
    assert texts(source) == ["cat/1.png", "dog/2.png"]
    assert source.findings.missing == ("metadata.jsonl line 2: no image cat/2.png",)
    assert "1 of 3 rows name files that do not exist and are left out" in caplog.text


def test_rows_for_missing_files(folder, caplog):
    rows = ["file_name,text", *(f"{i:03}.png,t{i}" for i in range(1, 6))]
    (folder / "metadata.csv").write_text("\n".join(rows))
    source = opened(folder)
    assert texts(source) == [None, "t1", "t2"]
    assert len(source.findings.missing) == 3
    assert (source.findings.found, source.findings.used) == (3, 3)
    assert "3 of 5 rows name files that do not exist" in caplog.text
    assert "1 of 3 images have no row in metadata.csv" in caplog.text


def test_two_files_with_the_same_rows(folder, caplog):
    rows = [{"file_name": f"{i:03}.png", "text": f"t{i}", "label": i} for i in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = ["file_name,text,label", *(f"{i:03},t{i},{i}" for i in range(3))]
    (folder / "metadata.csv").write_text("\n".join(lines))
    with caplog.at_level("INFO", "imgtf"):
        source = opened(folder)
    assert (texts(source), source.class_names) == (["t0", "t1", "t2"], ("0", "1", "2"))
    assert "metadata.jsonl: 3 of 3 rows repeat or extend other rows" in caplog.text


def test_files_that_complete_each_other(folder):
    (folder / "captions.csv").write_text("\n".join(["file,caption", *(f"00{i}.png,t{i}" for i in range(3))]))
    (folder / "labels.csv").write_text("\n".join(["file,label", *(f"00{i}.png,c{i}" for i in range(3))]))
    source = opened(folder)
    assert (texts(source), named(source)) == (["t0", "t1", "t2"], ["c0", "c1", "c2"])


def test_files_that_contradict_each_other(folder):
    (folder / "metadata.csv").write_text("file,label\n000.png,cat\n")
    (folder / "metadata.jsonl").write_text(json.dumps({"file": "000.png", "label": "dog"}))
    with pytest.raises(DataError, match=r"metadata.jsonl: line 1: 000.png has the label 'dog', .* 'cat'"):
        opened(folder)


def test_files_that_are_not_metadata(folder, caplog):
    (folder / "losses.csv").write_text("step,loss\n1,2,3\n")
    (folder / "config.json").write_text('{"size": 3}')
    (folder / "people.csv").write_text("name,age\nJoe,3\n")
    (folder / "broken.json").write_text("{")
    assert texts(opened(folder)) == [None] * 3
    assert "files that are not used as metadata: 4" in caplog.text


def test_labels_of_metadata_and_of_folders(tmp_path, save, caplog):
    for i, name in enumerate(("cat", "dog")):
        save(tmp_path / name / "x.png", (i, 0, 0))
    (tmp_path / "metadata.csv").write_text("file_name,label\ncat/x.png,tom\ndog/x.png,rex\n")
    with caplog.at_level("INFO", "imgtf"):
        source = opened(tmp_path)
    assert named(source) == ["tom", "rex"]
    assert "labels are read from the column 'label' of the metadata, not from the folders" in caplog.text
    assert "labels from the folders" in source.findings.alternatives


def test_a_list_of_captions_is_several_rows(folder):
    rows = [{"file_name": f"{i:03}.png", "captions": [f"a{i}", f"b{i}"]} for i in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = opened(folder)
    assert texts(source) == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert (source.findings.splits[0].rows, source.findings.splits[0].images) == (6, 3)


def test_conditioning_images_are_not_trained_on(tmp_path, save):
    for i in range(2):
        save(tmp_path / "photo" / f"{i}.png", (i, 0, 0))
        save(tmp_path / "map" / f"{i}.png", (0, i, 0))
    save(tmp_path / "photo" / "alone.png", "green")
    rows = [{"file_name": f"photo/{i}.png", "map_file_name": f"map\\{i}.png"} for i in range(2)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, _ = open_source(DataConfig(data=str(tmp_path), held_out=0), "map")
    assert [train.where(i).removeprefix(f"{tmp_path}/") for i in range(2)] == ["map/0.png", "map/1.png"]
    assert (train.findings.found, train.findings.used) == (5, 2)
    assert sum(one.count for one in train.findings.left_out) == 3
    with pytest.raises(DataError, match=r"no column 'edges' \(--conditioning-column\); columns are"):
        open_source(DataConfig(data=str(tmp_path)), "edges")


def test_a_null_character_in_utf_8_is_no_sign_of_utf_16(folder):
    (folder / "metadata.csv").write_bytes(b"file_name,text\n000.png,a\0b\n")
    assert texts(opened(folder)) == ["a\0b", None, None]
