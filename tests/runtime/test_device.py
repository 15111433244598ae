"""Choice of device and precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from imgtf.errors import ConfigError
from imgtf.runtime import precision
from imgtf.runtime.device import pick_device
from imgtf.runtime.precision import DTYPES, as_precision, pick_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_auto_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert pick_device("auto").type == expected


def test_devices_by_name_and_as_torch_devices() -> None:
    assert pick_device("cpu") == pick_device(CPU) == CPU


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "cuda:99", "cpu:-1"])
def test_devices_that_do_not_exist_are_refused_in_one_line(device: str) -> None:
    with pytest.raises(ConfigError, match="use auto, cpu, cuda or cuda:N") as caught:
        pick_device(device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(DTYPES))
def test_a_precision_is_a_name_or_a_dtype(name: str) -> None:
    assert as_precision(name) == as_precision(DTYPES[name]) == name
    assert as_precision("auto") == "auto"


@pytest.mark.parametrize("value", ["fp64", "", torch.float64, None, 16])
def test_other_precisions_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="precision must be one of auto, fp32, bf16, fp16, int8"):
        as_precision(value)


def test_auto_is_bf16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast, on_cpu, on_gpu in ((True, "bf16", "bf16"), (False, "fp32", "fp16")):
        monkeypatch.setattr(precision, "fast_bf16_cpu", lambda fast=fast: fast)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda fast=fast, **_: fast)
        assert (pick_precision("auto", CPU), pick_precision("auto", GPU)) == (on_cpu, on_gpu)
    assert pick_precision("fp32", GPU) == "fp32"
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        pick_precision("fp16", CPU)


@pytest.mark.parametrize(
    ("processor", "capabilities", "fast"),
    [
        ("Intel(R) Xeon(R) Processor", {"avx512_bf16": True, "amx_bf16": True}, True),
        ("Intel(R) Xeon(R) Processor", {"avx512_bf16": True, "amx_bf16": False}, False),
        ("AMD EPYC 9B45", {"avx512_bf16": True}, True),
        ("AMD EPYC 7B13", {"avx2": True}, False),
        ("aarch64", {"bf16": True}, True),
    ],
)
def test_bf16_is_fast_where_the_processor_has_more_units_for_it_than_for_float32(
    monkeypatch: pytest.MonkeyPatch, processor: str, capabilities: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(precision, "processor_name", lambda: processor)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision.fast_bf16_cpu() is fast
