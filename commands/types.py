"""Parameter types of the command line.

`in_file` names the Python types that a value can have in a configuration file. Without it, the value is text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..errors import ConfigError
from ..options import Size, shown, sides_of, to_size

AUTO = "auto"
MAX_IMAGES = 10_000_000
"""Most images of one `imgtf sample`; --first continues a larger set."""
MAX_BATCH = 2**16
MAX_SEED = 2**64 - 1
MAX_FIRST = MAX_SEED - MAX_IMAGES
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SAMPLING_PRECISIONS = (*PRECISIONS, "int8")


def whole_numbers(value: Any) -> list[int]:
    """The numbers of text such as `3,5`, or of a list in a configuration file. Raises ValueError for anything else."""
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    return [int(str(part)) for part in parts]  # as text, so that 1.5 and true are none


class CommaSeparated(click.ParamType):
    """`1,2,2` to [1, 2, 2]."""

    name = "list"

    def __init__(self, item: click.ParamType) -> None:
        self.item = item

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        items = value if isinstance(value, (list, tuple)) else [v.strip() for v in str(value).split(",")]
        return [self.item.convert(item, param, ctx) for item in items if item != ""]

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        found = self.item.shell_complete(ctx, param, last)
        return [CompletionItem(before + comma + item.value) for item in found if item.type == "plain"]


class Names(click.ParamType):
    """`a,b` as it is; a list of names in a configuration file is the same."""

    name = "NAME,..."
    in_file = (str, list)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = [value] if isinstance(value, str) else value
        if not all(isinstance(name, str) and "\0" not in name for name in names):
            self.fail(f"{shown(value)} is not a list of names", param, ctx)
        return ",".join(names)


class WholeRange(click.IntRange):
    """A whole number within bounds."""

    name = "whole number"
    in_file = (int,)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except ValueError:  # click cannot write a number of thousands of digits into its error
            self.fail(f"{shown(value)} is not in the range {self._describe_range()}", param, ctx)


class FiniteRange(click.FloatRange):
    """A float within bounds; NaN and infinity are refused."""

    name = "number"
    in_file = (int, float)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = super().convert(value, param, ctx)
        except (ValueError, OverflowError):  # a whole number of thousands of digits
            self.fail(f"{shown(value)} is not in the range {self._describe_range()}", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class ImageSize(click.ParamType):
    """`64` to 64, `192x128` (height x width) to (192, 128), `64x64` to 64; each side within bounds."""

    name = "N|HxW"
    in_file = (int, str, list)

    def __init__(self, minimum: int | None, maximum: int | None) -> None:
        self.side = WholeRange(minimum, maximum)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        try:
            size = to_size(value, "a size")
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        for side in sides_of(size):
            self.side.convert(side, param, ctx)
        return size


class WordOrCount(click.ParamType):
    """`auto` as it is, or a whole number within bounds."""

    name = "auto|N"
    in_file = (int, str)

    def __init__(self, minimum: int | None, maximum: int | None) -> None:
        self.count = WholeRange(minimum, maximum)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == AUTO else self.count.convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(AUTO)] if AUTO.startswith(incomplete) else []


class AutoOrCount(click.ParamType):
    """`auto` to None, or a whole number from 1 to the maximum."""

    name = "auto|N"
    in_file = (int, str)

    def __init__(self, maximum: int) -> None:
        self.count = WholeRange(1, maximum)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == AUTO else self.count.convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(AUTO)] if AUTO.startswith(incomplete) else []


class Device(click.ParamType):
    """Name of a device. Whether the machine has it is checked when it is used."""

    name = "auto|cpu|cuda|cuda:N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", str(value)):
            self.fail(f"{value!r} is not one of auto, cpu, cuda, cuda:N", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(name) for name in ("auto", "cpu", "cuda") if name.startswith(incomplete)]


class Preset(click.Choice[str]):
    """Name of a preset; the help of the command lists them."""

    def __init__(self, about: Mapping[str, str]) -> None:
        super().__init__(list(about))
        self.about = about
