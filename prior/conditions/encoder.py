"""What a picture is to show: a class in front of the sequence; captions, features, a source picture beside it.

Shapes: B batch, L bytes of a caption, S condition slots in front, F width of features, H', W' grid of the source's
codes, h', w' grid of its slots, M memory slots, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import DataError
from ..config import PriorConfig
from ..layers import Block, Context, make_norm
from .image import ImageEmbedding, memory_turns, patches, source_at

BYTES = 257
"""Bytes of UTF-8, counted from 1; 0 is padding."""


@dataclass(frozen=True)
class Condition:
    """What B pictures are to show. A part that is missing is left open, as one hidden in training."""

    label: Tensor | None = None
    """(B,) class numbers, -1 for none."""
    text: Tensor | None = None
    """(B, L) bytes of captions as `caption_bytes` gives them; a row of zeros is no caption."""
    features: Tensor | None = None
    """(B, S, F) of a text encoder; zeros are padding."""
    source: Tensor | None = None
    """(B, H', W') or (B, H' * W') codes of the picture to start from; -1 for none."""

    def parts(self) -> Iterator[tuple[str, Tensor]]:
        """The parts that are there, by name."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return ((name, part) for name, part in pairs if part is not None)

    @property
    def empty(self) -> bool:
        """Whether nothing is said."""
        return not any(True for _ in self.parts())

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(**{name: part.to(device, non_blocking=True) for name, part in self.parts()})


def caption_bytes(captions: Sequence[str], length: int) -> Tensor:
    """Captions to their first `length` bytes, (B, length) int64: byte + 1, then zeros."""
    rows = [list(caption.encode()[:length]) for caption in captions]
    return torch.tensor([[b + 1 for b in row] + [0] * (length - len(row)) for row in rows])


@dataclass(frozen=True)
class EncodedCondition:
    """A condition as the network reads it."""

    prefix: Tensor
    """(B, S, D), in front of the codes."""
    prefix_visible: Tensor | None
    """(B, S), which prefix tokens are not padding; None for all."""
    states: Tensor | None
    """(B, L, D), encoder states for cross-attention."""
    states_mask: Tensor | None
    """(B, 1, 1, L), which of them may be attended to."""
    aligned: Tensor | None = None
    """(B, T, D), added to the token that predicts each grid position."""
    states_rotary: Tensor | None = None
    """(L, head_width / 2, 2), rotary embedding of the encoder states."""

    def rows(self, start: int, end: int) -> EncodedCondition:
        """Rows `start` to `end` of the batch."""
        own = {name: getattr(self, name) for name in BATCHED}
        return replace(self, **{name: None if t is None else t[start:end] for name, t in own.items()})

    def cat(self, other: EncodedCondition) -> EncodedCondition:
        """The rows of both, these first."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in BATCHED}
        return replace(self, **{n: torch.cat([a, b]) for n, (a, b) in pairs.items() if a is not None})


BATCHED = ("prefix", "prefix_visible", "states", "states_mask", "aligned")
"""Fields of `EncodedCondition` with a row per image."""


class ConditionEncoder(nn.Module):
    """All conditions of a prior. In training, whole rows are hidden at the rate of `condition_dropout`, so that one
    network learns with and without (classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        prefix = config.feature_width and config.feature_prefix
        self.features = (
            FeatureEmbedding(config.feature_width, config.feature_length, config.width) if prefix else None
        )
        self.label = None if prefix else LabelEmbedding(config.classes, config.width)
        self.memory = SequenceEncoder(config) if config.encoder_length else None
        self.align = nn.Linear(config.width, config.width, bias=False) if config.image_grid else None

    def forward(
        self, condition: Condition, rows: int, grid: tuple[int, int], device: torch.device
    ) -> EncodedCondition:
        """Raises DataError for a part that the prior was not trained with, or of another shape."""
        self._check(condition, rows)
        condition = condition.to(device)
        hidden = torch.zeros(rows, dtype=torch.bool, device=device)
        if self.training and self.config.condition_dropout > 0:
            hidden = torch.rand(rows, device=device) < self.config.condition_dropout
        visible = None
        if self.features is not None:
            prefix, visible = self.features(condition.features, hidden)
        else:
            assert self.label is not None
            prefix = self.label(condition.label, hidden)
        if self.memory is None:
            return EncodedCondition(prefix, visible, None, None)
        turns = memory_turns(self.config, grid, device)
        memory, mask = self.memory(condition, hidden)
        aligned = self.align(source_at(memory, mask, self.config, grid)) if self.align is not None else None
        return EncodedCondition(prefix, visible, memory, mask, aligned, turns)

    def without(self, condition: Condition) -> Condition:
        """The condition that says nothing, for guidance: no features still have the length of the given ones."""
        if self.features is None or condition.features is None:
            return Condition()
        features = condition.features.to(self.features.null)
        return Condition(features=self.features.null * (features != 0).any(-1, keepdim=True))

    def _check(self, condition: Condition, rows: int) -> None:
        names = {"label": "class", "source": "image"}
        asked = [names.get(name, name) for name, _ in condition.parts()]
        unknown = [name for name in asked if name not in self.config.conditions]
        label = condition.label
        if (
            "class" in unknown and label is not None and bool((label == -1).all())
        ):  # "no label" is nothing to know
            unknown.remove("class")
        if unknown:
            takes = " and ".join(self.config.conditions) or "no condition"
            raise DataError(f"this prior takes {takes}, not {' and '.join(unknown)}")
        for name, part in condition.parts():
            if len(part) != rows:
                raise DataError(f"{rows} rows need {rows} of {name}, got {len(part)}")


class LabelEmbedding(nn.Module):
    """Labels to one prefix token. The last row stands for "no label": the prior without condition."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, label: Tensor | None, hidden: Tensor) -> Tensor:
        """Labels (B,), -1 or None for none, to tokens (B, 1, D); where `hidden` (B,), as if there were none."""
        if label is None:
            return self.table(torch.full_like(hidden, self.classes, dtype=torch.long))[:, None]
        wrong = label[(label >= self.classes) | (label < -1)]
        if wrong.numel():
            raise DataError(f"label {int(wrong[0])} is not among the prior's {self.classes} classes")
        return self.table(torch.where((label < 0) | hidden, self.classes, label))[:, None]


class FeatureEmbedding(nn.Module):
    """Features to S prefix tokens by two layers around a GELU (PixArt's, LlamaGen's).

    `null` stands for "no features". Rows of zeros are padding, which no other slot attends to.
    """

    def __init__(self, features: int, slots: int, width: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.randn(slots, features) / features**0.5)
        self.up = nn.Linear(features, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)

    def forward(self, features: Tensor | None, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, S, F) or None to tokens (B, S, D) and which of them are not padding (B, S)."""
        B = len(hidden)
        if features is None:
            features = self.null.expand(B, -1, -1)
        if features.shape != (B, *self.null.shape):
            raise DataError(f"{B} rows need features {(B, *self.null.shape)}, got {tuple(features.shape)}")
        features = features.to(self.null.dtype)
        visible = (features != 0).any(-1)
        features = torch.where(hidden[:, None, None], self.null * visible[..., None], features)
        return self.down(F.gelu(self.up(features), approximate="tanh")), visible


class SequenceEncoder(nn.Module):
    """The encoder of an encoder-decoder transformer: captions, features and source codes to one sequence.

    Slot 0 is a learned "nothing", always there to be read; a hidden or missing part is masked out.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.null = nn.Parameter(torch.randn(config.width) * 0.02)
        self.bytes = nn.Embedding(BYTES, config.width) if config.text_length else None
        features = config.feature_width and not config.feature_prefix
        self.features = nn.Linear(config.feature_width, config.width) if features else None
        self.source = ImageEmbedding(config) if config.image_grid else None
        self.position = nn.Parameter(torch.randn(config.encoder_length, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.encoder_depth))
        self.norm = make_norm(config)

    def forward(self, condition: Condition, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, M, D) and which of them may be read, (B, 1, 1, M)."""
        B = len(hidden)
        visible = torch.cat([torch.ones_like(hidden)[:, None], *self._visible(condition, hidden)], dim=1)
        mask = visible[:, None, None]
        parts = [self.null.expand(B, 1, -1), *self._embedded(condition, B)]
        x = torch.cat([part.to(self.null.dtype) for part in parts], dim=1)  # (B, M, D)
        x = x + self.position
        context = Context(mask=mask, causal=False)
        for block in self.blocks:
            x = block(x, context)
        return self.norm(x), mask

    def _embedded(self, condition: Condition, B: int) -> Iterator[Tensor]:
        given = (condition.text, condition.features, condition.source)
        for (module, slots), part in zip(self._kinds(), given, strict=True):
            if module is None:
                continue
            if part is None:
                yield self.null.new_zeros(B, slots, self.config.width)
            elif part.is_floating_point():
                yield module(part.to(self.null.dtype))
            else:
                yield module(part.clamp_min(0))

    def _visible(self, condition: Condition, hidden: Tensor) -> Iterator[Tensor]:
        """Which slots of each kind are there, (B, slots)."""
        tests = (lambda t: t > 0, lambda f: (f != 0).any(-1), self._whole)
        given = (condition.text, condition.features, condition.source)
        for (module, slots), part, there in zip(self._kinds(), given, tests, strict=True):
            if module is None:
                continue
            shown = hidden.new_zeros(len(hidden), slots) if part is None else there(part)
            if shown.shape[1] != slots:
                raise DataError(f"a condition of {shown.shape[1]} slots, the prior was trained with {slots}")
            yield shown & ~hidden[:, None]

    def _kinds(self) -> Iterator[tuple[nn.Module | None, int]]:
        config = self.config
        yield self.bytes, config.text_length
        yield self.features, config.feature_length
        yield self.source, config.image_cells[0] * config.image_cells[1]

    def _whole(self, source: Tensor) -> Tensor:
        """Which slots of the source have all their codes, (B, h' * w')."""
        return (patches(source, self.config) >= 0).all(-1)


def prefix_mask(visible: Tensor, slot: int, n: int, causal: bool) -> Tensor:
    """Which keys the n slots from `slot` on may read, (B, 1, n, slot + n), given the visible prefix (B, S).

    Each reads itself and what comes before it (all, where not causal), but for hidden slots of the prefix.
    """
    end = slot + n
    shown = F.pad(visible, (0, max(0, end - visible.shape[1])), value=True)[:, None, None, :end]
    query = torch.arange(slot, end, device=visible.device)[:, None]
    key = torch.arange(end, device=visible.device)
    return ((key < query) | (not causal)) & shown | (key == query)
