"""Training the prior: its step, its held-out metrics, its preview.

Shapes: B batch, T = h*w tokens.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..data.codes import CodesDataset
from ..data.grid import draw_grid
from ..data.loader import eval_batches, train_batches
from ..errors import CheckpointError
from ..options import to_dict
from ..training.config import TrainingConfig
from ..training.schedule import progress
from ..training.stage import Batch, Stage, mean_over
from .conditions.condition import Condition
from .config import PriorConfig
from .model import Prior
from .objectives import log_likelihood, training_loss
from .recipe import PriorRecipe

logger = logging.getLogger("imgtf")

PREVIEW_IMAGES = 16

DecodeCodes = Callable[[Tensor], list[Image.Image]]
"""Codes (B, T) to images; passed in, because the prior knows no tokenizer."""


class PriorStage(Stage):
    """Cross entropy of every code given its condition and the codes before it (masked priors: the known codes)."""

    name = "prior"
    metric = "loss"
    model: Prior

    def __init__(
        self,
        model: Prior,
        recipe: PriorRecipe,
        config: TrainingConfig,
        train_set: CodesDataset,
        held_out_set: CodesDataset | None,
        decode: DecodeCodes,
        decode_condition: DecodeCodes | None = None,
        names: Mapping[str, str] = {},
    ) -> None:
        """
        Args:
            decode_condition: decodes conditioning images, where the prior has them.
            names: present names of tokenizers, by those that older states hold.
        """
        self.model, self.recipe, self.config = model, recipe, config
        self.train_set, self.held_out_set = train_set, held_out_set
        self.decode, self.decode_condition, self.names = decode, decode_condition, names

    def eager(self) -> list[nn.Module]:
        """Modules with Python control flow on their inputs: torch.compile leaves them alone."""
        return [self.model.positions, self.model.conditions]

    def sharded_units(self) -> Iterable[nn.Module]:
        return self.model.blocks

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
        done = progress(self.completed_steps, self.config)
        metrics = training_loss(self.network, self.model.config, self.recipe, codes, condition, done)
        return metrics | self.update(metrics["loss"])

    def state(self) -> dict[str, Any]:
        """What identifies the images, codes and conditions of the run."""
        config = self.model.config
        conditions = [to_dict(condition) for condition in config.conditions]
        codes = {"tokenizer_sha256": config.tokenizer_sha256, "conditions": conditions}
        return codes | {"data": self.train_set.info.fingerprint}

    def load_state(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Raises CheckpointError where the saved run was trained on other codes than the present ones."""
        saved = json.dumps(state)
        for older, present in self.names.items():
            saved = saved.replace(older, present)
        state = json.loads(saved)
        wrong = {name for name, own in self.state().items() if state.get(name, own) != own}
        if "data" in wrong:
            logger.warning("the training images have changed since the state was saved")
        if wrong - {"data"}:
            other = (
                "tokenizer"
                if "tokenizer_sha256" in wrong
                else "conditions or tokenizer of conditioning images"
            )
            raise CheckpointError(
                f"the prior's run was trained with another {other}: restore that one, or start again with --force"
            )

    def evaluate(self) -> dict[str, float]:
        if self.held_out_set is None:
            return {}
        own, all_processes = self.accelerator.process_index, self.accelerator.num_processes
        batches = eval_batches(
            self.held_out_set,
            self.config.micro_batch_size,
            limit=self.config.eval_images,
            rank=own,
            world=all_processes,
        )
        numbered = zip(itertools.count(own, all_processes), batches)
        return evaluate(self.model, numbered, raster=bool(self.recipe.anneal))

    def preview(self, path: Path) -> None:
        """Samples with the model's own settings: classes spread evenly, other conditions of held-out images."""
        config = self.model.config
        if config.encoder_length:
            self._preview_conditioned(path)
            return
        label = spread_labels(PREVIEW_IMAGES, config.classes)
        captions = [config.class_names[i] for i in label] if label is not None else None
        images = self.decode(self._samples(PREVIEW_IMAGES, Condition(label=label)))
        draw_grid(images, columns=8, captions=captions).save(path)

    def _preview_conditioned(self, path: Path) -> None:
        """Rows: conditioning images where the prior has them, samples, the real images."""
        held_out = self.held_out_set or self.train_set
        batch = next(iter(eval_batches(held_out, PREVIEW_IMAGES // 2, limit=PREVIEW_IMAGES // 2)))
        n = len(batch["codes"])
        samples = self._samples(n, condition_of(batch, self.model.config))
        rows = [self.decode(samples), self.decode(batch["codes"])]
        if self.decode_condition and "image" in batch:
            rows.insert(0, self.decode_condition(batch["image"]))
        captions = batch["text"] * len(rows) if any(batch["text"]) else None
        draw_grid([image for row in rows for image in row], columns=n, captions=captions).save(path)

    def _samples(self, n: int, condition: Condition) -> Tensor:
        values: dict[str, Any] = dict(condition)
        return self.model.sample(n, **values).flatten(1)  # (n, T)


def condition_of(batch: Batch, config: PriorConfig) -> Condition:
    """The condition of a batch of a token cache."""
    return Condition(**{condition.kind: condition.from_batch(batch) for condition in config.conditions})


@torch.no_grad()
def evaluate(model: Prior, batches: Iterable[tuple[int, Batch]], *, raster: bool = False) -> dict[str, float]:
    """Mean cross entropy (`loss`, nats per token) and `bits_per_token` over numbered batches of a token cache.

    Exact in raster order. For the other objectives over one random order per image, the same in every call, unless
    `raster` is set. The means are over the batches of all processes, each of which gives its own. The model must be in
    evaluation mode. Without batches the result is empty.
    """

    def metrics(number: int, batch: Batch) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(number)
        codes, condition = batch["codes"].to(model.device), condition_of(batch, model.config)
        loss = -log_likelihood(model, codes, condition, generator, raster=raster).mean()
        return {"loss": loss, "bits_per_token": loss / math.log(2)}

    return mean_over((len(batch["codes"]), metrics(number, batch)) for number, batch in batches)


def spread_labels(n: int, classes: int) -> Tensor | None:
    """n labels (n,) that take the classes in turn; None without classes."""
    return torch.arange(n) % classes if classes else None
