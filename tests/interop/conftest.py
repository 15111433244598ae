"""Weight files with tiny state dicts from the reference networks, and the golden tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import reference as ref

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"


@pytest.fixture
def golden() -> Callable[[str], tuple[dict[str, Tensor], dict[str, Any], dict[str, Tensor]]]:
    """golden(name): the reference's state dict, its configuration, and its inputs and outputs."""

    def find(name: str) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Tensor]]:
        path = GOLDEN / f"{name}.safetensors"
        if not path.exists():
            pytest.skip(f"no {path}")
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            config = json.loads(file.metadata()["config"])
        state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
        return state, config, {k: v for k, v in tensors.items() if not k.startswith("state.")}

    return find


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(name, content): a safetensors or PyTorch file in the temporary folder."""

    def make(name: str, content: Any) -> Path:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(dict(content), path)
        else:
            torch.save(content, path)
        return path

    return make


def image(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


@torch.no_grad()
def vqgan_state(family: str) -> ref.Weights:
    """A complete random VQGAN under the family's names."""
    weights = ref.Weights(seed=1)
    latents = ref.encode(weights, family, image(1))
    ref.decode(weights, family, ref.quantize(weights, family, latents))
    return weights


@torch.no_grad()
def gpt_state(kind: str) -> ref.Weights:
    """A complete random prior: "taming", "class" or "text" (both of LlamaGen)."""
    weights = ref.Weights(seed=2)
    if kind == "taming":
        ref.minigpt(weights, [0])
    elif kind == "class":
        ref.llamagen(weights, ref.llamagen_prefix(weights, 0), [])
    else:
        ref.llamagen(weights, ref.llamagen_prefix(weights, None, length=4, features=6), [])
    return weights
