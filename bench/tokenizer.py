"""Speed of the tokenizer: encoding and decoding in float32 and in bf16."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch

from ..tokenizer.codec import Codec
from ..tokenizer.model import Tokenizer
from .config import BenchConfig
from .cost import coding_flops
from .machine import Limits
from .report import Row, mebibytes
from .timing import Measurement, Timing, measure_in_turn

BATCH_SIZE = 4
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    operation: str
    """encode or decode."""
    codec: Codec


def make_codecs(model: Tokenizer) -> dict[str, Codec]:
    """Return the same weights in float32 and in bf16, by precision."""
    return {name: Codec(copy.deepcopy(model), name) for name in PRECISIONS}


def bench_tokenizer(model: Tokenizer, limits: Limits, config: BenchConfig) -> list[Row]:
    """Return a row per operation and precision, measured on noise."""
    images = torch.rand(BATCH_SIZE, model.config.channels, *model.config.size, device=model.device) * 2 - 1
    codes = torch.randint(model.config.codebook_size, (BATCH_SIZE, *model.config.grid), device=model.device)
    inputs = {"encode": images, "decode": codes}
    codecs = make_codecs(model)
    cases = [Case(operation, codec) for operation in inputs for codec in codecs.values()]
    timings = measure_in_turn(
        [
            Measurement(
                f"{case.operation}, {case.codec.precision}",
                partial(getattr(case.codec, case.operation), inputs[case.operation]),
            )
            for case in cases
        ],
        config.rounds,
        model.device,
    )
    flops = dict(zip(inputs, coding_flops(model.config), strict=True))
    baselines = {
        case.operation: timing
        for case, timing in zip(cases, timings, strict=True)
        if case.codec.precision == "fp32"
    }
    return [
        _row(case, timing, baselines[case.operation], BATCH_SIZE * flops[case.operation], limits)
        for case, timing in zip(cases, timings, strict=True)
    ]


def _row(case: Case, timing: Timing, baseline: Timing, flops: float, limits: Limits) -> Row:
    return {
        "operation": case.operation,
        "precision": case.codec.precision,
        "batch size": BATCH_SIZE,
        "images/s": BATCH_SIZE / timing.median,
        "fraction of the limit": flops / limits.flops[case.codec.dtype] / timing.median,
        "speedup over fp32": baseline.median / timing.median,
        "peak MiB": mebibytes(timing.peak),
    }
