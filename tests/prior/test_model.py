"""The prior: causality, conditions, exact probabilities, sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from imgtf.errors import ConfigError, DataError
from imgtf.nn.rotary import rotate
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.conditions.image import ImageConfig
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.prior.model import Prior

LABELS = LabelConfig(class_names=("a", "b", "c"))
IMAGE = ImageConfig(grid=(2, 2), codebook_size=7)


def tiny(**changes: object) -> Prior:
    """A prior whose logits are far from uniform, in evaluation mode."""
    torch.manual_seed(0)
    settings = {
        "grid": (2, 3), "codebook_size": 16, "conditions": (LABELS,), "width": 32, "depth": 2, "heads": 2,
    }  # fmt: skip
    prior = Prior(PriorConfig(**settings | changes))  # type: ignore[arg-type]
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return prior.eval()


def some_codes(prior: Prior, n: int = 4) -> Tensor:
    return torch.randint(prior.config.codebook_size, (n, prior.config.tokens))


@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_a_code_changes_only_later_predictions(qk_norm: bool) -> None:
    prior = tiny(qk_norm=qk_norm)
    codes = some_codes(prior)
    before = prior(codes)
    for t in range(prior.config.tokens):
        changed = codes.clone()
        changed[:, t] = (changed[:, t] + 1) % 16
        after = prior(changed)
        assert torch.equal(before[:, : t + 1], after[:, : t + 1])
        assert t == prior.config.tokens - 1 or not torch.allclose(before[:, t + 1], after[:, t + 1])


@torch.no_grad()
def test_the_label_changes_all_predictions() -> None:
    prior = tiny()
    codes = some_codes(prior)
    a, b = prior(codes, torch.zeros(4, dtype=torch.long)), prior(codes, torch.ones(4, dtype=torch.long))
    assert (a - b).abs().amax(-1).min() > 1e-3


@torch.no_grad()
def test_no_label_and_minus_one_are_the_same() -> None:
    prior = tiny()
    codes = some_codes(prior)
    assert torch.equal(prior(codes), prior(codes, torch.full((4,), -1)))
    assert not torch.allclose(prior(codes), prior(codes, torch.zeros(4, dtype=torch.long)))


@torch.no_grad()
def test_grids_and_sequences_are_the_same() -> None:
    prior = tiny()
    codes = some_codes(prior)
    assert torch.equal(prior(codes), prior(codes.view(4, 2, 3)))


@torch.no_grad()
def test_the_probabilities_of_all_grids_sum_to_one() -> None:
    prior = tiny(grid=(2, 2), codebook_size=3)
    grids = torch.tensor(list(itertools.product(range(3), repeat=4)))
    for label in (None, torch.full((81,), 2)):
        assert math.isclose(prior.log_prob(grids, label).sum(1).double().exp().sum(), 1, abs_tol=1e-5)


def test_a_new_prior_is_uniform() -> None:
    prior = Prior(PriorConfig(grid=(2, 2), codebook_size=64, width=32, heads=2)).eval()
    expected = torch.full((3, 4), -math.log(64))
    torch.testing.assert_close(prior.log_prob(some_codes(prior, 3)), expected)


def test_similar_codes_start_out_alike() -> None:
    prior = Prior(PriorConfig(grid=(2, 2), codebook_size=64, width=64, heads=2))
    vectors = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * 7 + 3
    torch.manual_seed(0)
    prior.start_from_codebook(vectors)
    distances = torch.pdist(vectors)
    for weight in (prior.code_embedding.weight, prior.head.weight):
        assert torch.corrcoef(torch.stack([torch.pdist(weight.detach()), distances]))[0, 1] > 0.9


def test_a_new_prior_adds_conditioning_image_and_codes_at_the_same_scale() -> None:
    config = PriorConfig(
        codebook_size=64,
        grid=(4, 4),
        width=64,
        depth=1,
        heads=2,
        conditions=(ImageConfig(grid=(4, 4), codebook_size=64),),
    )
    torch.manual_seed(0)
    prior = Prior(config)
    encoded = prior.encode(Condition(image=torch.arange(64).view(4, 4, 4)), 4, (4, 4))
    assert encoded.aligned is not None
    ratio = encoded.aligned.std() / prior.code_embedding.weight.std()
    assert 0.7 < ratio < 1.4


def test_every_parameter_gets_a_gradient() -> None:
    prior = tiny(dropout=0.1).train()
    (-prior.log_prob(some_codes(prior, 16), torch.arange(16) % 3)).mean().backward()
    assert [n for n, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_labels_are_dropped_in_training_at_condition_dropout() -> None:
    prior = tiny(condition_dropout=0.25).train()
    null = prior.conditions.embeddings["label"].table.weight[-1]
    tokens = prior.encode(Condition(label=torch.zeros(4000, dtype=torch.long)), 4000).prefix[:, 0]
    fraction = (tokens == null).all(-1).float().mean()
    assert 0.2 < fraction < 0.3
    tokens = prior.eval().encode(Condition(label=torch.zeros(100, dtype=torch.long)), 100).prefix[:, 0]
    assert not (tokens == null).all(-1).any()


@torch.no_grad()
def test_prefix_tokens_are_not_rotated() -> None:
    x, prior = torch.randn(1, 1, 6, 16), tiny()
    table = prior.positions.in_order(None, (2, 3), prior.device).key
    assert torch.equal(rotate(x, table)[:, :, 0], x[:, :, 0])
    assert not torch.allclose(rotate(x, table)[:, :, 2], x[:, :, 2])


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 2), (4,)])
def test_codes_of_another_grid_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="2"):
        tiny()(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("label", [3, -2])
def test_unknown_labels_are_refused(label: int) -> None:
    with pytest.raises(DataError, match=str(label)):
        tiny()(torch.zeros(1, 6, dtype=torch.long), torch.tensor([label]))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads"):
        tiny(heads=3)


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
def test_sample_gives_the_codes_of_the_sampler(objective: str) -> None:
    prior, settings = tiny(objective=objective, conditions=(LABELS, IMAGE)), SamplingConfig(cfg_scale=2.0)
    image, label = torch.randint(7, (5, 2, 2)), torch.tensor([0, 2, 0, 2, 0])
    codes = prior.sample(5, [0, 2], seed=3, first=4, settings=settings, image=image)
    condition = Condition(label=label, image=image)
    expected = sample(prior, condition, image_uniforms(3, 4, 5, 6), settings)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, expected.view(5, 2, 3))


def test_sample_uses_the_settings_of_the_model() -> None:
    settings = SamplingConfig(top_k=1)
    prior = tiny(sampling=settings)
    assert torch.equal(prior.sample(3), prior.sample(3, settings=settings))
    assert not torch.equal(prior.sample(3), prior.sample(3, settings=SamplingConfig()))


def test_labels_take_turns_by_the_number_of_the_image() -> None:
    prior = tiny()
    together = prior.sample(7, [0, 1, 2])
    assert torch.equal(together[4:], prior.sample(3, [0, 1, 2], first=4))
    assert torch.equal(together[2:3], prior.sample(1, 2, first=2))
    assert torch.equal(together[2:3], prior.sample(1, torch.tensor([2]), first=2))
    last = 2**64 - 1
    assert torch.equal(prior.sample(1, [0, 1, 2], first=last), prior.sample(1, last % 3, first=last))


def test_sample_keeps_known_codes_and_takes_other_grids() -> None:
    prior = tiny(objective="random", positions="none")
    known = torch.full((2, 4, 5), -1)
    known[:, 1:3, 2] = torch.randint(16, (2, 2))
    codes = prior.sample(2, grid=(4, 5), known=known)
    assert codes.shape == (2, 4, 5)
    assert torch.equal(codes[known >= 0], known[known >= 0])
    assert codes.min() >= 0


def test_sample_reports_progress() -> None:
    counts: list[int] = []
    tiny().sample(3, progress=counts.append)
    assert counts == [3] * 6


def test_sampling_in_training_mode_drops_nothing_and_leaves_the_mode() -> None:
    prior = tiny(dropout=0.5, condition_dropout=0.9)
    expected = prior.sample(4, [0, 1])
    assert torch.equal(prior.train().sample(4, [0, 1]), expected)
    assert prior.training
    assert prior.blocks[0].training


@pytest.mark.parametrize("value", [-1, 2**64, None, 1.5, "1"])
@pytest.mark.parametrize("name", ["seed", "first"])
def test_seeds_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be"):
        tiny().sample(1, **{name: value})


def test_images_past_the_last_number_are_refused() -> None:
    with pytest.raises(ConfigError, match="first"):
        tiny().sample(2, first=2**64 - 1)


@pytest.mark.parametrize("seed", [np.int64(5), np.uint8(5), np.uint64(5)])
def test_numpy_integers_are_seeds(seed: object) -> None:
    assert torch.equal(tiny().sample(2, seed=seed), tiny().sample(2, seed=5))  # type: ignore[arg-type]


def test_the_largest_seed_is_one_of_its_own() -> None:
    prior = tiny()
    assert not torch.equal(prior.sample(8, seed=2**64 - 1), prior.sample(8, seed=2**63 - 1))


@pytest.mark.parametrize("arguments", [{"label": []}, {"n": 0}, {"label": torch.empty(0)}])
def test_empty_requests_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"label|n must"):
        tiny().sample(**arguments)  # type: ignore[arg-type]


def test_repr_describes_the_prior_in_one_line() -> None:
    text = repr(tiny(objective="random"))
    assert "\n" not in text
    for part in ("Prior(", "random", "2x3", "16 codes", "label", "width 32", "float32", "cpu"):
        assert part in text
