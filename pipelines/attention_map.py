"""Where one token looks: the weights of one query in an attention layer, as a map over the image.

Shapes: h, w grid.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..data.image import check_background, to_pil
from ..errors import ConfigError
from ..nn.recording import recorded
from ..options import whole_number
from ..tokenizer.images import ImageLike, open_image
from .attention_layers import Network, Place, latent_grid, prior_network, to_place, tokenizer_network
from .conditioning_images import ImageLoader
from .heatmap import overlay
from .models import Models
from .prepare import changed_text, fixed_values, prepare
from .request import Features, Labels, Texts

logger = logging.getLogger("imgtf")

NETWORKS = ("prior", "encoder", "decoder", "condition")
ORDERS = ("raster", "last")
FRAME = (0, 200, 255)
"""Colour of the frame around the token that looks."""


@dataclass(frozen=True)
class AttentionMap:
    """Where one token looks in one attention layer."""

    weights: np.ndarray
    """(h, w) float64, the share of attention at each place. Their sum is 1 - `elsewhere`."""
    elsewhere: float
    """The share at no place of the image: at the condition in front of the codes, or at registers."""
    image: Image.Image
    """What the weights lie over: the image at the model's size, for "condition" the conditioning image."""
    at: tuple[int, int]
    """Row and column of the token that looks."""
    grid: tuple[int, int]
    """Grid (h, w) in which it has this row and column."""
    layer: int
    layers: int
    """Number of attention layers."""
    heads: int
    """Number of heads of this layer."""

    def summary(self) -> dict[str, Any]:
        """Return what the map shows in numbers."""
        row, column = (int(i) for i in np.unravel_index(self.weights.argmax(), self.weights.shape))
        return {
            "layer": f"{self.layer} of 0 to {self.layers - 1}",
            "heads": self.heads,
            "most_attended": [row, column],
            "its_share": float(self.weights.max()),
            "share_outside_the_image": self.elsewhere,
        }

    def overlay(self) -> Image.Image:
        """Return the image in grey with the weights over it in colour, and a frame around the token that looks.

        The colours run from 0 to the largest weight: yellow, orange, red, purple.
        """
        picture = overlay(self.image, self.weights, 0.0, max(float(self.weights.max()), 1e-12))
        (row, column), (h, w) = self.at, self.grid
        across, down = picture.width / w, picture.height / h
        box = (column * across, row * down, (column + 1) * across - 1, (row + 1) * down - 1)
        ImageDraw.Draw(picture).rectangle(box, outline=FRAME, width=max(1, round(min(across, down) / 8)))
        return picture


@torch.no_grad()
def attention(
    models: Models,
    image: ImageLike,
    at: tuple[int, int],
    *,
    of: str = "prior",
    layer: int | None = None,
    head: int | None = None,
    order: str = "raster",
    label: Labels = None,
    text: Texts = None,
    features: Features = None,
    conditioning_image: ImageLike | None = None,
    background: str = "white",
) -> AttentionMap:
    """Return where the token at a place of an image looks.

    - "prior": the token that predicts the code at the place looks at the codes before it. In a masked prior it looks at
      all codes, and the one at the place is unknown.
    - "condition": the same token looks at the conditioning image.
    - "encoder", "decoder": the place looks at the whole image. In a layer with several places per token, the one in the
      middle of the token looks.

    Args:
        at: row and column of the token, from 0.
        of: one of `NETWORKS`.
        layer: number of the attention layer, from 0 in the order of computation; None: the last one.
        head: number of the attention head, from 0; None: the average over all heads.
        order: of random priors: "raster", or "last" to predict the code after all others.
        label, text, features: condition of the prior; None is unconditional.
        conditioning_image: of a prior that has one.
        background: colour behind transparent pixels.

    Raises:
        ConfigError: a network without attention, or a place, layer, head, order or condition that does not exist.
        DataError: an image cannot be read.
    """
    _check(models, of, order)
    check_background(background)
    pil = None if conditioning_image is None else open_image(conditioning_image, "conditioning image")
    values = fixed_values(models.loaders, label=label, text=text, features=features, image=pil)
    prepared = prepare(image, models.tokenizer.config, background)
    if prepared.changed:
        logger.info("%s", changed_text("the image was", models.tokenizer.config))
    pixels = prepared.pixels[None].to(models.tokenizer.device)  # (1, C, H, W)
    if of in ("encoder", "decoder"):
        place = to_place(at, latent_grid(models.tokenizer))
        network = tokenizer_network(models.tokenizer, pixels, place, of)
    else:
        place = to_place(at, models.prior.config.grid)
        network = prior_network(models, pixels, place, of, order, values)
    shown = _conditioning_image(models, values["image"][0]) if of == "condition" else prepared.image
    return _map(network, of, shown, place, layer, head)


def _check(models: Models, of: str, order: str) -> None:
    """Raise a ConfigError for a network or an order that does not exist."""
    config = models.prior.config
    if of not in NETWORKS:
        raise ConfigError(f"of must be one of {', '.join(NETWORKS)}, got {of!r}")
    if order not in ORDERS:
        raise ConfigError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    if order == "last" and config.objective != "random":
        raise ConfigError(f"order last is for random priors; this one is {config.objective}")
    if of == "condition" and "image" not in config.condition_kinds:
        raise ConfigError(
            f"this prior has no conditioning image; its conditions: {', '.join(config.condition_kinds) or 'none'}"
        )


def _conditioning_image(models: Models, image: Image.Image) -> Image.Image:
    """Return a conditioning image as its tokenizer reads it."""
    (loader,) = (own for own in models.loaders if isinstance(own, ImageLoader))
    return to_pil(loader.pixels(image), loader.image_tokenizer.config.bit_depth)


def _map(
    network: Network, of: str, shown: Image.Image, place: Place, layer: int | None, head: int | None
) -> AttentionMap:
    """Run the network once, and take the weights of one layer and head."""
    if not network.layers:
        raise ConfigError(
            f"the tokenizer's {of} has no attention layers: it has no middle_attention and no attention_levels"
        )
    with recorded(network.layers, network.weights) as layers:
        network.run()
    number = len(layers) - 1 if layer is None else _number("layer", layer, len(layers))
    heads = layers[number][0].double().cpu()  # (heads, h, w)
    own = heads.mean(0) if head is None else heads[_number("head", head, len(heads))]
    elsewhere = max(0.0, 1.0 - float(own.sum()))
    return AttentionMap(
        own.numpy(), elsewhere, shown, (place.row, place.column), place.grid, number, len(layers), len(heads)
    )


def _number(name: str, value: int, count: int) -> int:
    """Return the number of a layer or head. Raises ConfigError."""
    value = whole_number(name, value, 0, 2**31)
    if value >= count:
        raise ConfigError(
            f"there is no {name} {value}: this network has {count}, numbered from 0 to {count - 1}"
        )
    return value
