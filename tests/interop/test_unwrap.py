"""Weights inside training checkpoints: wrappers, prefixes, averaged weights, shards."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from imgtf.errors import CheckpointError
from imgtf.interop.read import read_tensors
from imgtf.interop.shards import one_per_model
from imgtf.interop.unwrap import unwrap
from imgtf.pipelines.exchange import import_weights

from .conftest import vqgan_state
from .test_read import same

STATE = {"a.b.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2), "steps": torch.tensor(7)}
RAW = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}


def prefixed(prefix: str, tensors: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "_orig_mod._orig_mod.",
        "_orig_mod.module._orig_mod.module.", "_fsdp_wrapped_module.",
    ],
)  # fmt: skip
def test_prefixes_are_removed_in_any_order_and_number(prefix: str) -> None:
    same(unwrap({"model": prefixed(prefix)}, Path("x")), STATE)


def test_prefixes_of_submodules_are_removed() -> None:
    names = {"a._orig_mod.b.weight": STATE["a.b.weight"], "a.bias": STATE["a.bias"], "steps": STATE["steps"]}
    same(unwrap(names, Path("x")), STATE)


def test_a_module_that_is_really_named_module_stays() -> None:
    tensors = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    same(unwrap(tensors, Path("x")), tensors)


@pytest.mark.parametrize("key", ["ema", "ema_model", "model_ema", "params_ema", "ema_state_dict"])
@pytest.mark.parametrize("inner", [{}, {"module": None}, {"shadow": None, "decay": 0.999}])
def test_averaged_weights_are_preferred_and_named(key: str, inner: dict[str, Any], caplog: Any) -> None:
    content = {name: STATE if value is None else value for name, value in inner.items()} or STATE
    with caplog.at_level(logging.INFO, "imgtf"):
        same(unwrap({"model": RAW, key: content, "optimizer": {"state": {0: RAW}}}, Path("x.pt")), STATE)
    assert f"x.pt: reading the averaged weights (EMA) under '{key}'" in caplog.text


def test_weights_without_an_average_are_not_announced(caplog: Any) -> None:
    with caplog.at_level(logging.INFO, "imgtf"):
        unwrap({"params": STATE}, Path("x"))
    assert caplog.text == ""


def test_averages_of_ema_pytorch_and_torch_are_read() -> None:
    both = prefixed("online_model.", RAW) | prefixed("ema_model.") | {"initted": torch.tensor(True)}
    same(unwrap({"ema": both}, Path("x")), STATE)
    same(unwrap(prefixed("ema_model.module."), Path("x")), STATE)
    swa = prefixed("module.") | {"n_averaged": torch.tensor(3)}
    same(unwrap(swa, Path("x")), STATE)


def test_averages_of_latent_diffusion_have_no_dots_and_no_buffers() -> None:
    parameters = {name: STATE[name] for name in ("a.b.weight", "a.bias")}
    averaged = {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in parameters.items()}
    counters = {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(5)}
    same(unwrap({"state_dict": RAW | averaged | counters}, Path("x")), RAW | parameters)


def test_one_state_dict_under_another_key_is_read() -> None:
    same(unwrap({"generator": STATE, "epoch": 3, "optim_g": {"state": {0: RAW}}}, Path("x")), STATE)


def test_keys_are_listed_where_no_weights_are_found() -> None:
    with pytest.raises(
        CheckpointError, match=r"x\.pt: .*keys are net_g \(3 tensors\), net_d \(3 tensors\), epoch \(int"
    ):
        unwrap({"net_g": STATE, "net_d": RAW, "epoch": 3}, Path("x.pt"))
    with pytest.raises(CheckpointError, match="it is a list"):
        unwrap([STATE], Path("x.pt"))


def write_shards(folder: Path, tensors: dict[str, Tensor], suffix: str = ".safetensors") -> list[Path]:
    names = sorted(tensors)
    halves = [names[::2], names[1::2]]
    files = [folder / f"model-0000{i}-of-00002{suffix}" for i in (1, 2)]
    for half, file in zip(halves, files, strict=True):
        part = {name: tensors[name] for name in half}
        save_file(part, file) if suffix == ".safetensors" else torch.save(part, file)
    weight_map = {name: file.name for half, file in zip(halves, files, strict=True) for name in half}
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return [index, *files]


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_read_from_the_index_and_from_any_shard(suffix: str, tmp_path: Path) -> None:
    files = write_shards(tmp_path, STATE, suffix)
    for file in files:
        same(read_tensors(file), STATE)
    assert one_per_model(files) == files[:1]
    files[0].unlink()
    same(read_tensors(files[2]), STATE)


def test_all_shards_of_a_command_are_one_model(tmp_path: Path) -> None:
    _, *shards = write_shards(tmp_path, dict(vqgan_state("llamagen")))
    assert import_weights("auto", shards, tmp_path / "m") == [tmp_path / "m" / "tokenizer"]


def test_missing_shards_and_a_damaged_index_are_named(tmp_path: Path) -> None:
    index, first, second = write_shards(tmp_path, STATE)
    second.unlink()
    for file in (index, first):
        with pytest.raises(CheckpointError, match=rf"1 of 2 shards are missing: {second.name}; download"):
            read_tensors(file)
    for damaged in ("{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../x.bin"}}'):
        index.write_text(damaged, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json: .*download it again"):
            read_tensors(index)
