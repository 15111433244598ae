"""A model repository on the Hugging Face Hub: its id, its download, and the folder that a name stands for."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from .hub import bars_on_terminals, one_line_errors, why_offline

logger = logging.getLogger("imgtf")

PARTS = ("tokenizer", "prior", "conditioning")
"""Folders of a model that are downloaded."""
FILES = ("config.json", "model.safetensors", "*.toml", "*.txt", "figures.json")
"""Files of each of them. Nothing else is downloaded, above all no pickle."""
CARD = "README.md"
CONFIG = "config.json"
NAMED = 5
"""Files that an error names."""
_WORD = r"[A-Za-z0-9][\w.-]*"
_ID = re.compile(rf"({_WORD}/{_WORD})(?:@(\S+))?", re.ASCII)
_SNAPSHOT = re.compile(r"models--.+?--(.+)")


@dataclass(frozen=True)
class Access:
    """How to reach the Hub; the names of huggingface_hub."""

    token: str | bool | None = None
    """None: the stored token, or HF_TOKEN."""
    cache_dir: str | Path | None = None
    local_files_only: bool = False


def parse_id(text: str) -> tuple[str, str | None] | None:
    """Return repository and revision of `user/model` or `user/model@revision`; None for any other text."""
    match = _ID.fullmatch(text)
    return (match[1], match[2]) if match else None


def model_folder(
    model: str | Path,
    *,
    revision: str | None = None,
    access: Access = Access(),
    parts: Sequence[str] = PARTS,
    needs: Sequence[str] = (),
) -> Path:
    """Return the folder of a model. A repository of the Hub is downloaded to its cache first.

    A folder that exists comes before a repository of that name. A `Path` is always a folder.

    Args:
        model: folder, `user/model`, or `user/model@revision`.
        revision: branch, tag or commit of the repository; default: the one in `model`, or the main branch.
        parts: folders of the model to download, where the repository has them.
        needs: those of them that the repository must have; () for at least one.

    Raises:
        CheckpointError: there is neither such a folder nor such a repository, or it holds no such model.
        ConfigError: a revision is given for a folder.
    """
    found = parse_id(model) if isinstance(model, str) else None
    if found is None or Path(model).exists():
        if revision:
            raise ConfigError(f"{model} is a folder, which has no revision {revision!r}; leave it out")
        if found:
            logger.info("%s is a folder here: it is used, not the repository of that name on the Hub", model)
        return Path(model)
    repository, own = found
    if revision and own and revision != own:
        raise ConfigError(f"{model} names a revision, and {revision!r} is another one; give only one")
    try:
        return _Download(repository, revision or own, access, tuple(parts), tuple(needs)).folder()
    except CheckpointError as error:
        raise CheckpointError(f"no folder {model}; {error}") from error


def results_folder(model: Path) -> Path:
    """Return where results of a model go: its folder, or `./NAME` for a model in the cache of the Hub."""
    repository = model.parent.parent.name if model.parent.name == "snapshots" else ""
    match = _SNAPSHOT.fullmatch(repository)
    return Path(match[1]) if match else model


@dataclass(frozen=True)
class _Download:
    repository: str
    revision: str | None
    access: Access
    parts: tuple[str, ...]
    needs: tuple[str, ...]

    def folder(self) -> Path:
        """The snapshot of the repository in the cache, downloaded now unless it is there."""
        offline = "local_files_only is set" if self.access.local_files_only else why_offline()
        return self._cached(offline) if offline else self._fetched()

    def _fetched(self) -> Path:
        from huggingface_hub import HfApi, constants

        with one_line_errors(self.repository, self.revision):
            api = HfApi(token=self.access.token)
            info = api.model_info(self.repository, revision=self.revision, files_metadata=True)
            files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
            self._check(files, f"{constants.ENDPOINT}/{self.repository}")
            self._announce(files, str(info.sha), constants.ENDPOINT)
            with bars_on_terminals():
                return self._snapshot(local_files_only=False)

    def _cached(self, reason: str) -> Path:
        from huggingface_hub.errors import LocalEntryNotFoundError

        missing = CheckpointError(
            f"{self.repository} of the Hub is not in the cache {self._cache()} ({reason})"
        )
        try:
            folder = self._snapshot(local_files_only=True)
        except LocalEntryNotFoundError as error:
            raise missing from error
        there = [file.relative_to(folder).as_posix() for file in folder.rglob("*")]
        if not set(self._required(there)) <= set(there):
            raise missing
        self._check(there, str(folder))
        logger.info("%s: from the cache %s (%s)", self._name(), self._cache(), reason)
        return folder

    def _snapshot(self, local_files_only: bool) -> Path:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            self.repository,
            revision=self.revision,
            token=self.access.token,
            cache_dir=self.access.cache_dir,
            allow_patterns=[*self._patterns()],
            local_files_only=local_files_only,
        )
        return Path(folder)

    def _check(self, files: Iterable[str], where: str) -> None:
        """CheckpointError for a repository that lacks what is needed."""
        files = set(files)
        configs = [f"{part}/{CONFIG}" for part in self.needs or self.parts]
        lacking = [name for name in configs if name not in files]
        if not lacking or (not self.needs and len(lacking) < len(configs)):
            return
        have = sorted(name for name in files if not name.startswith("."))
        more = f" and {len(have) - NAMED} more" if len(have) > NAMED else ""
        wanted, held = " and no ".join(lacking), ", ".join(have[:NAMED])
        raise CheckpointError(
            f"{where} is not the imgtf model that is needed: it holds no {wanted}, but {held or 'no file'}{more}"
        )

    def _required(self, files: Iterable[str]) -> list[str]:
        """The weights that belong to the configurations in a snapshot."""
        there = set(files)
        parts = [part for part in self.parts if f"{part}/{CONFIG}" in there] or self.parts
        return [f"{part}/model.safetensors" for part in (self.needs or parts)]

    def _announce(self, files: dict[str, int], commit: str, endpoint: str) -> None:
        """Say what is downloaded from where to where, before it happens."""
        from huggingface_hub import try_to_load_from_cache

        missing = {
            name: size
            for name, size in files.items()
            if any(fnmatch(name, pattern) for pattern in self._patterns())
            and not isinstance(self._in_cache(try_to_load_from_cache, name, commit), str)
        }
        if not missing:
            logger.info("%s: commit %s is in the cache %s", self._name(), commit[:7], self._cache())
            return
        logger.info(
            "downloading %s, commit %s, from %s to %s: %d files, %s",
            self._name(), commit[:7], endpoint, self._cache(), len(missing), _size(sum(missing.values())),
        )  # fmt: skip

    def _in_cache(self, find: Any, name: str, commit: str) -> Any:
        return find(self.repository, name, cache_dir=self.access.cache_dir, revision=commit)

    def _patterns(self) -> Iterator[str]:
        yield CARD
        for part in self.parts:
            yield from (f"{part}/{file}" for file in FILES)

    def _name(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository

    def _cache(self) -> str:
        from huggingface_hub import constants

        return str(self.access.cache_dir or constants.HF_HUB_CACHE)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
