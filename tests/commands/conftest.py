"""All commands by their path, and a trained model."""

from __future__ import annotations

from collections.abc import Iterator

import click

from imgtf.cli import cli

from ..pipelines.conftest import images, model

__all__ = ["COMMANDS", "images", "model"]


def walk(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(walk(cli))
