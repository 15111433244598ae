"""Options and types that several editing commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ...options import shown
from ..types import whole_numbers

image_type = click.Path(dir_okay=False, path_type=Path)
image_argument = click.argument("image", type=image_type)


class Box(click.ParamType):
    """`8,8,24,24` to (8, 8, 24, 24): left, top, right and bottom in pixels."""

    name = "x0,y0,x1,y1"
    in_file = (str, list)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            x0, y0, x1, y1 = whole_numbers(value)
        except ValueError:
            self.fail(
                f"{shown(value)} is not a box: use x0,y0,x1,y1, four whole numbers of pixels", param, ctx
            )
        return x0, y0, x1, y1


def record_of(command: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What an editing command was given, for `samples.json`."""
    return {"edit": command} | {
        key: str(value) if isinstance(value, Path) else value for key, value in given.items()
    }
