"""Training the prior: its step, its held-out figures, its picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..data.codes import CodesDataset
from ..data.grid import draw_grid
from ..data.loader import eval_batches, train_batches
from ..errors import CheckpointError
from ..training.config import TrainingConfig
from ..training.stage import Batch, Stage, mean_over
from .config import PriorRecipe
from .model import Prior
from .sampler import image_uniforms, sample

PREVIEW_IMAGES = 16

Draw = Callable[[Tensor], list[Image.Image]]
"""Codes (B, T) to pictures; given from outside, because the prior knows no tokenizer."""


class PriorStage(Stage):
    """Cross entropy of every code given the label and the codes before it."""

    name = "prior"
    score = "loss"
    model: Prior

    def __init__(
        self,
        model: Prior,
        recipe: PriorRecipe,
        config: TrainingConfig,
        train_set: CodesDataset,
        held_out_set: CodesDataset | None,
        draw: Draw,
    ) -> None:
        self.model, self.recipe, self.config = model, recipe, config
        self.train_set, self.held_out_set, self.draw = train_set, held_out_set, draw

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        parts = self.config.accumulate
        return train_batches(
            self.train_set,
            self.config.batch_size // parts,
            seed=self.config.seed,
            start_step=start_step * parts,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )

    def step(self, batch: Batch) -> dict[str, Tensor]:
        codes, label = self._codes(batch)
        read = corrupt(codes, self.recipe.code_noise, self.model.config.codebook_size)
        logits = self.network(read, label)  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
        norm = self.update(loss)
        return {"loss": loss, "gradient_norm": norm}

    def state(self) -> dict[str, Any]:
        return {"tokenizer_sha256": self.model.config.tokenizer_sha256}

    def load_state(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Raises CheckpointError where the run learned other codes than those it would go on with."""
        if state["tokenizer_sha256"] != self.model.config.tokenizer_sha256:
            raise CheckpointError(
                "the prior's run learned the codes of another tokenizer than the one that is there now: "
                "put that one back, or start anew with --force"
            )

    def evaluate(self) -> dict[str, float]:
        if self.held_out_set is None:
            return {}
        batches = eval_batches(self.held_out_set, self.config.batch_size, limit=self.config.eval_images)
        return evaluate(self.model, (self._codes(b) for b in batches))

    def preview(self, path: Path) -> None:
        """Sixteen samples with the model's own settings, labels spread evenly."""
        label = spread_labels(PREVIEW_IMAGES, self.model.config.classes)
        uniforms = image_uniforms(0, 0, PREVIEW_IMAGES, self.model.config.tokens)
        codes = sample(self.model, label, uniforms, self.model.config.sampling)
        captions = [self.model.config.class_names[i] for i in label] if label is not None else None
        draw_grid(self.draw(codes), columns=8, captions=captions).save(path)

    def _codes(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        device = self.accelerator.device
        label = batch["label"].to(device) if self.model.config.classes else None
        return batch["codes"].to(device, non_blocking=True), label


def corrupt(codes: Tensor, share: float, codebook_size: int) -> Tensor:
    """Replaces a random share of the codes (B, T) by codes drawn evenly from all V.

    In sampling a prior reads its own codes, some of them unlikely; one that only ever read real ones goes astray
    from there (exposure bias: Bengio et al. 2015, arXiv:1506.03099). The targets stay as they are.
    """
    if share == 0:
        return codes
    noise = torch.randint_like(codes, codebook_size)
    return torch.where(torch.rand(codes.shape, device=codes.device) < share, noise, codes)


@torch.no_grad()
def evaluate(model: Prior, batches: Iterator[tuple[Tensor, Tensor | None]]) -> dict[str, float]:
    """Mean cross entropy (`loss`, nats a token) and bits a token over (codes, labels) batches.

    The model must be in evaluation mode. No batches give no figures.
    """

    def figures(codes: Tensor, label: Tensor | None) -> dict[str, Tensor]:
        loss = -model.log_prob(codes, label).mean()
        return {"loss": loss, "bits_per_token": loss / math.log(2)}

    return mean_over((len(codes), figures(codes, label)) for codes, label in batches)


def spread_labels(n: int, classes: int) -> Tensor | None:
    """n labels that take the classes in turn, as evenly as n allows; None without classes."""
    return torch.arange(n) % classes if classes else None
