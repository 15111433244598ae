"""A finished tokenizer at work: in plain float32, or the fast way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..runtime.precision import pick_precision
from .config import TokenizerConfig
from .model import Reconstruction, Tokenizer

NARROW = 64
"""Below this width channels-last does not pay on a CPU (see `tokenizer.train.memory_format`)."""
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Codec:
    """Encodes and decodes in one precision, without gradients.

    bf16 and fp16 run under autocast with channels-last weights. What decides the codes stays in float32: the end of the
    encoder, the projection to the codebook, the codebook (docs/LOG.md). Still about one code in a hundred differs, so
    codes of different precisions are not mixed. (Weights cast once and for all were no faster, and would be another
    model by their hash.)
    """

    def __init__(self, tokenizer: Tokenizer, precision: str = "auto") -> None:
        """Raises ConfigError for fp16 without a GPU."""
        self.tokenizer = tokenizer
        self.precision = codec_precision(precision, tokenizer)
        if self.precision != "fp32":
            tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def config(self) -> TokenizerConfig:
        return self.tokenizer.config

    @property
    def device(self) -> torch.device:
        return self.tokenizer.device

    @property
    def dtype(self) -> torch.dtype:
        """What the large products are computed in."""
        return HALF.get(self.precision, torch.float32)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Reconstruction:
        """As `Tokenizer.forward`."""
        with self._autocast():
            return self.tokenizer(images)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """As `Tokenizer.encode`."""
        with self._autocast():
            return self.tokenizer.encode(images)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """As `Tokenizer.decode`."""
        with self._autocast():
            return self.tokenizer.decode(codes)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def codec_precision(wanted: str, tokenizer: Tokenizer) -> str:
    """fp32, bf16 or fp16; `auto` takes bf16 where the machine is fast at it and the network wide enough to gain.

    Raises:
        ConfigError: fp16 without a GPU.
    """
    picked = pick_precision(wanted, tokenizer.device)
    if wanted != "auto":
        return picked
    pays = tokenizer.device.type != "cpu" or tokenizer.config.width >= NARROW
    return picked if picked == "bf16" and pays else "fp32"
