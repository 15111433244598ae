"""`tokenizer eval --features`: the reconstructions as a set, in named features."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ..tokenizer.conftest import backbone_weights
from .conftest import run

__all__ = ["backbone_weights"]


@pytest.fixture
def torch_home(tmp_path: Path, backbone_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(backbone_weights, checkpoints)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.usefixtures("torch_home")
def test_distances_stand_beside_their_floor_and_their_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("imgtf.evaluation.classifier.SEEN", 64)
    names, cache = "squeeze,classifier", tmp_path / "cache"
    command = ["tokenizer", "eval", "--model", model, "--held-out", "0.3", "--features", names]
    assert run(*command, "--cache", cache, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    squeeze = found["squeeze_features"]
    assert squeeze["frechet_distance"] == pytest.approx(found["frechet_lpips_features"], rel=1e-3)
    assert {"kernel_distance", "precision", "recall", "floor_frechet_distance", "weights_sha256"} <= set(
        squeeze
    )
    assert "class_agreement" in found["classifier_features"]
    assert run(*command, "--cache", cache) == 0
    text = capsys.readouterr().out
    assert "squeeze_features:\n" in text
    assert "psnr" in text


@pytest.mark.usefixtures("torch_home")
def test_an_unknown_name_is_refused_at_once(model: Path, capsys: Any) -> None:
    assert run("tokenizer", "eval", "--model", model, "--features", "resnet") == 1
    assert "features: unknown resnet; use auto" in capsys.readouterr().err
