"""Data sets behind URLs, and names with patterns."""

from __future__ import annotations

import functools
import http.server
import sys
import threading
from contextlib import contextmanager

import datasets
import fsspec
import pytest

from imgtf.data import mirror as mirror_module
from imgtf.data.locations import expand_braces, is_pattern
from imgtf.errors import DataError

from .reading import named, opened, texts
from .test_shards import greys, image_bytes, sample, write_tar


@pytest.fixture
def memory():
    """put(path, data): write a file of memory://; empty afterwards."""
    store = fsspec.filesystem("memory")

    def put(path: str, data: bytes) -> None:
        store.pipe_file(f"/{path}", data)

    yield put
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def test_braces():
    assert expand_braces("a-{008..010}.{tar,tgz}")[:3] == ["a-008.tar", "a-008.tgz", "a-009.tar"]
    assert expand_braces("plain.tar") == ["plain.tar"]
    for wrong in ("a{5..4}", "a{0..9999999999}"):
        with pytest.raises(DataError, match="has no end or more than"):
            expand_braces(wrong)


def test_patterns_of_shards(tmp_path):
    for i in range(3):
        write_tar(tmp_path / f"s-00{i}.tar", sample(i, cls=b"a"))
    assert greys(opened(tmp_path / "s-{000..001}.tar")[0]) == [0, 1]
    assert greys(opened(tmp_path / "s-*.tar")[0]) == [0, 1, 2]
    assert greys(opened(f"file://{tmp_path}/s-002.tar")[0]) == [2]
    with pytest.raises(DataError, match=r"1 of 4 are no files, the first is .*s-003\.tar"):
        opened(tmp_path / "s-{000..003}.tar")
    with pytest.raises(DataError, match="no file has such a name"):
        opened(tmp_path / "x-*.tar")
    (tmp_path / "[x].tar").write_bytes((tmp_path / "s-001.tar").read_bytes())
    assert not is_pattern(str(tmp_path / "[x].tar"))
    assert greys(opened(tmp_path / "[x].tar")[0]) == [1]


def test_a_remote_folder_of_images(memory, caplog):
    for i, name in enumerate(("cat/a.png", "cat/b.png", "dog/c.png")):
        memory(f"set/{name}", image_bytes(i))
    memory("set/cat/a.txt", b"a cat")
    memory("set/notes.pdf", b"not downloaded")
    with caplog.at_level("INFO", "imgtf"):
        train, _ = opened("memory://set")
    assert "memory://set: 4 of 4 files are downloaded (0.0 MiB) to " in caplog.text
    assert (greys(train), named(train)) == ([0, 1, 2], ["cat", "cat", "dog"])
    assert texts(train) == ["a cat", None, None]
    caplog.clear()
    memory("set/dog/d.png", image_bytes(3))
    with caplog.at_level("INFO", "imgtf"):
        again, _ = opened("memory://set")
    assert "1 of 5 files are downloaded" in caplog.text
    assert greys(again) == [0, 1, 2, 3]
    assert (
        again.fingerprint
        != train.fingerprint
        == opened("memory://set/{cat,dog}")[0].fingerprint[:0] + (train.fingerprint)
    )
    caplog.clear()
    with caplog.at_level("INFO", "imgtf"):
        assert opened("memory://set")[0].fingerprint == again.fingerprint
    assert "all 5 files are in the cache" in caplog.text


def test_remote_shards_and_tables(memory, tmp_path):
    for i in range(2):
        path = write_tar(tmp_path / "x.tar", sample(i, cls=f"{i}".encode()))
        memory(f"wds/train-{i:03d}.tar", path.read_bytes())
    assert greys(opened("memory://wds/train-{000..001}.tar")[0]) == [0, 1]
    assert named(opened("memory://wds")[0]) == ["0", "1"]
    table = datasets.Dataset.from_dict({"image": [{"bytes": image_bytes(7), "path": None}]})
    table.to_parquet(tmp_path / "t.parquet")
    memory("t.parquet", (tmp_path / "t.parquet").read_bytes())
    assert greys(opened("memory://t.parquet")[0]) == [7]


def test_an_interrupted_download_goes_on(memory, caplog, monkeypatch):
    for i in range(3):
        memory(f"many/{i}.png", image_bytes(i))
    store = fsspec.filesystem("memory")
    real = store.get_file

    def failing(path, *args, **kwargs):
        if path.endswith("2.png"):
            raise OSError("connection lost")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(mirror_module, "TOGETHER", 1)
        patch.setattr(type(store), "get_file", lambda self, *a, **k: failing(*a, **k))
        with pytest.raises(DataError, match=r"memory://many: cannot be read \(connection lost\)"):
            opened("memory://many")
    with caplog.at_level("INFO", "imgtf"):
        assert greys(opened("memory://many")[0]) == [0, 1, 2]
    assert "1 of 3 files are downloaded" in caplog.text


def test_errors_of_urls_are_one_line(memory, monkeypatch):
    with pytest.raises(DataError, match=r"memory://nothing: no (such file|images)"):
        opened("memory://nothing")
    with pytest.raises(DataError, match="no such file or folder"):
        opened("memory://nothing/a.tar")
    with pytest.raises(DataError, match="Protocol not known: nowhere"):
        opened("nowhere://a")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match=r's3:// needs another package: run `pip install "imgtf\[remote\]"`'):
        opened("s3://bucket/a.parquet")


@contextmanager
def serving(folder):
    """Serve a folder by HTTP; yield the URL. This server sends whole files only."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_web_server(tmp_path, save):
    pytest.importorskip("aiohttp")
    for i in range(2):
        save(tmp_path / "d" / f"{'ab'[i]} 1" / f"{i}.png", i, mode="L")
    with serving(tmp_path) as url:
        train, _ = opened(f"{url}/d/")
        assert (greys(train), named(train)) == ([0, 1], ["a 1", "b 1"])
        with pytest.raises(DataError, match="no such file"):
            opened(f"{url}/d/missing.parquet")
