"""Strict loading of a safetensors file into a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import CheckpointError
from .regular import check_regular

logger = logging.getLogger("imgtf")

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types of tensors that are read, by their names in the file."""
GROUP = 2**26
REASON = 200
"""Characters of another library's message in an error."""
NAMED, NAME = 4, 100
"""Tensors that an error names, and characters of each of them."""


def build_for(build: Callable[[], nn.Module], path: Path) -> nn.Module:
    """Return a network whose weights are to be loaded from a file, and are undefined before that.

    The network is first built without memory and compared with the file. So sizes that the file does not have are an
    error and allocate nothing.

    Args:
        build: makes the network.

    Raises:
        CheckpointError: the file is missing or damaged, or has other tensors.
    """
    try:
        with torch.device("meta"), Uninitialised():
            own = build().state_dict()
    except RuntimeError as error:  # more bytes than 64 bits can count
        raise CheckpointError(f"{path.parent}: the sizes of the network are too large ({error})") from error
    with _opened(path) as file:
        _check_tensors(own, file, path)
    with Uninitialised():
        return build()


class Uninitialised(TorchFunctionMode):
    """Networks that are built within get no random weights. Buffers that no file holds are right.

    It saves most of the time of loading, and leaves the random generator as it is.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if function in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return (torch.empty if function in (torch.randn, torch.rand) else function)(*args, **given)


def load_tensors(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into a network. Floats of another precision are converted, which the log says.

    Raises:
        CheckpointError: the file is missing or damaged; a tensor is missing, unknown, not finite, or of another kind.
    """
    own = model.state_dict()
    with _opened(path) as file:
        if others := _check_tensors(own, file, path):
            logger.info("%s: tensors are converted from %s", path, " and ".join(others))
    for names in _groups(own):
        with _opened(path) as file:
            for name in names:
                own[name].copy_(file.get_tensor(name))
    if wrong := [name for name, tensor in own.items() if not _is_finite(tensor)]:
        raise CheckpointError(
            f"{path}: values that are NaN or infinite in {_some(wrong)}; restore the file or train again"
        )


def describe_mismatch(own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """Describe the differences between expected and given shapes by tensor name; "" if there are none."""
    problems = []
    for word, names in (("missing", own.keys() - given.keys()), ("unknown", given.keys() - own.keys())):
        if names:
            problems.append(f"{word} {_some(sorted(names))}")
    misshapen = [
        f"{n} is {list(given[n])}, not {list(own[n])}" for n in own if n in given and own[n] != given[n]
    ]
    if misshapen:
        problems.append(f"misshapen {_some(misshapen)}")
    return "; ".join(problems)


def _groups(tensors: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names of tensors of about `GROUP` bytes: what was read of a mapped file stays in memory until it is closed."""
    names, size = [], 0
    for name, tensor in tensors.items():
        names.append(name)
        size += tensor.nbytes
        if size > GROUP:
            yield names
            names, size = [], 0
    yield names


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yield an open safetensors file. Raises CheckpointError if it is missing or damaged."""
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; the model folder is incomplete") from None
    except (SafetensorError, OSError) as error:
        reason = f"{error!s:.{REASON}}"
        raise CheckpointError(
            f"{path}: damaged or not a safetensors file ({reason}); restore the file"
        ) from error


def _check_tensors(own: Mapping[str, Tensor], file: Any, path: Path) -> list[str]:
    """CheckpointError unless an open file has the names, shapes and types of a network's tensors.

    Returns:
        Other precisions of floats in the file, which have to be converted.
    """
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    given = {name: tuple(one.get_shape()) for name, one in slices.items()}
    if mismatch := describe_mismatch({name: tuple(tensor.shape) for name, tensor in own.items()}, given):
        raise CheckpointError(f"{path}: {mismatch}; the weights do not belong to this config.json")
    types = {name: DTYPES.get(slices[name].get_dtype()) for name in own}
    other = {name: kind for name, kind in types.items() if kind != own[name].dtype}
    for name, kind in other.items():
        if kind is None or not (kind.is_floating_point and own[name].is_floating_point()):
            found = f"{slices[name].get_dtype()}, not {own[name].dtype}"
            raise CheckpointError(f"{path}: {_some([name])} is {found}; restore the file")
    return sorted({str(kind) for kind in other.values()})


@torch.no_grad()
def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return True
    low, high = tensor.aminmax()  # NaN if any value is
    return bool(low.isfinite() & high.isfinite())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    shown = (name if name.isprintable() and name else repr(name) for name in names[:NAMED])
    return ", ".join(name[:NAME] for name in shown) + more
