"""The tokenizer: images to codes and back, in float32 as built and in bf16."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ...tokenizer.model import Tokenizer
from .config import BenchConfig
from .cost import coding_flops
from .machine import Limits
from .report import Row, mebibytes
from .timing import Act, take_turns


@dataclass(frozen=True)
class CodingWay:
    """A tokenizer with the precision and the memory format that it runs in."""

    model: Tokenizer
    dtype: torch.dtype
    memory_format: torch.memory_format

    @contextmanager
    def running(self) -> Iterator[None]:
        """Without gradients, and with autocast where the type is not float32."""
        mixed = self.dtype != torch.float32
        kind = self.model.device.type
        with torch.inference_mode(), torch.autocast(kind, self.dtype) if mixed else nullcontext():
            yield

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to codes (B, h, w)."""
        with self.running():
            return self.model.encode(images.to(memory_format=self.memory_format))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) to images (B, C, H, W)."""
        with self.running():
            return self.model.decode(codes)


def coding_ways(model: Tokenizer) -> dict[str, CodingWay]:
    """The same weights in each way, by name; the first is the plain one.

    Weights cast to bf16 once and for all were no faster than autocast, and would give the model another identity.
    """
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return {
        "fp32": CodingWay(model, torch.float32, torch.contiguous_format),
        "bf16": CodingWay(last, torch.bfloat16, torch.channels_last),
    }


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
        acts.append(Act(f"{half}, {name}", lambda w=ways[name], h=half, x=given: getattr(w, h)(x)))  # type: ignore[misc]
    timings = take_turns(acts, config.rounds, model.device)
    flops = dict(zip(("encode", "decode"), coding_flops(model.config), strict=True))
    rows = []
    for (half, name), timing in zip(cases, timings, strict=True):
        plain = timings[cases.index((half, "fp32"))]
        rows.append(
            {
                "what": half,
                "arithmetic": name,
                "batch": batch,
                "images/s": batch / timing.median,
                "share of FLOP limit": batch * flops[half] / limits.flops[ways[name].dtype] / timing.median,
                "over fp32": plain.median / timing.median,
                "peak MiB": mebibytes(timing.peak),
            }
        )
    return rows
