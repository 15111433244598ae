"""Training runs that cannot fit are refused from their configurations, and others are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imgtf.errors import ConfigError
from imgtf.pipelines import least_memory
from imgtf.pipelines.least_memory import batch_bytes, check_memory
from imgtf.prior.config import PriorConfig
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.training.config import TrainingConfig

TRAINING = TrainingConfig(device="cpu", batch_size=16)
TOKENIZER = TokenizerConfig()
PRIOR = PriorConfig(grid=(8, 8), codebook_size=256)


@pytest.fixture(autouse=True)
def _two_gibibytes(monkeypatch):
    monkeypatch.setattr(least_memory, "free_memory", lambda device: 2**31)


def test_small_runs_pass():
    for config in (TOKENIZER, PRIOR):
        check_memory(config, TRAINING, found=False)


@pytest.mark.parametrize(
    "config",
    [
        replace(TOKENIZER, width=2**14, multipliers=(1,)),
        replace(TOKENIZER, codebook_size=2**20, codebook_dim=2**16),
        replace(TOKENIZER, network="vit", width=2**16, depth=512, heads=64),
        replace(PRIOR, width=2**16),
        replace(PRIOR, intermediate_size=2**18, width=2**14),
    ],
)
def test_networks_larger_than_the_memory_are_refused(config):
    with pytest.raises(ConfigError, match=r"GiB of weights, 2\.0 GiB of memory are free"):
        check_memory(config, TRAINING, found=False)


def test_batches_larger_than_the_memory_are_refused_unless_a_size_is_searched():
    config = replace(TOKENIZER, image_size=2048)
    with pytest.raises(
        ConfigError, match=r"a step takes at least .* 16 images at once .*; lower --batch-size"
    ):
        check_memory(config, TRAINING, found=False)
    check_memory(config, TRAINING, found=True)
    check_memory(config, replace(TRAINING, gradient_accumulation_steps=16), found=False)
    with pytest.raises(ConfigError, match="images at once"):
        check_memory(PRIOR, replace(TRAINING, batch_size=2**20), found=False)


def test_checkpointing_keeps_less():
    assert batch_bytes(replace(TOKENIZER, gradient_checkpointing=True)) < batch_bytes(TOKENIZER)
