"""The tab where a visitor draws over a part of an image and gets other versions of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ..errors import DataError
from ..pipelines.editing.fill import inpainting
from ..tokenizer.config import TokenizerConfig
from .asked import Asked, asked
from .drawing import Drawing, draw
from .forms import sampling_form
from .output import MODEL, Events, buttons, connect, in_words, output_area
from .reconstruct_tab import INPUT_FILE
from .results import Command, Result, model_options, numbered, record
from .site import Site
from .uploads import at_model_size, drawn, is_blank, reduced, to_draw_on
from .worker import Job, Worker

DEFAULT = 4
MASK_FILE = "mask.png"
COLOUR = "#d1495b"


def inpainted(
    site: Site, worker: Worker, values: Mapping[str, Any], image: Image.Image, mask: np.ndarray
) -> Events:
    """Yield variants of an image whose marked part (Y, X) is sampled anew, as they are drawn.

    Raises:
        ConfigError: a value out of range, or a condition that the prior does not have.
        DataError: the mask marks nothing that the model reads.
    """
    assert site.pipeline is not None
    pipeline, wanted = site.pipeline, asked(site.pipeline.prior.config, values)

    def work(job: Job[Drawing]) -> None:
        draw(pipeline, wanted, inpainting(pipeline, image, mask=mask), job)

    for drawing in worker.run(work):
        yield _result(site, wanted, drawing, image, mask) if drawing.finished else drawing


def _result(site: Site, wanted: Asked, drawing: Drawing, image: Image.Image, mask: np.ndarray) -> Result:
    images = numbered(drawing.images)
    inputs = {INPUT_FILE: image, MASK_FILE: Image.fromarray(mask)}
    options = {"mask": MASK_FILE} | wanted.options() | model_options(site)
    command = Command(("edit", "inpaint"), options, (INPUT_FILE,))
    described = record(
        site, wanted.settings, seed=wanted.seed, command=command.line(), edit="inpaint", images=list(images)
    )
    note = f"Seed {wanted.seed}. Whole tokens are redrawn. Click an image to download it."
    return Result(f"inpainted-seed-{wanted.seed}", images, drawing.captions, command, described, inputs, note)


def build(site: Site, worker: Worker) -> None:
    """Draw the tab."""
    assert site.pipeline is not None
    config = site.pipeline.tokenizer.config
    with gr.Row():
        with gr.Column(scale=2, min_width=380):
            editor = _editor()
            start, stop = buttons("Inpaint")
            form = sampling_form(site.pipeline, DEFAULT, without="without any, no condition", folded=True)
        with gr.Column(scale=3, min_width=360):
            output = output_area("Choose an image, draw over a part of it, and press Inpaint.", DEFAULT)

    def work(payload: Any, *given: Any) -> Events:
        image, mask = reduced(*drawn(_value(editor, payload)), config)
        return inpainted(site, worker, form.values(given), image, mask)

    _show_what_is_read(editor, config)
    connect(start, stop, [editor, *form.components], output, work, "inpaint")


def _show_what_is_read(editor: Any, config: TokenizerConfig) -> None:
    """Put the part of an upload that the model reads in its place, large enough to draw on."""

    def fit(payload: Any) -> Iterator[Any]:
        background = (_value(editor, payload) or {}).get("background")
        if background is None or is_blank(background):
            yield gr.skip()
        else:
            shown = to_draw_on(at_model_size(background.convert("RGB"), config).image)
            yield {"background": shown, "layers": [], "composite": None}

    editor.upload(
        lambda payload: next(in_words(lambda: fit(payload))), editor, editor, preprocess=False, show_progress="hidden",
        api_visibility="private", **MODEL,
    )  # fmt: skip


def _value(editor: Any, payload: Any) -> Any:
    """Return the images of an editor. Raises DataError for one that cannot be read."""
    try:
        return editor.preprocess(editor.data_model.model_validate(payload)) if payload else None
    except Exception as error:  # gradio opens the images with Pillow, which raises many types
        raise DataError(f"The image cannot be read: {error}") from error


def _editor() -> Any:
    return gr.ImageEditor(
        label="Draw over what is to be redrawn", type="pil", format="png", sources=["upload", "clipboard"],
        transforms=(), layers=False, height=520, buttons=[], elem_classes="editor",
        brush=gr.Brush(default_size=48, colors=[COLOUR], default_color=COLOUR, color_mode="fixed"),
        eraser=gr.Eraser(default_size=48),
    )  # fmt: skip
