"""Model folders: devices, strict loading, files that appear complete or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from imgtf import pretrained
from imgtf.errors import CheckpointError, ConfigError
from imgtf.options import option
from imgtf.pretrained import PretrainedModel, describe_mismatch, read_json, whole_file, write_text


@dataclass(frozen=True)
class LineConfig:
    width: int = option(3, "Width.", minimum=1)


class Line(PretrainedModel):
    kind = "line"
    config_class = LineConfig

    def __init__(self, config: LineConfig) -> None:
        super().__init__(config)
        self.linear = nn.Linear(config.width, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Line(LineConfig(4)).save_pretrained(tmp_path / "line")
    return tmp_path / "line"


def test_a_loaded_model_has_the_same_weights_and_evaluates(folder: Path) -> None:
    one, two = Line.from_pretrained(folder, "cpu"), Line.from_pretrained(str(folder), torch.device("cpu"))
    assert one.config == LineConfig(4)
    assert one.weights_sha256() == two.weights_sha256()
    assert one.parameter_count() == 5
    assert not one.training
    assert (one.device.type, one.dtype) == ("cpu", torch.float32)


def test_the_folder_of_a_whole_model_is_found_in_too(folder: Path, tmp_path: Path) -> None:
    own, whole = Line.from_pretrained(folder, "cpu"), Line.from_pretrained(tmp_path, "cpu")
    assert own.weights_sha256() == whole.weights_sha256()


def test_the_default_device_is_auto(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def pick(device: object) -> torch.device:
        asked.append(device)
        return torch.device("meta")

    monkeypatch.setattr(pretrained, "pick_device", pick)
    assert Line.from_pretrained(folder).device.type == "meta"
    assert asked == ["auto"]


def test_an_unavailable_device_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device gpu: not available"):
        Line.from_pretrained(folder, "gpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "not a model configuration of format 1"),
        ({"kind": "prior"}, "the kind is 'prior', not line"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"depth": 1}, "unknown key depth"),
        (
            {"width": 5},
            r"linear.weight is \[1, 4\], not \[1, 5\]; the weights do not belong to this config.json",
        ),
    ],
)
def test_loading_is_strict(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message) as caught:
        Line.from_pretrained(folder, "cpu")
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        Line.from_pretrained(folder, "cpu")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        Line.from_pretrained(folder, "cpu")
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        Line.from_pretrained(tmp_path / "other", "cpu")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        read_json(tmp_path / "list.json")


def test_mismatches_are_described_by_name() -> None:
    own = {"a": (1,), "b": (2,), "c": (3,)}
    assert describe_mismatch(own, own) == ""
    assert describe_mismatch(own, {"a": (1,), "c": (4,), "d": (1,)}) == (
        "missing b; unknown d; misshapen c is [4], not [3]"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_others_may_read_the_weights_where_they_may_read_any_new_file(folder: Path) -> None:
    (folder / "any.txt").touch()
    assert (folder / "model.safetensors").stat().st_mode == (folder / "any.txt").stat().st_mode


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["x.txt"]
    assert path.read_text() == "old"
