"""Inference of a trained tokenizer in float32 or half precision, and the memory format that suits a network."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..runtime.precision import DTYPES, pick_precision
from .config import TokenizerConfig
from .model import Reconstruction, Tokenizer

CHANNELS_LAST_WIDTH = 64
"""Width of the first level from which channels-last is faster on a CPU (see `tokenizer.train.memory_format`)."""


class Codec:
    """Encodes and decodes in one precision, without gradients.

    bf16 and fp16 run under autocast with channels-last weights. The layers that decide the codes stay in float32: the
    end of the encoder, the projection to the codebook, and the codebook (docs/LOG.md). About 1 % of the codes still
    differ, so codes of different precisions must not be mixed. Weights that are cast once were no faster.
    """

    def __init__(self, tokenizer: Tokenizer, precision: str = "auto") -> None:
        """Raise ConfigError for fp16 without a GPU."""
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
        """Type of the matrix products."""
        return DTYPES[self.precision]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Reconstruction:
        """See `Tokenizer.forward`."""
        with self._autocast():
            return self.tokenizer(images)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """See `Tokenizer.encode`."""
        with self._autocast():
            return self.tokenizer.encode(images)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """See `Tokenizer.decode`."""
        with self._autocast():
            return self.tokenizer.decode(codes)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def codec_precision(wanted: str, tokenizer: Tokenizer) -> str:
    """Return fp32, bf16 or fp16; `auto` is bf16 where the hardware has it and the network is wide enough to gain.

    Raises:
        ConfigError: fp16 without a GPU.
    """
    picked = pick_precision(wanted, tokenizer.device)
    if wanted != "auto":
        return picked
    faster = tokenizer.device.type != "cpu" or tokenizer.config.first_level_width >= CHANNELS_LAST_WIDTH
    return picked if picked == "bf16" and faster else "fp32"


def memory_format(width: int) -> torch.memory_format:
    """Return channels-last for wide networks and on GPUs; on a CPU group norm of narrow ones is slower with it.

    Time per step on two Xeon cores (bf16, f4, 32 px, batch 64): width 16: 136 ms contiguous, 183 ms channels-last;
    width 64: 526 ms and 426 ms. `width` is that of the first level, which takes most of the time.
    """
    wide = width >= CHANNELS_LAST_WIDTH or torch.cuda.is_available()
    return torch.channels_last if wide else torch.contiguous_format
