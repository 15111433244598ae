"""taming-transformers (Esser et al. 2021, arXiv:2012.09841): VQGAN, and minGPT by class or without condition.

Code and weights: github.com/CompVis/taming-transformers, MIT. A transformer's checkpoint holds its VQGAN too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..prior.conditions.label import LabelConfig
from ..prior.config import PriorConfig
from ..tokenizer.config import TokenizerConfig
from . import vqgan
from .mapping import Entry, both, collect, count, drop, shape_of, under
from .part import Hints, Part, number_names, pick_heads, shapes

SOURCE = "taming-transformers (github.com/CompVis/taming-transformers, arXiv:2012.09841)"
LICENCE = "MIT"
HEADS = {1024: 16, 1536: 24, 1664: 16}
"""Heads by width, where no YAML tells: S-FLCKR and D-RIN, ImageNet by class, FFHQ and CelebA-HQ."""
NAMING = vqgan.Naming(
    encoder_level="encoder.down",
    decoder_level="decoder.up",
    block="block",
    middle=("block_1", "attn_1", "block_2"),
    decoder_forward=False,
    normalised=False,
)
LABELS = "conditions.embeddings.label.table.weight"
MADE = (*vqgan.MADE, LABELS)
VQGAN, GPT = "first_stage_model.", "transformer."
"""What stands before the names where both are in one checkpoint."""


def recognise(names: Iterable[str]) -> tuple[str, ...]:
    """The stages that a state dict with these names holds, if it is of this family."""
    names = set(names)
    stages = []
    if any(name.startswith(("encoder.down.", f"{VQGAN}encoder.down.")) for name in names):
        stages.append("tokenizer")
    if names & {"tok_emb.weight", f"{GPT}tok_emb.weight"}:
        stages.append("prior")
    return tuple(stages)


def read_tokenizer(tensors: Mapping[str, Tensor], hints: Hints) -> Part:
    """The VQGAN, out of its own checkpoint or a transformer's."""
    tensors = drop(under(tensors, VQGAN) or tensors, "loss.")
    if "quantize.proj.weight" in tensors:
        raise CheckpointError("a VQGAN with a Gumbel quantizer, which imgtf has not")
    params = _params(hints.recipe, "first_stage_config")
    size = hints.image_size or _section(params, "ddconfig").get("resolution")
    part = vqgan.read(tensors, NAMING, size)
    _check_recipe(part.config, params)
    return part


def _check_recipe(config: TokenizerConfig | PriorConfig, params: Mapping[str, Any]) -> None:
    """The YAML must be of these weights: its resolution is believed."""
    assert isinstance(config, TokenizerConfig)
    details = _section(params, "ddconfig")
    for name, said, found in (
        ("n_embed", params.get("n_embed"), config.codebook_size),
        ("embed_dim", params.get("embed_dim"), config.codebook_dim),
        ("ch", details.get("ch"), config.width),
        ("ch_mult", details.get("ch_mult"), list(config.multipliers)),
        ("num_res_blocks", details.get("num_res_blocks"), config.blocks),
    ):
        if said is not None and said != found:
            raise CheckpointError(
                f"the YAML is of another model: its {name} is {said}, that of the tensors {found}"
            )


def tokenizer_entries(config: TokenizerConfig) -> Iterator[Entry]:
    """Every tensor of the VQGAN in both names."""
    return vqgan.entries(config, NAMING)


def read_prior(tensors: Mapping[str, Tensor], hints: Hints) -> Part:
    """The minGPT: [condition, code 0, ..., code T-2] predicts the codes, as ours does.

    Its condition is a token of the codes' own vocabulary, so the label table is made of rows of the embedding.
    """
    tensors = under(tensors, GPT) or tensors
    tensors = {name: t for name, t in tensors.items() if not name.endswith(".attn.mask")}
    config = _prior_config(tensors, hints)
    ours = collect(prior_entries(config), shapes(config), tensors)
    return Part(config, ours | {LABELS: label_table(ours["code_embedding.weight"], config, hints)})


def _prior_config(tensors: Mapping[str, Tensor], hints: Hints) -> PriorConfig:
    codebook_size, width = shape_of(tensors, "tok_emb.weight", 2)
    tokens = shape_of(tensors, "pos_emb", 3)[1]
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise CheckpointError(
            f"pos_emb has {tokens} places, no square grid behind one condition token; conditions of many tokens "
            f"(depth, segmentation, coordinates) are not imported"
        )
    heads = hints.heads or _params(hints.recipe, "transformer_config").get("n_head")
    classes = _classes(hints)
    if classes > codebook_size:
        raise CheckpointError(f"{classes} classes, but tok_emb.weight has {codebook_size} rows for them")
    return PriorConfig(
        grid=(side, side),
        codebook_size=codebook_size,
        conditions=(LabelConfig(class_names=number_names(classes)),) if classes else (),
        width=width,
        depth=count(tensors, "blocks."),
        heads=pick_heads(width, HEADS, heads),
        intermediate_size=shape_of(tensors, "blocks.0.mlp.0.weight", 2)[0],
        norm="layer",
        feed_forward="gelu",
        bias=True,
        positions="learned",
        rotary="none",
        token_dropout=0.0,
        dropout=0.0,
    )


def _classes(hints: Hints) -> int:
    if hints.classes is not None:
        return hints.classes
    params = _section(hints.recipe, "params")
    if params.get("cond_stage_config") == "__is_unconditional__":
        return 0
    stage = _section(params, "cond_stage_config")
    target, classes = str(stage.get("target", "")), _section(stage, "params").get("n_classes")
    if target.endswith(".SOSProvider"):
        return 0
    if target.endswith(".Labelator") and isinstance(classes, int):
        return classes
    if target:
        raise CheckpointError(f"conditions by {target}, which imgtf has not")
    raise CheckpointError(
        "the tensors do not tell the number of classes: name the YAML beside the file, or give --classes "
        "(0 for a prior without condition)"
    )


def label_table(codes: Tensor, config: PriorConfig, hints: Hints) -> Tensor:
    """Rows of the embedding for the labels, and a last one for "no label", (classes + 1, D).

    Without classes that is the start token's. With them the original knows no missing label; the mean of all
    stands for it, and guidance means nothing until the prior was fine-tuned with hidden labels.
    """
    if not config.classes:
        start = _section(hints.recipe, "params").get("sos_token", 0)
        if not isinstance(start, int) or not 0 <= start < len(codes):
            raise CheckpointError(f"the YAML's sos_token {start!r} is no row of tok_emb.weight")
        return codes[start : start + 1].clone()
    labels = codes[: config.classes]
    return torch.cat([labels, labels.mean(0, keepdim=True)])


def prior_entries(config: PriorConfig) -> Iterator[Entry]:
    """Every tensor of the minGPT in both names."""
    yield Entry("code_embedding.weight", ("tok_emb.weight",))
    yield Entry("positions.learned", ("pos_emb",), axis=-1)
    for i in range(config.depth):
        block = f"blocks.{i}"
        yield from both(f"{block}.attention_norm", f"{block}.ln1")
        qkv = (f"{block}.attn.{name}" for name in ("query", "key", "value"))
        yield from both(f"{block}.attention.qkv", *qkv)
        yield from both(f"{block}.attention.proj", f"{block}.attn.proj")
        yield from both(f"{block}.feed_forward_norm", f"{block}.ln2")
        yield from both(f"{block}.feed_forward.up", f"{block}.mlp.0")
        yield from both(f"{block}.feed_forward.down", f"{block}.mlp.2")
    yield from both("norm", "ln_f")
    yield Entry("head.weight", ("head.weight",))


def _params(recipe: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """The parameters of one part of a transformer's YAML, or those of a YAML that is of this part alone."""
    params = _section(recipe, "params")
    if part in params:
        return _section(_section(params, part), "params")
    return params if part == "first_stage_config" else {}


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}
