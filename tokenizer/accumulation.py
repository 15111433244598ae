"""Codebook updates under gradient accumulation: one per batch, from the latents of all its micro-batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook

from .quantizer import Quantizer


class CodebookAccumulator:
    """Collects the latents and codes of micro-batches, so that they update each codebook as one batch would.

    The library's `accum_ema_update` sums the statistics only: codes that are out of use are not replaced, and it is no
    argument of ResidualVQ.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        """From now on the quantizer itself does not update its codebooks."""
        quantizer.frozen = True
        self._collected: dict[Codebook, list[tuple[Tensor, Tensor]]] = {}
        for codebook in (module for module in quantizer.modules() if isinstance(module, Codebook)):
            codebook.register_forward_hook(self._collect)

    def _collect(self, codebook: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        assert isinstance(codebook, Codebook)
        if codebook.training:
            pair = inputs[0].detach(), outputs[1]  # latents (B, h*w, d), codes (B, h*w)
            self._collected.setdefault(codebook, []).append(pair)

    @torch.no_grad()
    def update(self) -> None:
        """Update every codebook from the micro-batches since the last update."""
        for codebook, pairs in self._collected.items():
            latents, codes = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            codebook.micro_batches = len(pairs)  # in which order the processes share these latents
            codebook.update_ema_indices(latents, codes)  # also the name in release 1.30
        self._collected.clear()
