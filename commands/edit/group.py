"""`imgtf edit`: the group of the editing commands."""

from __future__ import annotations

import click

from ..lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "complete": ("edit.fill.complete", "Keep the top of an image, or a rectangle; sample the rest."),
    "inpaint": ("edit.fill.inpaint", "Sample a part of an image anew: a mask or a box."),
    "outpaint": ("edit.outpaint.outpaint", "Continue an image beyond its borders."),
    "vary": ("edit.variation.vary", "Sample some tokens of an image anew."),
    "mix": ("edit.variation.mix", "Go from one image to another through their tokens."),
    "upscale": ("edit.translate.upscale", "Enlarge images."),
    "translate": (
        "edit.translate.translate",
        "Turn images into others, such as label maps into photographs.",
    ),
}
"""Command -> module in `commands/` with the command's name in it, and a line for the help."""


@click.group(cls=LazyGroup, lazy=COMMANDS)
def edit() -> None:
    """Edit images with a trained model.

    Images are brought to the model's size; a line says how.
    """
