"""Mutated model folders for fuzz.py: config.json and model.safetensors that lie, and what is loaded from them."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from imgtf.errors import CheckpointError
from imgtf.options import to_dict
from imgtf.pretrained import PretrainedModel
from imgtf.prior.conditions.image import ImageConfig
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.config import PriorConfig
from imgtf.prior.model import Prior
from imgtf.tokenizer.config import QUANTIZERS, TokenizerConfig
from imgtf.tokenizer.model import Tokenizer

SMALL: dict[str, Any] = {
    "image_size": 8, "width": 8, "multipliers": (1, 2), "latent_width": 8, "norm_groups": 4, "codebook_size": 16,
    "codebook_dim": 4, "fsq_levels": (3, 5), "heads": 2,
}  # fmt: skip
VALUES: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 2**16, 2**20, 2**31, 2**31 - 1, 2**63, 2**64, 10**30, 10**400, -(2**63), 1.5, -0.0, 1e308,
    float("nan"), float("inf"), True, False, None, "", "1", "x" * 10_000, "\0", "\ud800", [], [1], [2**63, 2**63],
    [10**6] * 3, [[1]], [0, 0], [-1, 4], list(range(1000)), {}, {"kind": "label"}, [{"kind": []}], [{"kind": "image"}],
    [{"kind": "label", "class_names": ["a"] * 9}], "vit", "lfq", "fsq", "masked",
)  # fmt: skip
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X", "")


@cache
def networks() -> tuple[PretrainedModel, ...]:
    """Small networks of every quantizer, objective and kind of condition."""
    torch.manual_seed(0)
    tokenizers = [Tokenizer(TokenizerConfig(**SMALL, quantizer=name)) for name in QUANTIZERS]
    tokenizers.append(Tokenizer(TokenizerConfig(**SMALL, network="vit", patch=2, registers=1)))
    sizes: dict[str, Any] = {"grid": (2, 3), "codebook_size": 16, "width": 16, "depth": 1, "heads": 2}
    given: tuple[dict[str, Any], ...] = (
        {}, {"objective": "masked", "positions": "none"}, {"conditions": (LabelConfig(class_names=("a", "b")),)},
        {"objective": "random", "conditions": (ImageConfig(grid=(4, 3), codebook_size=5),), "encoder_depth": 1},
    )  # fmt: skip
    return (*tokenizers, *(Prior(PriorConfig(**sizes, **each)) for each in given))


@cache
def files(number: int) -> tuple[bytes, bytes]:
    """config.json and model.safetensors of a network."""
    network = networks()[number]
    header = {"format": 1, "kind": network.kind, "imgtf": "0"}
    return json.dumps(header | to_dict(network.config)).encode(), save(network.state_dict())


def config_value(data: bytes, stream: random.Random) -> bytes:
    """One value, or one within a list or table, replaced."""
    values = json.loads(data)
    key = stream.choice(list(values))
    inner = values[key]
    if isinstance(inner, dict) and stream.random() < 0.7:
        inner[stream.choice(list(inner))] = stream.choice(VALUES)
    elif isinstance(inner, list) and inner and stream.random() < 0.6:
        at = stream.randrange(len(inner))
        if isinstance(inner[at], dict):
            inner[at][stream.choice(list(inner[at]))] = stream.choice(VALUES)
        else:
            inner[at] = stream.choice(VALUES)
    else:
        values[key] = stream.choice(VALUES)
    return json.dumps(values).encode()


def config_keys(data: bytes, stream: random.Random) -> bytes:
    """Keys that are missing, unknown, or there twice."""
    values = json.loads(data)
    key = stream.choice(list(values))
    how = stream.randrange(4)
    if how == 0:
        del values[key]
    elif how == 1:
        values[stream.choice(["", "x", "grid", "Width", "width ", "n" * 9999])] = stream.choice(VALUES[:9])
    elif how == 2:
        return data[:-1] + b"," + json.dumps({key: 7}).encode()[1:]
    else:
        values = {stream.choice(["a", "config"]): values}
    return json.dumps(values).encode()


def config_text(data: bytes, stream: random.Random) -> bytes:
    """No JSON, another encoding, a byte order mark, deep nesting, megabytes of junk."""
    at = stream.randrange(len(data))
    return stream.choice(
        [
            data[:at], data[:at] + stream.randbytes(3) + data[at + 3 :], b"\xef\xbb\xbf" + data, b"", b"null", b"[1]",
            data.decode().encode("utf-16"), b"[" * 100_000, b'{"a":' * 50_000, data + b"\0", stream.randbytes(1000),
            b'{"format": ' + b"9" * 10_000 + b"}", b" " * 10_000_000, data.replace(b":", b": NaN,", 1),
        ]
    )  # fmt: skip


def tensor_header(data: bytes, stream: random.Random) -> bytes:
    """The header of the tensors with wrong offsets, shapes, types, names or length."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = stream.choice([key for key in header if key != "__metadata__"])
    one, how = header[name], stream.randrange(8)
    if how == 0:
        one["data_offsets"] = [stream.choice([0, 4, -4, 2**63, len(body), len(body) + 4]) for _ in range(2)]
    elif how == 1:
        one["shape"] = stream.choice([[], [0], [-1], [2**63], [2**32, 2**32], [1] * 100, one["shape"][::-1]])
    elif how == 2:
        one["dtype"] = stream.choice(DTYPES)
    elif how == 3:
        header[stream.choice(["x", "", "n" * 9999, "\n"])] = header.pop(name)
    elif how == 4:
        del header[name]
    elif how == 5:
        header[name + "2"] = dict(one)
    elif how == 6:
        other = stream.choice([key for key in header if key != "__metadata__"])
        one["data_offsets"] = header[other]["data_offsets"]
    else:
        length = stream.choice([0, 1, 2**62, 2**63, 2**64 - 1, len(data), len(data) * 2, 10**8 + 1])
        return struct.pack("<Q", length) + data[8:]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor_bytes(data: bytes, stream: random.Random) -> bytes:
    """The file cut, extended, or with other bytes."""
    at = stream.randrange(len(data))
    return stream.choice(
        [
            data[:at],
            data[:-1],
            data + b"\0",
            b"",
            stream.randbytes(99),
            data[:at] + b"\xff\xff" + data[at + 2 :],
        ]
    )


def tensor_values(data: bytes, stream: random.Random) -> bytes:
    """NaN, infinities, or another precision."""
    tensors = load(data)
    name = stream.choice(list(tensors))
    how = stream.randrange(6)
    if how < 3:
        flat = tensors[name].reshape(-1)
        if flat.numel() and flat.is_floating_point():
            flat[stream.randrange(flat.numel())] = stream.choice([float("nan"), float("inf"), -float("inf")])
        return save(tensors)
    kind = stream.choice(
        [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn]
    )
    return save({key: t.to(kind) if how > 3 or key == name else t for key, t in tensors.items()})


CONFIG: list[Callable[[bytes, random.Random], bytes]] = [config_value, config_value, config_keys, config_text]
TENSORS: list[Callable[[bytes, random.Random], bytes]] = [
    tensor_header,
    tensor_header,
    tensor_bytes,
    tensor_values,
]


def case(seed: int, folder: Path) -> tuple[str, str, str]:
    """Mutate one file of a model folder and load it; return the mutation, the outcome and a note.

    Outcomes: correct, error (one line that names the folder), wrong. A success is wrong where the network differs from
    what an independent reader finds in the two files: another value of the configuration, another name, shape or value
    of a tensor, or a value that is not finite.
    """
    stream = random.Random(seed)
    number = stream.randrange(len(networks()))
    kind = type(networks()[number])
    config, tensors = files(number)
    mutate = (CONFIG + TENSORS)[seed % (len(CONFIG) + len(TENSORS))]
    config, tensors = (
        (mutate(config, stream), tensors) if mutate in CONFIG else (config, mutate(tensors, stream))
    )
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(tensors)
    label = f"{mutate.__name__} of network {number}"
    try:
        with redirect_stderr(io.StringIO()):
            network = kind.from_pretrained(folder, "cpu")
    except CheckpointError as error:
        one_line = "\n" not in str(error) and str(folder) in str(error) and len(str(error)) < 2000
        return (
            mutate.__name__,
            "error" if one_line else "wrong",
            "" if one_line else f"{label}: {error!s:.300}",
        )
    difference = _difference(network, config, tensors)
    return (
        mutate.__name__,
        "wrong" if difference else "correct",
        f"{label}: {difference}" if difference else "",
    )


def _difference(network: PretrainedModel, config: bytes, tensors: bytes) -> str:
    """What is in the network but not in the files; "" if nothing."""
    own, read = to_dict(network.config), json.loads(config.decode("utf-8-sig"))
    for key, value in read.items():
        if key not in ("format", "kind", "imgtf", "sampling", "conditions") and not _same(
            own.get(key), value
        ):
            return f"{key} is {own.get(key)!r:.99}, not {value!r:.99}"
    stored = load(tensors)
    if stored.keys() != network.state_dict().keys():
        return "other names"
    for name, tensor in network.state_dict().items():
        if (
            not np.array_equal(stored[name].to(tensor.dtype).numpy(), tensor.numpy())
            or not tensor.isfinite().all()
        ):
            return f"other values of {name}"
    return ""


def _same(own: Any, value: Any) -> bool:
    """Whether a setting holds a value of the file; None stands for a default, and [8, 8] for a square of 8."""
    return own == value or value is None or (isinstance(value, list) and set(value) == {own})
