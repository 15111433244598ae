"""The speed of a network in training on this machine, from a step or two on random data.

It tells which network a time allows before anything is trained. Reading of images, the optimizer and the
discriminator are not measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..errors import is_out_of_memory
from ..prior.config import PriorConfig
from ..prior.model import Prior
from ..tokenizer.codec import memory_format
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.losses import loss_weights, reconstruction_losses
from ..tokenizer.model import Tokenizer
from ..tokenizer.perceptual import Perceptual
from ..tokenizer.recipe import TokenizerRecipe

T = TypeVar("T")

IMAGES = {"cpu": 4, "cuda": 32}
"""Images of a measured step. A few are enough on a CPU for a network that takes long for each."""
MORE = 4
"""How many times more images a step has where that is quick: with few, much of the time does not depend on them."""
ROUNDS = 3
"""Most measured steps, after one that loads libraries and allocates memory; the fastest one counts."""
MOST_SECONDS = 2.0
"""No further step is measured after this time, but one is."""


def tokenizer_speed(
    config: TokenizerConfig, accelerator: Accelerator, recipe: TokenizerRecipe | None = None
) -> float:
    """Return images per second of all processes in training a tokenizer; 0 where the memory does not suffice.

    Args:
        recipe: its reconstruction losses count too; without it only the network and a plain loss.
    """
    device = accelerator.device
    weights, perceptual = {"l1": 1.0}, None
    if recipe is not None:
        weights = loss_weights(recipe)
        if recipe.lpips_weight:
            file = Path(recipe.lpips_file) if recipe.lpips_file else None
            perceptual = Perceptual(recipe.lpips_backbone, file).to(device)
    return _speed(lambda count: _tokenizer_step(config, weights, perceptual, device, count), accelerator)


def _tokenizer_step(
    config: TokenizerConfig, weights: dict[str, float], perceptual: Perceptual | None, device: torch.device,
    count: int,
) -> Callable[[], Tensor]:  # fmt: skip
    """A tokenizer with random images and its loss."""
    layout = memory_format(config.first_level_width)
    model = Tokenizer(config).to(device, memory_format=layout)  # type: ignore[call-overload]
    images = torch.rand(count, config.channels, *config.size, device=device) * 2 - 1

    def loss() -> Tensor:
        result = model(images)
        losses = reconstruction_losses(images, result.images, weights, perceptual)
        return sum(losses.values()) + sum(result.losses.values())

    return loss


def prior_speed(config: PriorConfig, accelerator: Accelerator) -> float:
    """Return images per second of all processes in training a prior without its conditions; else as above."""

    def prepare(count: int) -> Callable[[], Tensor]:
        model = Prior(config).to(accelerator.device)
        codes = torch.randint(config.codebook_size, (count, config.tokens), device=accelerator.device)
        order = torch.arange(config.tokens, device=accelerator.device).expand(count, -1)
        more = {"order": order} if config.objective == "random" else {}
        return lambda: F.cross_entropy(model(codes, **more).flatten(0, 1), codes.flatten())

    return _speed(prepare, accelerator)


def _speed(prepare: Callable[[int], Callable[[], Tensor]], accelerator: Accelerator) -> float:
    """Images per second, as the main process measures it. All processes take part: their codebooks wait for others."""
    device = accelerator.device
    count = IMAGES.get(device.type, IMAGES["cpu"])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        count, seconds = _most_that_fit(prepare, count, accelerator)
        if device.type == "cpu" and agreed(MORE * seconds, accelerator) < MOST_SECONDS / 2:
            count, seconds = _most_that_fit(prepare, MORE * count, accelerator)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return agreed(count / seconds, accelerator) * accelerator.num_processes


def _most_that_fit(
    prepare: Callable[[int], Callable[[], Tensor]], count: int, accelerator: Accelerator
) -> tuple[int, float]:
    """Return how many images of a step fit into the memory, at most `count`, and its seconds; infinite for none."""
    while count:
        seconds = _within_memory(prepare, count, accelerator)
        if agreed(seconds, accelerator) < math.inf:
            return count, seconds
        count //= 2
    return 0, math.inf


def _within_memory(
    prepare: Callable[[int], Callable[[], Tensor]], count: int, accelerator: Accelerator
) -> float:
    """Return the seconds of a step; infinite where the memory does not suffice."""
    try:
        return _seconds(prepare(count), accelerator)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return math.inf


def _seconds(loss: Callable[[], Tensor], accelerator: Accelerator) -> float:
    times: list[float] = []
    while len(times) < 1 + ROUNDS:
        start = time.perf_counter()
        with accelerator.autocast():
            value = loss()
        value.backward()
        value.item()  # waits for a GPU
        times.append(time.perf_counter() - start)
        # The first step of a process can take seconds, where the libraries come from a cold disk.
        if len(times) > 1 and agreed(sum(times), accelerator) > MOST_SECONDS:
            break
    return min(times[1:])


def agreed(value: T, accelerator: Accelerator) -> T:
    """Return the value of the main process in all of them."""
    if accelerator.num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]
