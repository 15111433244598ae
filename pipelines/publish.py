"""What of a model folder is published on the Hub, and its upload."""

from __future__ import annotations

import filecmp
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, ConfigError
from ..pretrained import CONFIG_FILE, WEIGHTS_FILE, read_json, write_text
from ..prior.model import Prior
from ..runtime.repository import PARTS
from ..runtime.upload import Target, upload
from ..tokenizer.model import Tokenizer
from .card import CARD_FILE, is_edited, license_of, read_card, render_card
from .figures import FIGURES_FILE
from .files import DATA_FILE, DECODER_FILE, ORIGIN_FILE, REPORT_FILE, RUN_FILE
from .local_paths import is_local
from .pictures import PICTURES
from .stage_facts import StageFacts

logger = logging.getLogger("imgtf")

MOST_REPORT_BYTES = 3_000_000
"""A larger report of the runs is not published."""
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class Publication:
    """A model folder as it is published: without paths of this machine, training state and token caches."""

    folder: Path
    repository: str
    """`user/model`, the name in the commands of the card."""
    license: str | None = None
    """As the Hub names it, such as apache-2.0; None: the one in the card, if any."""
    pictures: bool = True
    """Whether the pictures of the card and the report of the runs are published, which may show images of the data."""

    def files(self) -> dict[str, Path | bytes]:
        """Return name in the repository -> file, or its contents.

        Raises:
            CheckpointError: the folder holds no model, or one that others could not load.
            ConfigError: the license is no name of the Hub, or the metadata of the card cannot be read.
        """
        if self.license is not None and not LICENSE.fullmatch(self.license):
            raise ConfigError(
                f"license {self.license!r}: the Hub names licenses like apache-2.0, mit or cc-by-4.0"
            )
        self._check()
        files: dict[str, Path | bytes] = {}
        for part in PARTS:
            facts = StageFacts(self.folder / part)
            if facts.exists:
                files |= {f"{part}/{name}": data for name, data in facts.published().items()}
        shown = PICTURES.values() if self.pictures else ()
        files |= {name: self.folder / name for name in shown if (self.folder / name).exists()}
        report = self.folder / REPORT_FILE  # with previews
        if self.pictures and report.exists() and report.stat().st_size <= MOST_REPORT_BYTES:
            files[REPORT_FILE] = report
        return files | {CARD_FILE: self.card().encode()}

    def card(self) -> str:
        """Return the card with the id of the repository in its commands; one that was edited only gets the license."""
        license = self.license or license_of(self.folder)
        if not is_edited(self.folder):
            return render_card(self.folder, self.repository, license, self.pictures)
        logger.info("%s was edited by hand: it is uploaded as it is", self.folder / CARD_FILE)
        card = read_card(self.folder)
        card.data["license"] = license
        return str(card)

    def keep_license(self) -> None:
        """Write a new license into the card of the folder too, so that the next upload has it."""
        if self.license in (None, license_of(self.folder)):
            return
        if is_edited(self.folder):
            text = self.card()
        else:
            text = render_card(self.folder, self.folder.resolve().name, self.license)
        write_text(self.folder / CARD_FILE, text)
        logger.info("%s names the license now, for later uploads", self.folder / CARD_FILE)

    def _check(self) -> None:
        stages = [part for part in ("tokenizer", "prior") if StageFacts(self.folder / part).exists]
        if not stages:
            raise CheckpointError(
                f"{self.folder}: holds neither tokenizer/ nor prior/; is this a model folder?"
            )
        if "prior" not in stages:
            return
        path = self.folder / "prior" / CONFIG_FILE
        for condition in read_json(path).get("conditions", ()):
            encoder = condition.get("text_encoder") or ""
            if encoder and is_local(encoder):
                raise CheckpointError(
                    f"{path}: the text encoder {encoder} is a folder of this machine, which nobody else can load; "
                    f"write its id on the Hub there"
                )


def push_folder(folder: Path, target: Target, *, license: str | None = None, pictures: bool = True) -> str:
    """Upload a model folder to the Hub as one commit; return its address.

    The model is loaded first: what cannot be loaded is not uploaded. Files of another model that was in the repository
    are deleted from its main folders.

    Args:
        license: as the Hub names it; None: the one of an earlier upload.
        pictures: whether the pictures of the card are uploaded, which may show images of the data set.

    Raises:
        CheckpointError: the folder holds no model that can be loaded, or the Hub cannot be reached or refuses access.
        ConfigError: an argument is wrong, or the Hub refuses the files.
    """
    publication = Publication(folder, target.resolved()[0], license, pictures)
    files = publication.files()
    _load(folder)
    if not (license or license_of(folder)):
        logger.info("no license is named: nobody else may use the model without one; --license names it")
    address = upload(target, files, owned=(*PARTS, "images", REPORT_FILE))
    publication.keep_license()
    return address


def copy_facts(source: Path, target: Path) -> None:
    """Copy what a model folder says about its stages to another folder, for those with the same weights there."""
    parts = [part for part in PARTS if StageFacts(target / part).exists]
    same = [part for part in parts if _same_weights(source / part, target / part)]
    for part in same:
        for name in (RUN_FILE, DECODER_FILE, DATA_FILE, ORIGIN_FILE, FIGURES_FILE):
            _copy(source / part / name, target / part / name)
        if part in PICTURES:
            _copy(source / PICTURES[part], target / PICTURES[part])
    if same == parts:
        _copy(source / CARD_FILE, target / CARD_FILE)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)


def _same_weights(one: Path, other: Path) -> bool:
    files = (one / WEIGHTS_FILE, other / WEIGHTS_FILE)
    return all(file.is_file() for file in files) and filecmp.cmp(*files, shallow=False)


def _load(folder: Path) -> None:
    """Load the stages of a model folder. Raises CheckpointError where they cannot be, or do not belong together."""
    tokenizer = prior = None
    if StageFacts(folder / "tokenizer").exists:
        tokenizer = Tokenizer.from_pretrained(folder / "tokenizer", "cpu")
    if StageFacts(folder / "prior").exists:
        prior = Prior.from_pretrained(folder / "prior", "cpu")
    expected = prior.config.tokenizer_sha256 if prior else ""
    if tokenizer and expected and not tokenizer.made_codes_of(expected):
        raise CheckpointError(
            f"{folder}: the prior was trained on the codes of another tokenizer than this one"
        )


def sizes(files: Mapping[str, Path | bytes]) -> dict[str, int]:
    """Return the bytes of each file."""
    return {
        name: len(data) if isinstance(data, bytes) else data.stat().st_size for name, data in files.items()
    }
