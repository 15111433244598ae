"""Settings: built strictly, from any numbers."""

from __future__ import annotations

import pytest

from imgtf.errors import ConfigError
from imgtf.options import build, check, to_dict
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.training.config import TrainingConfig


def test_a_configuration_equals_itself_after_to_dict_and_build() -> None:
    label, sampling = LabelConfig(class_names=("a",)), SamplingConfig(top_k=4)
    config = PriorConfig(grid=(2, 3), codebook_size=8, conditions=(label,), sampling=sampling)
    assert build(PriorConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stps": 3}, "unknown key stps"),
        ({"steps": "3"}, "steps must be int"),
        ({"steps": True}, "steps must be int"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"beta1": 1.5}, "beta1 must be at most 0.999999"),
        ({"precision": "fp64"}, "one of auto, fp32, bf16, fp16"),
        ({"batch_size": 10, "gradient_accumulation_steps": 3}, "batch_size 10"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(TrainingConfig, values)


def test_lists_become_tuples_and_whole_numbers_become_floats() -> None:
    assert check(TokenizerConfig, "multipliers", [1, 2]) == (1, 2)
    assert check(TrainingConfig, "lr", 1) == 1.0
    with pytest.raises(ConfigError, match="list of int"):
        check(TokenizerConfig, "multipliers", "1,2")
