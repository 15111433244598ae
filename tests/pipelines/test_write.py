"""Samples as files: threads, a full disk, interruptions, several processes."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgtf import Pipeline
from imgtf.errors import ImgtfError
from imgtf.pipelines import png
from imgtf.pipelines.png import PngWriter, write_png
from imgtf.pipelines.write import results_in, write_samples

from .conftest import run


def noise(side: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_all(folder: Path, images: dict[str, Image.Image], taken: Iterator[int] | None = None) -> None:
    """Write all images, and take a number from `taken` before each."""
    with PngWriter() as writer:
        for name, image in images.items():
            if taken is not None:
                next(taken)
            writer.save(image, folder / name)


def interrupted_after(n: int) -> Iterator[int]:
    yield from range(n)
    raise KeyboardInterrupt


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Limit files to this many bytes: the system reports that like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_all_images_are_written_at_the_end_of_the_block(tmp_path: Path) -> None:
    with PngWriter() as writer:
        for i in range(100):
            writer.save(noise(8, i), tmp_path / f"{i}.png")
    for i in range(100):
        with Image.open(tmp_path / f"{i}.png") as image:
            assert np.array_equal(np.asarray(image), np.asarray(noise(8, i)))
    assert len(list(tmp_path.iterdir())) == 100


def test_a_full_disk_is_a_one_line_error_and_leaves_complete_files(tmp_path: Path) -> None:
    images = {"small.png": noise(8), "large.png": noise(100)}
    with disk_of(2000), pytest.raises(ImgtfError, match=r"large\.png: cannot be written"):
        write_all(tmp_path, images)
    assert [p.name for p in tmp_path.iterdir()] == ["small.png"]
    with Image.open(tmp_path / "small.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(noise(8)))


def test_an_error_is_raised_before_all_images_are_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png, "MAX_WAITING", 4)
    taken = iter(range(100))
    with pytest.raises(ImgtfError):
        write_all(tmp_path / "nowhere", {f"{i}.png": noise(4) for i in range(100)}, taken)
    assert next(taken) < 6


def test_an_interruption_completes_started_files_and_drops_waiting_ones(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_all(tmp_path, {f"{i}.png": noise(200, i) for i in range(50)}, interrupted_after(49))
    left = list(tmp_path.iterdir())
    assert len(left) < 50
    for path in left:
        with Image.open(path) as image:
            image.load()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    write_png(noise(8), tmp_path / "a.png")
    with disk_of(100), pytest.raises(ImgtfError):
        write_png(noise(8, 1), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(noise(8)))


def test_sample_on_a_full_disk_is_a_one_line_error(model: Path, tmp_path: Path, capsys: Any) -> None:
    with disk_of(300):
        assert run("sample", "--model", model, "--n", "3", "--out", tmp_path / "out") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert len(lines) == 1
    assert "cannot be written" in lines[0]
    assert not [p for p in (tmp_path / "out").iterdir() if p.suffix == ".tmp"]


def test_runs_at_the_same_time_have_folders_of_their_own(tmp_path: Path) -> None:
    numbered = tmp_path / "m" / "samples"
    with results_in(None, numbered) as first, results_in(None, numbered) as second:
        assert [first.name, second.name] == ["001", "002"]
        (second / "a").touch()
    assert list(numbered.iterdir()) == [second]
    with pytest.raises(ImgtfError), results_in(None, tmp_path / "new" / "samples"):
        raise ImgtfError("before anything is written")
    assert not (tmp_path / "new").exists()


def launched(processes: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run the command line under torchrun."""
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
    ]
    return subprocess.run(
        [*launch, "-m", "imgtf", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=180,
    )  # fmt: skip


def test_two_processes_write_the_files_of_one(model: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.from_pretrained(model)
    write_samples(pipeline, tmp_path / "one", 22, seed=4, first=3, batch_size=4, settings={"top_k": 8})
    command = ["sample", "--model", str(model), "-n", "22", "--seed", "4", "--first", "3", "--top-k", "8"]
    done = launched(2, *command, "--batch-size", "4", "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "two" / "grid.png")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert len(one) == 24
    assert one == two
    record = json.loads(two["samples.json"])
    assert [row["index"] for row in record["images"]] == list(range(3, 25))


def test_a_failed_process_ends_the_others(model: Path, tmp_path: Path) -> None:
    """There is no launcher that would kill them: the first process notices by itself."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    program = (
        "import sys; from imgtf.cli import main; from imgtf.pipelines import png\n"
        "def broken(*_): raise png.ImgtfError('the disk is gone')\n"
        "if sys.argv[1] == '1': png.write_png = broken\n"
        "main(sys.argv[2:])"
    )
    command = [
        "sample",
        "--model",
        str(model),
        "--n",
        "8",
        "--batch-size",
        "4",
        "--out",
        str(tmp_path / "out"),
    ]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank), *command],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
                              "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [1, 1]
    assert "the disk is gone" in errors[1]
    assert "process 0 of 2: another process has ended" in errors[0]
    assert not (tmp_path / "out" / "samples.json").exists()


def test_ctrl_c_leaves_complete_files_only(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["sample", "--model", str(model), "--n", "100000", "--batch-size", "2", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "imgtf", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while len(list(out.glob("*.png"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "Interrupted."
    left = list(out.iterdir())
    assert len(left) >= 6
    assert {p.suffix for p in left} == {".png"}
    for path in left:
        with Image.open(path) as image:
            image.load()
