"""Models for a page, a worker, and its temporary folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgtf.web.server import temporary_environment
from imgtf.web.site import Site, open_site
from imgtf.web.worker import Worker

from ..pipelines.conftest import images, model
from ..pipelines.editing.test_translate import tiny

__all__ = ["images", "model"]


@pytest.fixture(scope="session")
def translating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose prior translates images."""
    folder = tmp_path_factory.mktemp("translating") / "m"
    tiny().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def upscaling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose prior enlarges images of 4 pixels."""
    folder = tmp_path_factory.mktemp("upscaling") / "m"
    tiny(4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def site(model: Path) -> Site:
    return open_site(model, str(model), "cpu")


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The only folder that a page writes to."""
    with temporary_environment() as folder:
        yield Path(folder)
