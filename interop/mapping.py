"""Names of one family against ours: a table of entries, read in either direction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..pretrained import describe_mismatch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One tensor of ours and the published one, or the several that ours is the concatenation of."""

    ours: str
    theirs: tuple[str, ...]
    axis: int = 0
    """+1: ours has a leading axis of length 1 that theirs has not; -1: the other way about."""
    convert: Callable[[Tensor], Tensor] | None = None
    """Applied on import, for values that the original computes from its own at every use."""

    def shape(self, ours: Shape) -> Shape:
        """The shape of each published tensor, given ours."""
        if self.axis:
            return ours[1:] if self.axis > 0 else (1, *ours)
        return (ours[0] // len(self.theirs), *ours[1:])


def both(ours: str, *theirs: str) -> list[Entry]:
    """Entries of a layer's weight and bias."""
    return [Entry(f"{ours}.{end}", tuple(f"{t}.{end}" for t in theirs)) for end in ("weight", "bias")]


def collect(
    entries: Iterable[Entry], shapes: Mapping[str, Shape], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Published tensors under our names, in our shapes, float32; the given shapes are ours.

    Tensors that need no change stay views of the file that they were mapped from.

    Raises:
        CheckpointError: naming every tensor that is missing, unknown or misshapen.
    """
    entries = list(entries)
    expected = {name: e.shape(shapes[e.ours]) for e in entries for name in e.theirs}
    mismatch = describe_mismatch(expected, {name: tuple(t.shape) for name, t in tensors.items()})
    if mismatch:
        raise CheckpointError(mismatch)
    return {e.ours: _import(e, shapes[e.ours], tensors) for e in entries}


def release(entries: Iterable[Entry], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse: our tensors under the published names."""
    return {name: part for e in entries for name, part in _export(e, state[e.ours])}


def _import(entry: Entry, shape: Shape, tensors: Mapping[str, Tensor]) -> Tensor:
    parts = [tensors[name].float() for name in entry.theirs]
    tensor = (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(shape)
    return entry.convert(tensor) if entry.convert else tensor


def _export(entry: Entry, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    parts = tensor.chunk(len(entry.theirs))
    shape = entry.shape(tuple(tensor.shape))
    # Clones, because a safetensors file may hold no two views of one tensor.
    return ((name, part.reshape(shape).clone()) for name, part in zip(entry.theirs, parts, strict=True))


def drop(tensors: Mapping[str, Tensor], *beginnings: str) -> dict[str, Tensor]:
    """The tensors whose names do not begin so."""
    return {name: t for name, t in tensors.items() if not name.startswith(beginnings)}


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered parts there are: with prefix "blocks.", blocks.0.*, blocks.1.*, ..."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    return next(n for n in range(len(numbers) + 1) if str(n) not in numbers)


def shape_of(tensors: Mapping[str, Tensor], name: str, dimensions: int) -> Shape:
    """The shape from which a size is read, or a CheckpointError that names the tensor."""
    if name not in tensors:
        raise CheckpointError(f"missing {name}")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(f"misshapen {name} is {list(shape)}, not {dimensions} dimensions")
    return shape
