"""diffusers' VQModel: tokenizer of LDM (arXiv:2112.10752), VQ-Diffusion (2111.14822) and aMUSEd (2401.01808).

Code: github.com/huggingface/diffusers, Apache-2.0. Weights lie beside a config.json, which has the sizes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..prior.config import PriorConfig
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from . import vqgan
from .mapping import Entry
from .stage import Hints, StageWeights
from .vqmodel_config import from_vqmodel, to_vqmodel

logger = logging.getLogger("imgtf")

SOURCE = "a VQModel of diffusers (github.com/huggingface/diffusers)"
LICENCE = "Apache-2.0"
NAMING = vqgan.Naming(
    encoder_level="encoder.down_blocks",
    decoder_level="decoder.up_blocks",
    block="resnets",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    decoder_forward=True,
    normalised=False,
    shortcut="conv_shortcut",
    attention="attentions",
    attention_layers=("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    linear=True,
    downsample="downsamplers.0.conv",
    upsample="upsamplers.0.conv",
    norm_out="conv_norm_out",
)
CREATED = vqgan.CREATED
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention in files of 2022 and early 2023. diffusers renames them too."""
OLD_NAME = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(?=\.)")


def recognise(names: Iterable[str]) -> tuple[str, ...]:
    """Return the stages in a state dict with these names; none if it is of another family."""
    names = set(names)
    encoder = any(name.startswith("encoder.down_blocks.") for name in names)
    return ("tokenizer",) if encoder and "quantize.embedding.weight" in names else ()


def read_tokenizer(tensors: Mapping[str, Tensor], hints: Hints) -> StageWeights:
    """Return the VQModel. Its sizes follow from the config.json in `hints.settings`."""
    config = from_vqmodel(hints.settings, hints.image_size)
    if hints.settings.get("lookup_from_codebook"):
        logger.info(
            "lookup_from_codebook is set, as in aMUSEd: if this is its tokenizer, its images are in [0, 1], and the "
            "commands of imgtf give it images in [-1, 1]"
        )
    return vqgan.read_weights(config, NAMING, {new_name(name): t for name, t in tensors.items()})


def new_name(name: str) -> str:
    """Return the present name of a tensor."""
    return OLD_NAME.sub(lambda match: match[1] + OLD_NAMES[match[2]], name)


def tokenizer_entries(config: TokenizerConfig) -> Iterator[Entry]:
    """Yield every tensor of the VQModel under both names.

    Raises:
        CheckpointError: no VQModel computes the same.
    """
    to_vqmodel(config)
    return vqgan.entries(config, NAMING)


def prior_entries(config: PriorConfig) -> Iterator[Entry]:
    """Raise CheckpointError: a VQModel is a tokenizer."""
    raise CheckpointError(
        "diffusers has no network like the prior: export the tokenizer, with --stage tokenizer"
    )


def to_euclidean(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with Euclidean distance that has the same codes and images.

    Of codes e of length 1, the one nearest to a latent z by angle is the nearest by distance too, whatever the length
    of z: |z - e|^2 = |z|^2 + 1 - 2 z.e.

    Raises:
        CheckpointError: the distance is cosine, and the codes are not of length 1.
    """
    config = tokenizer.config
    if config.quantizer != "vq" or config.codebook_distance != "cosine":
        return tokenizer
    codes = tokenizer.state_dict()[f"{vqgan.CODEBOOK}.embed"]
    if not torch.equal(vqgan.unit_length(codes), codes):
        raise CheckpointError(
            "diffusers cannot represent this tokenizer: its distance is cosine, and its codes are not of length 1"
        )
    euclidean = Tokenizer(replace(config, codebook_distance="euclidean"))
    euclidean.load_state_dict(tokenizer.state_dict())
    return euclidean.eval()
