"""The tab that samples images: of classes, captions or a conditioning image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from PIL import Image

from .asked import Asked, asked
from .drawing import Drawing, draw
from .forms import sampling_form
from .output import Events, buttons, connect, output_area
from .results import Command, Result, model_options, numbered, record
from .site import Site
from .uploads import read_upload
from .worker import Job, Worker

DEFAULT = 8
CONDITION_FILE = "conditioning.png"


def sampled(
    site: Site, worker: Worker, values: Mapping[str, Any], image: Image.Image | None = None
) -> Events:
    """Yield the images of a form as they are drawn, and the result.

    Args:
        image: conditioning image, for priors that read one.

    Raises:
        ConfigError: a value out of range, or a condition that the prior does not have.
    """
    assert site.pipeline is not None
    pipeline, wanted = site.pipeline, asked(site.pipeline.prior.config, values)
    if image is not None:
        wanted = Asked(
            wanted.n, wanted.seed, {**wanted.conditions, "image": image}, wanted.given, wanted.settings
        )

    def work(job: Job[Drawing]) -> None:
        draw(pipeline, wanted, None, job)

    for drawing in worker.run(work):
        yield _result(site, wanted, drawing) if drawing.finished else drawing


def _result(site: Site, wanted: Asked, drawing: Drawing) -> Result:
    options = wanted.options()
    inputs = {}
    if image := wanted.conditions.get("image"):
        options["image"], inputs = CONDITION_FILE, {CONDITION_FILE: image}
    images = numbered(drawing.images)
    rows = [
        {"file": file, "index": own.index, "label": own.label, "text": own.text}
        for file, own in zip(images, drawing.samples, strict=True)
    ]
    command = Command(("sample",), options | model_options(site))
    described = record(site, wanted.settings, seed=wanted.seed, command=command.line(), images=rows)
    note = f"Seed {wanted.seed}. Click an image to download it."
    return Result(f"samples-seed-{wanted.seed}", images, drawing.captions, command, described, inputs, note)


def build(site: Site, worker: Worker) -> None:
    """Draw the tab."""
    assert site.pipeline is not None
    reads_image = site.image_loader is not None
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            image = [upload("Conditioning image; without one, unconditional")] if reads_image else []
            form = sampling_form(site.pipeline, DEFAULT, without="without any, all take turns")
            start, stop = buttons("Sample")
        with gr.Column(scale=3, min_width=360):
            output = output_area("Press Sample: the images appear here while they are drawn.", DEFAULT)

    def work(*given: Any) -> Events:
        own = read_upload(given[0]) if reads_image and given[0] else None
        return sampled(site, worker, form.values(given[len(image) :]), own)

    connect(start, stop, [*image, *form.components], output, work, "sample")


def upload(label: str, height: int = 220) -> Any:
    """Draw a field for an image."""
    return gr.Image(
        label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=height, format="png",
        buttons=[], elem_classes="upload",
    )  # fmt: skip
