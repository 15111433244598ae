"""The tab that translates or enlarges an image, for priors that are conditioned on images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from PIL import Image

from ..errors import DataError
from ..pipelines.canvas import Canvas
from ..pipelines.editing.translate import Conditioning
from .asked import Asked, asked
from .drawing import Drawing, draw
from .forms import sampling_form
from .output import Events, buttons, connect, output_area
from .reconstruct_tab import INPUT_FILE
from .results import Command, Result, model_options, record
from .sample_tab import upload
from .site import Site
from .uploads import read_upload
from .worker import Job, Worker

DEFAULT = 4
MOST_PIXELS = 2**20
"""Largest result on the page; `imgtf edit` makes larger ones."""


def translated(site: Site, worker: Worker, values: Mapping[str, Any], image: Image.Image) -> Events:
    """Yield variants of the image that a conditioning image stands for, as they are drawn.

    Raises:
        ConfigError: a value out of range.
        DataError: the image cannot be read, or its result is too large for a page.
    """
    assert site.pipeline is not None
    pipeline, wanted = site.pipeline, asked(site.pipeline.prior.config, values)

    def work(job: Job[Drawing]) -> None:
        draw(pipeline, wanted, _canvas(site, image), job)

    for drawing in worker.run(work):
        yield _result(site, wanted, drawing, image) if drawing.finished else drawing


def _canvas(site: Site, image: Image.Image) -> Canvas:
    assert site.pipeline is not None
    conditioning = Conditioning(site.pipeline, upscale=site.enlarges)
    height, width = conditioning.result_size((image.height, image.width))
    if height * width > MOST_PIXELS:
        raise DataError(
            f"The result would have {width}x{height} px, more than {MOST_PIXELS:,} pixels; reduce the image."
        )
    return conditioning.canvas(image)


def _result(site: Site, wanted: Asked, drawing: Drawing, image: Image.Image) -> Result:
    verb = "upscale" if site.enlarges else "translate"
    stem = INPUT_FILE.removesuffix(".png")
    names = [f"{stem}_{i + 1}.png" for i in range(len(drawing.images))] if wanted.n > 1 else [f"{stem}.png"]
    results = {f"results/{name}": own for name, own in zip(names, drawing.images, strict=True)}
    options = wanted.options() | model_options(site)
    command = Command(("edit", verb), options, (INPUT_FILE,))
    described = record(
        site, wanted.settings, seed=wanted.seed, command=command.line(), edit=verb, images=list(results)
    )
    note = f"Seed {wanted.seed}. Click an image to download it."
    return Result(
        f"{verb}d-seed-{wanted.seed}",
        results,
        drawing.captions,
        command,
        described,
        {INPUT_FILE: image},
        note,
    )


def build(site: Site, worker: Worker) -> None:
    """Draw the tab."""
    assert site.pipeline is not None
    verb = "Upscale" if site.enlarges else "Translate"
    loader = site.image_loader
    assert loader is not None
    label = f"Small image, about {loader.config.reduced_size} px" if site.enlarges else "Conditioning image"
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            image = upload(label)
            form = sampling_form(site.pipeline, DEFAULT, without="without any, all take turns", folded=True)
            start, stop = buttons(verb)
        with gr.Column(scale=3, min_width=360):
            output = output_area(f"Choose an image and press {verb}.", DEFAULT)

    def work(payload: Any, *given: Any) -> Events:
        return translated(site, worker, form.values(given), read_upload(payload))

    connect(start, stop, [image, *form.components], output, work, verb.lower())
