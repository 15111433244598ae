"""Codebook updates under gradient accumulation: one per batch, from the latents of all its micro-batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook, ema_inplace

from .quantizer import Quantizer


class CodebookAccumulator:
    """Collects the latents and codes of micro-batches, so that they update each codebook as one batch would.

    The library's `accum_ema_update` is no argument of ResidualVQ, and replaces codes that are out of use by latents of
    the last micro-batch only. So the codebooks are called here.
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
            # One by one: the sums are those of as many processes, bit for bit. Release 1.30 has only this name.
            for latents, codes in pairs:
                codebook.update_ema_indices(latents, codes, accum_ema_update=True)
            codebook.micro_batches = len(pairs)  # in which order the processes share these latents
            if codebook.cluster_size.grad is not None:
                _update_from_sums(codebook, torch.cat([latents for latents, _ in pairs])[None])
        self._collected.clear()


def _update_from_sums(codebook: Codebook, latents: Tensor) -> None:
    """Update the codebook from the sums that it has collected, and replace unused codes by latents (1, B, h*w, d)."""
    for mean in (codebook.cluster_size, codebook.embed_avg):
        ema_inplace(mean, torch.zeros_like(mean), codebook.decay)  # adds the sums, which are in `mean.grad`
    if codebook.ema_update:
        codebook.update_ema()
    codebook.expire_codes_(latents)
