"""Uploading of files to a model repository on the Hugging Face Hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from .hub import bars_on_terminals, one_line_errors, why_offline
from .repository import parse_id

logger = logging.getLogger("imgtf")

Files = Mapping[str, Path | bytes]
"""Name in the repository -> file, or its contents."""


@dataclass(frozen=True)
class Target:
    """Where files are uploaded to, and how."""

    repository: str
    """`user/model`, or `user/model@branch`."""
    private: bool | None = None
    """Whether a new repository is private; None: as the account is set."""
    token: str | bool | None = None
    """With permission to write; None: the stored token, or HF_TOKEN."""
    message: str = "Upload with imgtf"
    """Of the commit."""
    revision: str | None = None
    """Branch, created where it is missing; None: the one in `repository`, or the main branch."""

    def resolved(self) -> tuple[str, str | None]:
        """Return repository and branch. Raises ConfigError for a text that is no id."""
        found = parse_id(self.repository)
        if found is None:
            raise ConfigError(f"{self.repository!r} is no id of the Hub: name it user/model")
        if not self.message.strip():
            raise ConfigError("the message of the commit is empty")
        if self.revision and found[1] and found[1] != self.revision:
            raise ConfigError(f"{self.repository} names a branch, and {self.revision!r} is another one")
        return found[0], self.revision or found[1]


def upload(
    target: Target, files: Files, *, owned: Sequence[str] = (), unless_there: Sequence[str] = ()
) -> str:
    """Upload files as one commit; return its address. The repository is created where it is missing.

    Args:
        owned: folders and files of the repository; those files that are not uploaded are deleted.
        unless_there: names in `files` that are kept where the repository has them.

    Raises:
        CheckpointError: the Hub cannot be reached, or refuses access.
        ConfigError: the id is none, the Hub refuses the files, or `private` is asked for a public repository.
    """
    from huggingface_hub import HfApi

    repository, branch = target.resolved()
    if reason := why_offline():
        raise CheckpointError(f"{repository} cannot be uploaded to: {reason}")
    with one_line_errors(repository, branch), bars_on_terminals():
        api = HfApi(token=target.token)
        url = api.create_repo(repository, private=target.private, exist_ok=True)
        if target.private and not api.model_info(repository).private:
            raise ConfigError(f"{url} exists and is public: make it private there, or leave out --private")
        if branch:
            api.create_branch(repository, branch=branch, exist_ok=True)
        there = set(api.list_repo_files(repository, revision=branch))
        sent = {name: data for name, data in files.items() if not (name in unless_there and name in there)}
        gone = sorted(name for name in there - files.keys() if name.split("/")[0] in owned)
        size = sum(len(data) if isinstance(data, bytes) else data.stat().st_size for data in sent.values())
        logger.info(
            "uploading %d files, %.1f MB, to %s%s", len(sent), size / 1e6, url, f"@{branch}" if branch else ""
        )
        if gone:
            logger.info("deleting there what this model does not have: %s", ", ".join(gone))
        commit = api.create_commit(
            repository, _operations(sent, gone), commit_message=target.message, revision=branch
        )
    return str(commit.commit_url)


def _operations(files: Files, gone: Sequence[str]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    return [
        *(
            CommitOperationAdd(name, data if isinstance(data, bytes) else str(data))
            for name, data in files.items()
        ),
        *(CommitOperationDelete(name) for name in gone),
    ]
