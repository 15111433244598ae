"""`--batch-size auto`: the largest micro-batch that fits in memory, with the batch of the preset."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor

from ..errors import ConfigError
from ..training.agreement import Agreement
from ..training.alone import alone, quiet
from ..training.checkpoint import random_state, set_random_state
from ..training.config import TrainingConfig
from ..training.ema import EMA
from ..training.guard import UpdateGuard
from ..training.memory import bounded_memory, fewest_parts, isolated
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

    Several processes try the same sizes at the same time, and agree on one that fits in the memory of each. A trial
    waits for no other process, because one that is out of memory leaves it (see `alone`). It has all that the run has
    in memory: DDP's gradient buckets, or with `--shard` what is gathered and scattered.

    Args:
        build: makes a stage with a model of its own.

    Raises:
        ConfigError: the processes cannot share the batch evenly.
        ImgtfError: single images do not fit either.
    """
    processes = accelerator.num_processes
    if training.batch_size % processes:
        raise ConfigError(
            f"--batch-size auto: a batch of {training.batch_size} images cannot be divided evenly among "
            f"{processes} processes; give --batch-size, a multiple of their number"
        )
    before, agreement = random_state(), Agreement()
    # Its barrier is a collective operation too: NCCL's own buffers are in memory before the trials, which make none.
    with accelerator.main_process_first():  # which may download what LPIPS needs
        build(training)

    def attempt(parts: int) -> None:
        config = replace(training, gradient_accumulation_steps=parts)
        try:
            isolated(lambda: _try(config, accelerator, build), accelerator.device)
        finally:
            accelerator.free_memory()

    local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    with bounded_memory(accelerator.device, local), alone():
        parts = fewest_parts(training.batch_size, processes, attempt, agreement.any)
    set_random_state(before)
    accelerator.gradient_accumulation_steps = parts
    logger.info(
        "batch size auto: %d images per step, in micro-batches of %d%s",
        training.batch_size,
        training.batch_size // parts,
        f" over {processes} processes" if processes > 1 else "",
    )
    return replace(training, gradient_accumulation_steps=parts)


def _try(config: TrainingConfig, accelerator: Accelerator, build: Callable[[TrainingConfig], Stage]) -> None:
    """Do two updates. Two micro-batches each show what more of them need."""
    micro_batches = min(2, config.gradient_accumulation_steps)
    accelerator.gradient_accumulation_steps = micro_batches
    stage = build(config)
    stage.config = config
    stage.prepare(accelerator, config)
    stage.guard = _Lenient(accelerator, config.skip_spikes)
    average = EMA(stage.model, config.ema_decay) if config.ema_decay > 0 else None
    stage.completed_steps = config.steps - 1
    stage.network.train()
    batches = stage.train_batches(0)
    networks = [optimized.network for optimized in stage.optimized_networks()]
    quiet(networks)
    for step in range(UPDATES):
        stage.guard.begin(stage.trained_modules().values())
        for _ in range(micro_batches):
            with accelerator.accumulate(*networks):
                stage.step(next(batches))
        stage.guard.end()
        if average:
            average.update(step)


class _Lenient(UpdateGuard):
    """Lets every update pass, so that optimizers have their moments in memory.

    The gradients of a process alone may not be finite: what FSDP2 scatters never arrives.
    """

    def judge(self, norms: Sequence[Tensor], step: int, *, scaled: bool) -> Tensor:
        return torch.zeros_like(super().judge(norms, step, scaled=scaled))
