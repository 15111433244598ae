"""The prior's training step."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from imgtf.errors import CheckpointError
from imgtf.prior.conditions.image import ImageConfig
from imgtf.prior.objectives import corrupt
from imgtf.prior.recipe import PriorRecipe
from imgtf.prior.train import PriorStage, spread_labels
from imgtf.training.config import TrainingConfig

from .test_model import tiny


def stage(images: str = "1", **changes: object) -> PriorStage:
    unused: Any = None
    codes: Any = SimpleNamespace(info=SimpleNamespace(fingerprint=images))
    return PriorStage(tiny(**changes), PriorRecipe(), TrainingConfig(), codes, unused, unused)


IMAGE = ImageConfig(grid=(2, 3), codebook_size=16, tokenizer_sha256="b")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokenizer_sha256": "c"}, "another tokenizer"),
        ({"conditions": (replace(IMAGE, tokenizer_sha256="c"),)}, "tokenizer of conditioning images"),
    ],
)
def test_a_run_resumes_only_with_the_codes_it_was_trained_on(changed: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"tokenizer_sha256": "a", "conditions": (IMAGE,)}
    state = stage(**settings).state()
    stage(**settings).load_state(state, {})
    with pytest.raises(CheckpointError, match=message):
        stage(**settings | changed).load_state(state, {})


def test_a_run_that_resumes_with_other_images_says_so(caplog: pytest.LogCaptureFixture) -> None:
    state = stage().state()
    older = {name: value for name, value in state.items() if name != "data"}
    for saved in (state, older):
        stage().load_state(saved, {})
    assert not caplog.messages
    stage("2").load_state(state, {})
    assert caplog.messages == ["the training images have changed since the state was saved"]


def test_corruption_replaces_the_given_fraction() -> None:
    torch.manual_seed(0)
    codes = torch.zeros(100, 100, dtype=torch.long)
    noisy = corrupt(codes, 0.2, 1000)
    assert 0.18 < (noisy != codes).float().mean() < 0.22
    assert noisy.max() > 900
    assert noisy.max() < 1000
    assert (codes == 0).all()


def test_without_noise_no_random_number_is_drawn() -> None:
    before, codes = torch.get_rng_state(), torch.arange(6)[None]
    assert corrupt(codes, 0.0, 8) is codes
    assert torch.equal(before, torch.get_rng_state())


def test_labels_are_spread_evenly() -> None:
    labels = spread_labels(7, 3)
    assert labels is not None
    assert torch.bincount(labels).tolist() == [3, 2, 2]
    assert spread_labels(7, 0) is None
