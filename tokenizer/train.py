"""Training the tokenizer: its step, its held-out figures, its picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from ..data.grid import draw_grid
from ..data.image import to_pil
from ..data.images import BadImages, ImageDataset
from ..data.loader import eval_batches, train_batches
from ..training.config import TrainingConfig
from ..training.stage import Batch, MonitorAction, OptimizedNetwork, Stage, mean_over
from .codec import NARROW, Codec
from .config import TokenizerRecipe
from .discriminator import Adversary, adaptive_weight, ramp
from .divergence import MARGIN, DivergenceMonitor
from .losses import codebook_losses, loss_weights, reconstruction_losses, weighted_sum
from .metrics import CodeCounts, psnr
from .model import Reconstruction, Tokenizer
from .perceptual import Perceptual

PREVIEW_IMAGES = 16


class TokenizerStage(Stage):
    """Reconstruction and commitment losses, with a weight above 0 also LPIPS and a discriminator.

    The codebook itself learns by moving averages.
    """

    name = "tokenizer"
    score = "loss"
    model: Tokenizer

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
        self.backbone: Perceptual | None = None
        judged = recipe.discriminator_weight > 0 and recipe.discriminator == "features"
        if recipe.lpips_weight or judged:
            file = Path(recipe.lpips_file) if recipe.lpips_file else None
            self.backbone = Perceptual(recipe.lpips_backbone, file)
        self.perceptual = self.backbone if recipe.lpips_weight else None
        self.adversary: Adversary | None = None
        self.doctor: DivergenceMonitor | None = None
        if recipe.discriminator_weight:
            self.adversary = Adversary(recipe, model.config.channels, model.config.image_size, self.backbone)
            self.doctor = DivergenceMonitor(recipe, config.log_every) if recipe.rollback else None
        self.train_set, self.held_out_set, self.workers = train_set, held_out_set, workers
        self.bad_images = BadImages(len(train_set), train_set.config.bad_images)
        self.counts = CodeCounts(model.config.codebook_size)
        self.dead = torch.zeros(model.config.codebook_size, dtype=torch.bool)
        """(V,) codes that nothing used in the last window."""
        self.memory_format = memory_format(model.config.width)
        model.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def prepare(self, accelerator: Accelerator, config: TrainingConfig) -> None:
        super().prepare(accelerator, config)
        if self.backbone is not None:
            self.backbone.to(accelerator.device)
        if self.adversary is not None:
            self.adversary.prepare(accelerator, config)

    def eager(self) -> list[nn.Module]:
        """The codebook, whose bookkeeping takes minutes to compile and cannot be fused; and the decoder's last layer,
        for the adaptive weight asks for its gradients alone."""
        return [self.model.quantizer, self.model.decoder.conv_out]

    def optimized_networks(self) -> list[OptimizedNetwork]:
        return super().optimized_networks() + ([self.adversary.optimized] if self.adversary else [])

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        own = super().optimizers()
        return (
            own | {"discriminator_optimizer": self.adversary.optimized.optimizer} if self.adversary else own
        )

    def trained(self) -> dict[str, nn.Module]:
        own = super().trained()
        return own | {"discriminator": self.adversary.model} if self.adversary else own

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        parts = self.config.gradient_accumulation_steps
        return train_batches(
            self.train_set,
            self.config.batch_size // parts,
            seed=self.config.seed,
            start_step=start_step * parts,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            workers=self.workers,
        )

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One micro-batch through the autoencoder, from the discriminator's start on against it too."""
        self.bad_images.note(batch["bad"])
        images = self._images(batch)
        result = self.network(images)
        with self.accelerator.autocast():
            losses = reconstruction_losses(images, result, self.perceptual)
        losses |= codebook_losses(result, self.model.config.quantizer)
        share = self.discriminator_share()
        if self.adversary is not None and share > 0:
            figures = self._duel(self.adversary, images, result, losses, share)
        else:
            loss = weighted_sum(losses, self.weights)
            figures = {"loss": loss, **losses, "gradient_norm": self.update(loss)}
        self.counts.add(result.codes)
        return figures

    def discriminator_share(self) -> float:
        """Of the discriminator's weight, what ramp and doctor leave at this step."""
        if self.adversary is None or self.completed_steps < self.recipe.discriminator_start:
            return 0.0
        since = self.doctor.since if self.doctor else self.recipe.discriminator_start
        return ramp(self.completed_steps, since, self.recipe.discriminator_ramp) * (
            self.doctor.scale if self.doctor else 1.0
        )

    def _duel(
        self,
        adversary: Adversary,
        images: Tensor,
        result: Reconstruction,
        losses: dict[str, Tensor],
        share: float,
    ) -> dict[str, Tensor]:
        """One step of both sides: their gradients from the same weights, then both updates."""
        judgement = adversary.judgement(result.images)
        weights, balance = self._balance(losses, judgement, share)
        losses = losses | {"discriminator": judgement}
        loss = weighted_sum(losses, weights)
        self.accelerator.backward(loss)
        adversary_loss, figures = adversary.losses(images, result.images)
        self.accelerator.backward(adversary_loss)
        norm, adversary_norm = self.move(self.optimized, adversary.optimized)
        return {
            "loss": loss,
            **losses,
            "gradient_norm": norm,
            **figures,
            "discriminator_norm": adversary_norm,
            **balance,
        }

    def _balance(
        self, losses: dict[str, Tensor], judgement: Tensor, share: float
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The losses' weights with the discriminator's as it is at this step, and the figures of the latter."""
        weight = torch.full_like(judgement.detach(), self.weights["discriminator"] * share)
        figures = {}
        if self.recipe.discriminator_adaptive:
            drawn = {name: loss for name, loss in losses.items() if name in ("l1", "l2", "lpips")}
            scaler = self.accelerator.scaler
            figures["adaptive_weight"] = self.accelerator.reduce(
                adaptive_weight(
                    weighted_sum(drawn, self.weights),
                    judgement,
                    last_weight(self.model.decoder),
                    scaler.get_scale() if scaler else 1.0,
                ),
                "mean",
            )
            weight = weight * figures["adaptive_weight"]
        return {**self.weights, "discriminator": weight}, figures | {"discriminator_weight": weight}

    def window(self) -> dict[str, float]:
        """Usage, perplexity, dead codes, and how many that were dead in the window before are in use again."""
        figures = self.counts.figures()
        if figures:
            dead = self.counts.counts == 0
            figures |= {"dead_codes": int(dead.sum()), "revived_codes": int((self.dead & ~dead).sum())}
            self.dead = dead
        self.counts.reset()
        return figures

    def diagnose(self, figures: dict[str, float]) -> MonitorAction | None:
        return self.doctor.observe(self.completed_steps, figures) if self.doctor else None

    def improves(self, figures: dict[str, float], kept: dict[str, float]) -> bool:
        """With the discriminator in: the newest weights, unless their PSNR lies further below that of the kept ones
        than the doctor allows. What the discriminator adds, the losses of `evaluate` call an error."""
        if self.adversary is None or self.completed_steps < self.scores_count_from() or "psnr" not in figures:
            return super().improves(figures, kept)
        return figures["psnr"] > kept.get("psnr", -math.inf) - MARGIN

    def scores_count_from(self) -> int:
        """The step at which the discriminator has its full weight: it costs PSNR, so the scores before are better
        without the pictures being so."""
        return self.recipe.discriminator_start + self.recipe.discriminator_ramp if self.adversary else 0

    def state(self) -> dict[str, Any]:
        return {"doctor": self.doctor.state()} if self.doctor else {}

    def tensors(self) -> dict[str, Tensor]:
        return {"counts": self.counts.counts, "dead": self.dead}

    def load_state(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.counts.counts, self.dead = tensors["counts"], tensors["dead"]
        if self.doctor and "doctor" in state:
            self.doctor.load_state(state["doctor"])

    def evaluate(self) -> dict[str, float]:
        batches = eval_batches(self.held_out_set, self.config.batch_size, limit=self.config.eval_images)
        return evaluate(self.model, (self._images(b) for b in batches), self.weights, self.perceptual)

    def preview(self, path: Path) -> None:
        """Held-out images in the odd rows, each above its reconstruction."""
        shown = self.held_out_set if len(self.held_out_set) else self.train_set
        batch = next(eval_batches(shown, PREVIEW_IMAGES, limit=PREVIEW_IMAGES))
        images = self._images(batch)
        draw_pairs(images, self.model(images).images).save(path)

    def _images(self, batch: Batch) -> Tensor:
        return batch["image"].to(self.accelerator.device, memory_format=self.memory_format, non_blocking=True)


@torch.no_grad()
def evaluate(
    model: Tokenizer | Codec,
    batches: Iterable[Tensor],
    weights: dict[str, float],
    perceptual: Perceptual | None = None,
    seen: Callable[[Tensor, Tensor], None] | None = None,
) -> dict[str, float]:
    """Mean losses and PSNR (dB), usage and perplexity of the codebook over batches of images in [-1, 1].

    The model must be in evaluation mode. No batches give no figures. `seen` is shown every batch with what came back,
    clamped to [-1, 1].
    """
    counts = CodeCounts(model.config.codebook_size)

    def figures(images: Tensor) -> dict[str, Tensor]:
        result = model(images)
        counts.add(result.codes)
        if seen is not None:
            seen(images, result.images.clamp(-1, 1))
        losses = reconstruction_losses(images, result, perceptual)
        return {
            "loss": weighted_sum(losses, weights),
            **losses,
            "psnr": psnr(images, result.images).mean(),
        }

    return mean_over((len(images), figures(images)) for images in batches) | counts.figures()


def draw_pairs(images: Tensor, reconstructions: Tensor, columns: int = 8) -> Image.Image:
    """Contact sheet: rows of images, each above the row of their reconstructions."""
    cells = []
    for start in range(0, len(images), columns):
        part = slice(start, start + columns)
        cells += [to_pil(i) for i in images[part]] + [to_pil(r.clamp(-1, 1)) for r in reconstructions[part]]
    return draw_grid(cells, columns=min(columns, len(images)))


def last_weight(decoder: nn.Module) -> Tensor:
    """The weight of the decoder's last layer, whatever its kind (gains and biases have one dimension)."""
    return [p for p in decoder.parameters() if p.dim() > 1][-1]


def memory_format(width: int) -> torch.memory_format:
    """Channels-last pays for wide networks; for narrow ones on a CPU its group norm is several times slower.

    Measured on two Xeon cores, bf16, f4, 32 px, batch 64: width 16 136 ms a step against 183 (channels-last),
    width 64 526 against 426.
    """
    wide = width >= NARROW or torch.cuda.is_available()
    return torch.channels_last if wide else torch.contiguous_format
