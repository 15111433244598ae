"""The fields of a form that asks for sampled images, by what the prior takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ..pipelines.pipeline import Pipeline
from ..prior.config import ORDERS, PriorConfig
from ..prior.decoding.schedules import step_count
from .asked import MOST_IMAGES, Asked, asked, random_seed


@dataclass
class Form:
    """Fields by name. gradio passes their values to a handler in this order."""

    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def components(self) -> list[Any]:
        return list(self.fields.values())

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """Return the values that a handler was given, by name."""
        return dict(zip(self.fields, given, strict=True))

    def asked(self, config: PriorConfig, given: Sequence[Any]) -> Asked:
        """Return what the form asks for. Raises ConfigError."""
        return asked(config, self.values(given))


def sampling_form(pipeline: Pipeline, n: int, *, without: str, folded: bool = False) -> Form:
    """Draw the fields of conditions, number, seed and sampling settings.

    Args:
        n: default number of images.
        without: what happens without a condition, for the help of its field.
        folded: whether all sampling settings are hidden at first, for tabs that are long without them.
    """
    config, form = pipeline.prior.config, Form()
    _add_conditions(form, config, without)
    with gr.Row(equal_height=True):
        form.fields["n"] = gr.Slider(1, MOST_IMAGES, n, step=1, label="Images", buttons=[])
    with gr.Row(equal_height=True, elem_classes="seed"):
        form.fields["seed"] = gr.Textbox("0", label="Seed", max_lines=1, scale=3, min_width=120)
        dice = gr.Button("New seed", size="sm", scale=1, min_width=80)
    dice.click(
        random_seed, None, form.fields["seed"], queue=False, api_visibility="private", show_progress="hidden"
    )
    if not folded:
        _add_settings(form, config)
    with gr.Accordion("Settings" if folded else "More settings", open=False):
        if folded:
            _add_settings(form, config)
        _add_rare_settings(form, config)
    return form


def condition_form(pipeline: Pipeline, *, without: str) -> Form:
    """Draw the fields of conditions only; `without` as for `sampling_form`."""
    form = Form()
    _add_conditions(form, pipeline.prior.config, without)
    return form


def _add_conditions(form: Form, config: PriorConfig, without: str) -> None:
    if config.class_names:
        form.fields["label"] = gr.Dropdown(
            list(config.class_names), value=[], multiselect=True, label="Classes",
            info=f"Several take turns; {without}.",
        )  # fmt: skip
    if {"text", "features"} & set(config.condition_kinds):
        form.fields["text"] = gr.Textbox(
            label="Captions", lines=2, max_lines=8, info=f"One a line; several take turns; {without}."
        )


def _add_settings(form: Form, config: PriorConfig) -> None:
    """Add the settings that most people change."""
    own, fields = config.sampling, form.fields
    with gr.Row():
        fields["temperature"] = gr.Slider(
            0.05, max(2.0, own.temperature), own.temperature, step=0.05, label="Temperature",
            info="Below 1 less varied.", buttons=[],
        )  # fmt: skip
        fields["top_k"] = gr.Slider(
            0,
            config.codebook_size,
            own.top_k,
            step=1,
            label="Top-k",
            info="Most likely codes; 0: all.",
            buttons=[],
        )
    with gr.Row():
        fields["top_p"] = gr.Slider(
            0.01, 1, own.top_p, step=0.01, label="Top-p", info="Total probability.", buttons=[]
        )
        if config.conditions:
            fields["cfg_scale"] = gr.Slider(
                0, max(10.0, own.cfg_scale), own.cfg_scale, step=0.25, label="Guidance",
                info="1: no guidance.", buttons=[],
            )  # fmt: skip


def _add_rare_settings(form: Form, config: PriorConfig) -> None:
    own, fields = config.sampling, form.fields
    fields["min_p"] = gr.Slider(
        0,
        1,
        own.min_p,
        step=0.01,
        label="Min-p",
        info="Drop codes far less likely than the likeliest.",
        buttons=[],
    )
    if config.conditions:
        fields["cfg_schedule"] = gr.Dropdown(
            ["constant", "linear", "cosine", "power-cosine"],
            value=own.cfg_schedule,
            label="Guidance over the codes",
        )
    if config.objective == "raster":
        return
    orders = ORDERS[config.objective]
    with gr.Row():
        fields["order"] = gr.Dropdown(list(orders), value=own.order or orders[0], label="Order of the codes")
        fields["sampling_steps"] = gr.Slider(
            1, config.tokens, step_count(config, own), step=1, label="Steps", buttons=[]
        )
