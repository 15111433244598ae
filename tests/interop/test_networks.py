"""Imported networks against the reference implementations, at tiny sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from imgtf.errors import DataError
from imgtf.pipelines.exchange import import_weights
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.conditions.features import FeaturesConfig
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.prior.decoding.sampler import sample
from imgtf.prior.model import Prior
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
def test_a_tokenizer_equals_the_reference(family: str, tmp_path: Path, write: Any) -> None:
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
    assert sample(
        prior, Condition(label=torch.tensor([2])), torch.full((1, 2, TOKENS), 0.5), greedy
    ).tolist() == [codes]


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
        prefix = ref.llamagen_prefix(state, features, length=4, features=6)
        padding = (features == 0).all(-1)
        for t in range(TOKENS):
            expected = ref.llamagen(state, prefix, codes[row, :t].tolist(), padding)
            torch.testing.assert_close(logits[row, t], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_guided_greedy_sampling_of_the_text_conditional_prior(tmp_path: Path, write: Any) -> None:
    """The missing caption has the positions and the padding of the caption."""
    state = gpt_state("text")
    prior = prior_of(tmp_path, state, write)
    expected = []
    for features in captions():
        padding = (features == 0).all(-1)
        prefixes = [ref.llamagen_prefix(state, f, length=4, features=6) for f in (features, None)]
        codes: list[int] = []
        for _ in range(TOKENS):
            conditional, free = (ref.llamagen(state, prefix, codes, padding) for prefix in prefixes)
            codes.append(int((free + 2 * (conditional - free)).argmax()))
        expected.append(codes)
    greedy = SamplingConfig(top_k=1, cfg_scale=2.0)
    uniforms = torch.full((2, 2, TOKENS), 0.5)
    assert sample(prior, Condition(features=captions()), uniforms, greedy).tolist() == expected


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
    uniforms = torch.full((1, 2, TOKENS), 0.5)
    assert sample(prior, Condition(), uniforms, SamplingConfig(top_k=1)).tolist() == [codes]


VARIANTS: list[dict[str, Any]] = [
    {"norm": "layer", "feed_forward": "gelu", "bias": True, "rotary": "none"},
    {"norm": "layer", "bias": False, "zero_condition": True, "positions": "none"},
    {"conditions": (FeaturesConfig(width=6, tokens=4, prefix=True),)},
]


def our_prior(variant: dict[str, Any]) -> Prior:
    torch.manual_seed(0)
    prior = Prior(
        PriorConfig(grid=(3, 3), codebook_size=20, width=32, depth=2, heads=2, dropout=0.0, **variant)
    )
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return prior.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_variants_train_all_parameters_and_are_causal(variant: dict[str, Any]) -> None:
    prior = our_prior(variant)
    codes = some_codes(2)
    features = captions() if prior.config.condition("features") else None
    (-prior.log_prob(codes, features=features)).mean().backward()
    dead = [n for n, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == (["conditions.embeddings.features.null"] if features is not None else [])
    changed = codes.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 20
    before, after = prior(codes, features=features), prior(changed, features=features)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5], after[:, 5])


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_published_variants_sample_the_same_with_a_cache(variant: dict[str, Any]) -> None:
    prior = our_prior(variant)
    features = captions() if prior.config.condition("features") else None
    uniforms = torch.full((2, 2, 9), 0.5)
    greedy = sample(prior, Condition(features=features), uniforms, SamplingConfig(top_k=1))
    assert torch.equal(prior(greedy, features=features).argmax(-1), greedy)


def test_a_loaded_prior_with_features_is_the_same(tmp_path: Path) -> None:
    prior = our_prior(VARIANTS[2])
    prior.save_pretrained(tmp_path)
    again = Prior.from_pretrained(tmp_path)
    codes = some_codes(2)
    assert torch.equal(again(codes, features=captions()), prior(codes, features=captions()))


def test_dropped_features_equal_missing_ones() -> None:
    prior = our_prior(VARIANTS[2] | {"condition_dropout": 1.0, "token_dropout": 0.0})
    codes, features = some_codes(2), captions()
    features[0] = torch.randn(4, 6)
    torch.testing.assert_close(prior.train()(codes, features=features), prior.eval()(codes))


@pytest.mark.parametrize(
    ("variant", "given"),
    [
        (VARIANTS[0], {"features": torch.zeros(2, 4, 6)}),
        (VARIANTS[2], {"label": torch.zeros(2, dtype=torch.long)}),
        (VARIANTS[2], {"features": torch.zeros(2, 5, 6)}),
    ],
)
def test_a_condition_that_the_prior_does_not_have_is_refused(
    variant: dict[str, Any], given: dict[str, Tensor]
) -> None:
    with pytest.raises(DataError):
        our_prior(variant)(some_codes(2), **given)


@pytest.mark.parametrize("family", ["taming", "llamagen"])
def test_the_first_step_of_fine_tuning_hardly_changes_the_codebook(
    family: str, tmp_path: Path, write: Any
) -> None:
    import_weights("auto", [write("vq.pt", dict(vqgan_state(family)))], tmp_path, image_size=8)
    model = Tokenizer.from_pretrained(tmp_path / "tokenizer")
    before = model.quantizer.vq.codebook.clone()
    codes = model.train()(image(1)).codes
    after = model.quantizer.vq.codebook
    used = torch.zeros(ref.CODES, dtype=torch.bool).index_fill(0, codes.flatten(), True)
    torch.testing.assert_close(after[~used], before[~used])
    assert not torch.equal(after[used], before[used])
    assert ((after - before).norm(dim=1) / before.norm(dim=1)).max() < 0.5
