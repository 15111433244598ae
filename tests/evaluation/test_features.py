"""Feature networks by name: loading, the network that `auto` takes, and their descriptions."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

from imgtf.data.config import DataConfig
from imgtf.data.source import ImageSource, open_source
from imgtf.errors import CheckpointError, ConfigError, DataError
from imgtf.evaluation.classifier import ClassifierData
from imgtf.evaluation.distances import DistanceNames
from imgtf.evaluation.features import FeatureRequest, check_features, custom, load_features
from imgtf.evaluation.references import class_numbers

CPU = torch.device("cpu")


@pytest.fixture
def request_for(sources: tuple[ImageSource, ImageSource], data: DataConfig, tmp_path: Path) -> FeatureRequest:
    return FeatureRequest(CPU, tmp_path / "cache", ClassifierData(*sources, data, (16, 16), 3))


def test_a_backbone_has_a_hash_that_sha256sum_gives(
    torch_home: Path, backbone_weights: Path, request_for: FeatureRequest
) -> None:
    (network,) = load_features("squeeze", request_for)
    assert network.sha256 == hashlib.sha256(backbone_weights.read_bytes()).hexdigest()
    output = network(torch.rand(2, 3, 16, 16) * 2 - 1)
    assert output.features.shape == (2, 512)
    assert output.logits is None
    assert network.names.frechet == "frechet_distance"
    assert set(network.describe()) == {"preprocessing", "weights_sha256"}


def test_missing_weights_are_advised_on_with_options_that_evaluate_has(
    torch_home: Path, request_for: FeatureRequest
) -> None:
    next(torch_home.iterdir()).unlink()
    with (
        mock.patch("urllib.request.urlopen", side_effect=OSError("no network")),
        pytest.raises(CheckpointError, match=r"put it at .*squeezenet.*, or choose other --features$"),
    ):
        load_features("squeeze", request_for)


def test_auto_takes_what_is_there_and_does_not_call_it_fid(
    torch_home: Path, request_for: FeatureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="imgtf"):
        (network,) = load_features("auto", request_for)
    assert (network.name, network.names.frechet) == ("squeeze", "frechet_distance")
    text = " ".join(caplog.messages)
    assert "downloading" in text
    assert "squeeze takes its place; its distances are no FIDs" in text


def test_auto_without_any_weights_trains_a_classifier_or_says_what_is_missing(
    torch_home: Path, request_for: FeatureRequest, images: Path
) -> None:
    next(torch_home.iterdir()).unlink()
    with mock.patch("imgtf.evaluation.classifier.SEEN", 64):
        (network,) = load_features("auto", request_for)
    assert network.name == "classifier"
    unlabelled = open_source(DataConfig(data=str(images / "red")))
    request = FeatureRequest(CPU, request_for.cache, ClassifierData(*unlabelled, DataConfig(), (16, 16), 3))
    with pytest.raises(CheckpointError, match="no feature network can be had"):
        load_features("auto", request)
    with pytest.raises(DataError, match="labelled images of two or more classes"):
        load_features("classifier", request)


def test_the_classifier_learns_reports_its_accuracy_and_is_cached(
    request_for: FeatureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    module = "imgtf.evaluation.classifier"
    with mock.patch(f"{module}.SEEN", 16 * 50), mock.patch(f"{module}.BATCH_SIZE", 16):
        (first,) = load_features("classifier", request_for)
    assert first.accuracy is not None
    assert first.accuracy > 0.7
    assert first.describe()["held_out_accuracy"] == first.accuracy
    state = torch.random.get_rng_state()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="imgtf"):
        (again,) = load_features("classifier", request_for)
    assert torch.equal(state, torch.random.get_rng_state())
    assert caplog.messages == []  # no training
    assert (again.sha256, again.accuracy, again.class_names) == (
        first.sha256,
        first.accuracy,
        ("coarse", "fine"),
    )
    output = again(torch.zeros(2, 3, 16, 16))
    assert output.features.shape == (2, 192)
    assert output.logits is not None
    assert class_numbers(["fine", None, "other", "coarse"], again).tolist() == [1, -1, -1, 0]
    (file,) = request_for.cache.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    caplog.clear()
    with mock.patch("imgtf.evaluation.classifier.SEEN", 64):
        load_features("classifier", request_for)
    assert "trained again" in caplog.text


@pytest.mark.parametrize(
    ("size", "read"), [((8, 8), (32, 32)), ((48, 96), (48, 96)), ((256, 512), (128, 256))]
)
def test_the_classifier_reads_any_size(size: tuple[int, int], read: tuple[int, int]) -> None:
    from imgtf.evaluation.classifier import Classifier

    network = Classifier(1, 3, size).eval()
    assert network.size == read
    output = network(torch.zeros(1, 1, *size))
    assert output.logits is not None
    assert output.logits.shape == (1, 3)


def test_names_are_checked(network: object) -> None:
    assert check_features(" squeeze, classifier ") == ["squeeze", "classifier"]
    assert check_features([network, "squeeze"]) == [network, "squeeze"]  # type: ignore[list-item]
    with pytest.raises(
        ConfigError, match="unknown resnet; use auto, inception, squeeze, alex, vgg, classifier"
    ):
        check_features("resnet")
    with pytest.raises(ConfigError, match="squeeze is named twice"):
        check_features("squeeze,squeeze")
    with pytest.raises(ConfigError, match="use auto"):
        check_features("")


def test_any_callable_is_a_feature_network() -> None:
    module = custom("mine", nn.Flatten())
    assert module(torch.zeros(2, 3, 4, 4)).features.shape == (2, 48)
    assert len(module.sha256) == 64
    assert custom("function", lambda images: images.mean((2, 3))).sha256 == ""


def test_inception_gives_logits_and_its_distance_is_fid(tmp_path: Path, request_for: FeatureRequest) -> None:
    import dataclasses

    from imgtf.runtime.optional import import_with_torchvision

    module = import_with_torchvision("torch_fidelity.feature_extractor_inceptionv3")
    kind = module.FeatureExtractorInceptionV3
    with mock.patch.object(kind, "load_state_dict"), mock.patch.object(module, "load_state_dict_from_url"):
        torch.save(kind("inception-v3-compat", ["2048"]).state_dict(), tmp_path / "w.pth")
    request = dataclasses.replace(request_for, inception_file=tmp_path / "w.pth")
    (network,) = load_features("inception", request)
    output = network(torch.zeros(1, 3, 16, 16))
    assert output.features.shape == (1, 2048)
    assert output.logits is not None
    assert output.logits.shape == (1, 1008)
    assert network.names == DistanceNames("fid", "kid")
    assert network.names.is_inception
