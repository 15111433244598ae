"""Weight files that are read, and those that are refused without executing anything in them."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf.errors import CheckpointError
from imgtf.interop.read import read_tensors, read_yaml
from imgtf.pipelines.exchange import import_weights

from .conftest import vqgan_state

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, created: Path) -> None:
        self.created = created

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.created),)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        {"model": STATE, "optimizer": {"state": {0: torch.zeros(3)}}, "steps": 7},
        {"model": STATE, "args": argparse.Namespace(lr=1e-4, data="x"), "steps": 7},
        {"ema": STATE, "model": {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}},
        {"module": {f"module.{k}": v for k, v in STATE.items()}},
        {"state_dict": {f"_orig_mod.{k}": v for k, v in STATE.items()}, "epoch": 3},
    ],
)
def test_state_dicts_are_unwrapped(content: Any, write: Any) -> None:
    same(read_tensors(write("weights.pt", content)), STATE)


@pytest.mark.parametrize("name", ["weights.safetensors", "misnamed.ckpt"])
def test_safetensors_files_are_recognised_by_their_content(name: str, write: Any) -> None:
    same(
        read_tensors(write("weights.safetensors", STATE).rename(write("weights.pt", 0).with_name(name))),
        STATE,
    )


def test_old_pytorch_files_are_read(tmp_path: Path) -> None:
    content = {"state_dict": STATE, "args": argparse.Namespace(lr=1e-4)}
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    same(read_tensors(tmp_path / "old.pt"), STATE)


def test_lightning_checkpoints_are_read_without_lightning(tmp_path: Path, monkeypatch: Any) -> None:
    """The keys of their callbacks are classes, which are not imported."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = callback  # type: ignore[attr-defined]
    best = callback()
    best.score = torch.tensor(1.0)
    with monkeypatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        content = {"callbacks": {callback: {"best": best}}, "state_dict": STATE, "epoch": 1}
        torch.save(content, tmp_path / "last.ckpt")
    same(read_tensors(tmp_path / "last.ckpt"), STATE)


def malicious_zip(path: Path, created: Path) -> None:
    torch.save({"model": STATE, "extra": Malicious(created)}, path)


def malicious_old(path: Path, created: Path) -> None:
    torch.save({"model": STATE, "extra": Malicious(created)}, path, _use_new_zipfile_serialization=False)


def malicious_pickle(path: Path, created: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious(created)))


def truncated_zip(path: Path, created: Path) -> None:
    torch.save({"model": vqgan_state("taming")}, path)
    path.write_bytes(path.read_bytes()[:-2000])


def truncated_safetensors(path: Path, created: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(vqgan_state("taming")), path)
    path.write_bytes(path.read_bytes()[:-2000])


def text(path: Path, created: Path) -> None:
    path.write_text("<html><body>404: not found</body></html>")


def empty(path: Path, created: Path) -> None:
    path.touch()


def no_tensors(path: Path, created: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {}}, path)


def list_of_tensors(path: Path, created: Path) -> None:
    torch.save([torch.zeros(2)], path)


def other_family(path: Path, created: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)}, path)


@pytest.mark.parametrize(
    "damage",
    [
        malicious_zip, malicious_old, malicious_pickle, truncated_zip, truncated_safetensors, text, empty, no_tensors,
        list_of_tensors, other_family,
    ],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_bad_files_give_a_one_line_error_and_write_nothing(damage: Any, tmp_path: Path) -> None:
    damage(tmp_path / "bad.pt", tmp_path / "created")
    with pytest.raises(CheckpointError) as error:
        import_weights("auto", [tmp_path / "bad.pt"], tmp_path / "model")
    assert "bad.pt" in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pt"]


@pytest.mark.parametrize("damage", [malicious_zip, malicious_old], ids=lambda f: f.__name__)
def test_a_file_that_would_run_code_is_refused_by_name(damage: Any, tmp_path: Path) -> None:
    damage(tmp_path / "bad.pt", tmp_path / "created")
    with pytest.raises(CheckpointError, match=r"run code.*mkdir"):
        read_tensors(tmp_path / "bad.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt"):
        read_tensors(tmp_path / "none.pt")


@pytest.mark.parametrize("content", ["model: [unclosed", "a: 1", "!!python/object/apply:os.getcwd []", ""])
def test_bad_yaml_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.yaml"):
        read_yaml(tmp_path / "model.yaml")
