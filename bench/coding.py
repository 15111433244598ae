"""The tokenizer: images to codes and back, in float32 as built and in bf16."""

from __future__ import annotations

import copy

import torch

from ..runtime.precision import DTYPES
from ..tokenizer.codec import Codec
from ..tokenizer.model import Tokenizer
from .config import BenchConfig
from .cost import coding_flops
from .machine import Limits
from .report import Row, mebibytes
from .timing import Measurement, take_turns


def coding_ways(model: Tokenizer) -> dict[str, Codec]:
    """The same weights in each precision, by name; the first is the plain one."""
    return {name: Codec(copy.deepcopy(model), name) for name in ("fp32", "bf16")}


def bench_coding(model: Tokenizer, limits: Limits, config: BenchConfig) -> list[Row]:
    """A row for encoding and one for decoding each way, on noise."""
    side, batch = model.config.image_size, config.coding_batch
    images = torch.rand(batch, model.config.channels, side, side, device=model.device) * 2 - 1
    codes = torch.randint(model.config.codebook_size, (batch, *model.config.grid), device=model.device)
    ways = coding_ways(model)
    cases = [(half, name) for half in ("encode", "decode") for name in ways]
    acts = []
    for half, name in cases:
        given = images if half == "encode" else codes
        acts.append(Measurement(f"{half}, {name}", lambda w=ways[name], h=half, x=given: getattr(w, h)(x)))  # type: ignore[misc]
    timings = take_turns(acts, config.rounds, model.device)
    flops = dict(zip(("encode", "decode"), coding_flops(model.config), strict=True))
    rows = []
    for (half, name), timing in zip(cases, timings, strict=True):
        plain = timings[cases.index((half, "fp32"))]
        peak = limits.flops[DTYPES[name]]
        rows.append(
            {
                "what": half,
                "arithmetic": name,
                "batch": batch,
                "images/s": batch / timing.median,
                "share of FLOP limit": batch * flops[half] / peak / timing.median,
                "over fp32": plain.median / timing.median,
                "peak MiB": mebibytes(timing.peak),
            }
        )
    return rows
