"""Sampling: every way at every batch, with and without guidance, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..pipelines.pipeline import sampling_type
from ..prior.conditions.encoder import BYTES, Condition
from ..prior.config import PriorConfig, SamplingConfig
from ..prior.decoding.decoder import Decoder
from ..prior.decoding.quantized import compute_dtype
from ..prior.decoding.sampler import image_uniforms, sample
from ..prior.decoding.schedules import step_count
from ..prior.model import Prior
from ..prior.train import spread_labels
from .config import BenchConfig
from .cost import sampling_cost
from .machine import Limits, type_name
from .reference import llama
from .report import Row, mebibytes
from .timing import Measurement, Timing, ratio_of, take_turns


@dataclass(frozen=True)
class Method:
    """A way to draw codes for a number of images. `ways` lists all there are; the first is ours to compare with."""

    name: str
    draw: Callable[[int, float], object]
    """Takes the number of images and the guidance scale."""
    dtype: torch.dtype
    """Type of the weights, whose limit counts."""
    guides: bool = True
    """Whether it can be guided."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    way: Method
    images: int
    guidance: float


def ways(prior: Prior, config: BenchConfig) -> list[Method]:
    """Ours, and the one it is set against."""
    dtype = sampling_type(config.dtype)
    hows = {"eager": (False, False), "captured": (False, True), "compiled": (True, True)}
    if prior.device.type != "cuda":
        del hows["captured"]
    if not config.compile:
        del hows["compiled"]
    found = [
        Method(f"imgtf, {how}, {type_name(dtype)}", drawer(prior, config, *asked), dtype)
        for how, asked in hows.items()
    ]
    if config.against == "transformers":
        theirs = compute_dtype(dtype)
        generate = llama(prior.config, config.top_k, prior.device, theirs)
        name = f"transformers generate, {type_name(theirs)}"
        found.append(Method(name, lambda images, guidance: generate(images), theirs, guides=False))
    return found


def drawer(prior: Prior, config: BenchConfig, compile: bool, capture: bool) -> Callable[[int, float], object]:
    """Our own sampling, as the pipeline does it."""
    decoder = Decoder(prior, compile=compile, capture=capture)

    def draw(images: int, guidance: float) -> object:
        uniforms = image_uniforms(0, 0, images, prior.config.tokens)
        condition = random_condition(prior.config, images)
        settings = settings_of(prior.config, config.top_k, guidance)
        return sample(decoder, condition, uniforms, settings)

    return draw


def settings_of(config: PriorConfig, top_k: int, guidance: float) -> SamplingConfig:
    """The model's own order and steps, under constant guidance."""
    own = config.sampling
    return SamplingConfig(
        top_k=top_k, cfg_scale=guidance, order=own.order, sampling_steps=own.sampling_steps,
        step_schedule=own.step_schedule,
    )  # fmt: skip


def random_condition(config: PriorConfig, images: int) -> Condition:
    """Something of every kind that the prior can be told."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(1, BYTES, (images, config.text_length), generator=generator)
    features = torch.randn(images, config.feature_length, config.feature_width, generator=generator)
    source = None
    if config.image_grid:
        shape = (images, *config.image_grid)
        source = torch.randint(config.image_codebook_size, shape, generator=generator)
    return Condition(
        label=spread_labels(images, config.classes),
        text=text if config.text_length else None,
        features=features if config.feature_width else None,
        source=source,
    )


def bench_sampling(prior: Prior, limits: Limits, config: BenchConfig) -> list[Row]:
    """A row a way, batch and guidance."""
    guided = config.guidance != 1 and prior.config.conditions
    scales = [1.0, config.guidance] if guided else [1.0]
    compared = ways(prior, config)
    cases = [
        Case(way, images, scale)
        for images in config.batch_sizes
        for scale in scales
        for way in compared
        if scale == 1 or way.guides
    ]
    timings = take_turns([act_of(case) for case in cases], config.rounds, prior.device)
    return [
        row_of(prior, limits, case, timing, config) | versus(case, timing, cases, timings)
        for case, timing in zip(cases, timings, strict=True)
    ]


def act_of(case: Case) -> Measurement:
    """The case as something to time."""
    return Measurement(
        f"{case.way.name}, {case.images} images", lambda: case.way.draw(case.images, case.guidance)
    )


def row_of(prior: Prior, limits: Limits, case: Case, timing: Timing, config: BenchConfig) -> Row:
    """The figures of one case."""
    rows = case.images * (1 if case.guidance == 1 else 2)
    settings = settings_of(prior.config, config.top_k, case.guidance)
    cost = sampling_cost(prior.config, rows, settings, case.way.dtype)
    least, which = cost.limit(limits, case.way.dtype)
    tokens = prior.config.tokens
    return {
        "way": case.way.name,
        "batch": case.images,
        "guidance": case.guidance,
        "tokens/s": case.images * tokens / timing.median,
        "images/s": case.images / timing.median,
        "ms a step": 1000 * timing.median / step_count(prior.config, settings),
        "share of limit": least / timing.median,
        "limit": which,
        "peak MiB": mebibytes(timing.peak),
    }


def versus(case: Case, timing: Timing, cases: Sequence[Case], timings: Sequence[Timing]) -> Row:
    """How many times faster the case is than transformers at the same batch, where that was timed."""
    if not case.way.guides:
        return {}
    for other, theirs in zip(cases, timings, strict=True):
        if not other.way.guides and (other.images, other.guidance) == (case.images, case.guidance):
            return {"over transformers": ratio_of(theirs, timing)}
    return {}
