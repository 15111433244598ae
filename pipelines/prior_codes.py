"""Codes that a prior predicts at each position, given the real codes before it.

Shapes: B batch, h, w grid, T tokens, V codebook size.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..data.source import ImageSource
from ..errors import CheckpointError, ConfigError
from ..pretrained import CONFIG_FILE
from ..prior.model import Prior
from ..prior.train import condition_of
from ..tokenizer.code_noise import Rand
from ..tokenizer.model import Tokenizer
from ..training.stage import Batch

READABLE = {"label", "text"}
"""Conditions that a batch of images has."""


class PriorCodes:
    """Draws every code of a grid in one pass of the prior (teacher forcing)."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    @classmethod
    def open(cls, folder: Path, tokenizer: Tokenizer, train: ImageSource) -> PriorCodes:
        """Load the prior of a model folder, for the images that a decoder is tuned on.

        Raises:
            CheckpointError: there is none, or it was trained on other codes.
            ConfigError: its objective or a condition does not allow this.
        """
        if not (folder / "prior" / CONFIG_FILE).exists():
            raise CheckpointError(
                f"{folder} holds no prior: train one first, or leave out --codes-from-prior"
            )
        prior = Prior.from_pretrained(folder / "prior", tokenizer.device)
        config = prior.config
        if config.tokenizer_sha256 and not tokenizer.made_codes_of(config.tokenizer_sha256):
            raise CheckpointError(
                f"{folder}: the prior was trained on the codes of another tokenizer than this one"
            )
        why = ""
        if config.objective != "raster":
            why = f"the objective of the prior is {config.objective}, not raster"
        elif others := set(config.condition_kinds) - READABLE:
            why = f"the prior is conditioned on {', '.join(sorted(others))}"
        elif config.class_names and config.class_names != train.class_names:
            why = "the classes of the prior are not those of the images"
        if why:
            raise ConfigError(f"--codes-from-prior does not work here: {why}")
        return cls(prior)

    @torch.no_grad()
    def __call__(self, codes: Tensor, batch: Batch, rand: Rand) -> Tensor:
        """Return codes like the given ones, (B, h, w), each drawn from the prior's probabilities."""
        real = codes.flatten(1)  # (B, T)
        condition = condition_of(batch, self.prior.config).to(codes.device)
        p = self.prior(real, **condition).float().softmax(-1)  # (B, T, V)
        uniform = rand(*real.shape, device=codes.device)
        drawn = (p.cumsum(-1) < uniform[..., None]).sum(-1)
        return drawn.clamp_max(p.shape[-1] - 1).view_as(codes)
