"""The names of a family and of imgtf, as a table of entries that works in both directions."""

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
    """One tensor of imgtf, and the published tensor or tensors whose concatenation it is."""

    ours: str
    theirs: tuple[str, ...]
    axis: int = 0
    """1: ours has an additional leading axis of length 1; -1: theirs has it."""
    convert: Callable[[Tensor], Tensor] | None = None
    """Applied on import, for values that the original computes from its tensor at every use."""
    linear: bool = False
    """Whether ours is a 1x1 convolution and theirs a linear layer, without the last two axes."""

    def shape(self, ours: Shape) -> Shape:
        """Return the shape of each published tensor, given ours."""
        if self.linear:
            ours = ours[:2]
        if self.axis:
            return ours[1:] if self.axis > 0 else (1, *ours)
        return (ours[0] // len(self.theirs), *ours[1:])


def weight_and_bias(ours: str, *theirs: str) -> list[Entry]:
    """Return the entries of a layer's weight and bias."""
    return [Entry(f"{ours}.{end}", tuple(f"{t}.{end}" for t in theirs)) for end in ("weight", "bias")]


def import_tensors(
    entries: Iterable[Entry], shapes: Mapping[str, Shape], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return published tensors under imgtf's names and in its `shapes`, as float32.

    Tensors that need no change are views of the memory-mapped file.

    Raises:
        CheckpointError: tensors are missing, unknown or misshapen; the message lists them.
    """
    entries = list(entries)
    expected = {name: e.shape(shapes[e.ours]) for e in entries for name in e.theirs}
    mismatch = describe_mismatch(expected, {name: tuple(t.shape) for name, t in tensors.items()})
    if mismatch:
        raise CheckpointError(mismatch)
    return {e.ours: _import(e, shapes[e.ours], tensors) for e in entries}


def export_tensors(entries: Iterable[Entry], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return imgtf's tensors under the published names and in their shapes."""
    return {name: tensor for e in entries for name, tensor in _export(e, state[e.ours])}


def _import(entry: Entry, shape: Shape, tensors: Mapping[str, Tensor]) -> Tensor:
    sources = [tensors[name].float() for name in entry.theirs]
    tensor = (sources[0] if len(sources) == 1 else torch.cat(sources)).reshape(shape)
    return entry.convert(tensor) if entry.convert else tensor


def _export(entry: Entry, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    chunks = tensor.chunk(len(entry.theirs))
    shape = entry.shape(tuple(tensor.shape))
    # Clones: a safetensors file cannot hold two views of one tensor.
    return ((name, chunk.reshape(shape).clone()) for name, chunk in zip(entry.theirs, chunks, strict=True))


def without(tensors: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with none of the prefixes."""
    return {name: t for name, t in tensors.items() if not name.startswith(prefixes)}


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Return the number of numbered modules: for the prefix "blocks.", blocks.0.*, blocks.1.*, ..."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    return next(n for n in range(len(numbers) + 1) if str(n) not in numbers)


def shape_of(tensors: Mapping[str, Tensor], name: str, dimensions: int) -> Shape:
    """Return the shape of a tensor that determines a size.

    Raises:
        CheckpointError: the tensor is missing, empty, or has another number of dimensions.
    """
    if name not in tensors:
        raise CheckpointError(f"missing {name}")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(f"misshapen {name} is {list(shape)}, not {dimensions} dimensions")
    return shape
