"""Checked arguments of sampling (conditions, settings, precision), and the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from PIL import Image
from torch import Tensor

from ..options import build, check, whole_number
from ..prior.config import PriorConfig, SamplingConfig, check_sampling
from ..prior.decoding.request import Progress as Progress
from ..prior.decoding.request import Watch as Watch
from ..runtime.precision import as_precision, pick_precision

Labels = str | int | Sequence[str | int] | Tensor | None
Texts = str | Sequence[str] | None
Features = Tensor | None
Images = Image.Image | str | Path | Sequence[Image.Image | str | Path] | None

MAX_SEED, MAX_IMAGES = 2**64 - 1, 2**31
MIN_BF16_WIDTH = {"cpu": 256, "cuda": 0}
"""Model width from which `auto` samples in bf16. On two AMD Zen 5 cores bf16 is 0.8 to 1.1 times as fast as fp32 at
width 128, 1.1 to 1.3 times at 256, 1.3 to 1.5 times at 512 (1, 8 and 64 guided images)."""


class SamplingOptions(TypedDict, total=False):
    """The sampling settings of `Sampling.sample` by name; None takes the model's own default."""

    temperature: float | None
    final_temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    cfg_scale: float | None
    cfg_schedule: str | None
    cfg_power: float | None
    order: str | None
    sampling_steps: int | None
    step_schedule: str | None
    confidence_noise: float | None


class StreamOptions(SamplingOptions, total=False):
    """Arguments of `Sampling.stream` besides n, by name."""

    label: Labels
    text: Texts
    features: Features
    seed: int
    first: int
    batch_size: int | None
    progress: Progress | None


@dataclass(frozen=True)
class Sample:
    """One sampled image and what it takes to sample it again."""

    image: Image.Image
    codes: Tensor
    """(h, w) int64 on the CPU."""
    index: int
    """Number of the image in the sequence of its seed."""
    label: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Request:
    """How many images of which conditions, and how they are split into batches."""

    n: int
    values: Mapping[str, list[Any]]
    """By condition, one value per image in turn; no values for unconditional images."""
    seed: int
    first: int
    batch_size: int
    shard: tuple[int, int]
    """(k, m): every m-th batch from the k-th on. The batches are the same for every m."""

    @classmethod
    def checked(
        cls,
        n: Any,
        values: Mapping[str, list[Any]],
        seed: Any,
        first: Any,
        batch_size: Any,
        shard: tuple[int, int],
    ) -> Request:
        """Return a request with checked numbers (Python or NumPy). Raises ConfigError."""
        n = whole_number("n", n, 1, MAX_IMAGES)
        seed, first = whole_number("seed", seed, 0, MAX_SEED), whole_number("first", first, 0, MAX_SEED - n)
        size = n if batch_size is None else whole_number("batch_size", batch_size, 1, MAX_IMAGES)
        return cls(n, values, seed, first, size, shard)

    def batches(self) -> list[range]:
        """Numbers of the images of each batch in the sequence of the seed."""
        starts = range(self.shard[0] * self.batch_size, self.n, self.shard[1] * self.batch_size)
        last = self.first + self.n
        return [range(self.first + s, min(self.first + s + self.batch_size, last)) for s in starts]

    def values_of(self, indices: range) -> dict[str, list[Any]]:
        """The values of each condition for some of the images."""
        return {kind: [own[i % len(own)] for i in indices] for kind, own in self.values.items() if own}


def sampling_settings(config: PriorConfig, **given: Any) -> SamplingConfig:
    """A prior's default sampling settings, with the given values replaced (None keeps the default).

    Raises:
        ConfigError: for an unknown setting, one out of range, or one that the prior's objective does not have.
    """
    known = {f.name for f in fields(SamplingConfig)}
    if set(given) - known:
        build(SamplingConfig, given, "sample")  # raises, naming the unknown ones
    values = {k: check(SamplingConfig, k, v, "sample") for k, v in given.items() if v is not None}
    settings = replace(config.sampling, **values)
    check_sampling(config, settings)
    return settings


def sampling_precision(wanted: str | torch.dtype, config: PriorConfig, device: torch.device) -> str:
    """fp32, bf16, fp16 or int8. `auto` takes bf16 where the device is fast at it and the prior wide enough to gain.

    Raises:
        ConfigError: for an unknown precision, or fp16 without a GPU.
    """
    precision = as_precision(wanted)
    if precision == "int8":
        return precision
    picked = pick_precision(precision, device)
    if precision == "auto" and picked != "fp32" and config.width < MIN_BF16_WIDTH.get(device.type, 0):
        return "fp32"
    return picked
