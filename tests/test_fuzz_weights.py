"""Model folders whose files lie: the network that the files describe, or one line; nothing is allocated before."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from imgtf.benchmarks import fuzz_files, fuzz_weights
from imgtf.errors import CheckpointError
from imgtf.pipelines.models import Models
from imgtf.pretrained import PretrainedModel
from imgtf.prior.model import Prior
from imgtf.tokenizer.model import Tokenizer


def write(folder: Path, number: int) -> tuple[Path, PretrainedModel]:
    config, weights = fuzz_weights.files(number)
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(weights)
    return folder, fuzz_weights.networks()[number]


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_mutated_folder_is_loaded_as_it_is_or_refused(tmp_path_factory, seed):
    folder = tmp_path_factory.getbasetemp() / "mutated-model"
    folder.mkdir(exist_ok=True)
    _, outcome, note = fuzz_weights.case(seed, folder)
    assert outcome in ("correct", "error"), note


@pytest.mark.parametrize("number", range(len(fuzz_weights.networks())))
def test_a_loaded_network_equals_the_saved_one_and_draws_nothing(tmp_path, number):
    folder, network = write(tmp_path, number)
    before = torch.get_rng_state()
    loaded = type(network).from_pretrained(folder, "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.weights_sha256() == network.weights_sha256()
    for (name, own), (_, other) in zip(loaded.named_buffers(), network.named_buffers(), strict=True):
        assert torch.equal(own, other), name
    network.eval()
    with torch.no_grad():
        if isinstance(network, Tokenizer):
            image = torch.linspace(-1, 1, 3 * 64).reshape(1, 3, 8, 8)
            assert torch.equal(loaded(image).images, network(image).images)
        else:
            assert torch.equal(loaded(torch.arange(6)[None]), network(torch.arange(6)[None]))


@pytest.mark.parametrize("size", [2**16, 2**31, 2**63, 2**64])
@pytest.mark.parametrize("key", ["width", "codebook_size", "latent_width", "codebook_dim", "blocks"])
def test_sizes_that_the_file_does_not_have_allocate_nothing(tmp_path, key, size):
    folder, _ = write(tmp_path, 0)
    change(folder, **{key: size})
    with pytest.raises(CheckpointError, match=r"must be at most|is more than|do not belong to this config"):
        Tokenizer.from_pretrained(folder, "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    folder, _ = write(tmp_path, 7)
    tensors = load_file(folder / "model.safetensors")
    tensors["norm.weight"][3] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: values that are NaN or infinite in norm\.weight;"
    ):
        Prior.from_pretrained(folder, "cpu")


def test_another_precision_is_converted_and_said_and_integers_are_refused(tmp_path, caplog):
    folder, network = write(tmp_path, 7)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in tensors.items()}, folder / "model.safetensors")
    with caplog.at_level(logging.INFO, "imgtf"):
        loaded = Prior.from_pretrained(folder, "cpu")
    assert loaded.dtype == torch.float32
    (line,) = caplog.messages
    assert line.endswith("model.safetensors: tensors are converted from torch.float16")
    assert torch.equal(loaded.head.weight, network.head.weight.half().float())
    save_file({name: tensor.to(torch.int8) for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"is I8, not torch\.float32"):
        Prior.from_pretrained(folder, "cpu")


def test_a_configuration_with_two_values_of_a_key_is_refused(tmp_path):
    folder, _ = write(tmp_path, 0)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[:-1] + ', "width": 16}')
    with pytest.raises(CheckpointError, match="two values of 'width'"):
        Tokenizer.from_pretrained(folder, "cpu")


def test_a_derived_size_cannot_be_set(tmp_path):
    folder, _ = write(tmp_path, 2)
    change(folder, codebook_size=7)
    with pytest.raises(CheckpointError, match="codebook_size is 7, but the other settings make it 15"):
        Tokenizer.from_pretrained(folder, "cpu")


def test_weights_that_overflow_are_no_black_image():
    tokenizer, prior = copy.deepcopy(fuzz_files.models().tokenizer), fuzz_files.models().prior
    tokenizer.decoder.requires_grad_(False)
    for parameter in tokenizer.decoder.parameters():
        parameter.fill_(3e38)
    prior = copy.deepcopy(prior)
    object.__setattr__(prior.config, "tokenizer_sha256", tokenizer.codes_sha256())
    with pytest.raises(CheckpointError, match="decodes codes to NaN: its weights are damaged"):
        Models(tokenizer, prior).decode(torch.zeros(1, 8, 8, dtype=torch.long))
