"""Statistics of a stream: independent of batches, order and processes, and bounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imgtf.evaluation.statistics import Kept, Moments, Output, Statistics, merged, shuffle_keys

FEATURES = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) + 1000
LOGITS = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(200) % 5 - 1  # -1 for an image without a label


def part(start: int, stop: int, size: int, keep: int = 50) -> Statistics:
    own = Statistics(keep)
    for i in range(start, stop, size):
        j = min(i + size, stop)
        own.add(Output(FEATURES[i:j], LOGITS[i:j]), range(i, j), LABELS[i:j])
    return own


@pytest.mark.parametrize("parts", [[(0, 200, 7)], [(120, 200, 64), (0, 50, 9), (50, 120, 3)]])
def test_statistics_do_not_depend_on_batches_and_processes(parts: list[tuple[int, int, int]]) -> None:
    whole, own = part(0, 200, 200), merged([part(*one) for one in parts])
    assert own.count == 200
    assert own.moments is not None
    torch.testing.assert_close(own.moments.mean, FEATURES.double().mean(0))
    torch.testing.assert_close(own.moments.covariance, FEATURES.double().T.cov(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(own.kept.features, whole.kept.features)
    assert own.kept.indices.tolist() == whole.kept.indices.tolist()
    assert own.probabilities is not None
    assert whole.probabilities is not None
    torch.testing.assert_close(own.probabilities.p, whole.probabilities.p)
    assert own.agreement == whole.agreement
    known = LABELS >= 0
    assert own.agreement.labelled == 160
    assert own.agreement.matched == int((LOGITS.argmax(1) == LABELS)[known].sum())


def test_merging_leaves_the_parts_as_they_are() -> None:
    one, other = part(0, 100, 50), part(100, 200, 50)
    assert one.moments is not None
    before = one.moments.scatter.clone()
    merged([one, other])
    assert torch.equal(one.moments.scatter, before)


def test_at_most_so_many_features_are_kept_and_they_are_a_random_part() -> None:
    kept = Kept(100)
    for start in range(0, 5000, 250):
        kept.add(torch.arange(start, start + 250.0)[:, None], range(start, start + 250))
        assert sum(len(indices) for indices, _ in kept.parts) <= 450
    assert kept.features.shape == (100, 1)
    assert torch.equal(kept.features[:, 0], torch.from_numpy(kept.indices).float())
    assert 1800 < kept.indices.mean() < 3200
    assert kept.indices.tolist() != sorted(kept.indices.tolist())


def test_moments_of_nothing_change_nothing() -> None:
    moments = Moments(FEATURES[:0])
    moments.merge(Moments(FEATURES[:0]))
    assert moments.count == 0
    moments.merge(Moments(FEATURES))
    torch.testing.assert_close(moments.covariance, Moments(FEATURES).covariance)


def test_shuffle_keys_are_different_and_uniform() -> None:
    keys = shuffle_keys(np.arange(10_000))
    assert len(np.unique(keys)) == 10_000
    assert 0.48 < (keys > np.uint64(2**63)).mean() < 0.52
