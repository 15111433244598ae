"""Both stages on a stream of tar shards: exact resuming, and encoding that goes on where it was stopped."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf.data import parts
from imgtf.data.codes import open_codes
from imgtf.pipelines import encode
from imgtf.tokenizer.codec import Codec

from .conftest import SMALL_PRIOR, SMALL_TOKENIZER, run
from .test_train import assert_same, final_state, stop_at

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def shards(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The coloured images in three shards of 10 samples: image, class and caption."""
    folder = tmp_path_factory.mktemp("shards")
    files = sorted(images.rglob("*.png"), key=lambda path: (path.stem, path.parent.name))
    for shard in range(3):
        with tarfile.open(folder / f"s-{shard:03d}.tar", "w") as archive:
            for number, path in enumerate(files[shard * 10 : shard * 10 + 10]):
                name = path.parent.name
                members = {"png": path.read_bytes(), "cls": name.encode(), "txt": f"a {name} image".encode()}
                for suffix, data in members.items():
                    info = tarfile.TarInfo(f"{shard}{number:03d}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return folder


@pytest.fixture(scope="module")
def streamed_model(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that was trained on the stream for four steps."""
    folder = tmp_path_factory.mktemp("streamed") / "m"
    assert run(*train(shards, folder, "4")) == 0
    return folder


def train(shards: Path, folder: Path, steps: str, *more: str) -> list[str]:
    options = ["--streaming", "--classes", ",".join(CLASSES), "--shuffle-buffer", "7", "--held-out", "0.2"]
    return [
        "tokenizer", "train", "--data", str(shards), "--model", str(folder), "--steps", steps, *SMALL_TOKENIZER,
        *options, *more,
    ]  # fmt: skip


def rows_of(cache: Path) -> int:
    """The number of rows in a token cache."""
    return json.loads(cache.read_text())["rows"]


def test_a_streamed_run_resumes_exactly(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    more = ["--accumulate", "2", "--crop", "random", "--crop-scale", "0.8"]
    assert run(*train(shards, whole, "8", *more)) == 0
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        assert run(*train(shards, halved, "8", *more)) == 130
    assert run("tokenizer", "train", "--model", halved, "--resume") == 0
    assert_same(final_state(whole, "tokenizer"), final_state(halved, "tokenizer"))
    log = capsys.readouterr().err
    assert "(streamed, 3 tar shards)" in log
    assert "held-out images, drawn by a hash from the first 30 samples" in log


def test_the_prior_of_a_stream(streamed_model: Path, shards: Path, capsys: Any) -> None:
    """The stream is encoded once, with the codes, labels and captions of the same shards read in place."""
    assert run("prior", "train", "--model", streamed_model, "--steps", "4", *SMALL_PRIOR, "--flip") == 0
    assert "conditions: 3 classes" in capsys.readouterr().err
    assert run("tokenizer", "eval", "--model", streamed_model) == 0
    assert run("prior", "eval", "--model", streamed_model) == 0
    out = streamed_model.parent
    common = ["--model", str(streamed_model), "--data", str(shards), "--held-out", "0"]
    assert run("tokenizer", "encode", *common, "--streaming", "--classes", "3") == 1  # these are other names
    assert (
        run("tokenizer", "encode", *common, "--out", out / "a", "--streaming", "--classes", "blue,green,red")
        == 0
    )
    assert run("tokenizer", "encode", *common, "--out", out / "b") == 0
    a, b = (open_codes(next((out / name).glob("train-*"))) for name in "ab")
    assert len(a) == len(b) == 30
    assert a.info.class_names == b.info.class_names == CLASSES
    for i in range(30):
        assert a[i]["codes"].equal(b[i]["codes"])
        assert (a[i]["label"], a[i]["text"]) == (b[i]["label"], b[i]["text"])


def test_a_stopped_encoding_goes_on(
    streamed_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(parts, "PART", 5)
    monkeypatch.setattr(encode, "BATCH_SIZE", 3)
    counts: list[int] = []
    original = Codec.encode

    def counted(self: Codec, images: torch.Tensor) -> torch.Tensor:
        if sum(counts) > 30:  # images and their flips
            raise KeyboardInterrupt
        counts.append(len(images))
        return original(self, images)

    command = [
        "tokenizer",
        "encode",
        "--model",
        str(streamed_model),
        "--crops-per-image",
        "2",
        "--crop",
        "random",
    ]
    assert run(*command, "--out", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(Codec, "encode", counted)
        assert run(*command, "--out", tmp_path / "halved") == 130
    assert list((tmp_path / "halved").glob("train-*")) == []
    capsys.readouterr()
    assert run(*command, "--out", tmp_path / "halved") == 0
    assert "goes on after the 5 rows that are complete" in capsys.readouterr().err
    caches = [max((tmp_path / name).glob("train-*/cache.json"), key=rows_of) for name in ("whole", "halved")]
    whole, halved = (open_codes(cache.parent) for cache in caches)
    assert len(whole) == len(halved) > 20
    names = [column.name for column in whole.info.arrays]
    assert all(whole[i][name].equal(halved[i][name]) for i in range(len(whole)) for name in names)
    assert [path.name for path in halved.folder.iterdir() if not path.name.startswith("codes-")] == [
        "cache.json"
    ]


def test_labels_of_a_stream_need_classes(streamed_model: Path, shards: Path, capsys: Any) -> None:
    command = [
        "prior",
        "train",
        "--model",
        str(streamed_model),
        "--force",
        "--data",
        str(shards),
        "--streaming",
    ]
    assert run(*command, "--conditions", "label", "--steps", "1", *SMALL_PRIOR) == 1
    assert "the classes of a stream are given with --classes" in capsys.readouterr().err
