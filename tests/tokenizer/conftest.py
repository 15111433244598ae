"""Fixtures of the tokenizer's tests."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from imgtf.runtime.optional import import_with_torchvision
from imgtf.tokenizer.perceptual import BACKBONE_FILES


@pytest.fixture(scope="session")
def backbone_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with random weights of a SqueezeNet, in torchvision's format."""
    import_with_torchvision("lpips")
    models = importlib.import_module("torchvision.models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("hub") / BACKBONE_FILES["squeeze"]
        torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return path
