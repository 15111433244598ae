"""Metrics against values computed by hand, and their registry."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from imgtf.tokenizer.metrics import (
    METRICS,
    CodeCounts,
    MetricInputs,
    Metrics,
    per_image,
    psnr,
)
from imgtf.tokenizer.model import Reconstruction
from imgtf.tokenizer.perceptual import Perceptual


def test_psnr_of_a_known_error() -> None:
    black, grey = torch.full((2, 1, 4, 4), -1.0), torch.full((2, 1, 4, 4), -0.8)
    # an error of 0.2 in a range of 2 is a tenth: 20 dB
    torch.testing.assert_close(psnr(black, grey), torch.full((2,), 20.0))


def test_psnr_clamps_the_reconstruction() -> None:
    white = torch.ones(1, 1, 2, 2)
    assert psnr(white, white * 3) == psnr(white, white)


def test_usage_and_perplexity() -> None:
    counts = CodeCounts(8)
    counts.add(torch.tensor([[0, 1], [2, 3]]))
    assert counts.metrics() == {"usage": 0.5, "perplexity": pytest.approx(4.0)}
    counts.reset()
    assert counts.metrics() == {}
    counts.add(torch.tensor([5, 5, 5]))
    assert counts.metrics() == {"usage": 1 / 8, "perplexity": pytest.approx(1.0)}


INPUTS = MetricInputs(codebook_size=4, device=torch.device("cpu"))


def batches(n: int = 2) -> list[tuple[torch.Tensor, Reconstruction]]:
    """Batches of different sizes whose reconstructions exceed [-1, 1] a little."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for size in range(1, n + 1):
        images = torch.rand(size, 3, 16, 16, generator=generator) * 2 - 1
        codes = torch.full((size, 2, 2), size, dtype=torch.long)
        made.append((images, Reconstruction(images * 1.1, codes)))
    return made


def computed(inputs: MetricInputs, given: list[tuple[torch.Tensor, Reconstruction]]) -> dict[str, float]:
    metrics = Metrics(inputs)
    for images, result in given:
        metrics.update(images, result)
    return metrics.compute()


def test_without_networks_the_other_metrics_are_computed() -> None:
    assert list(computed(INPUTS, batches())) == ["l1", "l2", "psnr", "ssim", "usage", "perplexity"]


def test_without_images_there_are_no_metrics() -> None:
    assert computed(INPUTS, []) == {}


def test_values_do_not_depend_on_the_batches() -> None:
    images = torch.cat([images for images, _ in batches()])
    whole = Reconstruction(images * 1.1, torch.cat([result.codes for _, result in batches()]))
    assert computed(INPUTS, batches()) == pytest.approx(computed(INPUTS, [(images, whole)]), rel=1e-5)


def test_equal_images_are_perfect() -> None:
    images = batches()[1][0]
    values = computed(INPUTS, [(images, Reconstruction(images, torch.zeros(2, 1, 1, dtype=torch.long)))])
    assert (values["l1"], values["l2"], values["ssim"]) == (0, 0, pytest.approx(1))
    assert values["psnr"] > 100


def test_lpips_needs_the_network(backbone_weights: Path) -> None:
    inputs = MetricInputs(4, torch.device("cpu"), perceptual=Perceptual("squeeze", backbone_weights))
    assert computed(inputs, batches())["lpips"] > 0


def test_a_registered_metric_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgtf.tokenizer.metrics.METRICS", dict(METRICS))

    @per_image("brightness")
    def brightness(images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        return (reconstructions - images).flatten(1).mean(1)

    images = torch.zeros(2, 3, 16, 16)
    result = Reconstruction(images + 0.25, torch.zeros(2, 1, 1, dtype=torch.long))
    assert computed(INPUTS, [(images, result)])["brightness"] == pytest.approx(0.25)
