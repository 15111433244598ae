"""Against tensors of the public reference implementations: exact codes and tokens, 1e-4 elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from imgtf.interop import llamagen, taming
from imgtf.interop.part import Hints, Part
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.config import SamplingConfig
from imgtf.prior.decoding.sampler import sample
from imgtf.prior.model import Prior
from imgtf.tokenizer.model import Tokenizer


def network(part: Part) -> Any:
    kind = Tokenizer if part.stage == "tokenizer" else Prior
    model = kind(part.config)
    model.load_state_dict(part.tensors)
    return model.eval()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "family"), [("llamagen_vq", llamagen), ("taming_vqgan", taming)])
@torch.no_grad()
def test_tokenizers(golden: Any, name: str, family: Any) -> None:
    state, config, tensors = golden(name)
    recipe = {"params": config} if family is taming else {}
    model = network(family.read_tokenizer(state, Hints(image_size=32, recipe=recipe)))
    close(model.to_codebook(model.encoder(tensors["image"])), tensors["latent"])
    assert torch.equal(model.encode(tensors["image"]), tensors["codes"])
    close(model.decode_vectors(model.quantizer.lookup(tensors["codes"])), tensors["decoded"])


@torch.no_grad()
def test_llamagen_prior(golden: Any) -> None:
    state, config, tensors = golden("llamagen_gpt")
    model = network(llamagen.read_prior(state, Hints(heads=config["n_head"], side=4)))
    codes, label = tensors["codes"], tensors["condition"]
    close(model(codes, label), tensors["logits"])
    uniforms = torch.full((len(codes), 2, 16), 0.5)
    greedy = sample(model, Condition(label), uniforms, SamplingConfig(top_k=1))
    assert torch.equal(greedy, tensors["greedy"])
    guided = sample(model, Condition(label), uniforms, SamplingConfig(top_k=1, cfg_scale=3.0))
    assert torch.equal(guided, tensors["greedy_cfg3"])


@torch.no_grad()
def test_taming_prior(golden: Any) -> None:
    """The reference starts with a code where ours has the condition: every code is made a class."""
    state, config, tensors = golden("taming_gpt")
    hints = Hints(heads=config["n_head"], classes=config["vocab_size"])
    model = network(taming.read_prior(state, hints))
    codes = tensors["codes"]
    following = torch.cat([codes[:, 1:], codes[:, :1]], dim=1)  # the last of them is predicted, never read
    close(model(following, label=codes[:, 0]), tensors["logits"])
