"""Compressed images: the same codes back, the size that the likelihood says, and refusals of other files and models."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgtf import Pipeline
from imgtf.errors import CheckpointError, ConfigError, DataError
from imgtf.pipelines.compression.coder import one_thread
from imgtf.pipelines.compression.compress import (
    compress,
    compress_codes,
    decompress,
    decompress_codes,
)
from imgtf.pipelines.compression.file import Compressed
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.conditions.text import TextConfig
from imgtf.prior.decoding.stepwise import coding_order
from imgtf.prior.model import Prior

from .conftest import run
from .test_scoring import noise, tiny

OBJECTIVES = ("raster", "random", "masked")


def some_codes(seed: int, n: int = 1) -> torch.Tensor:
    return torch.randint(8, (n, 4, 4), generator=torch.Generator().manual_seed(seed))


def conditioned(**settings: Any) -> Pipeline:
    """A raster prior with labels and captions."""
    pipeline = tiny("raster")
    conditions = (LabelConfig(class_names=("cat", "dog")), TextConfig(max_bytes=8))
    prior = Prior(dataclasses.replace(pipeline.prior.config, conditions=conditions, **settings))
    with torch.no_grad():
        prior.head.weight.normal_(std=0.3)
    return Pipeline(pipeline.tokenizer, prior)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_codes_come_back(objective: str) -> None:
    pipeline = tiny(objective)
    for codes in some_codes(0, 5):
        assert torch.equal(decompress_codes(pipeline, compress_codes(pipeline, codes, {})), codes)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_payload_has_the_bits_of_the_likelihood(objective: str) -> None:
    pipeline, order = tiny(objective), {}
    codes = some_codes(1, 40)
    if objective != "raster":
        order = {"order": coding_order(pipeline.prior.config)}
    with torch.no_grad():
        bits = -pipeline.prior.log_prob(codes, **order).sum(1) / math.log(2)
    sizes = [8 * len(Compressed.from_bytes(compress_codes(pipeline, own, {})).payload) for own in codes]
    for size, expected in zip(sizes, bits.tolist(), strict=True):
        assert expected - 8 < size <= expected + 9
    assert sum(sizes) < float(bits.sum()) + 4 * len(codes)  # half a byte each at most


def test_unlikely_and_likely_codes_come_back() -> None:
    """Probabilities near 0 and 1, which the coder cannot represent exactly."""
    pipeline = tiny("raster")
    with torch.no_grad():
        pipeline.prior.head.weight.mul_(100)
    for codes in some_codes(3, 20):
        data = compress_codes(pipeline, codes, {})
        assert torch.equal(decompress_codes(pipeline, data), codes)
    likely = pipeline.prior.sample(1, seed=1)[0]
    assert len(Compressed.from_bytes(compress_codes(pipeline, likely, {})).payload) < 6


def test_another_process_decompresses(model: Path, images: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.from_pretrained(model)
    pipeline.sample(2)  # packs the weights of the pipeline's decoder
    data = compress(pipeline, images / "red" / "0.png", label="red")
    (tmp_path / "x").write_bytes(data)
    script = (
        "import sys; from pathlib import Path; from imgtf import Pipeline; "
        "from imgtf.pipelines.compression.compress import decompress; "
        "image = decompress(Pipeline.from_pretrained(sys.argv[1]), Path(sys.argv[2]).read_bytes()); "
        "image.save(sys.argv[3])"
    )
    subprocess.run([sys.executable, "-c", script, model, tmp_path / "x", tmp_path / "y.png"], check=True)
    with Image.open(tmp_path / "y.png") as decoded:
        difference = np.asarray(decoded, dtype=int) - np.asarray(decompress(pipeline, data), dtype=int)
    assert np.abs(difference).max() <= 1  # the decoder's rounding depends on the number of threads


def test_the_number_of_threads_does_not_matter() -> None:
    pipeline, codes = tiny("raster"), some_codes(4)[0]
    data = compress_codes(pipeline, codes, {})
    torch.set_num_threads(2)
    try:
        assert compress_codes(pipeline, codes, {}) == data
        assert torch.equal(decompress_codes(pipeline, data), codes)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    with one_thread():
        assert torch.get_num_threads() == 1


def test_bf16_is_decompressed_in_bf16_only() -> None:
    pipeline, codes = tiny("raster"), some_codes(5)[0]
    pipeline.cast("bf16")
    data = compress_codes(pipeline, codes, {})
    assert torch.equal(decompress_codes(pipeline, data), codes)
    with pytest.raises(CheckpointError, match="precision bf16, this model has fp32"):
        decompress(tiny("raster"), data)


def test_a_label_and_a_caption_are_stored() -> None:
    pipeline = conditioned()
    image = noise(0)
    data = compress(pipeline, image, label="dog", text="größer")
    read = Compressed.from_bytes(data)
    assert (read.label, read.text, read.size) == (1, "größer", (8, 8))
    assert torch.equal(decompress_codes(pipeline, data), pipeline.tokenizer.encode_images(image)[0])
    assert compress(pipeline, image) != data
    assert Compressed.from_bytes(compress(pipeline, image)).label is None


@pytest.mark.parametrize("wrong", [{"label": "pink"}, {"text": "a"}, {"background": "nocolour"}])
def test_wrong_conditions_are_refused(model: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        compress(Pipeline.from_pretrained(model), noise(0), **wrong)


def test_a_changed_size_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = tiny("raster")
    with caplog.at_level(logging.INFO, "imgtf"):
        data = compress(pipeline, noise(0, (20, 30)))
    assert [r.message for r in caplog.records] == [
        "the image was cropped and resized to the model's 8 pixels"
    ]
    assert decompress(pipeline, data).size == (8, 8)


def test_another_model_is_refused() -> None:
    pipeline = tiny("raster")
    data = compress(pipeline, noise(0))
    other = tiny("raster")
    with torch.no_grad():
        other.prior.head.weight.add_(1e-3)
    with pytest.raises(
        CheckpointError, match=r"compressed with prior [0-9a-f]{8}, this model has [0-9a-f]{8}"
    ):
        decompress(other, data)
    with pytest.raises(CheckpointError, match="tokenizer"):
        decompress(Pipeline(tiny("raster", width=4).tokenizer, pipeline.prior), data)


def test_every_truncation_and_every_changed_byte_is_refused() -> None:
    pipeline = tiny("raster")
    data = compress(pipeline, noise(0))
    for size in range(len(data)):
        with pytest.raises(DataError):
            decompress(pipeline, data[:size])
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises((DataError, CheckpointError)):
            decompress(pipeline, changed)
    with pytest.raises(DataError, match="appended"):
        decompress(pipeline, data + b"\0")


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n" + bytes(40), b"GIF89a", b"\xff" * 64, b"\x89img"])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^x\.imgtf: (not a file|the file is damaged)"):
        Compressed.from_bytes(data, "x.imgtf")


def test_headers_of_any_values_are_read_back() -> None:
    for number in (0, 1, 127, 128, 16383, 16384, 2**31):
        written = Compressed(
            "bf16", "cuda", b"abcd", b"efgh", (number, 8), number, "é" * (number % 200) or None, b"x" * (number % 300)
        )  # fmt: skip
        assert Compressed.from_bytes(written.to_bytes()) == written
    smallest = Compressed("fp32", "cpu", bytes(4), bytes(4), (32, 32), None, None)
    assert len(smallest.to_bytes()) == 23


def test_progress_counts_the_codes() -> None:
    pipeline, done = tiny("raster"), []
    data = compress(pipeline, noise(0), progress=done.append)
    decompress(pipeline, data, progress=done.append)
    assert sum(done) == 32


def test_a_payload_of_other_probabilities_is_not_accepted() -> None:
    pipeline, codes = tiny("raster"), some_codes(6)[0]
    data = Compressed.from_bytes(compress_codes(pipeline, codes, {}))
    with torch.no_grad():
        pipeline.prior.head.weight.mul_(1.5)
    own = pipeline.prior_sha256()
    forged = dataclasses.replace(data, prior=bytes.fromhex(own)[:4]).to_bytes()
    with pytest.raises(DataError, match=r"checksum.*another kind of machine"):
        decompress(pipeline, forged, where="x")


def test_the_commands_go_there_and_back(model: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    source, file, result = images / "red" / "0.png", tmp_path / "new" / "x.imgtf", tmp_path / "x.png"
    assert run("compress", source, "-o", file, "--model", model, "--label", "red", "--json") == 0
    output = capsys.readouterr()
    (row,) = json.loads(output.out)["files"]
    assert row["bytes"] == len(file.read_bytes())
    assert row["header_bytes"] == 23
    assert f"{source} was cropped and resized" in output.err
    assert run("decompress", file, "-o", result, "--model", model) == 0
    with Image.open(result) as image:
        assert image.size == (16, 16)
    assert run("compress", source, "-o", file, "--model", model) == 1
    assert "exists" in capsys.readouterr().err
    assert run("compress", source, "-o", file, "--model", model, "--force", "--precision", "bf16") == 0
    assert run("decompress", file, "-o", result, "--model", model, "--force") == 0  # in bf16 again


def test_several_files_go_to_a_folder(model: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    sources = [images / "red" / "0.png", images / "green" / "0.png"]
    assert run("compress", *sources, "-o", tmp_path / "c", "--model", model) == 0
    files = sorted((tmp_path / "c").iterdir())
    assert [p.name for p in files] == ["0-2.imgtf", "0.imgtf"]
    assert run("decompress", *files, "-o", tmp_path / "d", "--model", model) == 0
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["0-2.png", "0.png"]
    twice = [files[0], files[1], files[0]]
    assert run("decompress", *twice, "-o", tmp_path / "e", "--model", model) == 0
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["0-2-2.png", "0-2.png", "0.png"]


def test_bad_input_of_the_commands_is_one_line_and_writes_nothing(
    model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    image, bad, junk, file = images / "red" / "0.png", *(tmp_path / n for n in ("bad.png", "junk", "x.imgtf"))
    bad.write_bytes(b"no image")
    junk.write_bytes(b"junk" * 20)
    assert run("compress", image, "-o", file, "--model", model) == 0
    cut, damaged = tmp_path / "cut", tmp_path / "damaged"
    cut.write_bytes(file.read_bytes()[:-3])
    damaged.write_bytes(file.read_bytes()[:-3] + b"abc")
    capsys.readouterr()
    before, out = sorted(tmp_path.rglob("*")), tmp_path / "out.png"
    for command, code, inputs, message in (
        ("compress", 1, [bad], "not an image"),
        ("compress", 1, [image, bad], "not an image"),
        ("compress", 1, [image, "--label", "pink"], "no label 'pink'"),
        ("compress", 1, [tmp_path / "missing.png"], "missing.png: no such file"),
        ("compress", 2, [images], "is a directory"),
        ("decompress", 1, [junk], "not a file that imgtf compress wrote"),
        ("decompress", 1, [image], "not a file that imgtf compress wrote"),
        ("decompress", 1, [cut], "truncated"),
        ("decompress", 1, [damaged], "checksum"),
        ("decompress", 1, [tmp_path / "missing"], "missing: No such file"),
    ):
        assert run(command, *inputs, "-o", out, "--model", model) == code, (command, inputs)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
        assert len(lines) == 1
        assert message in lines[0]
    assert run("decompress", file, "-o", tmp_path / "out.jpg", "--model", model) == 1
    assert "ends with .png" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
