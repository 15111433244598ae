"""The optimizers of a network: AdamW, or Muon for the matrices inside and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..pretrained import PretrainedModel
from .config import TrainingConfig
from .muon import Muon

LAYERS = (nn.Linear, nn.Conv2d)
"""Layers whose weights decay, and whose weights Muon trains."""
MUON = "muon"
"""Name of Muon's state file."""


def make_optimizers(
    model: PretrainedModel, config: TrainingConfig, *, bf16: bool = False
) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizers of a model by the name of their state file.

    Weight decay is on linear and convolution weights only (no biases, gains, embeddings). Muon trains those of them
    inside the network; the layers that read or write data (`model.outer_layers`) stay with AdamW, as in Jordan et al.,
    at `model.adamw_lr_ratio` times the learning rate.
    `bf16`: whether the run computes in bf16.
    """
    layers = [m for m in model.modules() if isinstance(m, LAYERS)]
    inner = _inner_weights(model, layers) if config.optimizer == "muon" else set()
    weights = {id(m.weight) for m in layers} - inner
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if id(p) in weights], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if id(p) not in weights | inner], "weight_decay": 0.0},
    ]
    if inner:
        for group in groups:
            group["lr_ratio"] = model.adamw_lr_ratio
    betas = (config.beta1, config.beta2)
    found: dict[str, torch.optim.Optimizer] = {
        "optimizer": torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)
    }
    if matrices := [p for p in parameters if id(p) in inner]:
        found[MUON] = Muon(matrices, config.lr, config.weight_decay, bf16=bf16)
    return found


def _inner_weights(model: PretrainedModel, layers: Iterable[nn.Module]) -> set[int]:
    """Return the ids of the weights of those layers that are not outer ones."""
    outer = {id(m) for layer in model.outer_layers() for m in layer.modules()}
    return {id(m.weight) for m in layers if id(m) not in outer}
