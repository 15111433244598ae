"""`config.json` of diffusers' VQModel as a tokenizer's configuration, and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..options import Size, to_size
from ..tokenizer.config import TokenizerConfig
from .stage import IMAGE_SIZE

logger = logging.getLogger("imgtf")

CLASS = "VQModel"
DIFFUSERS = "0.42.1"
"""Version of diffusers whose layout is written."""
DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
ATTENTION = "Attn"
"""Prefix of the types of blocks with attention."""
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": (DOWN,),
    "up_block_types": (UP,),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 3,
    "sample_size": 32,
    "num_vq_embeddings": 256,
    "norm_num_groups": 32,
    "vq_embed_dim": None,
    "scaling_factor": 0.18215,
    "norm_type": "group",
    "mid_block_add_attention": True,
    "lookup_from_codebook": False,
    "force_upcast": False,
}
"""Values of keys that a config.json does not have. The networks of imgtf do not use `scaling_factor` (for diffusion
models), `lookup_from_codebook` (what `decode` is given) and `force_upcast` (a precision)."""
WHOLE = (
    "in_channels", "out_channels", "layers_per_block", "latent_channels", "num_vq_embeddings", "norm_num_groups",
    "vq_embed_dim",
)  # fmt: skip
OURS = "_imgtf_version"
"""Key of files that imgtf wrote. diffusers ignores keys that start with an underscore."""


def from_vqmodel(settings: Mapping[str, Any], image_size: Size | None) -> TokenizerConfig:
    """Return the tokenizer of a config.json. `image_size` replaces its `sample_size`.

    Raises:
        CheckpointError: no tokenizer of imgtf computes the same; the message names the key.
    """
    values = DEFAULTS | dict(settings)
    if values["vq_embed_dim"] is None:
        values["vq_embed_dim"] = values["latent_channels"]
    _check(values)
    multipliers = _multipliers(values["block_out_channels"])
    try:
        return TokenizerConfig(
            image_size=image_size or _image_size(values),
            channels=values["in_channels"],
            width=values["block_out_channels"][0],
            multipliers=multipliers,
            blocks=values["layers_per_block"],
            attention_levels=_attention_levels(values, len(multipliers)),
            middle_attention=bool(values["mid_block_add_attention"]),
            latent_width=values["latent_channels"],
            norm_groups=values["norm_num_groups"],
            codebook_size=values["num_vq_embeddings"],
            codebook_dim=values["vq_embed_dim"],
            codebook_distance="euclidean",
            # As for other published models: fine-tuning must not replace codes in its first step.
            dead_code_threshold=0.0,
        )
    except ConfigError as error:
        raise CheckpointError(f"config.json: imgtf has no network of these sizes: {error}") from error


def to_vqmodel(config: TokenizerConfig) -> dict[str, Any]:
    """Return the config.json of a tokenizer.

    Raises:
        CheckpointError: no VQModel computes the same; the message has the reason.
    """
    reason = _not_a_vqmodel(config)
    if reason:
        raise CheckpointError(f"diffusers cannot represent this tokenizer: {reason}")
    attention = [ATTENTION * (i in config.attention_levels) for i in range(len(config.multipliers))]
    return DEFAULTS | {
        "_class_name": CLASS,
        "_diffusers_version": DIFFUSERS,
        OURS: version("imgtf"),
        "in_channels": config.channels,
        "out_channels": config.channels,
        "down_block_types": [name + DOWN for name in attention],
        "up_block_types": [name + UP for name in reversed(attention)],
        "block_out_channels": [config.width * m for m in config.multipliers],
        "layers_per_block": config.blocks,
        "latent_channels": config.latent_width,
        "sample_size": config.image_size,
        "num_vq_embeddings": config.codebook_size,
        "norm_num_groups": config.norm_groups,
        "vq_embed_dim": config.codebook_dim,
        "mid_block_add_attention": config.middle_attention,
    }


def _not_a_vqmodel(config: TokenizerConfig) -> str:
    if config.network != "conv":
        return f"its network is {config.network}, and VQModel has convolutions only"
    if config.quantizer != "vq":
        return f"its quantizer is {config.quantizer}, and VQModel has a codebook of nearest codes only (vq)"
    if config.stem != 1:
        return f"its stem is {config.stem}, and VQModel works at full resolution"
    if config.multipliers[0] != 1:
        return f"its first multiplier is {config.multipliers[0]}, and the first level of VQModel has multiplier 1"
    return ""


def _check(values: Mapping[str, Any]) -> None:
    for key in WHOLE:
        if type(values[key]) is not int or values[key] < 1:
            raise CheckpointError(f"config.json: {key} is {values[key]!r}, not a positive whole number")
    if values["norm_type"] != "group":
        raise CheckpointError(
            f"config.json: norm_type is {values['norm_type']!r}: the decoder's norms depend on the codes (MoVQ), "
            f"which imgtf's network does not have; only 'group' is supported"
        )
    if str(values["act_fn"]).lower() not in ("silu", "swish"):
        raise CheckpointError(f"config.json: act_fn is {values['act_fn']!r}; imgtf's network has 'silu' only")
    if values["in_channels"] != values["out_channels"]:
        raise CheckpointError(
            f"config.json: out_channels is {values['out_channels']}, in_channels {values['in_channels']}; imgtf "
            f"decodes to the channels that it encodes"
        )


def _multipliers(widths: Any) -> tuple[int, ...]:
    """Return the widths of the levels as multiples of the first."""
    if not _is_list_of(int, widths) or min(widths) < 1:
        raise CheckpointError(f"config.json: block_out_channels is {widths!r}, not a list of whole numbers")
    if any(width % widths[0] for width in widths):
        raise CheckpointError(
            f"config.json: block_out_channels is {list(widths)}; imgtf's levels are multiples of the first"
        )
    return tuple(width // widths[0] for width in widths)


def _attention_levels(values: Mapping[str, Any], levels: int) -> tuple[int, ...]:
    """Return the levels with attention, counted from full resolution; up_block_types starts at the lowest."""
    found = {}
    for key, plain in (("down_block_types", DOWN), ("up_block_types", UP)):
        types = values[key]
        if not _is_list_of(str, types) or len(types) != levels:
            raise CheckpointError(f"config.json: {key} is {types!r}, not the types of {levels} blocks")
        unknown = [name for name in types if name not in (plain, ATTENTION + plain)]
        if unknown:
            raise CheckpointError(
                f"config.json: {key} has {unknown[0]}; imgtf has {plain} and {ATTENTION + plain}"
            )
        found[key] = [name.startswith(ATTENTION) for name in types]
    if found["down_block_types"] != found["up_block_types"][::-1]:
        raise CheckpointError(
            "config.json: up_block_types has attention at other levels than down_block_types; imgtf's decoder has it "
            "where the encoder has it"
        )
    return tuple(i for i, attended in enumerate(found["down_block_types"]) if attended)


def _is_list_of(kind: type, values: Any) -> bool:
    return isinstance(values, Sequence) and bool(values) and all(type(value) is kind for value in values)


def _image_size(values: Mapping[str, Any]) -> Size:
    """Return the size of the images. `sample_size` 32 is mostly the default, not the size of the training images."""
    size = values["sample_size"]
    if size == DEFAULTS["sample_size"] and OURS not in values:
        logger.info(
            "sample_size of config.json is diffusers' default, 32: the image size is set to %d; --image-size sets "
            "another",
            IMAGE_SIZE,
        )
        return IMAGE_SIZE
    try:
        return to_size(size, "config.json: sample_size")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
