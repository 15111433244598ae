"""Memorisation: planted copies are flagged, new images are not; mirrored and reconstructed copies too."""

from __future__ import annotations

import torch

from imgtf.evaluation.features import FeatureNetwork
from imgtf.evaluation.nearest import Memorisation, Queries, find_nearest, memorisation
from imgtf.evaluation.references import RealImages, Share


def pixels(images: RealImages) -> torch.Tensor:
    return torch.cat([batch["image"] for batch in images.batches()])


def measured(
    samples: torch.Tensor, network: FeatureNetwork, training: RealImages, held_out: RealImages
) -> Memorisation:
    queries = [Queries(network), Queries(network)]
    queries[0].add(samples, range(len(samples)))
    queries[1].add(pixels(held_out), range(len(held_out)))
    return memorisation(*queries, find_nearest(queries, training))


def test_copies_are_flagged_and_paired_with_their_training_images(
    network: FeatureNetwork, training: RealImages, held_out: RealImages
) -> None:
    own = pixels(training)
    random = torch.Generator().manual_seed(0)
    copies = own[[3, 50, 120]] + 0.02 * torch.randn(3, 3, 16, 16, generator=random)
    copies[1] = copies[1].flip(-1)
    new = pixels(held_out)
    found = measured(torch.cat([new[:40], copies]), network, training, held_out)
    assert set(found.near.tolist()) >= {40, 41, 42}
    assert len(found.near) <= 5
    assert {(pair.sample, pair.training) for pair in found.pairs[:3]} == {(40, 3), (41, 50), (42, 120)}
    assert all(pair.relative < 0.6 for pair in found.pairs[:3])


def test_only_copies_are_a_ratio_of_zero_and_new_images_one(
    network: FeatureNetwork, training: RealImages, held_out: RealImages
) -> None:
    copied = measured(pixels(training), network, training, held_out)
    assert len(copied.near) == 160
    for space in copied.spaces.values():
        assert space["ratio"] < 0.05
        assert space["share_near"] == 1
    new = measured(pixels(held_out), network, training, held_out)
    for space in new.spaces.values():
        assert space["ratio"] == 1
        assert space["share_near"] <= 0.02


def test_noise_is_near_to_nothing(
    network: FeatureNetwork, training: RealImages, held_out: RealImages
) -> None:
    noise = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = measured(noise, network, training, held_out)
    assert found.spaces["pixels"]["ratio"] > 1
    assert len(found.near) == 0


def test_processes_share_the_training_images(
    network: FeatureNetwork, training: RealImages, held_out: RealImages
) -> None:
    queries = [Queries(network), Queries(network)]
    for own in queries:
        own.add(pixels(held_out), range(80))
    whole = find_nearest(queries, training)
    parts = [find_nearest(queries, training, Share(rank, 2)) for rank in (0, 1)]
    joined = find_nearest(queries, training, Share(0, 2, lambda value: [*parts]))
    for space in ("features", "pixels"):
        assert torch.equal(whole[0][space].image, joined[0][space].image)


def test_the_same_samples_are_kept_in_any_number_of_processes(network: FeatureNetwork) -> None:
    images = torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole, one, other = (Queries(network, limit=20) for _ in range(3))
    whole.add(images, range(60))
    one.add(images[::2], range(0, 60, 2))
    other.add(images[1::2], range(1, 60, 2))
    joined = one.merged(Share(0, 2, lambda value: [value, other.spaces]))
    assert len(joined) == 20
    assert joined.indices.tolist() == whole.indices.tolist()
    torch.testing.assert_close(joined.views("pixels")[1], whole.views("pixels")[1])
