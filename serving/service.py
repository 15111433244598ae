"""A model that is served: checked requests become jobs, and images become answers."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from ..errors import DataError
from ..pipelines.editing.extend import blank
from ..pipelines.editing.fill import inpainting
from ..pipelines.editing.region import masked_region
from ..pipelines.pipeline import Pipeline
from ..pipelines.write import describe_run
from .batcher import Batcher
from .conditions import Asked, check_fields
from .config import ServingConfig
from .errors import ApiError, wrong
from .fields import EditFields, GenerationFields, RequestFields
from .images import marked_pixels, read_image, transparent
from .job import Job
from .metrics import Metrics
from .sampling import decode_jobs, sample_rows

MASK_MISSING = (
    "mask is missing: send a PNG of the image's size that is transparent where the image is to be replaced"
)


class Service:
    """A pipeline, its queue and its metrics. Use it in a `with` block, in which its worker runs.

    Args:
        name: of the model, which requests may name.
    """

    def __init__(self, pipeline: Pipeline, config: ServingConfig, name: str) -> None:
        self.pipeline, self.config, self.name = pipeline, config, name
        self.metrics = Metrics()
        self.batcher = Batcher(
            partial(sample_rows, pipeline), partial(decode_jobs, pipeline, config.batch_size),
            batch_size=config.batch_size, queue=config.queue, wait=config.batch_wait / 1000,
            on_batch=self.metrics.batch,
        )  # fmt: skip
        self.metrics.watch(self.batcher)
        self.active = 0
        """Requests for images that are being answered."""
        self.drained_by: float | None = None
        """Time of the monotonic clock at which a stopping server ends; None while it is ready."""

    def __enter__(self) -> Self:
        self.batcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.batcher.stop(timeout=60)

    @property
    def draining(self) -> bool:
        """Whether the server takes no new requests."""
        return self.drained_by is not None

    def drain(self) -> None:
        """Take no new requests. Running ones have `drain_seconds` to finish."""
        if self.drained_by is None:
            self.drained_by = time.monotonic() + self.config.drain_seconds

    @property
    def drained(self) -> bool:
        """Whether a stopping server has nothing left to do, or no time left."""
        return self.drained_by is not None and (not self.active or time.monotonic() >= self.drained_by)

    def warm_up(self) -> None:
        """Sample one image, so that the first request finds all that it needs loaded. Raises ImgtfError."""
        captions = {"text", "features"} & set(self.pipeline.prior.config.condition_kinds)
        fields = GenerationFields.model_validate({"seed": 0, "prompt": "a" if captions else None})
        self.batcher.submit(self.generation(fields)[0]).result()

    def generation(self, fields: GenerationFields) -> tuple[Job, Asked]:
        """Return the job of a request for new images. Raises ApiError."""
        self._check_model(fields)
        asked = check_fields(self.pipeline, self.config, fields, edit=False)
        canvas = blank(self.pipeline, asked.size)
        return Job(asked.request, asked.settings, lambda: canvas, (canvas.grid, b"")), asked

    def edit(self, fields: EditFields, files: dict[str, bytes]) -> tuple[Job, Asked]:
        """Return the job of a request for inpainting. Raises ApiError."""
        self._check_model(fields)
        asked = check_fields(self.pipeline, self.config, fields, edit=True)
        tokenizer, prior = self.pipeline.tokenizer.config, self.pipeline.prior.config
        height, width = tokenizer.size
        if asked.size != (height, width):
            text = (
                f"size {fields.size} is not possible: edited images have the model's size, {width}x{height}"
            )
            raise wrong("size", text)
        image, marked = self._image_and_mask(files)
        if image.size != (width, height):
            asked = asked.with_note(f"the image is cropped and resized to {width}x{height} pixels")
        try:
            region = masked_region(marked, image.size, tokenizer)
        except DataError as error:
            raise wrong("mask", error, "invalid_mask") from error
        canvas_of = partial(inpainting, self.pipeline, image, mask=marked)
        return Job(asked.request, asked.settings, canvas_of, (prior.grid, region.latents.tobytes())), asked

    def _image_and_mask(self, files: dict[str, bytes]) -> tuple[Image.Image, np.ndarray]:
        """Return the image, and (Y, X) bool, the pixels that are replaced."""
        unknown = sorted(set(files) - {"image", "mask"})
        if unknown:
            raise wrong(
                unknown[0][:60], f"unknown file {unknown[0]!r:.60}: send image and mask", "unknown_field"
            )
        if "image" not in files:
            raise wrong("image", "image is missing: send a PNG, JPEG or WebP", "missing_image")
        most = self.config.max_pixels * 10**6
        image = read_image(files["image"], "image", most)
        if "mask" in files:
            return image, marked_pixels(read_image(files["mask"], "mask", most), image, "mask")
        marked = transparent(image)
        if not marked.any():
            raise wrong("mask", MASK_MISSING, "missing_mask")
        return image, marked

    def _check_model(self, fields: RequestFields) -> None:
        if fields.model is not None and fields.model != self.name:
            raise ApiError(
                f"no model {fields.model!r:.60}: this server has {self.name!r}",
                status=404, param="model", code="model_not_found",
            )  # fmt: skip

    def answer(
        self, images: Sequence[Image.Image], asked: Asked, notes: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the body of an answer: the images, and under `imgtf` what repeats them."""
        height, width = asked.size
        own = {
            "seed": asked.request.seed,
            "n": len(images),
            "size": f"{width}x{height}",
            **{name: value for name, value in asked.given.items() if value is not None},
            "settings": asdict(asked.settings),
            "labels": self._labels(asked),
            "notes": list(asked.notes),
        }
        data = [{"b64_json": _base64(image)} for image in images]
        return {"created": int(time.time()), "data": data, "imgtf": own | self.facts}

    def _labels(self, asked: Asked) -> list[str] | None:
        """The class of each image."""
        numbers = asked.request.values.get("label")
        names = self.pipeline.prior.config.class_names
        return [names[numbers[i % len(numbers)]] for i in range(asked.request.n)] if numbers else None

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The model, and what else an image depends on."""
        run = describe_run(self.pipeline, self.pipeline.prior.config.sampling)
        kept = ("precision", "tokenizer_sha256", "prior_sha256")
        known = {name: run[name] for name in kept}
        return {
            "model": self.name,
            "version": version("imgtf"),
            "device": str(self.pipeline.prior.device),
            **known,
        }

    def health(self) -> dict[str, Any]:
        """The body of `/health`."""
        prior, (height, width) = self.pipeline.prior.config, self.pipeline.tokenizer.config.size
        return {
            "status": "stopping" if self.draining else "ready",
            "ready": not self.draining,
            **self.facts,
            "size": f"{width}x{height}",
            "conditions": list(prior.condition_kinds),
            "classes": prior.classes,
            "batch_size": self.config.batch_size,
            "queue": {
                "waiting": self.batcher.waiting,
                "running": self.batcher.running,
                "limit": self.config.queue,
            },
        }


def _base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
