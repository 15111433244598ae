"""Training of the decoder alone: encoder and codebook are frozen, so that the codes stay what they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data.images import ImageDataset
from ..errors import CheckpointError
from ..runtime.batch_random import batch_rand
from ..training.config import TrainingConfig
from ..training.stage import Batch, mean_over
from .code_noise import CodeNoise, Rand
from .losses import reconstruction_losses, weighted_sum
from .metrics import psnr
from .model import Reconstruction, Tokenizer
from .recipe import DecoderRecipe
from .train import TokenizerStage

DrawCodes = Callable[[Tensor, Batch, Rand], Tensor]
"""Codes (B, h, w * q) of a batch to as many that a prior might have sampled; passed in, because the tokenizer knows no
prior."""


class DecoderStage(TokenizerStage):
    """Losses of decoded images, for codes of which some are replaced (RobusTok, arXiv:2509.12474).

    The weights are those of the tokenizer in the model folder, and are kept where no others are better.
    """

    name = "decoder"
    keeps_start = True
    trains_codes = False
    recipe: DecoderRecipe

    def __init__(
        self,
        model: Tokenizer,
        recipe: DecoderRecipe,
        config: TrainingConfig,
        train_set: ImageDataset,
        held_out_set: ImageDataset,
        workers: int,
        draw: DrawCodes | None = None,
    ) -> None:
        """`draw`: the codes that replace others; neighbours and random codes by default."""
        super().__init__(model, recipe, config, train_set, held_out_set, workers)
        self.frozen: list[nn.Module] = [model.encoder, model.to_codebook, model.quantizer]
        for part in self.frozen:
            part.requires_grad_(False)
        self.codes_sha256 = model.codes_sha256()
        self.noise, self.draw = CodeNoise(model, recipe.code_noise), draw
        self.metric = "noisy_loss" if recipe.code_noise else "loss"

    @property
    def weights_folder(self) -> str:
        return Tokenizer.kind

    def computed(self) -> Callable[..., Any]:
        return self.model.decode_vectors

    def trained_parameters(self) -> int:
        """Return the number of parameters that are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def reconstruct(self, images: Tensor, batch: Batch) -> Reconstruction:
        """Decode the codes of images (B, C, H, W) after the noise. The returned codes are those before it."""
        for part in self.frozen:
            part.eval()  # the loop sets the whole model to training, where codebooks follow their latents
        with torch.no_grad(), self.accelerator.autocast():
            codes = self.model.encode(images)
            vectors = self.model.quantizer.lookup(self._noisy(codes, batch, batch_rand))
        return Reconstruction(self.network(vectors), codes)

    def _noisy(self, codes: Tensor, batch: Batch, rand: Rand) -> Tensor:
        """Replace codes (B, h, w * q) of a batch."""
        return self.noise(codes, rand, self.draw(codes, batch, rand) if self.draw else None)

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of a tokenizer, and `noisy_loss` and `noisy_psnr` for codes with noise where it is on.

        The noise is the same in every evaluation.
        """
        metrics = super().evaluate()
        if not self.recipe.code_noise or not metrics:
            return metrics
        first, processes = self.accelerator.process_index, self.accelerator.num_processes
        batches = self.held_out.batches(self.config, self.accelerator)
        numbered = zip(itertools.count(first, processes), batches)
        pairs = ((len(batch["image"]), self._noisy_metrics(number, batch)) for number, batch in numbered)
        return metrics | mean_over(pairs)

    def _noisy_metrics(self, number: int, batch: Batch) -> dict[str, Tensor]:
        images, rand = self._images(batch), partial(_seeded_rand, torch.Generator().manual_seed(number))
        codes = self._noisy(self.model.encode(images), batch, rand)
        decoded = self.model.decode_vectors(self.model.quantizer.lookup(codes))
        losses = reconstruction_losses(images, decoded, self.weights, self.backbone)
        return {
            "noisy_loss": weighted_sum(losses, self.weights),
            "noisy_psnr": psnr(images, decoded).mean(),
        }

    def state(self) -> dict[str, Any]:
        return super().state() | {"codes": self.codes_sha256}

    def load_state(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Raises CheckpointError where the saved run tuned the decoder of a tokenizer with other codes."""
        if state.get("codes") != self.codes_sha256:
            raise CheckpointError(
                "the run tuned the decoder of another tokenizer: restore that one, or start again with --force"
            )
        super().load_state(state, tensors)


def _seeded_rand(generator: torch.Generator, *shape: int, device: torch.device) -> Tensor:
    """Return uniform random numbers that do not depend on the device."""
    return torch.rand(*shape, generator=generator).to(device)
