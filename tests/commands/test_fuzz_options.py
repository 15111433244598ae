"""Odd values of every number on the command line and in configuration files: the value, or one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgtf.benchmarks import fuzz_options
from imgtf.errors import ConfigError
from imgtf.pipelines.settings import read_toml

from ..pipelines.conftest import run
from .conftest import COMMANDS


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_an_odd_value_is_taken_as_it_is_or_refused(tmp_path_factory, seed):
    folder = tmp_path_factory.getbasetemp() / "odd"
    folder.mkdir(exist_ok=True)
    _, outcome, note = fuzz_options.case(seed, folder)
    assert outcome in ("correct", "error"), note


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps = " + b"9" * 5000, "not readable as TOML"),
        (b"steps = 0x" + b"f" * 5000, "a whole number|of thousands of digits"),
        (b"steps = " + b"[" * 20_000, "not readable as TOML"),
        (b"\xff\xfe", "not readable as TOML"),
        (b"#" * 10_000_000, "more than 65,536 bytes"),
        (b'data = "a\\u0000b"', "data must not contain a NUL character"),
        (b'model = "a\\u0000b"', "model must not contain a NUL character"),
        (b"steps = nan", "steps must be int, got nan"),
        (b"steps = 1\nsteps = 2", "not readable as TOML"),
        (b'background = "' + b"x" * 9999 + b'"\nsteps = 1.5', "steps must be int, got 1.5"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_hostile_configuration_file_is_one_line(
    tmp_path: Path, capsys: Any, content: bytes, message: str
) -> None:
    (tmp_path / "run.toml").write_bytes(content)
    assert run("tokenizer", "train", "--config", tmp_path / "run.toml") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {tmp_path / 'run.toml'}: ")
    assert any(part in line for part in message.split("|"))
    assert len(line) < 500


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbfsteps = 3")
    assert read_toml(tmp_path / "run.toml") == {"steps": 3}


def test_a_device_is_no_configuration_file() -> None:
    with pytest.raises(ConfigError, match=r"/dev/zero: not readable as TOML .a pipe or a device, not a file"):
        read_toml(Path("/dev/zero"))


def test_no_number_of_a_training_run_is_without_a_sensible_maximum() -> None:
    """Sizes that no machine has memory for are refused before anything is allocated."""
    sizes = {
        "width",
        "depth",
        "heads",
        "codebook_size",
        "codebook_dim",
        "latent_width",
        "blocks",
        "registers",
        "patch",
    }
    for path in (("tokenizer", "train"), ("prior", "train")):
        for param in COMMANDS[path].params:
            if param.name in sizes:
                assert param.type.max <= 2**20, param.name  # type: ignore[attr-defined]
