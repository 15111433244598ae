"""Streams: every sample once in an epoch, also where a run is resumed, and the same data in any kind of shards."""

from __future__ import annotations

import io
from collections import Counter
from itertools import islice

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from imgtf.data import stream as stream_module
from imgtf.data import stream_shards, stream_source
from imgtf.data.config import AugmentationConfig, DataConfig
from imgtf.data.images import ImageDataset
from imgtf.data.source import open_source
from imgtf.data.stream import HeldOut, Position
from imgtf.data.stream_images import TrainingBatches, TrainingStream, ordered_batches
from imgtf.errors import CheckpointError, ConfigError, DataError

from .reading import named, texts
from .test_remote import serving
from .test_shards import image_bytes, sample, write_tar

COUNTS = (7, 1, 12, 5)
TOTAL = sum(COUNTS)


@pytest.fixture(params=["tar", "tar.gz", "parquet"])
def shards(request, tmp_path):
    """A folder of four shards of 25 images, whose grey value is their number."""
    number = 0
    for shard, count in enumerate(COUNTS):
        rows = range(number, number + count)
        path = tmp_path / "set" / f"s-{shard:03d}.{request.param}"
        if request.param != "parquet":
            members: dict[str, bytes] = {}
            for i in rows:
                members |= sample(i, cls=str(i % 3).encode(), txt=f"number {i}".encode())
            write_tar(path, members, "w:gz" if request.param == "tar.gz" else "w")
        else:
            path.parent.mkdir(exist_ok=True)
            cells = [
                {"image": {"bytes": image_bytes(i), "path": None}, "label": i % 3, "text": f"number {i}"}
                for i in rows
            ]
            pq.write_table(pa.Table.from_pylist(cells), path, row_group_size=4)
        number += count
    return tmp_path / "set"


def streamed(data: object, **options: object):
    return open_source(
        DataConfig(data=str(data), **{"streaming": True, "held_out": 0, "workers": 0, **options})
    )


def grey_of(batch) -> list[int]:
    return ((batch["image"].flatten(1)[:, 0] + 1) * 127.5).round().int().tolist()


def training(
    data: object, buffer: int = 5, rank: int = 0, world: int = 1, **options: object
) -> TrainingStream:
    source, _ = streamed(data, **options)
    images = ImageDataset(source, 8, 1, DataConfig(data=str(data)), AugmentationConfig(flip=False))
    return TrainingStream(images, seed=3, buffer=buffer, rank=rank, world=world)


def drawn(stream: TrainingStream, count: int, size: int = 1, workers: int = 0) -> list[int]:
    """The grey values of the next `count` batches."""
    batches = stream.batches(size * stream.world, 0, workers)
    found = [grey for batch in islice(batches, count) for grey in grey_of(batch)]
    batches.close()
    return found


def state(stream: TrainingStream) -> torch.Tensor:
    return stream.state()


def test_everything_in_order(shards):
    source, held_out = streamed(shards, classes="3")
    images = ImageDataset(source, 8, 1, DataConfig(data=str(shards)))
    batches = list(ordered_batches(images, 4))
    assert [grey for batch in batches for grey in grey_of(batch)] == list(range(TOTAL))
    assert [label for batch in batches for label in batch["label"].tolist()] == [i % 3 for i in range(TOTAL)]
    assert batches[1]["text"][0] == "number 4"
    assert len({index for batch in batches for index in batch["index"].tolist()}) == TOTAL
    assert len(held_out) == 0
    later = batches[2]["position"][-1].tolist()
    rest = list(ordered_batches(images, 4, shard=later[3], row=later[4]))
    assert [grey for batch in rest for grey in grey_of(batch)] == list(range(12, TOTAL))


@pytest.mark.parametrize("buffer", [1, 5, 100])
def test_every_epoch_has_every_sample_once_in_another_order(shards, buffer):
    stream = training(shards, buffer)
    first, second = drawn(stream, TOTAL), drawn(stream, TOTAL)
    assert sorted(first) == sorted(second) == list(range(TOTAL))
    assert first != second
    assert drawn(training(shards, buffer), TOTAL) == first


def test_a_resumed_stream_repeats_and_drops_nothing(shards):
    whole = drawn(training(shards), 3 * TOTAL)
    for stop in (1, 4, 5, 6, 11, 24, 25, 26, 31, 49):
        stream = training(shards)
        before = drawn(stream, stop)
        resumed = training(shards)
        resumed.load_state(state(stream))
        assert before + drawn(resumed, TOTAL) == whole[: stop + TOTAL], stop


def test_a_second_call_goes_on(shards):
    images = training(shards).images
    parts = TrainingBatches(images, 3, 0)
    first = [grey for batch in islice(parts.batches(2, 0), 5) for grey in grey_of(batch)]
    saved = parts.tensors()
    second = [grey for batch in islice(parts.batches(2, 5), 5) for grey in grey_of(batch)]
    assert len({*first, *second}) == 20
    parts.load_state(saved)
    assert [grey for batch in islice(parts.batches(2, 5), 5) for grey in grey_of(batch)] == second


def test_the_buffer_may_change_when_a_run_is_resumed(shards):
    stream = training(shards)
    before = drawn(stream, 8)
    resumed = training(shards, buffer=11)
    resumed.load_state(state(stream))
    assert sorted(before + drawn(resumed, TOTAL - 8)) == list(range(TOTAL))


def test_workers_change_nothing(shards):
    stream, other = training(shards), training(shards)
    assert drawn(stream, 9, size=3) == drawn(other, 9, size=3, workers=2)
    assert state(stream).equal(state(other))  # also where the workers are ahead


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_the_shards(shards, world):
    """In an epoch, the processes together read every sample once. Seven of them share four shards by row."""
    found: Counter[int] = Counter()
    for rank in range(world):
        batches = training(shards, rank=rank, world=world).batches(world, 0)
        for batch in batches:
            if batch["epoch"][0]:
                break
            found.update(grey_of(batch))
    assert found == dict.fromkeys(range(TOTAL), 1)


def test_fewer_processes_take_over(shards):
    streams = [training(shards, rank=rank, world=2) for rank in range(2)]
    used = [grey for stream in streams for grey in drawn(stream, 4)]
    parts = [{"stream": state(stream)} for stream in streams]
    positions = TrainingBatches(streams[0].images, 3, 0).merged(parts)["stream"]
    alone = training(shards)
    alone.load_state(positions)
    rest = [grey_of(batch)[0] for batch in islice(alone.batches(1, 0), 60) if not batch["epoch"][0]]
    assert sorted(used + rest) == list(range(TOTAL))
    assert state(alone).shape == (2, len(Position._fields))
    for wrong, rank in ((state(streams[0]), 0), (positions, 2)):
        with pytest.raises(CheckpointError, match="among 2 processes: resume it with at most as many"):
            training(shards, rank=rank, world=1 + rank).load_state(wrong)


def test_held_out_samples_are_no_training_samples(shards):
    source, held_out = streamed(shards, held_out=0.3)
    images = ImageDataset(source, 8, 1, DataConfig(data=str(shards)))
    trained = [grey for batch in ordered_batches(images, 4) for grey in grey_of(batch)]
    kept = [held_out.image(i).getpixel((0, 0)) for i in range(len(held_out))]
    assert 2 < len(kept) < 14
    assert sorted(trained + kept) == list(range(TOTAL))
    assert sorted(drawn(training(shards, held_out=0.3), len(trained))) == trained
    assert streamed(shards, held_out=0.2)[0].fingerprint != source.fingerprint
    assert HeldOut(0.5, {0: 3})(0, 3) is False


def test_few_samples_are_read_in_advance(shards, monkeypatch):
    monkeypatch.setattr(stream_source, "INSPECTED", 8)
    monkeypatch.setattr(stream_source, "MOST_SHOWN", 4)
    source, held_out = streamed(shards, held_out=0.5)
    assert 0 < len(source) <= 4
    assert 0 < len(held_out) <= 8
    images = ImageDataset(source, 8, 1, DataConfig(data=str(shards)))
    assert sum(len(batch["index"]) for batch in ordered_batches(images, 4)) == TOTAL - len(held_out)


def test_classes(shards, caplog, tmp_path):
    source, _ = streamed(shards)
    assert source.class_names == ()
    assert "give them with --classes" in caplog.text
    (tmp_path / "names.txt").write_text("2\n1\n0\n")
    for given in ("2,1,0", str(tmp_path / "names.txt")):
        source, _ = streamed(shards, classes=given)
        assert (source.class_names, named(source)[:3]) == (("2", "1", "0"), ["0", "1", "2"])
    assert named(streamed(shards, classes="0,1")[0])[:3] == ["0", "1", None]
    assert "have no label of a class" in caplog.text
    with pytest.raises(ConfigError, match="none of the first labels is one of"):
        streamed(shards, classes="cat,dog")
    for wrong in ("a,a", "1", "a"):
        with pytest.raises(ConfigError, match="--classes"):
            streamed(shards, classes=wrong)
    assert texts(source)[0] == "number 0"


def test_class_labels_and_splits_of_parquet(tmp_path):
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b"])})
    for split, count in (("train", 6), ("test", 3)):
        rows = {
            "img": [{"bytes": image_bytes(i), "path": None} for i in range(count)],
            "kind": [0, 1, None] * (count // 3),
        }
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    source, held_out = streamed(tmp_path)
    assert source.class_names == ("a", "b")
    assert named(held_out) == ["a", "b", None]
    assert (held_out.split, len(held_out), len(source)) == ("test", 3, 6)


def test_shards_behind_a_url(shards):
    store = fsspec.filesystem("memory")
    try:
        for path in shards.iterdir():
            store.pipe_file(f"/far/{path.name}", path.read_bytes())
        assert sorted(drawn(training("memory://far"), TOTAL)) == list(range(TOTAL))
        assert drawn(training("memory://far"), TOTAL) == drawn(training(shards), TOTAL)
        assert streamed("memory://far")[0].fingerprint != streamed(shards)[0].fingerprint
    finally:
        store.store.clear()
        store.pseudo_dirs[:] = [""]


def test_a_lost_connection_is_renewed(tmp_path, monkeypatch, caplog):
    members: dict[str, bytes] = {}
    for i in range(200):
        members |= sample(i)
    data = write_tar(tmp_path / "a.tar", members).read_bytes()
    store = fsspec.filesystem("memory")
    store.pipe_file("/lost/a.tar", data)
    opened = []

    class Losing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 50_000 and len(opened) < 3:
                raise ConnectionResetError("reset")
            return super().read(size)

    def losing(path: str, from_start: bool = False) -> io.BytesIO:
        opened.append(path)
        return Losing(data)

    try:
        stream = training("memory://lost/a.tar", buffer=30)
        monkeypatch.setattr(stream_shards, "open_file", losing)
        monkeypatch.setattr(stream_module, "WAIT", 0.0)
        assert sorted(drawn(stream, 200)) == list(range(200))
        assert "a.tar: cannot be read (reset); next attempt" in caplog.text
        monkeypatch.setattr(stream_shards, "open_file", lambda path, from_start=False: io.BytesIO(b"x" * 999))
        with pytest.raises(DataError, match="no tar file, or a damaged one"):
            drawn(training("memory://lost/a.tar"), 1)
    finally:
        store.store.clear()
        store.pseudo_dirs[:] = [""]


def test_a_web_server_that_sends_whole_files_only(shards):
    pytest.importorskip("aiohttp")
    if next(shards.iterdir()).suffix == ".parquet":
        pytest.skip("parquet needs parts of files")
    with serving(shards.parent) as url:
        assert sorted(drawn(training(f"{url}/set/"), TOTAL)) == list(range(TOTAL))


def test_unreadable_images_of_a_stream(tmp_path):
    path = write_tar(tmp_path / "a.tar", sample(0) | {"000001.png": b"broken"} | sample(2) | sample(3))
    stream = training(path)
    batches = list(islice(stream.batches(2, 0), 2))
    bad = [text for batch in batches for text in batch["bad"] if text]
    assert len(bad) == 1
    assert f"{path}:000001" in bad[0]
    assert {grey for batch in batches for grey in grey_of(batch)} <= {0, 2, 3}
    source, _ = streamed(path)
    images = ImageDataset(source, 8, 1, DataConfig(data=str(path)))
    (batch,) = ordered_batches(images, 4)
    assert [bool(text) for text in batch["bad"]] == [False, True, False, False]
    images = ImageDataset(source, 8, 1, DataConfig(data=str(path), bad_images="fail"))
    with pytest.raises(DataError, match="repair or remove it"):
        list(ordered_batches(images, 4))


@pytest.mark.parametrize("what", ["digits", "images", "nothing", "both", "archive"])
def test_what_cannot_be_streamed_is_one_line(what, tmp_path, save):
    save(tmp_path / "images" / "a.png")
    write_tar(tmp_path / "both" / "a.tar", sample(0))
    table = pa.Table.from_pylist([{"image": {"bytes": image_bytes(0), "path": None}}])
    pq.write_table(table, tmp_path / "both" / "a.parquet")
    write_tar(tmp_path / "archive" / "a.tar", {"a/1.png": image_bytes(0), "b/1.png": image_bytes(1)})
    data = what if what == "digits" else tmp_path / what
    with pytest.raises((ConfigError, DataError)) as error:
        streamed(data)
    assert "\n" not in str(error.value)
