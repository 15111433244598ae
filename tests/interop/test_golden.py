"""Imported networks against tensors of the public implementations: equal codes and tokens, 1e-4 elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from imgtf.interop import llamagen, taming
from imgtf.interop.stage import Hints, StageWeights
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.config import SamplingConfig
from imgtf.prior.decoding.sampler import sample
from imgtf.prior.model import Prior
from imgtf.tokenizer.model import Tokenizer


def network(weights: StageWeights) -> Any:
    kind = Tokenizer if weights.stage == "tokenizer" else Prior
    model = kind(weights.config)
    model.load_state_dict(weights.tensors)
    return model.eval()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "family"), [("llamagen_vq", llamagen), ("taming_vqgan", taming)])
@torch.no_grad()
def test_tokenizers(golden: Any, name: str, family: Any) -> None:
    state, config, tensors = golden(name)
    settings = {"params": config} if family is taming else {}
    model = network(family.read_tokenizer(state, Hints(image_size=32, settings=settings)))
    close(model.to_codebook(model.encoder(tensors["image"])), tensors["latent"])
    assert torch.equal(model.encode(tensors["image"]), tensors["codes"])
    close(model.decode_vectors(model.quantizer.lookup(tensors["codes"])), tensors["decoded"])


@torch.no_grad()
def test_llamagen_prior(golden: Any) -> None:
    state, config, tensors = golden("llamagen_gpt")
    model = network(llamagen.read_prior(state, Hints(heads=config["n_head"], grid=(4, 4))))
    codes, label = tensors["codes"], tensors["condition"]
    close(model(codes, label), tensors["logits"])
    uniforms = torch.full((len(codes), 2, 16), 0.5)
    greedy = sample(model, Condition(label=label), uniforms, SamplingConfig(top_k=1))
    assert torch.equal(greedy, tensors["greedy"])
    guided = sample(model, Condition(label=label), uniforms, SamplingConfig(top_k=1, cfg_scale=3.0))
    assert torch.equal(guided, tensors["greedy_cfg3"])


@torch.no_grad()
def test_taming_prior(golden: Any) -> None:
    """The reference starts with a code instead of the condition, so every code is a class here."""
    state, config, tensors = golden("taming_gpt")
    hints = Hints(heads=config["n_head"], classes=config["vocab_size"])
    model = network(taming.read_prior(state, hints))
    codes = tensors["codes"]
    following = torch.cat([codes[:, 1:], codes[:, :1]], dim=1)  # the last one is not an input
    close(model(following, label=codes[:, 0]), tensors["logits"])
