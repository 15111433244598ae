"""`--batch-size auto`: the largest micro-batch that fits in memory, with the batch of the preset."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from accelerate import Accelerator

from ..errors import ConfigError
from ..training.checkpoint import random_state, set_random_state
from ..training.config import TrainingConfig
from ..training.ema import EMA
from ..training.memory import bounded_memory, fewest_parts
from ..training.stage import Stage

logger = logging.getLogger("imgtf")

UPDATES = 2
"""Of a trial: the second one has the optimizer's moments in memory too."""


def fit_batch(
    training: TrainingConfig, accelerator: Accelerator, build: Callable[[TrainingConfig], Stage]
) -> TrainingConfig:
    """Return the settings with as few micro-batches per update as fit in memory; the batch stays the same.

    Each trial does two updates as in the last step of the run, with all its losses. Random numbers and weights of the
    run are not touched.

    Args:
        build: makes a stage with a model of its own.

    Raises:
        ConfigError: there are several processes.
        ImgtfError: single images do not fit either.
    """
    if accelerator.num_processes > 1:
        raise ConfigError(
            "--batch-size auto works with one process: find the micro-batch with one, then give "
            "--gradient-accumulation-steps"
        )
    before = random_state()

    def attempt(parts: int) -> None:
        try:
            _try(replace(training, gradient_accumulation_steps=parts), accelerator, build)
        finally:
            accelerator.free_memory()

    with bounded_memory(accelerator.device):
        parts = fewest_parts(training.batch_size, 1, attempt)
    set_random_state(before)
    accelerator.gradient_accumulation_steps = parts
    logger.info(
        "batch size auto: %d images per step, in micro-batches of %d",
        training.batch_size,
        training.batch_size // parts,
    )
    return replace(training, gradient_accumulation_steps=parts)


def _try(config: TrainingConfig, accelerator: Accelerator, build: Callable[[TrainingConfig], Stage]) -> None:
    """Do two updates. Two micro-batches each show what more of them need."""
    micro_batches = min(2, config.gradient_accumulation_steps)
    accelerator.gradient_accumulation_steps = micro_batches
    stage = build(config)
    stage.config = config
    stage.prepare(accelerator, config)
    average = EMA(stage.model, config.ema_decay) if config.ema_decay > 0 else None
    stage.completed_steps = config.steps - 1
    stage.network.train()
    batches = stage.train_batches(0)
    networks = [optimized.network for optimized in stage.optimized_networks()]
    for step in range(UPDATES):
        stage.guard.begin(stage.trained_modules().values())
        for _ in range(micro_batches):
            with accelerator.accumulate(*networks):
                stage.step(next(batches))
        stage.guard.end()
        if average:
            average.update(step)
