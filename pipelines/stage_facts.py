"""What a model folder says about one of its stages, without paths of this machine."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from ..pretrained import CONFIG_FILE
from ..prior.config import PriorConfig
from ..prior.model import Prior
from ..runtime.repository import parse_id
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from .figures import Figures, read_figures
from .files import DATA_FILE, DECODER_FILE, ORIGIN_FILE, RUN_FILE, run_file
from .local_paths import is_local, public_name, public_settings, without_paths

PUBLISHED = ("config.json", "model.safetensors", "figures.json")
"""Files of a stage that hold no paths."""


@dataclass(frozen=True)
class StageFacts:
    """Texts and settings in the folder of a stage."""

    folder: Path
    run_file: str = RUN_FILE
    """With the settings of the run in question."""

    @classmethod
    def of_run(cls, folder: Path, run: str) -> StageFacts:
        """Return the facts of a run in a model folder."""
        file = run_file(folder, run)
        return cls(file.parent, file.name)

    @property
    def exists(self) -> bool:
        """Whether the folder holds a model."""
        return (self.folder / CONFIG_FILE).exists()

    @property
    def figures(self) -> Figures | None:
        """The held-out metrics of the weights."""
        return read_figures(self.folder)

    @property
    def origin(self) -> str:
        """Where imported weights come from; "" for trained ones."""
        return without_paths(self._text(ORIGIN_FILE).strip())

    @property
    def data(self) -> str:
        """The data set of the run, as it may be published; "" for imported weights."""
        figures, given = self.figures, self._settings().get("data", "")
        own = figures is not None and (figures.run == "decoder") == (self.run_file == DECODER_FILE)
        return figures.data if figures and own else public_name(given) if given else ""

    def settings(self) -> dict[str, Any]:
        """The settings of the run, as they may be published; {} for imported weights."""
        settings = public_settings(self._settings())
        return settings | ({"data": self.data} if settings else {})

    def data_lines(self) -> list[str]:
        """The logged lines about the images of the run, without advice about settings."""
        given = self._settings().get("data", "")
        lines = (
            line.removeprefix("data: ") for line in self._text(DATA_FILE).splitlines() if "--" not in line
        )
        return [without_paths(line, given) for line in lines]

    def base_model(self) -> str | None:
        """The repository of the Hub whose weights the run started with."""
        given = self._settings().get("init_from") or ""
        found = None if is_local(given) else parse_id(given)
        return found[0] if found else None

    def published(self) -> dict[str, Path | bytes]:
        """Its files by name, as they may be published."""
        files: dict[str, Path | bytes] = {
            path.name: path for path in sorted(self.folder.glob("*")) if path.name in PUBLISHED
        }
        if settings := self.settings():
            files[RUN_FILE] = tomli_w.dumps(settings).encode()
        if tuned := StageFacts(self.folder, DECODER_FILE).settings():
            files[DECODER_FILE] = tomli_w.dumps(tuned).encode()
        if self.origin:
            files[ORIGIN_FILE] = f"{self.origin}\n".encode()
        if lines := self.data_lines():
            files[DATA_FILE] = "".join(f"data: {line}\n" for line in lines).encode()
        return files

    def _settings(self) -> dict[str, Any]:
        return tomllib.loads(self._text(self.run_file))

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""


def read_configs(folder: Path) -> tuple[TokenizerConfig | None, PriorConfig | None]:
    """Return the configurations of the stages in a model folder, None for one that is not there."""
    tokenizer, prior = (StageFacts(folder / stage) for stage in ("tokenizer", "prior"))
    return (
        Tokenizer.read_config(tokenizer.folder) if tokenizer.exists else None,
        Prior.read_config(prior.folder) if prior.exists else None,
    )
