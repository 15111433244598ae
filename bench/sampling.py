"""Speed of sampling codes: every method at every batch size, with and without guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch

from ..prior.config import PriorConfig, SamplingConfig
from ..prior.decoding.decoder import Decoder
from ..prior.decoding.quantized import compute_dtype
from ..prior.decoding.sampler import image_uniforms, sample
from ..prior.decoding.schedules import step_count
from ..prior.model import Prior
from ..runtime.precision import DTYPES, as_precision
from .config import BenchConfig
from .cost import sampling_cost
from .machine import Limits
from .random_data import random_condition
from .reference import make_llama
from .report import Row, mebibytes
from .timing import Measurement, Timing, measure_in_turn, speedup


@dataclass(frozen=True)
class Method:
    """A way to sample the codes of a batch of images."""

    name: str
    sample: Callable[[int, float], object]
    """Takes the number of images and the guidance scale."""
    dtype: torch.dtype
    """Type of the weights."""
    guided: bool = True
    """Whether it supports guidance."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    method: Method
    images: int
    cfg_scale: float


def make_methods(prior: Prior, precision: str, config: BenchConfig) -> list[Method]:
    """Return the methods to compare: our own, and `generate` of transformers if the configuration asks for it.

    On a GPU, decoding steps are also captured as CUDA graphs.
    """
    variants = [("eager", False, False)]
    on_gpu = prior.device.type == "cuda"
    if on_gpu:
        variants.append(("CUDA graphs", False, True))
    if config.compile:
        variants.append(("compiled, CUDA graphs" if on_gpu else "compiled", True, on_gpu))
    dtype = DTYPES[precision]
    methods = [
        Method(
            f"imgtf, {name}, {precision}",
            sampler(Decoder(prior, compile=compile, capture=capture), config.top_k),
            dtype,
        )
        for name, compile, capture in variants
    ]
    if config.against == "transformers":
        reference_dtype = compute_dtype(dtype)
        generate = make_llama(prior.config, config.top_k, prior.device, reference_dtype)
        name = f"transformers generate, {as_precision(reference_dtype)}"
        methods.append(Method(name, lambda images, _: generate(images), reference_dtype, guided=False))
    return methods


def sampler(decoder: Decoder, top_k: int) -> Callable[[int, float], torch.Tensor]:
    """Return a function that samples codes as the pipeline does, for a number of images and a guidance scale."""
    condition_of = cache(partial(random_condition, decoder.config))  # not part of the measured time

    def run(images: int, cfg_scale: float) -> torch.Tensor:
        uniforms = image_uniforms(0, 0, images, decoder.config.tokens)
        settings = bench_settings(decoder.config, top_k, cfg_scale)
        return sample(decoder, condition_of(images), uniforms, settings)

    return run


def bench_settings(config: PriorConfig, top_k: int, cfg_scale: float) -> SamplingConfig:
    """Return the order and steps of the model, with constant guidance."""
    own = config.sampling
    return SamplingConfig(
        top_k=top_k, cfg_scale=cfg_scale, order=own.order, sampling_steps=own.sampling_steps,
        step_schedule=own.step_schedule,
    )  # fmt: skip


def bench_sampling(prior: Prior, precision: str, limits: Limits, config: BenchConfig) -> list[Row]:
    """Return a row per batch size, guidance scale and method, for a prior that is cast to the precision."""
    guided = config.cfg_scale != 1 and prior.config.conditions
    scales = [1.0, config.cfg_scale] if guided else [1.0]
    methods = make_methods(prior, precision, config)
    cases = [
        Case(method, images, scale)
        for images in config.batch_sizes
        for scale in scales
        for method in methods
        if scale == 1 or method.guided
    ]
    timings = measure_in_turn([_measurement(case) for case in cases], config.rounds, prior.device)
    return [
        _row(prior.config, limits, case, timing, config.top_k) | compare(case, timing, cases, timings)
        for case, timing in zip(cases, timings, strict=True)
    ]


def _measurement(case: Case) -> Measurement:
    name = f"{case.method.name}, {case.images} images"
    return Measurement(name, partial(case.method.sample, case.images, case.cfg_scale))


def _row(prior: PriorConfig, limits: Limits, case: Case, timing: Timing, top_k: int) -> Row:
    settings = bench_settings(prior, top_k, case.cfg_scale)
    cost = sampling_cost(prior, case.images * (1 if case.cfg_scale == 1 else 2), settings, case.method.dtype)
    shortest, resource = cost.shortest_time(limits, case.method.dtype)
    return {
        "method": case.method.name,
        "batch size": case.images,
        "cfg scale": case.cfg_scale,
        "tokens/s": case.images * prior.tokens / timing.median,
        "images/s": case.images / timing.median,
        "ms per step": 1000 * timing.median / step_count(prior, settings),
        "fraction of the limit": shortest / timing.median,
        "limited by": resource,
        "peak MiB": mebibytes(timing.peak),
    }


def compare(case: Case, timing: Timing, cases: Sequence[Case], timings: Sequence[Timing]) -> Row:
    """Return the speedup over transformers at the same batch size and guidance scale, where both were measured."""
    if not case.method.guided:
        return {}
    for other, baseline in zip(cases, timings, strict=True):
        same = (other.images, other.cfg_scale) == (case.images, case.cfg_scale)
        if same and not other.method.guided:
            return {"speedup over transformers": speedup(baseline, timing)}
    return {}
