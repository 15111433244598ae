"""The Hugging Face Hub: whether it answers, its errors in one line, and the cache of `datasets`."""

from __future__ import annotations

import atexit
import logging
import shutil
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ..errors import CheckpointError, ConfigError

logger = logging.getLogger("imgtf")

TIMEOUT = 3.0
"""Seconds in which the Hub must answer. huggingface_hub itself retries for about 25 s."""
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def datasets_cache() -> str:
    """Return the cache folder of `datasets`, or a temporary folder where that one cannot be written."""
    from datasets import config

    return _writable(str(config.HF_DATASETS_CACHE))


@cache
def _writable(folder: str) -> str:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return folder
    except OSError as error:
        temporary = tempfile.mkdtemp(prefix="imgtf-datasets-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        logger.info(
            "%s: cannot be written (%s); tables are cached in %s until the end of this run; set HF_HOME to keep them",
            folder, error.strerror, temporary,
        )  # fmt: skip
        return temporary


@contextmanager
def cached_if_unreachable() -> Iterator[str]:
    """Use only what is in the Hub's cache while the Hub does not answer. Yield the reason, or "" if it answers."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    reason = "HF_HUB_OFFLINE is set" if any(before) else _unreachable(constants.ENDPOINT)
    try:
        if reason:
            constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        yield reason
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def why_offline() -> str:
    """Return why the Hub cannot be asked, or "" if it answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    reason = _unreachable(constants.ENDPOINT)
    return f"{constants.ENDPOINT} cannot be reached: {reason}" if reason else ""


@contextmanager
def one_line_errors(repository: str, revision: str | None = None) -> Iterator[None]:
    """Turn the errors of huggingface_hub into errors of one line.

    Raises:
        CheckpointError: the repository or revision is missing, needs a login, or cannot be reached.
        ConfigError: the Hub refuses what it was sent.
    """
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repository}"
    transport: type[Exception] = errors.HfHubHTTPError.__mro__[1]  # of httpx or requests, by version
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{page} is gated: accept its terms there, then {LOG_IN}") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(f"{page}: no such repository, or it is private: {LOG_IN}") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{page}: no revision {revision or 'main'!r}") from error
    except errors.HfHubHTTPError as error:
        raise _refused(page, error) from error
    except (transport, OSError) as error:
        raise CheckpointError(f"{page}: {_line(error)}; try again later") from error
    except RuntimeError as error:  # of the threads that transfer large files
        cause = f" ({_line(error.__cause__)})" if error.__cause__ else ""
        raise CheckpointError(f"{page}: {_line(error)}{cause}; try again later") from error
    except ValueError as error:  # such as metadata of a model card that the Hub does not know
        raise ConfigError(f"{page}: refused: {_line(error)}") from error


@contextmanager
def bars_on_terminals() -> Iterator[None]:
    """Show the progress bars of huggingface_hub on terminals only."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _refused(page: str, error: Exception) -> CheckpointError | ConfigError:
    """The error for an answer of the Hub with another status code."""
    code = getattr(getattr(error, "response", None), "status_code", 0)
    if code in (401, 403):
        return CheckpointError(f"{page}: access is refused ({code}): {LOG_IN}, with a token that may do this")
    if code == 400:
        return ConfigError(f"{page}: refused: {_line(error)}")
    return CheckpointError(f"{page}: {_line(error)}; try again later")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _unreachable(url: str) -> str:
    """Return why a server does not answer within `TIMEOUT`, or "". In a thread, because name resolution can hang."""
    reasons = [f"no answer in {TIMEOUT:g} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()
            reasons[0] = ""
        except urllib.error.HTTPError:  # the server answers, if only with an error
            reasons[0] = ""
        except (OSError, ValueError) as error:
            own = getattr(error, "reason", error)
            reasons[0] = getattr(own, "strerror", None) or str(own)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return reasons[0]
