"""The attention layers of a network, and the weights with which one of its tokens attends to places of an image.

Shapes: h, w grid, T = h*w tokens, S prefix length, R registers, N keys, L encoder states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..nn.attention import AttentionInputs, CrossAttention, EncoderInputs, SelfAttention
from ..nn.recording import Weights
from ..options import whole_number
from ..prior.conditions.image import ImageConfig
from ..prior.model import Prior
from ..tokenizer.layers import SelfAttention as ConvAttention
from ..tokenizer.model import Tokenizer
from ..tokenizer.vit import VitDecoder, VitEncoder
from .condition_loader import to_condition
from .models import Models


@dataclass(frozen=True)
class Place:
    """One token of a grid."""

    row: int
    column: int
    grid: tuple[int, int]

    @property
    def index(self) -> int:
        """Its number in raster order."""
        return self.row * self.grid[1] + self.column


@dataclass(frozen=True)
class Network:
    """A network and how its attention is recorded."""

    layers: Sequence[nn.Module]
    weights: Weights
    """Returns the weights (1, heads, h, w) of a layer at places of the image."""
    run: Callable[[], object]


def to_place(at: tuple[int, int], grid: tuple[int, int]) -> Place:
    """Return a checked place. Raises ConfigError."""
    row, column = (whole_number("at", value, 0, 2**31) for value in at)
    if row >= grid[0] or column >= grid[1]:
        raise ConfigError(
            f"row {row}, column {column} is outside the grid of {grid[0]}x{grid[1]} tokens: rows are 0 to "
            f"{grid[0] - 1}, columns 0 to {grid[1] - 1}"
        )
    return Place(row, column, grid)


def latent_grid(tokenizer: Tokenizer) -> tuple[int, int]:
    """Grid (h, w) of the tokenizer's networks: one place for all codes of a latent."""
    h, w = tokenizer.config.grid
    return h, w // tokenizer.config.codes_per_latent


def tokenizer_network(tokenizer: Tokenizer, pixels: Tensor, place: Place, of: str) -> Network:
    """Return the encoder or decoder of a tokenizer."""
    network = tokenizer.encoder if of == "encoder" else tokenizer.decoder
    if isinstance(network, (VitEncoder, VitDecoder)):
        layers = _layers(network, SelfAttention)
        weights = _vit_weights(len(network.transformer.registers), place)
    else:
        layers, weights = _layers(network, ConvAttention), _conv_weights(place)
    return Network(layers, weights, lambda: tokenizer(pixels))


def _layers(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, kind)]


def _conv_weights(place: Place) -> Weights:
    def weights(layer: ConvAttention, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        (h, w), row, column = place.grid, place.row, place.column
        query = (2 * row + 1) * H // (2 * h) * W + (2 * column + 1) * W // (2 * w)
        return layer.weights(x, query).unflatten(-1, (H, W))

    return weights


def _vit_weights(registers: int, place: Place) -> Weights:
    def weights(layer: SelfAttention, x: Tensor, inputs: AttentionInputs) -> Tensor:
        own = layer.weights(x, inputs, registers + place.index)  # (1, heads, R + T)
        return own[..., registers:].unflatten(-1, place.grid)

    return weights


def prior_network(
    models: Models, pixels: Tensor, place: Place, of: str, order: str, values: Mapping[str, list[Any]]
) -> Network:
    """Return the prior, which predicts the code at the place."""
    prior = models.prior
    if of == "condition" and not values.get("image"):
        raise ConfigError("the prior looks at a conditioning image: give one")
    condition = to_condition(models.loaders, {kind: own[:1] for kind, own in values.items()})
    codes = models.tokenizer.encode(pixels).flatten(1).to(prior.device)  # (1, T)
    query, held, sequence = _sequence(prior, place, order)
    if prior.config.objective == "masked":
        codes[0, place.index] = -1
    if of == "condition":
        layers = _layers(prior.blocks, CrossAttention)
        weights = _condition_weights(prior, query)
    else:
        layers = _layers(prior.blocks, SelfAttention)
        weights = _code_weights(query, held, place.grid)
    return Network(layers, weights, lambda: prior(codes, **condition, order=sequence))


def _sequence(prior: Prior, place: Place, order: str) -> tuple[int, Tensor, Tensor | None]:
    """Return the token that predicts the code at a place, the positions (N,) that the tokens hold, and the order.

    Tokens of the prefix hold negative positions.
    """
    S, T, p = prior.config.prefix_length, prior.config.tokens, place.index
    if prior.config.objective == "masked":
        return S + p, torch.arange(-S, T), None
    positions = torch.arange(T)
    if order == "last":
        positions = torch.cat([positions[:p], positions[p + 1 :], positions[p : p + 1]])
    held = torch.cat([torch.arange(-S, 0), positions[:-1]])
    step = T - 1 if order == "last" else p
    return S - 1 + step, held, positions if order == "last" else None


def _code_weights(query: int, held: Tensor, grid: tuple[int, int]) -> Weights:
    def weights(layer: SelfAttention, x: Tensor, inputs: AttentionInputs) -> Tensor:
        own = layer.weights(x, inputs, query).cpu()  # (1, heads, N)
        at_codes = own.new_zeros(*own.shape[:2], grid[0] * grid[1])
        at_codes[..., held[held >= 0]] = own[..., held >= 0]
        return at_codes.unflatten(-1, grid)

    return weights


def _condition_weights(prior: Prior, query: int) -> Weights:
    config = prior.config
    kinds = prior.conditions.encoder_kinds
    start = 1 + sum(config.condition_length(kind) for kind in kinds[: kinds.index("image")])
    own_config = config.condition("image")
    assert isinstance(own_config, ImageConfig)
    cells = own_config.cells(config.grid)

    def weights(layer: CrossAttention, x: Tensor, encoder: EncoderInputs) -> Tensor:
        own = layer.weights(x, encoder, query)  # (1, heads, L)
        return own[..., start : start + cells[0] * cells[1]].unflatten(-1, cells)

    return weights
