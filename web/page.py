"""The page: a line about the model, and a tab for each thing that it can do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gradio as gr

from . import inpaint_tab, reconstruct_tab, sample_tab, surprise_tab, training_tab, translate_tab
from .pictures import line
from .site import Site
from .worker import Worker

QUEUE = 16
"""Most requests that wait for the model; more are refused with a message."""
CACHE_SECONDS = 3600
"""Age at which files of the page are deleted from its temporary folder."""
Tab = tuple[str, Callable[[], None]]


def build_page(site: Site, worker: Worker) -> gr.Blocks:
    """Return the page of a model. Tabs that the model cannot serve are absent; a line says why."""
    blocks = gr.Blocks(
        title=f"imgtf: {site.folder.name}",
        analytics_enabled=False,
        delete_cache=(600, CACHE_SECONDS),
        fill_width=True,
    )
    with blocks:
        gr.HTML(f"<header><h1>{site.folder.name}</h1>{line(site.describe())}</header>")
        if site.why:
            gr.HTML(line(site.why, "why"))
        with gr.Tabs():
            for name, build in tabs_of(site, worker):
                with gr.Tab(name, id=name):
                    build()
    return blocks.queue(max_size=QUEUE, default_concurrency_limit=1)


def tabs_of(site: Site, worker: Worker) -> list[Tab]:
    """Return the name of each tab that the model can serve, and what draws it."""
    tabs: list[Tab] = []
    if site.pipeline:
        tabs.append(("Sample", partial(sample_tab.build, site, worker)))
    if site.tokenizer:
        tabs.append(("Reconstruct", partial(reconstruct_tab.build, site, worker)))
    if site.pipeline:
        tabs.append(("Inpaint", partial(inpaint_tab.build, site, worker)))
        if site.image_loader:
            name = "Upscale" if site.enlarges else "Translate"
            tabs.append((name, partial(translate_tab.build, site, worker)))
        tabs.append(("Surprise", partial(surprise_tab.build, site, worker)))
    return [*tabs, ("Training", partial(training_tab.build, site))]
