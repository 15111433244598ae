"""Training of the tokenizer: its steps, its held-out metrics, its previews."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.images import BadImages, ImageDataset
from ..data.loader import eval_batches
from ..data.stream_images import TrainingBatches
from ..options import MAX_INT
from ..runtime.batch_random import sum_over_processes
from ..training.config import TrainingConfig
from ..training.stage import Batch, MonitorAction, OptimizedNetwork, Stage
from .accumulation import CodebookAccumulator
from .codec import memory_format
from .discriminator import DiscriminatorTrainer, adaptive_weight, ramp
from .divergence import MARGIN, DivergenceMonitor
from .held_out import HeldOutImages, draw_pairs, evaluate
from .losses import LOSSES, loss_weights, reconstruction_losses, weighted_sum
from .metrics import CodeCounts
from .model import Reconstruction, Tokenizer
from .perceptual import Perceptual
from .recipe import TokenizerRecipe, moved, never_starts, starting_at

logger = logging.getLogger("imgtf")

PREVIEW_IMAGES = 16


class TokenizerStage(Stage):
    """Reconstruction losses and the quantizer's losses, with a weight above 0 also LPIPS and a discriminator."""

    name = "tokenizer"
    metric = "loss"
    model: Tokenizer
    trains_codes: ClassVar[bool] = True
    """Whether the codebook is trained."""
    start_and_ramp: tuple[float, float] | None = None
    """Fractions of the run at which the discriminator starts and rises; None where its recipe has the steps."""
    keeps_ramp: bool = False
    """Whether the steps of the ramp stay as they are where the start moves."""

    def __init__(
        self,
        model: Tokenizer,
        recipe: TokenizerRecipe,
        config: TrainingConfig,
        train_set: ImageDataset,
        held_out_set: ImageDataset,
        workers: int,
    ) -> None:
        self.model = model
        self.recipe, self.config = recipe, config
        self.weights = loss_weights(recipe)
        self._build_losses(recipe)
        self.train_set, self.held_out_set = train_set, held_out_set
        self.held_out = HeldOutImages(held_out_set)
        self.training = TrainingBatches(train_set, config.seed, workers)
        streamed = train_set.source.stream is not None
        self.bad_images = BadImages(len(train_set), train_set.config.bad_images, streamed)
        self.counts = CodeCounts(model.config.codebook_size)
        self.dead = torch.zeros(model.config.codebook_size, dtype=torch.bool)
        """(V,) codes without any use in the last window."""
        self.accumulator: CodebookAccumulator | None = None
        if self.trains_codes and config.gradient_accumulation_steps > 1:
            self.accumulator = CodebookAccumulator(model.quantizer)
        self.memory_format = memory_format(model.config.first_level_width)
        model.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def _build_losses(self, recipe: TokenizerRecipe) -> None:
        """Build the network of LPIPS and the discriminator, where the recipe needs them."""
        self.backbone: Perceptual | None = None
        if recipe.lpips_weight or (recipe.discriminator_weight and recipe.discriminator == "features"):
            file = Path(recipe.lpips_file) if recipe.lpips_file else None
            self.backbone = Perceptual(recipe.lpips_backbone, file)
        self.discriminator: DiscriminatorTrainer | None = None
        self.monitor: DivergenceMonitor | None = None
        if recipe.discriminator_weight:
            self.discriminator = DiscriminatorTrainer(recipe, self.model.config, self.backbone)
            self._warn_if_never(self.config)
            self.monitor = DivergenceMonitor(recipe, self.config.log_every) if recipe.rollback else None

    def prepare(self, accelerator: Accelerator, config: TrainingConfig) -> None:
        super().prepare(accelerator, config)
        if self.backbone is not None:
            self.backbone.to(accelerator.device)
        if self.discriminator is not None:
            self.discriminator.prepare(accelerator, config)

    def eager(self) -> list[nn.Module]:
        """Return the quantizer, whose updates compile for minutes without gain, and the decoder's last layer.

        The adaptive weight needs the gradients of that layer alone.
        """
        return [self.model.quantizer, self.model.decoder.conv_out]

    def optimized_networks(self) -> list[OptimizedNetwork]:
        own = super().optimized_networks()
        return [*own, self.discriminator.optimized] if self.discriminator else own

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        own = super().optimizers()
        if self.discriminator is None:
            return own
        return own | {"discriminator_optimizer": self.discriminator.optimized.optimizers[0]}

    def trained_modules(self) -> dict[str, nn.Module]:
        own = super().trained_modules()
        return own | {"discriminator": self.discriminator.model} if self.discriminator else own

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        micro_batches, process = self.config.gradient_accumulation_steps, self.accelerator
        size, first = self.config.batch_size // micro_batches, start_step * micro_batches
        return self.training.batches(size, first, process.process_index, process.num_processes)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Train on one micro-batch, from `discriminator_start` on against the discriminator too."""
        self.bad_images.note(batch["bad"])
        images = self._images(batch)
        result = self.reconstruct(images, batch)
        if self.accumulator is not None and self.accelerator.sync_gradients:
            self.accumulator.update()
        with self.accelerator.autocast():
            losses = reconstruction_losses(images, result.images, self.weights, self.backbone)
        losses |= result.losses
        ratio = self.discriminator_ratio()
        if self.discriminator is not None and ratio > 0:
            metrics = self._adversarial_step(self.discriminator, images, result, losses, ratio)
        else:
            loss = weighted_sum(losses, self.weights)
            metrics = {"loss": loss, **losses, **self.update(loss)}
        self.counts.add(result.codes)
        return metrics

    def reconstruct(self, images: Tensor, batch: Batch) -> Reconstruction:
        """Encode and decode the images (B, C, H, W) of a batch, with the gradients of what is trained."""
        del batch  # of use to stages that change the codes
        result: Reconstruction = self.network(images)
        return result

    def discriminator_ratio(self) -> float:
        """Return the fraction of the discriminator's weight at this step, by its ramp and the divergence monitor."""
        recipe, step = self.recipe, self.completed_steps
        if self.discriminator is None or step < recipe.discriminator_start:
            return 0.0
        if self.monitor is None:
            return ramp(step, recipe.discriminator_start, recipe.discriminator_ramp)
        return ramp(step, self.monitor.ramp_start, recipe.discriminator_ramp) * self.monitor.weight_ratio

    def _adversarial_step(
        self,
        discriminator: DiscriminatorTrainer,
        images: Tensor,
        result: Reconstruction,
        losses: dict[str, Tensor],
        ratio: float,
    ) -> dict[str, Tensor]:
        """Update autoencoder and discriminator, after computing the gradients of both with the old weights."""
        generator_loss = discriminator.generator_loss(result.images)
        weight, balance = self._discriminator_weight(losses, generator_loss, ratio)
        losses = losses | {"discriminator": generator_loss}
        loss = weighted_sum(losses, {**self.weights, "discriminator": weight})
        self.backward(loss)
        discriminator_loss, metrics = discriminator.loss(images, result.images)
        self.backward(discriminator_loss)
        norms = self.step_optimizers(gradient_norm=self.optimized, discriminator_norm=discriminator.optimized)
        return {"loss": loss, **losses, **norms, **metrics, **balance}

    def _discriminator_weight(
        self, losses: dict[str, Tensor], generator_loss: Tensor, ratio: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weight of the generator loss at this step, and the metrics of it."""
        weight = torch.full_like(generator_loss.detach(), self.weights["discriminator"] * ratio)
        if not self.recipe.discriminator_adaptive:
            return weight, {"discriminator_weight": weight}
        reconstruction = {name: loss for name, loss in losses.items() if name in LOSSES}
        scaler = self.accelerator.scaler
        adaptive = adaptive_weight(
            weighted_sum(reconstruction, self.weights),
            generator_loss,
            last_weight(self.model.decoder),
            scaler.get_scale() if scaler else 1.0,
        )
        weight = weight * adaptive
        return weight, {"adaptive_weight": adaptive, "discriminator_weight": weight}

    def follow(self, config: TrainingConfig, step: int) -> None:
        """Let the discriminator start at the same fraction of the run, unless the user has named its step."""
        before, window = self.config.steps, config.log_every
        super().follow(config, step)
        if self.start_and_ramp is None:
            self._warn_if_never(config)
            return
        if before == MAX_INT:
            start, ramp = (config.steps * part for part in self.start_and_ramp)
            self.move_discriminator(starting_at(self.recipe, start, ramp, step + window + 1))
        else:
            ratio = (config.steps - step) / max(1, before - step)
            self.move_discriminator(moved(self.recipe, step, ratio, window))

    def _warn_if_never(self, config: TrainingConfig) -> None:
        if config.minutes is None and (line := never_starts(self.recipe, config.steps)):
            logger.warning(line)

    def move_discriminator(self, recipe: TokenizerRecipe) -> None:
        """Take a recipe with another start of the discriminator, which has not started yet."""
        if self.keeps_ramp:
            recipe = replace(recipe, discriminator_ramp=self.recipe.discriminator_ramp)
        self.recipe = recipe
        if self.monitor and not self.monitor.rollbacks:
            self.monitor.move(recipe)

    def window_metrics(self) -> dict[str, float]:
        """Return usage, perplexity, dead codes, and revived codes (dead in the window before, in use now)."""
        window = CodeCounts(len(self.dead))
        window.counts = sum_over_processes(self.counts.counts.to(self.accelerator.device)).cpu()
        metrics = window.metrics()
        if metrics:
            dead = window.counts == 0
            metrics |= {"dead_codes": int(dead.sum()), "revived_codes": int((self.dead & ~dead).sum())}
            self.dead = dead
        self.counts.reset()
        return metrics

    def monitor_action(self, metrics: dict[str, float]) -> MonitorAction | None:
        return self.monitor.observe(self.completed_steps, metrics) if self.monitor else None

    def is_better(self, metrics: dict[str, float], best: dict[str, float]) -> bool:
        """Compare losses; at the discriminator's full weight keep the newest weights whose PSNR is within `MARGIN`.

        The detail that a discriminator adds increases the losses of `evaluate`.
        """
        if (
            self.discriminator is None
            or self.completed_steps < self.comparable_from()
            or "psnr" not in metrics
        ):
            return super().is_better(metrics, best)
        return metrics["psnr"] > best.get("psnr", -math.inf) - MARGIN

    def comparable_from(self) -> int:
        """Return the step of the discriminator's full weight: earlier weights have a higher PSNR, not better images."""
        return self.recipe.discriminator_start + self.recipe.discriminator_ramp if self.discriminator else 0

    def state(self) -> dict[str, Any]:
        monitor = {"monitor": self.monitor.state()} if self.monitor else {}
        return {"data": self.train_set.source.fingerprint, **monitor}

    def tensors(self) -> dict[str, Tensor]:
        return {"counts": self.counts.counts, "dead": self.dead, **self.training.tensors()}

    def merged(self, parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
        return self.training.merged(parts)

    def load_state(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.counts.counts, self.dead = tensors["counts"], tensors["dead"]
        self.training.load_state(tensors)
        if state.get("data") != self.train_set.source.fingerprint:
            logger.warning("%s has changed since the state was saved", self.train_set.source.name)
        if self.monitor and "monitor" in state:
            self.monitor.load_state(state["monitor"])

    def evaluate(self) -> dict[str, float]:
        batches = self.held_out.batches(self.config, self.accelerator)
        return evaluate(self.model, (self._images(b) for b in batches), self.weights, self.backbone)

    def preview(self, path: Path) -> None:
        """Save held-out images and their reconstructions, in alternating rows."""
        shown = self.held_out_set if len(self.held_out_set) else self.train_set
        batch = next(eval_batches(shown, PREVIEW_IMAGES, limit=PREVIEW_IMAGES))
        images = self._images(batch)
        draw_pairs(images, self.model(images).images).save(path)

    def _images(self, batch: Batch) -> Tensor:
        return batch["image"].to(self.accelerator.device, memory_format=self.memory_format, non_blocking=True)


def last_weight(decoder: nn.Module) -> Tensor:
    """Return the weight of the decoder's last layer (norms and biases have one dimension)."""
    return [p for p in decoder.parameters() if p.dim() > 1][-1]
