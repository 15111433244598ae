"""taming-transformers (Esser et al. 2021, arXiv:2012.09841): VQGAN, and class-conditional or unconditional minGPT.

Code and weights: github.com/CompVis/taming-transformers, MIT. A transformer's checkpoint contains its VQGAN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..prior.conditions.label import LabelConfig
from ..prior.config import PriorConfig
from ..tokenizer.config import TokenizerConfig
from . import vqgan
from .mapping import Entry, count, import_tensors, shape_of, under, weight_and_bias, without
from .stage import Hints, StageWeights, number_names, pick_grid, pick_heads, shapes

SOURCE = "taming-transformers (github.com/CompVis/taming-transformers, arXiv:2012.09841)"
LICENCE = "MIT"
HEADS = {1024: 16, 1536: 24, 1664: 16}
"""Attention heads by width, without a YAML file: S-FLCKR and D-RIN; class-conditional ImageNet; FFHQ and CelebA-HQ."""
NAMING = vqgan.Naming(
    encoder_level="encoder.down",
    decoder_level="decoder.up",
    block="block",
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    decoder_forward=False,
    normalised=False,
)
LABELS = "conditions.embeddings.label.table.weight"
CREATED = (*vqgan.CREATED, LABELS)
VQGAN, GPT = "first_stage_model.", "transformer."
"""Prefixes of the names in a checkpoint that contains both."""


def recognise(names: Iterable[str]) -> tuple[str, ...]:
    """Return the stages in a state dict with these names; none if it is of another family."""
    names = set(names)
    stages = []
    if any(name.startswith(("encoder.down.", f"{VQGAN}encoder.down.")) for name in names):
        stages.append("tokenizer")
    if names & {"tok_emb.weight", f"{GPT}tok_emb.weight"}:
        stages.append("prior")
    return tuple(stages)


def read_tokenizer(tensors: Mapping[str, Tensor], hints: Hints) -> StageWeights:
    """Return the VQGAN, from its own checkpoint or from a transformer's."""
    tensors = without(under(tensors, VQGAN) or tensors, "loss.")
    if "quantize.proj.weight" in tensors:
        raise CheckpointError("a VQGAN with a Gumbel quantizer, which imgtf does not support")
    params = _params(hints.settings, "first_stage_config")
    size = hints.image_size or _section(params, "ddconfig").get("resolution")
    weights = vqgan.read(tensors, NAMING, size)
    _check_yaml(weights.config, params)
    return weights


def _check_yaml(config: TokenizerConfig | PriorConfig, params: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless the sizes in the YAML file are those of the tensors: its resolution is used."""
    assert isinstance(config, TokenizerConfig)
    details = _section(params, "ddconfig")
    for name, given, found in (
        ("n_embed", params.get("n_embed"), config.codebook_size),
        ("embed_dim", params.get("embed_dim"), config.codebook_dim),
        ("ch", details.get("ch"), config.width),
        ("ch_mult", details.get("ch_mult"), list(config.multipliers)),
        ("num_res_blocks", details.get("num_res_blocks"), config.blocks),
    ):
        if given is not None and given != found:
            raise CheckpointError(
                f"the YAML file is of another model: its {name} is {given}, that of the tensors {found}"
            )


def tokenizer_entries(config: TokenizerConfig) -> Iterator[Entry]:
    """Yield every tensor of the VQGAN under both names."""
    return vqgan.entries(config, NAMING)


def read_prior(tensors: Mapping[str, Tensor], hints: Hints) -> StageWeights:
    """Return the minGPT, which predicts the codes from [condition, code 0, ..., code T-2].

    Its condition is a token of the codes' vocabulary, so the label table consists of rows of the code embedding.
    """
    tensors = under(tensors, GPT) or tensors
    tensors = {name: t for name, t in tensors.items() if not name.endswith(".attn.mask")}
    config = _prior_config(tensors, hints)
    ours = import_tensors(prior_entries(config), shapes(config), tensors)
    return StageWeights(config, ours | {LABELS: label_table(ours["code_embedding.weight"], config, hints)})


def _prior_config(tensors: Mapping[str, Tensor], hints: Hints) -> PriorConfig:
    codebook_size, width = shape_of(tensors, "tok_emb.weight", 2)
    tokens = shape_of(tensors, "pos_emb", 3)[1]
    grid = _grid(tokens, hints)
    heads = hints.heads or _params(hints.settings, "transformer_config").get("n_head")
    classes = _classes(hints)
    if classes > codebook_size:
        raise CheckpointError(f"{classes} classes, but tok_emb.weight has only {codebook_size} rows")
    return PriorConfig(
        grid=grid,
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


def _grid(tokens: int, hints: Hints) -> tuple[int, int]:
    """Return the grid of the learned positions, whose number cannot change."""
    grid, (h, w) = pick_grid(tokens, hints), hints.grid
    if grid is None and h != w:
        raise CheckpointError(
            f"pos_emb has {tokens} learned positions, which are not the grid of {h}x{w} codes of the image size"
        )
    if grid is None:
        raise CheckpointError(
            f"pos_emb has {tokens} positions, which is not a square grid after one condition token; conditions of "
            f"several tokens (depth, segmentation, coordinates) are not supported"
        )
    return grid


def _classes(hints: Hints) -> int:
    if hints.classes is not None:
        return hints.classes
    params = _section(hints.settings, "params")
    if params.get("cond_stage_config") == "__is_unconditional__":
        return 0
    stage = _section(params, "cond_stage_config")
    target, classes = str(stage.get("target", "")), _section(stage, "params").get("n_classes")
    if target.endswith(".SOSProvider"):
        return 0
    if target.endswith(".Labelator") and isinstance(classes, int):
        return classes
    if target:
        raise CheckpointError(f"the condition {target} is not supported")
    raise CheckpointError(
        "the number of classes is not in the tensors: give the YAML file of the training run, or --classes "
        "(0 for an unconditional prior)"
    )


def label_table(codes: Tensor, config: PriorConfig, hints: Hints) -> Tensor:
    """Return the embeddings of the labels and, as the last row, of a missing label, (classes + 1, D).

    Without classes the last row is the start token's. With classes the original has no missing label. The mean of all
    rows replaces it, so guidance has no meaning before the prior is fine-tuned with dropped labels.
    """
    if not config.classes:
        start = _section(hints.settings, "params").get("sos_token", 0)
        if not isinstance(start, int) or not 0 <= start < len(codes):
            raise CheckpointError(f"the YAML file's sos_token {start!r} is not a row of tok_emb.weight")
        return codes[start : start + 1].clone()
    labels = codes[: config.classes]
    return torch.cat([labels, labels.mean(0, keepdim=True)])


def prior_entries(config: PriorConfig) -> Iterator[Entry]:
    """Yield every tensor of the minGPT under both names."""
    yield Entry("code_embedding.weight", ("tok_emb.weight",))
    yield Entry("positions.learned", ("pos_emb",), axis=-1)
    for i in range(config.depth):
        block = f"blocks.{i}"
        yield from weight_and_bias(f"{block}.attention_norm", f"{block}.ln1")
        qkv = (f"{block}.attn.{name}" for name in ("query", "key", "value"))
        yield from weight_and_bias(f"{block}.attention.qkv", *qkv)
        yield from weight_and_bias(f"{block}.attention.proj", f"{block}.attn.proj")
        yield from weight_and_bias(f"{block}.feed_forward_norm", f"{block}.ln2")
        yield from weight_and_bias(f"{block}.feed_forward.up", f"{block}.mlp.0")
        yield from weight_and_bias(f"{block}.feed_forward.down", f"{block}.mlp.2")
    yield from weight_and_bias("norm", "ln_f")
    yield Entry("head.weight", ("head.weight",))


def _params(yaml: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """Return the parameters of a section of a transformer's YAML file, or of a VQGAN's own YAML file."""
    params = _section(yaml, "params")
    if section in params:
        return _section(_section(params, section), "params")
    return params if section == "first_stage_config" else {}


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}
