"""The model card: `README.md` in a model folder, with metadata that the Hub reads."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..pretrained import write_text
from .card_data import card_data
from .card_text import card_text
from .pictures import copy_pictures

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

logger = logging.getLogger("imgtf")

CARD_FILE = "README.md"
MARK = "\n<!-- Written by imgtf, {}. A card that was edited is kept. -->\n"
"""Last line of a card, with a hash of the rest."""


def write_card(folder: Path) -> None:
    """Write `folder/README.md` and its pictures, unless the card was edited by hand.

    It says what the model is, how to use it, how it was trained, and what it reaches.
    """
    copy_pictures(folder)
    if is_edited(folder):
        logger.info("%s was edited by hand and is kept; delete it to get a new one", folder / CARD_FILE)
        return
    write_text(folder / CARD_FILE, render_card(folder, folder.resolve().name, license_of(folder)))


def is_edited(folder: Path) -> bool:
    """Return whether a model folder has a card that `write_card` did not write as it is."""
    path = folder / CARD_FILE
    if not path.exists():
        return False
    text = path.read_text(encoding="utf-8")
    body = text[: text.rfind(MARK.split("{}")[0])]
    return text != body + MARK.format(_digest(body))


def license_of(folder: Path) -> str | None:
    """Return the license that the card in a model folder names."""
    if not (folder / CARD_FILE).exists():
        return None
    return str(read_card(folder).data.get("license") or "") or None


def read_card(folder: Path) -> ModelCard:
    """Return the card of a model folder.

    Raises:
        ConfigError: its metadata cannot be read.
    """
    from huggingface_hub import ModelCard

    path = folder / CARD_FILE
    text = path.read_text(encoding="utf-8")
    try:
        return ModelCard(text if text.startswith("---") else f"---\n{{}}\n---\n{text}")
    except Exception as error:  # of yaml, and of huggingface_hub for metadata of the wrong form
        line = " ".join(str(error).split())
        raise ConfigError(
            f"{path}: its metadata cannot be read ({line}); correct or delete the file"
        ) from error


def render_card(folder: Path, name: str, license: str | None = None, pictures: bool = True) -> str:
    """Return the card of a model folder.

    Args:
        name: what its commands load: a folder, or an id of the Hub.
        license: as the Hub names it; None: unknown.
        pictures: whether it shows the pictures that are there.
    """
    from huggingface_hub import ModelCard

    title = name.rsplit("/", 1)[-1]
    metadata = card_data(folder, title, license).to_yaml()
    body = str(ModelCard(f"---\n{metadata}\n---\n\n{card_text(folder, name, pictures)}\n"))
    return body + MARK.format(_digest(body))


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:12]
