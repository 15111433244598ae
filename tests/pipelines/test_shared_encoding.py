"""Encoding with two processes (gloo, on the CPU): the same files as one process, and the same errors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from imgtf.data import parts
from imgtf.errors import DataError, OtherProcessError
from imgtf.pipelines import encode
from imgtf.pipelines.processes import Processes
from imgtf.pipelines.together import together

from ..training.processes import launch
from .conftest import SMALL_PRIOR, SMALL_TOKENIZER, draw_images, run
from .test_streaming import shards, streamed_model  # noqa: F401

SMALL_BATCHES = """
from imgtf.data import parts
from imgtf.pipelines import encode
encode.BATCH_SIZE, parts.PART = 3, 5
"""
SECOND_FAILS = """
from imgtf.tokenizer.codec import Codec
original, calls = Codec.encode, []
def failing(self, images):
    calls.append(images)
    if len(calls) == 3 and os.environ["RANK"] == "1":
        raise OSError(5, "no disk")
    return original(self, images)
Codec.encode = failing
"""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH_SIZE", 3)
    monkeypatch.setattr(parts, "PART", 5)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer in `m`, and its images, of which one has lost its end."""
    folder = tmp_path_factory.mktemp("damaged")
    draw_images(folder / "images")
    command = ["tokenizer", "train", "--data", folder / "images", "--held-out", "0.2"]
    assert run(*command, "--model", folder / "m", "--steps", "2", *SMALL_TOKENIZER) == 0
    damage(folder / "images" / "green" / "4.png")
    return folder


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def command(model: Path, out: Path, *more: str | Path) -> list[str | Path]:
    return ["tokenizer", "encode", "--model", model, "--out", out, *more]


def files(folder: Path) -> dict[str, bytes]:
    """The content of every file of the caches in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if word in line]


def errors(text: str) -> list[str]:
    """What the processes report; the launcher adds lines of its own."""
    return [line for line in text.splitlines() if line.startswith("Error: ")]


def test_two_processes_write_the_caches_of_one(damaged: Path, tmp_path: Path, capsys: Any) -> None:
    """With flips, crops, reduced images as conditions, and an image that cannot be read."""
    model, one = tmp_path / "m", tmp_path / "one"
    shutil.copytree(damaged / "m", model)
    options = ["--flip", "--crop", "random", "--crops-per-image", "2", "--conditioning-size", "8"]
    options += ["--precision", "fp32", "--workers", "1"]
    prior = ["prior", "train", "--model", model, "--steps", "2", *SMALL_PRIOR, *options]
    log = launch(tmp_path, prior, [*prior, "--force"], before=SMALL_BATCHES).stderr
    capsys.readouterr()
    assert run(*command(damaged / "m", one, *options)) == 0
    assert files(one) == files(model / "codes")
    assert sum(name.endswith("codes.arrow") for name in files(one)) == 2  # the held-out images have their own
    assert len(lines(log, ", into ")) == 2  # the second run finds both
    bad = lines(capsys.readouterr().err, "unreadable image skipped: ")
    assert len(bad) == 1
    assert "green/4.png" in bad[0]
    assert bad[0] in log


def test_too_many_bad_images_in_several_processes(damaged: Path, tmp_path: Path) -> None:
    shutil.copytree(damaged / "images", tmp_path / "images")
    damage(tmp_path / "images" / "red" / "7.png")
    data = ["--data", tmp_path / "images", "--held-out", "0"]
    done = launch(tmp_path, command(damaged / "m", tmp_path / "out", *data), before=SMALL_BATCHES, code=1)
    assert len(errors(done.stderr)) == 1, done.stderr
    assert "2 of 30 images cannot be read, more than 1 %" in errors(done.stderr)[0]
    assert files(tmp_path / "out") == {}


def test_two_processes_go_on_with_a_stream(
    streamed_model: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Parts that are complete stay, whatever number of processes goes on, and an error is one line."""
    one, two, alone = (tmp_path / name for name in ("one", "two", "alone"))
    encoded = command(streamed_model, two)
    fails = launch(tmp_path, encoded, before=SMALL_BATCHES + SECOND_FAILS, code=1)
    assert errors(fails.stderr) == ["Error: no disk"]
    assert list(two.glob("train-*")) == []
    shutil.copytree(two, alone)
    done = launch(tmp_path, encoded, before=SMALL_BATCHES)
    assert len(lines(done.stderr, "goes on after the 5 rows that are complete")) == 1
    assert len(lines(done.stdout, f"{two}/train-")) == 2  # said once for each cache
    assert run(*command(streamed_model, alone)) == 0
    assert files(two) == files(alone)
    assert run(*command(streamed_model, one)) == 0
    assert files(one).keys() == files(two).keys()
    first = next(name for name in files(one) if name.endswith("codes-00000.arrow"))
    assert files(one)[first] == files(two)[first]  # which two processes wrote from the start


class Two(Processes):
    """The first of two processes. The other one says at each meeting what is in `said`."""

    def gather(self, value: Any) -> list[Any]:
        return [value, self.said.pop(0)]  # type: ignore[attr-defined]

    def collect(self, value: Any) -> list[Any]:
        return [value, None]


def two(*said: Any) -> Two:
    processes = Two(0, 2)
    object.__setattr__(processes, "said", list(said))
    return processes


def test_an_error_is_told_once() -> None:
    """And the other process is not asked again after it has left."""
    processes = two(("", False), ("no disk", False))
    with (
        pytest.raises(OtherProcessError, match="process 1 of 2: no disk"),
        together(processes) as work,
    ):
        assert list(work.gathered(iter([1]))) == []
    processes = two(("", True), ("", False))
    with pytest.raises(DataError, match=r"^mine$"), together(processes) as work:
        list(map(fail, work.gathered(iter([1, 2]))))
    assert processes.said == []  # type: ignore[attr-defined]


def test_the_first_of_two_errors_is_reported() -> None:
    for said in ("", "other"):
        processes = two((said, False))
        with pytest.raises(DataError, match=r"^mine$"), together(processes) as work:
            list(work.gathered(map(fail, [1])))


def fail(_: int) -> int:
    raise DataError("mine")
