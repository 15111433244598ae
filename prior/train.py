"""Training the prior: its step, its held-out figures, its picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..data.codes import CodesDataset
from ..data.grid import draw_grid
from ..data.loader import eval_batches, train_batches
from ..errors import CheckpointError
from ..training.config import TrainingConfig
from ..training.stage import Batch, Stage, mean_over
from .conditions.encoder import Condition, caption_bytes
from .config import PriorConfig, PriorRecipe
from .decoding.sampler import image_uniforms, sample
from .model import Prior
from .objectives import log_likelihood, training_loss

PREVIEW_IMAGES = 16

Draw = Callable[[Tensor], list[Image.Image]]
"""Codes (B, T) to pictures; given from outside, because the prior knows no tokenizer."""


class PriorStage(Stage):
    """Cross entropy of every code given the condition and the codes before it, or beside it where masked."""

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
        draw_source: Draw | None = None,
    ) -> None:
        """`draw_source`: codes of source pictures to pictures, where the prior reads them."""
        self.model, self.recipe, self.config = model, recipe, config
        self.train_set, self.held_out_set = train_set, held_out_set
        self.draw, self.draw_source = draw, draw_source

    def eager(self) -> list[nn.Module]:
        """What looks at its inputs with Python: positions come from tables made once, conditions are checked."""
        return [self.model.positions, self.model.conditions]

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        parts = self.config.gradient_accumulation_steps
        return train_batches(
            self.train_set,
            self.config.batch_size // parts,
            seed=self.config.seed,
            start_step=start_step * parts,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )

    def step(self, batch: Batch) -> dict[str, Tensor]:
        device = self.accelerator.device
        codes = batch["codes"].to(device, non_blocking=True)
        condition = condition_of(batch, self.model.config).to(device)
        progress = self.completed_steps / self.config.steps
        figures = training_loss(self.network, self.model.config, self.recipe, codes, condition, progress)
        norm = self.update(figures["loss"])
        return figures | {"gradient_norm": norm}

    def state(self) -> dict[str, Any]:
        config = self.model.config
        return {"tokenizer_sha256": config.tokenizer_sha256, "image_sha256": config.image_sha256}

    def load_state(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Raises CheckpointError where the run learned other codes than those it would go on with."""
        for name, own in self.state().items():
            if state.get(name, own) != own:  # older states lack that of the sources
                of = " of the source pictures" if name == "image_sha256" else ""
                raise CheckpointError(
                    f"the prior's run learned the codes of another tokenizer{of} than the one that is there now: "
                    f"put that one back, or start anew with --force"
                )

    def evaluate(self) -> dict[str, float]:
        if self.held_out_set is None:
            return {}
        batches = eval_batches(self.held_out_set, self.config.batch_size, limit=self.config.eval_images)
        return evaluate(self.model, batches, raster=bool(self.recipe.anneal))

    def preview(self, path: Path) -> None:
        """Samples with the model's own settings: labels spread evenly, other conditions those of held-out images."""
        config = self.model.config
        if config.encoder_length:
            self._preview_beside(path)
            return
        label = spread_labels(PREVIEW_IMAGES, config.classes)
        captions = [config.class_names[i] for i in label] if label is not None else None
        draw_grid(
            self.draw(self._samples(Condition(label), PREVIEW_IMAGES)), columns=8, captions=captions
        ).save(path)

    def _preview_beside(self, path: Path) -> None:
        """Row by row: source pictures where the prior reads them, samples, the true images."""
        held_out = self.held_out_set or self.train_set
        truth = next(iter(eval_batches(held_out, PREVIEW_IMAGES // 2, limit=PREVIEW_IMAGES // 2)))
        codes = self._samples(condition_of(truth, self.model.config), len(truth["codes"]))
        rows = [self.draw(codes), self.draw(truth["codes"])]
        if self.draw_source and "source" in truth:
            rows.insert(0, self.draw_source(truth["source"]))
        captions = truth["text"] * len(rows) if any(truth["text"]) else None
        draw_grid([p for row in rows for p in row], columns=len(codes), captions=captions).save(path)

    def _samples(self, condition: Condition, n: int) -> Tensor:
        config = self.model.config
        return sample(self.model, condition, image_uniforms(0, 0, n, config.tokens), config.sampling)


def condition_of(batch: Batch, config: PriorConfig) -> Condition:
    """What this prior is told of the images of a batch of codes."""
    return Condition(
        label=batch["label"] if config.classes else None,
        text=caption_bytes(batch["text"], config.text_length) if config.text_length else None,
        features=batch["features"] if config.feature_width else None,
        source=batch["source"] if config.image_grid else None,
    )


@torch.no_grad()
def evaluate(model: Prior, batches: Iterable[Batch], *, raster: bool = False) -> dict[str, float]:
    """Mean cross entropy (`loss`, nats a token) and bits a token over batches of codes.

    Exact in raster order; over one random order an image, the same at every call, for the other objectives unless
    `raster` is asked for. The model must be in evaluation mode. No batches give no figures.
    """
    generator = torch.Generator().manual_seed(0)

    def figures(batch: Batch) -> dict[str, Tensor]:
        codes = batch["codes"].to(model.device)
        loss = -log_likelihood(
            model, codes, condition_of(batch, model.config), generator, raster=raster
        ).mean()
        return {"loss": loss, "bits_per_token": loss / math.log(2)}

    return mean_over((len(batch["codes"]), figures(batch)) for batch in batches)


def spread_labels(n: int, classes: int) -> Tensor | None:
    """n labels that take the classes in turn, as evenly as n allows; None without classes."""
    return torch.arange(n) % classes if classes else None
