"""Options declared once: what `build` and `check` accept and refuse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgtf.errors import ConfigError
from imgtf.options import (
    MAX_FLOAT,
    MAX_INT,
    Size,
    bounds,
    build,
    check,
    is_size,
    option,
    sides_of,
    size_text,
    to_dict,
    to_size,
)


@dataclass(frozen=True)
class Sizes:
    count: int = option(1, "A number.", minimum=1)
    ratio: float = option(0.5, "A ratio.", minimum=0, maximum=1)
    weight: float = option(1.0, "A weight.", minimum=0)
    seed: int | None = option(None, "A seed.", minimum=0, maximum=2**64 - 1)
    deep: bool = option(False, "A switch.")
    name: str = option("a", "A name.")
    kind: str = option("x", "A kind.", choices=("x", "y"))
    levels: tuple[int, ...] = option((1, 2), "Several numbers.", minimum=1)
    size: int | tuple[int, int] = option(8, "A size.", minimum=4)
    other: int | tuple[int, int] | None = option(None, "Another size.", maximum=100)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", np.int64(3), 3),
        ("count", np.uint8(3), 3),
        ("count", np.array(3), 3),
        ("count", torch.tensor(3), 3),
        ("ratio", np.float32(0.5), 0.5),
        ("ratio", np.int64(1), 1.0),
        ("ratio", 1, 1.0),
        ("deep", np.bool_(True), True),
        ("levels", np.array([1, 2]), (1, 2)),
        ("levels", [np.int64(4)], (4,)),
        ("levels", torch.tensor([4]), (4,)),
        ("name", np.str_("b"), "b"),
        ("name", Path("a") / "b", "a/b"),
        ("size", 64, 64),
        ("size", (64, 64), 64),
        ("size", "64x64", 64),
        ("size", "64", 64),
        ("size", [64, 96], (64, 96)),
        ("size", "64x96", (64, 96)),
        ("size", " 64 X 96 ", (64, 96)),
        ("size", np.array([64, 96]), (64, 96)),
        ("size", (np.int64(64), np.int32(64)), 64),
        ("size", np.uint8(64), 64),
        ("size", [64], 64),
        ("other", None, None),
        ("other", "0x3", (0, 3)),
        ("seed", None, None),
        ("seed", 2**64 - 1, 2**64 - 1),
    ],
)
def test_numbers_of_any_library_become_python_values(name: str, value: Any, expected: Any) -> None:
    found = check(Sizes, name, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 0, "count must be at least 1, got 0"),
        ("count", 2**31, f"count must be at most {MAX_INT}, got {2**31}"),
        ("count", 10**30, "count must be at most"),
        ("count", np.int64(-1), "count must be at least 1"),
        ("count", True, "count must be int"),
        ("count", np.bool_(True), "count must be int"),
        ("count", 1.5, "count must be int"),
        ("count", "1", "count must be int"),
        ("count", None, "count must be int, got None"),
        ("ratio", float("nan"), "ratio must be a finite number"),
        ("ratio", np.float64("inf"), "ratio must be a finite number"),
        pytest.param("ratio", 10**400, "ratio must be a finite number", id="10**400"),
        ("ratio", 1.5, "ratio must be at most 1, got 1.5; the range is 0 to 1"),
        ("weight", 1e308, "weight must be at most 1e\\+12, got 1e\\+308; the range is 0 to 1e\\+12"),
        ("seed", 2**64, "seed must be at most"),
        ("seed", -1, "seed must be at least 0"),
        ("kind", "z", "kind must be one of x, y"),
        ("levels", 3, "levels must be a list of int"),
        ("levels", [1, 0], "levels must be at least 1"),
        ("levels", [[1]], "levels must be int"),
        ("size", 3, "settings: size must be at least 4, got 3"),
        ("size", "64x3", "size must be at least 4, got 3"),
        ("size", [3, 64], "size must be at least 4, got 3"),
        ("size", [64, 10**30], f"size must be at most {MAX_INT}, got 1000"),
        ("size", "64x", "size must be one side, such as 64, or height and width, such as 192x128; got '64x'"),
        ("size", "64x64x3", "size must be one side, such as 64, or height and width"),
        ("size", "-64x64", "size must be one side, such as 64, or height and width"),
        pytest.param("size", "9" * 5000, "got '9{59}$", id="5000 digits"),
        ("size", [64, 64, 3], r"such as 192x128; got \[64, 64, 3\]"),
        ("size", [], "size must be one side"),
        ("size", 64.0, "size must be one side, .* got 64.0"),
        ("size", [64, 96.5], "size must be one side"),
        ("size", True, "size must be one side"),
        ("size", None, "size must be one side, .* got None"),
        ("size", {"h": 3}, "size must be one side"),
        ("other", "101x3", "other must be at most 100, got 101"),
        ("name", 3, "name must be str"),
        ("deep", 1, "deep must be bool"),
    ],
)
def test_an_error_names_option_value_and_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Sizes, name, value)


def test_every_number_has_a_maximum() -> None:
    assert bounds(Sizes, "count") == (1, MAX_INT)
    assert bounds(Sizes, "weight") == (0, MAX_FLOAT)
    assert bounds(Sizes, "seed") == (0, 2**64 - 1)
    assert bounds(Sizes, "ratio") == (0, 1)
    assert bounds(Sizes, "name") == (None, None)


def test_build_is_the_reverse_of_to_dict() -> None:
    sizes = Sizes(count=3, levels=(4, 5), size=(6, 7))
    assert to_dict(sizes)["size"] == [6, 7]
    assert build(Sizes, to_dict(sizes)) == sizes


@pytest.mark.parametrize("size", [64, (64, 96)])
def test_text_of_a_size_is_read_back(size: Size) -> None:
    assert to_size(size_text(size)) == size
    assert to_size(sides_of(size)) == size


def test_sizes_are_known_by_their_type() -> None:
    assert [name for name in Sizes.__annotations__ if is_size(Sizes, name)] == ["size", "other"]


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"run: unknown key cuont; did you mean count\?"):
        build(Sizes, {"cuont": 1}, "run")
    with pytest.raises(ConfigError, match="unknown key zzzz; known are count, deep"):
        build(Sizes, {"zzzz": 1})
