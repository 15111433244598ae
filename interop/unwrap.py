"""The state dict inside a training checkpoint: averaged weights first, without the prefixes of wrappers."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError

logger = logging.getLogger("imgtf")

AVERAGED = ("ema", "ema_model", "model_ema", "params_ema", "ema_state_dict", "state_dict_ema")
"""Keys and prefixes under which training scripts save averaged weights (EMA)."""
WRAPPERS = ("model", "module", "state_dict", "params", "model_state_dict")
"""Keys under which they save the weights."""
PREFIXES = ("module.", "online_model.")
"""Prefixes that data-parallel training and ema-pytorch add to every name."""
INNER = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that torch.compile, FSDP and activation checkpointing add, also to the names of submodules."""
COUNTERS = frozenset({"n_averaged", "initted", "step", "decay", "num_updates"})
"""Tensors that classes of averaged weights keep next to the weights."""
MOST_KEYS = 6


def unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the weights in the content of a checkpoint, by their names in the model. Averaged weights are preferred.

    Raises:
        CheckpointError: no tensors; the message lists the keys.
    """
    tensors, averaged = _weights(content)
    if not tensors:
        raise CheckpointError(f"{path}: contains no named tensors; {_keys(content)}")
    tensors, prefix = _averaged_names(_plain_names(tensors))
    if averaged or prefix:
        logger.info("%s: reading the averaged weights (EMA) under '%s'", path, averaged or prefix)
    return tensors


def _weights(content: Any) -> tuple[dict[str, Tensor], str]:
    """The named tensors inside the content, and the key of averaged weights that they are under, or ""."""
    if not isinstance(content, Mapping):
        return {}, ""
    for key in (*AVERAGED, *WRAPPERS):
        tensors, averaged = _weights(content.get(key))
        if tensors:
            return tensors, key if key in AVERAGED else averaged
    own = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if own.keys() - COUNTERS:
        return own, ""
    others = [value for key, value in content.items() if not str(key).startswith("opt")]  # optimizers
    inner = [found for found in map(_weights, others) if found[0]]
    return inner[0] if len(inner) == 1 else ({}, "")  # the only state dict, under a key that is not known


def _plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers, in any order and number."""
    tensors = {INNER.sub("", name): tensor for name, tensor in tensors.items()}
    weights = {name: tensor for name, tensor in tensors.items() if name not in COUNTERS}
    for prefix in PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            return _plain_names({name.removeprefix(prefix): tensor for name, tensor in weights.items()})
    return tensors


def _averaged_names(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the tensors whose names mark them as averaged, and that prefix; without any, all tensors and ""."""
    for prefix in AVERAGED:
        averaged = {
            name.removeprefix(f"{prefix}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{prefix}.") and name.removeprefix(f"{prefix}.") not in COUNTERS
        }
        if averaged:
            raw = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{prefix}.")}
            return _with_dots(_plain_names(averaged), raw), prefix
    return tensors, ""


def _with_dots(averaged: dict[str, Tensor], raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give averaged weights the names of the raw ones: LitEma (latent-diffusion) removes dots and omits buffers."""
    names = {name.replace(".", ""): name for name in raw}
    if any("." in name for name in averaged) or not averaged.keys() <= names.keys():
        return averaged
    return raw | {names[name]: tensor for name, tensor in averaged.items()}


def _keys(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}, not a dictionary"
    keys = [f"{key} ({_what(value)})" for key, value in content.items()]
    more = f" and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else ""
    return f"its keys are {', '.join(keys[:MOST_KEYS])}{more}" if keys else "it is empty"


def _what(value: Any) -> str:
    if isinstance(value, Mapping):
        count = sum(isinstance(inner, Tensor) for inner in value.values())
        return f"{count} tensors" if count else f"{len(value)} entries"
    return type(value).__name__
