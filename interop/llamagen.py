"""LlamaGen (Sun et al. 2024, arXiv:2406.06525): VQ tokenizers ds8 and ds16; class- and text-conditional GPTs B to 3B.

Code and weights: github.com/FoundationVision/LlamaGen, MIT.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from ..errors import CheckpointError
from ..prior.conditions.base import ConditionConfig
from ..prior.conditions.features import FeaturesConfig
from ..prior.conditions.label import LabelConfig
from ..prior.config import PriorConfig, SamplingConfig
from ..tokenizer.config import TokenizerConfig
from . import vqgan
from .mapping import Entry, count, import_tensors, shape_of, without
from .stage import Hints, StageWeights, number_names, pick_grid, pick_heads, shapes

SOURCE = "LlamaGen (github.com/FoundationVision/LlamaGen, arXiv:2406.06525)"
LICENCE = "MIT"
HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 3200: 32}
"""Attention heads by width: B, L, XL, XXL, 3B."""
GUIDANCE = {768: 2.0, 1024: 2.0, 1280: 1.75, 1536: 1.75, 3200: 1.65}
"""Published guidance scale by width, with top-k 0 and temperature 1."""
TEXT_SAMPLING = SamplingConfig(cfg_scale=7.5, top_k=1000)
"""Defaults of the published sampling script for text-conditional models."""
NAMING = vqgan.Naming(
    encoder_level="encoder.conv_blocks",
    decoder_level="decoder.conv_blocks",
    block="res",
    middle=("mid.0", "mid.1", "mid.2"),
    decoder_forward=True,
    normalised=True,
)
CREATED = vqgan.CREATED


def recognise(names: Iterable[str]) -> tuple[str, ...]:
    """Return the stages in a state dict with these names; none if it is of another family."""
    names = set(names)
    if any(name.startswith("encoder.conv_blocks.") for name in names):
        return ("tokenizer",)
    gpt = "tok_embeddings.weight" in names and any(name.startswith("cls_embedding.") for name in names)
    return ("prior",) if gpt else ()


def read_tokenizer(tensors: Mapping[str, Tensor], hints: Hints) -> StageWeights:
    """Return the VQ tokenizer."""
    return vqgan.read(without(tensors, "quantize.codebook_used"), NAMING, hints.image_size)


def tokenizer_entries(config: TokenizerConfig) -> Iterator[Entry]:
    """Yield every tensor of the tokenizer under both names."""
    return vqgan.entries(config, NAMING)


def read_prior(tensors: Mapping[str, Tensor], hints: Hints) -> StageWeights:
    """Return the GPT. Its heads follow from the published widths, its grid from the rotary table if that is saved."""
    config = _prior_config(tensors, hints)
    ours = import_tensors(prior_entries(config), shapes(config), without(tensors, "freqs_cis"))
    _check_classes(config, hints.classes)
    return StageWeights(config, ours)


def _prior_config(tensors: Mapping[str, Tensor], hints: Hints) -> PriorConfig:
    codebook_size, width = shape_of(tensors, "tok_embeddings.weight", 2)
    condition: ConditionConfig
    if "cls_embedding.uncond_embedding" in tensors:
        length, features = shape_of(tensors, "cls_embedding.uncond_embedding", 2)
        condition = FeaturesConfig(width=features, tokens=length, prefix=True)
    else:
        # The last row is the embedding of a missing label.
        classes = shape_of(tensors, "cls_embedding.embedding_table.weight", 2)[0] - 1
        condition = LabelConfig(class_names=number_names(classes))
    by_text = isinstance(condition, FeaturesConfig)
    return PriorConfig(
        grid=_grid(tensors, hints, condition.length((1, 1))),
        codebook_size=codebook_size,
        conditions=(condition,),
        width=width,
        depth=count(tensors, "layers."),
        heads=pick_heads(width, HEADS, hints.heads),
        intermediate_size=shape_of(tensors, "layers.0.feed_forward.w1.weight", 2)[0],
        positions="none",
        zero_condition=True,
        sampling=TEXT_SAMPLING if by_text else SamplingConfig(cfg_scale=GUIDANCE.get(width, 1.0)),
    )


def _check_classes(config: PriorConfig, given: int | None) -> None:
    """CheckpointError for another number of classes than that of the tensors."""
    if given not in (None, config.classes):
        has = f"has {config.classes} classes by its tensors" if config.classes else "is conditioned on text"
        raise CheckpointError(f"this prior {has}, not {given} classes: leave out --classes")


def _grid(tensors: Mapping[str, Tensor], hints: Hints, condition: int) -> tuple[int, int]:
    if "freqs_cis" not in tensors:
        return hints.grid
    tokens = shape_of(tensors, "freqs_cis", 3)[0] - condition
    grid = pick_grid(tokens, hints)
    if grid is None:
        h, w = hints.grid
        wanted = "a square grid" if h == w else f"the grid of {h}x{w} codes of the image size"
        raise CheckpointError(f"misshapen freqs_cis: {tokens} positions are not {wanted}")
    return grid


def prior_entries(config: PriorConfig) -> Iterator[Entry]:
    """Yield every tensor of the GPT under both names."""
    embeddings = "conditions.embeddings"
    if config.condition("features") is not None:
        yield Entry(f"{embeddings}.features.null", ("cls_embedding.uncond_embedding",))
        yield _weight(f"{embeddings}.features.up", "cls_embedding.cap_proj.fc1")
        yield _weight(f"{embeddings}.features.down", "cls_embedding.cap_proj.fc2")
    else:
        yield _weight(f"{embeddings}.label.table", "cls_embedding.embedding_table")
    yield _weight("code_embedding", "tok_embeddings")
    for i in range(config.depth):
        for ours, theirs in _BLOCK.items():
            yield _weight(f"blocks.{i}.{ours}", f"layers.{i}.{theirs}")
    yield _weight("norm", "norm")
    yield _weight("head", "output")


_BLOCK = {
    "attention_norm": "attention_norm",
    "attention.qkv": "attention.wqkv",
    "attention.proj": "attention.wo",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "feed_forward.w1",
    "feed_forward.up": "feed_forward.w3",
    "feed_forward.down": "feed_forward.w2",
}


def _weight(ours: str, theirs: str) -> Entry:
    return Entry(f"{ours}.weight", (f"{theirs}.weight",))
