"""The Hugging Face Hub and the cache of `datasets` on machines without a network or without a writable home."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

logger = logging.getLogger("imgtf")

TIMEOUT = 3.0
"""Seconds in which the Hub must answer. huggingface_hub itself retries for about 25 s."""


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
