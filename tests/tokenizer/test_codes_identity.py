"""The identity of a tokenizer's codes: encoder and codebook count, the decoder and what only training reads do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.model import Tokenizer

QUANTIZERS: list[dict[str, Any]] = [
    {"quantizer": "vq"},
    {"quantizer": "vq", "codebook_distance": "euclidean", "codebook_learned": True},
    {"quantizer": "simvq"},
    {"quantizer": "fsq", "fsq_levels": (4, 3)},
    {"quantizer": "lfq"},
    {"quantizer": "residual_vq"},
]


def tiny(**changes: Any) -> Tokenizer:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "image_size": 8, "width": 8, "multipliers": (1, 2), "latent_width": 8, "codebook_size": 16,
        "codebook_dim": 4, "norm_groups": 4,
    }  # fmt: skip
    return Tokenizer(TokenizerConfig(**settings | changes)).eval()


@pytest.mark.parametrize("changes", QUANTIZERS)
@torch.no_grad()
def test_every_weight_counts_exactly_where_it_can_change_the_codes(changes: dict[str, Any]) -> None:
    model = tiny(**changes)
    before, names = model.codes_sha256(), model.state_dict()
    for name, tensor in names.items():
        kept = tensor.clone()
        tensor.copy_(~tensor if tensor.dtype == torch.bool else tensor + 1)
        decoding = name.startswith(("from_codebook.", "decoder."))
        averages = name.endswith(("cluster_size", "embed_avg"))
        assert (model.codes_sha256() == before) == (decoding or averages), name
        tensor.copy_(kept)
    assert model.codes_sha256() == before


@pytest.mark.parametrize("changes", [one for one in QUANTIZERS if one["quantizer"] in ("vq", "residual_vq")])
@torch.no_grad()
def test_moving_averages_do_not_change_codes_or_vectors(changes: dict[str, Any]) -> None:
    model = tiny(**changes)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    codes = model.encode(images)
    decoded = model.decode(codes)
    for name, tensor in model.quantizer.state_dict().items():
        if name.endswith(("cluster_size", "embed_avg")):
            tensor.mul_(3).add_(1)
    assert torch.equal(model.encode(images), codes)
    assert torch.equal(model.decode(codes), decoded)


@torch.no_grad()
def test_a_tuned_tokenizer_knows_its_name_before_while_its_codes_are_the_same() -> None:
    first = tiny()
    whole, codes = first.weights_sha256(), first.codes_sha256()
    assert first.codes_names() == (codes, whole)
    tuned = Tokenizer(replace(first.config, tuned_from=(codes, whole)))
    tuned.load_state_dict(first.state_dict())
    tuned.decoder.conv_out.bias += 1  # type: ignore[operator]
    assert tuned.codes_names() == (codes, tuned.weights_sha256(), whole)
    assert all(tuned.made_codes_of(name) for name in tuned.codes_names())
    assert not first.made_codes_of(tuned.weights_sha256())
    assert not first.made_codes_of("")
    tuned.to_codebook.bias += 1  # type: ignore[operator]
    assert not tuned.made_codes_of(codes)
    assert not tuned.made_codes_of(whole)
