"""Properties: every image of any folder is used, or left out with a reason; or the folder is refused with the file."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imgtf.data.config import DataConfig
from imgtf.data.source import open_source
from imgtf.errors import DataError

COUNT = 8
FOLDERS = [
    [""], ["cat", "dog"], ["", "cat", "dog"], ["0", "1", "10", "2"], ["train/cat", "train/dog", "val/cat"],
    ["train/cat", "train/dog", "test"], ["images/train", "images/val"], ["a/b", "a/c", "d"], ["00000", "00001"],
    ["cat/train", "cat/test"], ["train", "val", "other"], ["e\u0301", "\u00e9"], ["unlabeled", "cat", "dog"],
    ["data/x", ""],
]  # fmt: skip
NAMES = st.sampled_from(["plain", "backslash", "stem", "base", "upper", "missing"])
TEXT = st.one_of(
    st.none(), st.text(max_size=12), st.sampled_from(["07", "a, b", 'say "x"', "two\nlines", ",", ";"])
)
LABEL = st.sampled_from(
    [None, -1, 0, 1, 10, 1.0, float("nan"), "", "cat", "007", "--5", True, [1], 0.5, "\u00e9"]
)
ROW = st.tuples(st.integers(0, COUNT - 1), NAMES, TEXT, LABEL)
OTHERS = st.sets(
    st.sampled_from(
        ["heic", "txt", "boxes", "broken", "empty", "copy", "zip", "parquet", "json", "cp1252", "hidden"]
    )
)
FORMATS = st.sampled_from(["csv", "tsv", "semicolon", "utf-16", "unquoted", "jsonl", "json", "none"])


def write_images(root: Path, folders: list[str]) -> list[str]:
    paths = [f"{folders[i % len(folders)]}/{i:03}.png".lstrip("/") for i in range(COUNT)]
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(root / path)
    return paths


def write_others(root: Path, paths: list[str], kinds: set[str]) -> None:
    stem = (root / paths[0]).with_suffix("")
    contents = {
        "heic": ("photo.heic", b"x"), "txt": (f"{stem}.txt", b"a caption\nanother"), "zip": ("x.zip", b""),
        "boxes": (f"{stem}.txt", b"0 0.5 0.5 0.1 0.1"), "broken": ("broken.png", b"no image"), "empty": ("e.png", b""),
        "json": (f"{stem}.json", b'{"caption": "x"}'), "cp1252": ("note.txt", b"\xe9"), "hidden": (".x.png", b"x"),
        "copy": ("copy.png", (root / paths[1]).read_bytes()), "parquet": ("table.parquet", b"PAR1"),
    }  # fmt: skip
    for kind in kinds:
        name, data = contents[kind]
        (root / name).write_bytes(data)


def written(path: str, how: str) -> str:
    base = path.rpartition("/")[2]
    return {
        "plain": path, "backslash": path.replace("/", "\\"), "stem": path.removesuffix(".png"), "base": base,
        "upper": path.upper(), "missing": f"gone/{base}.jpg",
    }[how]  # fmt: skip


def write_metadata(root: Path, paths: list[str], rows: list, form: str) -> None:
    table = [{"file_name": written(paths[i], how), "text": t, "label": label} for i, how, t, label in rows]
    if form in ("jsonl", "json"):
        lines = [json.dumps(row) for row in table]
        text = "\n".join(lines) if form == "jsonl" else f"[{','.join(lines)}]"
        (root / f"metadata.{form}").write_text(text, encoding="utf-8")
        return
    separator = {"tsv": "\t", "semicolon": ";"}.get(form, ",")

    def cell(value: object) -> str:
        text = "" if value is None else str(value)
        return text if form == "unquoted" else '"' + text.replace('"', '""') + '"'

    lines = [separator.join(("file_name", "text", "label"))]
    lines += [separator.join(map(cell, row.values())) for row in table]
    name = "metadata.tsv" if form == "tsv" else "metadata.csv"
    encoding = "utf-16" if form == "utf-16" else "utf-8"
    (root / name).write_bytes("\n".join(lines).encode(encoding, "replace"))


def opened_or_refused(root: Path, held_out: float):
    try:
        return open_source(DataConfig(data=str(root), held_out=held_out))
    except DataError as error:
        return str(error)


@pytest.fixture(scope="module")
def folder():
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    folders=st.sampled_from(FOLDERS),
    rows=st.lists(ROW, max_size=6),
    form=FORMATS,
    others=OTHERS,
    held_out=st.sampled_from([0, 0.1, 0.5]),
)
def test_every_image_is_accounted_for(folder, folders, rows, form, others, held_out):
    root = folder / "d"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    paths = write_images(root, folders)
    write_others(root, paths, others)
    if form != "none" and rows:
        write_metadata(root, paths, rows, form)
    sources = opened_or_refused(root, held_out)
    if isinstance(sources, str):  # refused in one line that names a file
        assert "\n" not in sources
        assert any(file.name in sources for file in root.rglob("*") if file.is_file())
        return
    findings = sources[0].findings
    on_disk = {file for file in root.rglob("*") if file.suffix in (".png", ".heic") and file.name[0] != "."}
    assert findings.found == len(on_disk)
    assert findings.used + sum(one.count for one in findings.left_out) == findings.found
    used = [{source.where(i) for i in range(len(source))} for source in sources]
    assert not used[0] & used[1]
    assert sum(map(len, used)) == findings.used
    assert {str(root / name) for one in findings.left_out for name in one.names} | used[0] | used[1] == set(
        map(str, on_disk)
    )
    for source, split in zip(sources, findings.splits, strict=True):
        labels = [source.label(i) for i in range(len(source))]
        assert (labels.count(None), len(source)) == (split.unlabelled, split.rows)
        assert sum(source.text(i) is not None for i in range(len(source))) == split.captions


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    captions=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), min_size=1, max_size=4
    ),
    separator=st.sampled_from([",", ";", "\t", ", "]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_quoted_captions_are_read_as_they_are(folder, captions, separator, encoding):
    root = folder / "e"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    lines = [separator.join(("file_name", "text"))]
    for i, caption in enumerate(captions):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(root / f"{i}.png")
        lines.append(f'{i}.png{separator}"{caption.replace(chr(34), chr(34) * 2)}"')
    (root / "metadata.csv").write_bytes("\n".join(lines).encode(encoding))
    source, _ = open_source(DataConfig(data=str(root), held_out=0))
    assert [source.text(i) for i in range(len(captions))] == [caption.strip() or None for caption in captions]
