"""Statistics of real images: cached by all that they depend on, computed in parts, never unpickled."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf.data.config import DataConfig
from imgtf.data.source import ImageSource
from imgtf.errors import DataError
from imgtf.evaluation.features import FeatureNetwork, custom
from imgtf.evaluation.references import RealImages, Share, reference_statistics
from imgtf.evaluation.statistics import Statistics


class Counting:
    """A network that counts the images that it reads."""

    def __init__(self, network: FeatureNetwork) -> None:
        self.network, self.images = network, 0

    def __call__(self, images: torch.Tensor) -> Any:
        self.images += len(images)
        return self.network.compute(images)


def counting(network: FeatureNetwork) -> tuple[FeatureNetwork, Counting]:
    counter = Counting(network)
    return dataclasses.replace(network, compute=counter), counter


def same(one: Statistics, other: Statistics) -> None:
    assert one.moments is not None
    assert other.moments is not None
    torch.testing.assert_close(one.moments.scatter, other.moments.scatter)
    torch.testing.assert_close(one.kept.features, other.kept.features)


def test_statistics_are_computed_once(held_out: RealImages, network: FeatureNetwork, tmp_path: Path) -> None:
    network, counter = counting(network)
    first = reference_statistics(held_out, [network], tmp_path)[network.name]
    assert counter.images == first.count == 80
    again = reference_statistics(held_out, [network], tmp_path)[network.name]
    assert counter.images == 80
    same(first, again)
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("change", ["limit", "size", "weights", "split"])
def test_a_change_of_anything_is_another_reference(
    change: str, held_out: RealImages, training: RealImages, network: FeatureNetwork, tmp_path: Path
) -> None:
    network, counter = counting(network)
    reference_statistics(held_out, [network], tmp_path)
    other = {
        "limit": dataclasses.replace(held_out, limit=7),
        "size": dataclasses.replace(held_out, size=(8, 12)),
        "split": training,
    }.get(change, held_out)
    network = dataclasses.replace(network, sha256="other") if change == "weights" else network
    found = reference_statistics(other, [network], tmp_path)[network.name]
    assert counter.images == 80 + len(other)
    assert found.count == len(other)


def test_a_damaged_file_is_computed_again(
    held_out: RealImages, network: FeatureNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = reference_statistics(held_out, [network], tmp_path)[network.name]
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"not a file of tensors")
    with caplog.at_level(logging.WARNING, logger="imgtf"):
        again = reference_statistics(held_out, [network], tmp_path)[network.name]
    assert "computed again" in caplog.text
    same(first, again)


def test_without_a_hash_nothing_is_cached(held_out: RealImages, tmp_path: Path) -> None:
    mean = custom("mean", lambda images: images.mean((2, 3)))
    reference_statistics(held_out, [mean], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_several_processes_share_the_images(held_out: RealImages, network: FeatureNetwork) -> None:
    whole = reference_statistics(held_out, [network])
    parts: list[Any] = []

    def keep(value: Any) -> list[Any]:
        if isinstance(value[network.name] if value else None, Statistics):
            parts.append(value)
        return [value]

    for rank in range(3):
        reference_statistics(held_out, [network], None, Share(rank, 3, keep))
    first, *others = [part[network.name] for part in parts]
    assert first.count < 80
    for other in others:
        first.merge(other)
    same(first, whole[network.name])


def test_an_empty_reference_is_refused(sources: tuple[ImageSource, ImageSource], data: DataConfig) -> None:
    import numpy as np

    empty = dataclasses.replace(sources[1], chosen=np.arange(0))
    with pytest.raises(DataError, match=r"0 images in test; a reference needs two or more .*--held-out"):
        RealImages(empty, data, (16, 16), 3)
