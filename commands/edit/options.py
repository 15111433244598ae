"""Options and types that several editing commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

image_type = click.Path(dir_okay=False, path_type=Path)
image_argument = click.argument("image", type=image_type)


class Box(click.ParamType):
    """`8,8,24,24` to (8, 8, 24, 24): left, top, right and bottom in pixels."""

    name = "x0,y0,x1,y1"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        sides = value if isinstance(value, (list, tuple)) else str(value).split(",")
        try:
            return self._whole(sides)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not a box: use x0,y0,x1,y1, four whole numbers of pixels", param, ctx)

    def _whole(self, sides: Any) -> tuple[int, int, int, int]:
        x0, y0, x1, y1 = (int(side) for side in sides)
        return x0, y0, x1, y1


def record_of(command: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What an editing command was given, for `samples.json`."""
    return {"edit": command} | {
        key: str(value) if isinstance(value, Path) else value for key, value in given.items()
    }
