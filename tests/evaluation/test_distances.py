"""Distances against torch-fidelity and torchmetrics, and at the extremes."""

from __future__ import annotations

import pytest
import torch

from imgtf.evaluation.distances import (
    INCEPTION_NAMES,
    DistanceNames,
    compare,
    floor,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from imgtf.evaluation.statistics import Moments, Output, Probabilities, Statistics
from imgtf.runtime.optional import import_with_torchvision


@pytest.fixture
def features() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 12, generator=random)
    return (
        torch.randn(400, 12, generator=random) @ mixing + 3,
        torch.randn(300, 12, generator=random) @ mixing.T + 2.5,
    )


def statistics(features: torch.Tensor) -> Statistics:
    own = Statistics()
    own.add(Output(features), range(len(features)))
    return own


def test_the_frechet_distance_equals_torch_fidelitys(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    fid = import_with_torchvision("torch_fidelity.metric_fid")
    theirs = fid.fid_statistics_to_metric(*map(fid.fid_features_to_statistics, features), False)
    own = frechet_distance(*map(Moments, features))
    assert own == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)


def test_the_frechet_distance_of_known_gaussians() -> None:
    torch.manual_seed(0)
    one = torch.randn(20_000, 3)
    assert frechet_distance(Moments(one), Moments(one)) == pytest.approx(0, abs=1e-6)
    # means 1 apart; standard deviations 1 and 2 on each of 3 axes: 1 + 3 * (1 + 4 - 2 * 2)
    other = 2 * torch.randn(20_000, 3) + torch.tensor([1.0, 0.0, 0.0])
    assert frechet_distance(Moments(one), Moments(other)) == pytest.approx(4.0, rel=0.05)


def test_the_frechet_distance_of_fewer_images_than_features() -> None:
    random = torch.Generator().manual_seed(0)
    few, more = torch.randn(5, 40, generator=random), torch.randn(9, 40, generator=random)
    assert frechet_distance(Moments(few), Moments(few)) == pytest.approx(0, abs=1e-6)
    there, back = frechet_distance(Moments(few), Moments(more)), frechet_distance(Moments(more), Moments(few))
    assert there == pytest.approx(back, rel=1e-6)
    constant = Moments(torch.ones(4, 40))  # nothing varies
    assert frechet_distance(constant, constant) == 0


def test_kid_equals_torch_fidelitys(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    kid = import_with_torchvision("torch_fidelity.metric_kid")
    first, second = features[0][:300], features[1]
    theirs = kid.kid_features_to_metric(first, second, kid_subsets=1, kid_subset_size=300, verbose=False)
    own = kernel_distance(first, second, subsets=1, size=300)  # all images: any order
    assert own.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)


def test_kid_is_seeded_and_near_zero_for_one_distribution(
    features: tuple[torch.Tensor, torch.Tensor],
) -> None:
    first, second = features[0][:200], features[0][200:]
    own = kernel_distance(first, second, subsets=20, size=100)
    assert own == kernel_distance(first, second, subsets=20, size=100)
    other = kernel_distance(*features, subsets=20, size=100)
    assert abs(own.mean) < 0.2 * other.mean
    assert own.std > 0


def test_precision_and_recall_equal_torch_fidelitys(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    prc = import_with_torchvision("torch_fidelity.metric_prc")
    samples, real = features[0][:300], features[1]
    theirs = prc.prc_features_to_metric(
        samples, real, prc_neighborhood=3, prc_batch_size=64, save_cpu_ram=False, verbose=False
    )
    assert precision_recall(samples, real) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_precision_and_recall_at_the_extremes() -> None:
    random = torch.Generator().manual_seed(0)
    real = torch.randn(200, 8, generator=random)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real + 100, real) == (0, 0)
    one_mode = real[:5].repeat(40, 1) + 1e-3 * torch.randn(200, 8, generator=random)
    precision, recall = precision_recall(one_mode, real)
    assert precision == 1
    assert recall < 0.1


def test_the_inception_score_equals_torch_fidelitys() -> None:
    isc = import_with_torchvision("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    theirs = isc.isc_features_to_metric(logits, splits=1)
    own = Probabilities(10, splits=1)
    for part in (range(120), range(120, 200)):
        own.add(logits[part.start : part.stop], part)
    assert inception_score(own).mean == pytest.approx(theirs["inception_score_mean"], rel=1e-6)


def test_the_floor_is_far_below_another_distribution(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    reference, others = map(statistics, features)
    noise = floor(reference, 150, DistanceNames())
    assert noise["images"] == [150, 250]
    values = compare(others, reference, DistanceNames())
    assert noise["frechet_distance"] < 0.2 * values["frechet_distance"]
    assert noise["kernel_distance"] < 0.2 * values["kernel_distance"]
    assert noise["precision"] > 0.8 > values["precision"]


def test_a_reference_of_three_images_has_no_floor_but_a_distance() -> None:
    own = statistics(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert floor(own, 3, DistanceNames()) == {}
    assert set(compare(own, own, INCEPTION_NAMES)) == {"fid", "kid", "kid_std"}
