"""Servers in a thread, with random models that sample in milliseconds."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from imgtf import Pipeline, Prior
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.conditions.text import TextConfig
from imgtf.prior.config import PriorConfig
from imgtf.serving.config import ServingConfig
from imgtf.serving.server import address_of, bind, serve
from imgtf.serving.service import Service

from ..pipelines.editing.test_translate import tokenizer

CONDITIONS = {"label": LabelConfig(class_names=("red", "green", "7")), "text": TextConfig(max_bytes=8)}


@cache
def tiny(*kinds: str, objective: str = "raster", depth: int = 1) -> Pipeline:
    """A random model of 16 px with tokens of 4 px."""
    images = tokenizer()
    torch.manual_seed(1)
    config = PriorConfig(
        grid=images.config.grid, codebook_size=images.config.codebook_size, width=16, depth=depth, heads=2,
        objective=objective, conditions=tuple(CONDITIONS[kind] for kind in kinds),
    )  # fmt: skip
    prior = Prior(config)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Pipeline(images, prior)


@dataclass(frozen=True)
class Running:
    """A server and a client of it."""

    service: Service
    client: httpx.Client

    @property
    def pipeline(self) -> Pipeline:
        return self.service.pipeline

    def generate(self, **body: Any) -> httpx.Response:
        return self.client.post("/v1/images/generations", json=body)

    def edit(self, image: bytes | None = None, mask: bytes | None = None, **fields: Any) -> httpx.Response:
        sent = {"image": image, "mask": mask}
        files = {name: (f"{name}.png", data) for name, data in sent.items() if data is not None}
        return self.client.post("/v1/images/edits", files=files or {"nothing": b""}, data=fields)


@contextmanager
def running(pipeline: Pipeline, **given: Any) -> Iterator[Running]:
    """Serve a pipeline in a thread."""
    config = ServingConfig(**{"port": 0, "batch_size": 8, "drain_seconds": 5.0, **given})
    ready = threading.Event()
    with bind("127.0.0.1", 0) as bound, Service(pipeline, config, "tiny") as service:
        thread = threading.Thread(target=serve, args=(service, bound, ready.set))
        thread.start()
        assert ready.wait(30)
        with httpx.Client(base_url=address_of(bound), timeout=30) as client:
            yield Running(service, client)
        service.drain()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A model with classes."""
    with running(tiny("label")) as own:
        yield own


def images_of(answer: httpx.Response) -> list[np.ndarray]:
    """The images of an answer as arrays."""
    assert answer.status_code == 200, answer.text
    encoded = [base64.b64decode(one["b64_json"]) for one in answer.json()["data"]]
    return [np.asarray(Image.open(io.BytesIO(data))) for data in encoded]


def equal(answer: httpx.Response, images: list[Image.Image]) -> bool:
    """Whether an answer has these images. Decoded in a batch of another size, a pixel may differ by one level."""
    got = images_of(answer)
    return len(got) == len(images) and all(
        np.abs(own.astype(int) - np.asarray(image)).max() <= 1 for own, image in zip(got, images, strict=True)
    )


def error_of(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of an answer: OpenAI's shape, one line."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    return error


def png(image: Image.Image) -> bytes:
    """An image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def picture(width: int = 16, height: int = 16) -> Image.Image:
    """An image of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def mask(marked: tuple[slice, slice] = np.s_[8:, :], side: int = 16) -> Image.Image:
    """An opaque image with a transparent part."""
    pixels = np.full((side, side, 4), 255, np.uint8)
    pixels[(*marked, 3)] = 0
    return Image.fromarray(pixels)
