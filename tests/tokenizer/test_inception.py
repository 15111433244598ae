"""Inception-v3: safe loading of its weights, and rFID where they are available."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from imgtf.errors import CheckpointError
from imgtf.runtime.optional import import_with_torchvision
from imgtf.tokenizer import inception
from imgtf.tokenizer.inception import Inception, inception_file

from ..pipelines.conftest import SMALL_TOKENIZER, draw_images, run


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with random weights of the published network."""
    module = import_with_torchvision("torch_fidelity.feature_extractor_inceptionv3")
    kind = module.FeatureExtractorInceptionV3
    torch.manual_seed(0)
    with mock.patch.object(kind, "load_state_dict"), mock.patch.object(module, "load_state_dict_from_url"):
        network = kind("inception-v3-compat", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


def test_eval_reports_rfid_with_a_file_of_weights(weights: Path, tmp_path: Path, capsys: Any) -> None:
    images = draw_images(tmp_path / "images", per_class=7)
    command = ["--data", images, "--model", tmp_path / "m"]
    assert run("tokenizer", "train", *command, "--steps", "2", *SMALL_TOKENIZER) == 0
    capsys.readouterr()
    evaluate = ["tokenizer", "eval", *command, "--json", "--inception-file", weights]
    assert run(*evaluate) == 0
    first, again = json.loads(capsys.readouterr().out), Inception(weights)
    assert first["rfid"] > 0
    features = again(torch.rand(2, 3, 16, 16) * 2 - 1)
    assert features.shape == (2, 2048)
    assert not features.requires_grad


def test_grey_equals_colour_and_images_are_rounded_to_eight_bits(weights: Path) -> None:
    network = Inception(weights)
    grey = torch.rand(1, 1, 32, 32) * 2 - 1
    expected = network(grey.expand(-1, 3, -1, -1))
    assert torch.equal(network(grey), expected)
    assert torch.equal(network(((grey + 1) * 127.5).round() / 127.5 - 1), expected)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('unpickled')",)


def test_other_files_are_refused_and_never_executed(tmp_path: Path) -> None:
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(CheckpointError, match=r"code.pth: not a file of weights"):
        Inception(tmp_path / "code.pth")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth: not Inception-v3's weights"):
        Inception(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        Inception(tmp_path / "none.pth")


def test_missing_weights_or_packages_are_named_with_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(inception, "reachable", refuse)
    with pytest.raises(
        CheckpointError, match=r"weights-inception-2015-12-05-6726825d.pth .*--inception-file"
    ):
        inception_file()
    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r'pip install "imgtf\[fid\]"'):
        Inception()


def test_eval_without_weights_reports_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from imgtf.commands.tokenizer import _inception

    def refuse(url: str) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(inception, "reachable", refuse)
    for wanted, message in ((False, "--rfid downloads them"), (True, "cannot be downloaded")):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="imgtf"):
            assert _inception(wanted, None) is None
        (line,) = caplog.messages
        assert message in line
