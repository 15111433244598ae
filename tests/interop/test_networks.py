"""Imported networks against plain references written from the formulas, at tiny sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from imgtf.pipelines.exchange import import_weights
from imgtf.prior.config import SamplingConfig
from imgtf.prior.model import Prior
from imgtf.prior.sampler import sample
from imgtf.tokenizer.model import Tokenizer

from . import reference as ref
from .conftest import gpt_state, image, vqgan_state

TOKENS = ref.SIDE * ref.SIDE


def prior_of(folder: Path, state: Any, write: Any, **hints: Any) -> Prior:
    hints = {"heads": ref.HEADS, "image_size": 16 * ref.SIDE} | hints
    import_weights("auto", [write("prior.pt", {"model": dict(state)})], folder, **hints)
    return Prior.from_pretrained(folder / "prior")


def some_codes(n: int) -> Tensor:
    return torch.randint(ref.VOCABULARY, (n, TOKENS), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", ["taming", "llamagen"])
@torch.no_grad()
def test_a_tokenizer_encodes_and_decodes_as_the_formulas_say(family: str, tmp_path: Path, write: Any) -> None:
    state = vqgan_state(family)
    import_weights("auto", [write("vq.safetensors", state)], tmp_path / "m", image_size=8)
    model = Tokenizer.from_pretrained(tmp_path / "m" / "tokenizer")
    latents = ref.encode(state, family, image())
    torch.testing.assert_close(model.to_codebook(model.encoder(image())), latents, atol=1e-4, rtol=0)
    codes = ref.quantize(state, family, latents)
    assert len(codes.unique()) > 3
    assert torch.equal(model.encode(image()), codes)
    decoded = model.decode_vectors(model.quantizer.lookup(codes))
    torch.testing.assert_close(decoded, ref.decode(state, family, codes), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_class_conditional_llamagen_prior(tmp_path: Path, write: Any) -> None:
    state = gpt_state("class")
    prior = prior_of(tmp_path, state, write)
    codes, labels = some_codes(3), [0, 4, None]
    logits = prior(codes, torch.tensor([0, 4, -1]))
    for row, label in enumerate(labels):
        prefix = ref.llamagen_prefix(state, label)
        for t in range(TOKENS):
            expected = ref.llamagen(state, prefix, codes[row, :t].tolist())
            torch.testing.assert_close(logits[row, t], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_guided_greedy_sampling_of_the_class_conditional_prior(tmp_path: Path, write: Any) -> None:
    state = gpt_state("class")
    prior = prior_of(tmp_path, state, write)
    with_label, without = (ref.llamagen_prefix(state, label) for label in (2, None))
    codes: list[int] = []
    for _ in range(TOKENS):
        conditional, free = (ref.llamagen(state, prefix, codes) for prefix in (with_label, without))
        codes.append(int((free + 3 * (conditional - free)).argmax()))
    greedy = SamplingConfig(top_k=1, cfg_scale=3.0)
    assert sample(prior, torch.tensor([2]), torch.full((1, TOKENS), 0.5), greedy).tolist() == [codes]


def captions() -> Tensor:
    """Two captions of features (S, F), the first padded on the left."""
    features = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(4))
    features[0, :2] = 0
    return features


@torch.no_grad()
def test_the_text_conditional_llamagen_prior(tmp_path: Path, write: Any) -> None:
    state = gpt_state("text")
    prior = prior_of(tmp_path, state, write)
    codes = some_codes(2)
    logits = prior(codes, features=captions())
    for row, features in enumerate(captions()):
        prefix = ref.llamagen_prefix(state, features, slots=4, features=6)
        hidden = (features == 0).all(-1)
        for t in range(TOKENS):
            expected = ref.llamagen(state, prefix, codes[row, :t].tolist(), hidden)
            torch.testing.assert_close(logits[row, t], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_guided_greedy_sampling_of_the_text_conditional_prior(tmp_path: Path, write: Any) -> None:
    """The missing caption takes the place, and the padding, of the caption."""
    state = gpt_state("text")
    prior = prior_of(tmp_path, state, write)
    expected = []
    for features in captions():
        hidden = (features == 0).all(-1)
        prefixes = [ref.llamagen_prefix(state, f, slots=4, features=6) for f in (features, None)]
        codes: list[int] = []
        for _ in range(TOKENS):
            conditional, free = (ref.llamagen(state, prefix, codes, hidden) for prefix in prefixes)
            codes.append(int((free + 2 * (conditional - free)).argmax()))
        expected.append(codes)
    greedy = SamplingConfig(top_k=1, cfg_scale=2.0)
    uniforms = torch.full((2, TOKENS), 0.5)
    assert sample(prior, None, uniforms, greedy, features=captions()).tolist() == expected


@torch.no_grad()
def test_the_class_conditional_taming_prior(tmp_path: Path, write: Any) -> None:
    state = gpt_state("taming")
    prior = prior_of(tmp_path, state, write, classes=7)
    codes = some_codes(2)
    logits = prior(codes, torch.tensor([6, 0]))
    for row, label in enumerate((6, 0)):
        for t in range(TOKENS):
            expected = ref.minigpt(state, [label, *codes[row, :t].tolist()])
            torch.testing.assert_close(logits[row, t], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_unconditional_taming_prior_starts_with_token_zero(tmp_path: Path, write: Any) -> None:
    state = gpt_state("taming")
    prior = prior_of(tmp_path, state, write, classes=0)
    codes: list[int] = []
    for _ in range(TOKENS):
        codes.append(int(ref.minigpt(state, [0, *codes]).argmax()))
    uniforms = torch.full((1, TOKENS), 0.5)
    assert sample(prior, None, uniforms, SamplingConfig(top_k=1)).tolist() == [codes]
