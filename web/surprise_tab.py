"""The tab that shows which parts of an image the model finds unlikely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from PIL import Image

from ..pipelines.heatmap import COLOURS
from ..pipelines.scoring import SCALE, score
from .drawing import Drawing
from .forms import condition_form
from .output import Events, buttons, connect, output_area
from .reconstruct_tab import INPUT_FILE
from .results import Command, Result, model_options, record
from .sample_tab import upload
from .site import Site
from .uploads import read_upload
from .worker import Job, Worker

KINDS = {"Above what is expected there": "unusual", "All bits": "bits"}


def surprise(site: Site, worker: Worker, image: Image.Image, values: Mapping[str, Any]) -> Events:
    """Yield an image and its heat map.

    Args:
        values: kind ("unusual" or "bits"), label, text.

    Raises:
        ConfigError: a condition that the prior does not have.
        DataError: the image cannot be read.
    """
    results: list[Result] = []

    def work(job: Job[Drawing]) -> None:
        results.append(_scored(site, image, values))

    yield from worker.run(work)
    yield from results


def _scored(site: Site, image: Image.Image, values: Mapping[str, Any]) -> Result:
    assert site.pipeline is not None
    kind = KINDS.get(str(values.get("kind")), "unusual")
    given = {name: tuple(values.get(name) or ())[:1] for name in ("label", "text")}
    given["text"] = tuple(line for line in str(values.get("text") or "").splitlines()[:1] if line.strip())
    conditions = {name: own for name, own in given.items() if own}
    found = next(score(site.pipeline, image, **{name: own[0] for name, own in conditions.items()}))
    images = {"original.png": found.image, "heatmap.png": found.heatmap(kind)}
    bits = f"{found.bits_per_token:.2f} bits per token"
    options = {**conditions, "map": kind, **model_options(site)}
    command = Command(("score",), options, (INPUT_FILE,))
    described = record(
        site, bits_per_token=found.bits_per_token, bits_per_pixel=found.bits_per_pixel, map=kind,
        bits=found.bits.round(4).tolist(), command=command.line(),
    )  # fmt: skip
    note = f"{bits}, {found.bits_per_pixel:.3f} per pixel; {found.most:.2f} if all codes were equally likely."
    return Result("surprise", images, ["original", bits], command, described, {INPUT_FILE: image}, note)


def legend() -> str:
    """Return the colours of a heat map and what they stand for, as HTML."""
    colours = ", ".join(f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in COLOURS)
    low, high = SCALE["unusual"]
    return (
        f'<div class="legend"><span>as expected</span><i style="background:linear-gradient(90deg,{colours})"></i>'
        f"<span>unlikely</span></div><p class='hint'>Colours start at {low:g} standard deviations above what the prior "
        f"expects and end at {high:g}.</p>"
    )


def build(site: Site, worker: Worker) -> None:
    """Draw the tab."""
    assert site.pipeline is not None
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            image = upload("Image; cropped in the centre to the model's shape", height=320)
            form = condition_form(site.pipeline, without="without any, the prior is unconditional")
            form.fields["kind"] = gr.Radio(list(KINDS), value=next(iter(KINDS)), label="Map")
            start, stop = buttons("Show the surprise")
        with gr.Column(scale=3, min_width=360):
            output = output_area("The image, and where the model finds it unlikely.", 2)
            gr.HTML(legend())

    def work(payload: Any, *given: Any) -> Events:
        return surprise(site, worker, read_upload(payload), form.values(given))

    connect(start, stop, [image, *form.components], output, work, "surprise")
