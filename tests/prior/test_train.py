"""The prior's training step."""

from __future__ import annotations

import torch

from imgtf.prior.objectives import corrupt
from imgtf.prior.train import spread_labels


def test_corruption_replaces_the_share_asked_for() -> None:
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
