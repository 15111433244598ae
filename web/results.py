"""What can be downloaded of a result: its images, the settings, and the command that makes it again."""

from __future__ import annotations

import io
import json
import os
import shlex
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
from PIL import Image

from ..pipelines.write import RECORD_FILE, describe_run
from ..prior.config import SamplingConfig
from .site import Site

COMMAND_FILE, OPTIONS_FILE = "command.txt", "options.toml"


@dataclass(frozen=True)
class Command:
    """A command of `imgtf` that makes a result again, next to the unpacked files."""

    words: tuple[str, ...]
    """Such as ("edit", "inpaint")."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """By name, as in a file for --config; a tuple or a list is an option that is given several times."""
    inputs: tuple[str, ...] = ()
    """Names of input files."""

    def line(self) -> str:
        """Return the command for a shell."""
        given = [part for name, value in self.options.items() for part in _option(name, value)]
        return shlex.join(["imgtf", *self.words, *self.inputs, *given])

    def toml(self) -> str:
        """Return the options as a file for --config."""
        plain = {name: list(own) if isinstance(own, tuple) else own for name, own in self.options.items()}
        return (
            f"# {shlex.join(['imgtf', *self.words, *self.inputs])} --config {OPTIONS_FILE}\n"
            + tomli_w.dumps(plain)
        )


@dataclass(frozen=True)
class Result:
    """A finished result, and all that it takes to make it again."""

    name: str
    """Of the download, without suffix."""
    images: Mapping[str, Image.Image]
    """By file name: the results, as the page shows them."""
    captions: Sequence[str]
    command: Command
    record: Mapping[str, Any]
    inputs: Mapping[str, Image.Image] = field(default_factory=dict)
    """By file name: the images that the command reads."""
    note: str = ""
    """A line below the images."""

    def archive(self) -> str:
        """Write a zip of all files into the page's temporary folder; return its path."""
        folder = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]))
        path = folder / f"{self.name}.zip"
        with zipfile.ZipFile(path, "w") as file:
            for own, image in {**self.inputs, **self.images}.items():
                file.writestr(own, png(image))
            file.writestr(RECORD_FILE, json.dumps(dict(self.record), indent=2) + "\n")
            file.writestr(OPTIONS_FILE, self.command.toml())
            file.writestr(COMMAND_FILE, self.command.line() + "\n")
        return str(path)


def _option(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, (tuple, list)):
        return [part for one in value for part in (flag, str(one))]
    return [flag, str(value)]


def model_options(site: Site) -> dict[str, Any]:
    """Return the options of every command of a model."""
    precision = site.pipeline.precision if site.pipeline else "fp32"
    return {"model": site.name, "precision": precision}


def record(site: Site, settings: SamplingConfig | None = None, **entries: Any) -> dict[str, Any]:
    """Return what a result was made with, like the record of `imgtf sample`."""
    if site.pipeline and settings is not None:
        return describe_run(site.pipeline, settings) | entries
    found: dict[str, Any] = {"format": 1, "imgtf": version("imgtf")}
    if site.tokenizer:
        found["tokenizer_sha256"] = site.tokenizer.weights_sha256()
    if site.pipeline:
        found |= {"prior_sha256": site.pipeline.prior_sha256(), "precision": site.pipeline.precision}
    return found | ({"settings": asdict(settings)} if settings else {}) | entries


def png(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def numbered(images: Sequence[Image.Image], first: int = 0) -> dict[str, Image.Image]:
    """Return images by the file names that `imgtf sample` gives them."""
    return {f"{first + i:06d}.png": image for i, image in enumerate(images)}
