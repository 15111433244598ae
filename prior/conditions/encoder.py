"""All conditions of a prior together: tokens in front of the codes, and encoder states for cross-attention.

To add a condition, write its file in this folder and import it here.

Shapes: B batch, S prefix tokens, L encoder states, n tokens of one condition, h, w grid of the prior, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import DataError
from ...nn.attention import AttentionInputs
from ...nn.rotary import rotary_table
from ...runtime.batch_random import batch_rand
from ..config import PriorConfig
from ..layers import Block, make_norm
from . import features, image, text  # noqa: F401  (each registers its kind)
from .condition import Condition, EncodedCondition
from .label import LabelEmbedding

START = "label"
"""A prior without prefix conditions starts with the "no label" token of an empty table of labels."""


class ConditionEncoder(nn.Module):
    """Embeds every condition and encodes those that are not prefixes.

    In training, all conditions of a row are dropped at the rate `condition_dropout`, so that one network learns to
    predict with and without them (classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598).
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.ModuleDict(
            {c.kind: c.embedding(config.width, config.grid) for c in config.conditions}
        )
        self.prefix_kinds = [c.kind for c in config.conditions if c.is_prefix]
        self.encoder_kinds = [c.kind for c in config.conditions if not c.is_prefix]
        if not self.prefix_kinds:
            self.prefix_kinds = [START]
            self.embeddings[START] = LabelEmbedding(0, config.width)
        self.encoder = SequenceEncoder(config) if self.encoder_kinds else None

    def forward(
        self, condition: Condition, rows: int, grid: tuple[int, int], device: torch.device
    ) -> EncodedCondition:
        """Encode the condition of `rows` images for codes of a grid.

        Raises:
            DataError: for a kind that the prior was not trained with, or values of another shape or range.
        """
        self._check(condition, rows)
        condition = condition.to(device)
        dropped = torch.zeros(rows, dtype=torch.bool, device=device)
        if self.training and self.config.condition_dropout > 0:
            dropped = batch_rand(rows, device=device) < self.config.condition_dropout
        tokens = {kind: embed(condition.get(kind), dropped) for kind, embed in self.embeddings.items()}
        prefix, visible = _cat([tokens[kind] for kind in self.prefix_kinds])
        padded = self.prefix_kinds != [START]
        if self.encoder is None:
            return EncodedCondition(prefix, visible if padded else None)
        states, mask = self.encoder([tokens[kind] for kind in self.encoder_kinds])
        return EncodedCondition(
            prefix,
            visible if padded else None,
            states,
            mask[:, None, None],
            self._aligned(states, mask, grid),
            self._rotary(grid, device),
        )

    def without(self, condition: Condition) -> Condition:
        """The condition that classifier-free guidance compares with: unconditional, at the same prefix length."""
        return Condition(**{kind: self.embeddings[kind].unconditional(v) for kind, v in condition.items()})  # type: ignore

    def _aligned(self, states: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor | None:
        """The sum of what the conditions add to each grid position, (B, T, D)."""
        null, total, start = states[:, :1], None, 1
        for kind in self.encoder_kinds:
            part = slice(start, start + self.config.condition_length(kind))
            own = self.embeddings[kind].align(states[:, part], mask[:, part], null, grid)  # type: ignore
            if own is not None:
                total = own if total is None else total + own
            start = part.stop
        return total

    def _rotary(self, grid: tuple[int, int], device: torch.device) -> Tensor | None:
        """Rotary embedding of the encoder states, (L, head_width / 2, 2); the identity where they have no position."""
        positions = {kind: self.embeddings[kind].positions(grid) for kind in self.encoder_kinds}  # type: ignore
        if self.config.rotary == "none" or all(p is None for p in positions.values()):
            return None
        tables = [self._unrotated(1)]
        for kind, own in positions.items():
            if own is None:
                tables.append(self._unrotated(self.config.condition_length(kind)))
            else:
                tables.append(rotary_table(own, self.config.head_width, self.config.rope_base))
        return torch.cat(tables).to(device)

    def _unrotated(self, n: int) -> Tensor:
        identity = torch.tensor([1.0, 0.0])  # cosine and sine of 0
        return identity.expand(n, self.config.head_width // 2, 2)

    def _check(self, condition: Condition, rows: int) -> None:
        unknown = [kind for kind, value in condition.items() if not self._knows(kind, value)]
        if unknown:
            takes = " and ".join(self.config.condition_kinds) or "no condition"
            raise DataError(f"this prior takes {takes}, not {' and '.join(unknown)}")
        for kind, value in condition.items():
            if len(value) != rows:
                raise DataError(f"{rows} images need {rows} values of {kind}, got {len(value)}")

    def _knows(self, kind: str, value: Tensor) -> bool:
        no_label = kind == "label" and bool((value == -1).all())
        return no_label or kind in self.config.condition_kinds


class SequenceEncoder(nn.Module):
    """The encoder of an encoder-decoder transformer (Vaswani et al. 2017, arXiv:1706.03762) over all conditions.

    State 0 is a learned "nothing", which is always visible; dropped and missing conditions are masked.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.randn(config.width) * 0.02)
        self.position = nn.Parameter(torch.randn(config.encoder_length, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.encoder_depth))
        self.norm = make_norm(config)

    def forward(self, tokens: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Tokens (B, n, D) and their visibility (B, n) per condition, to states (B, L, D) and visibility (B, L)."""
        x, visible = _cat(tokens)
        x = torch.cat([self.null.to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # (B, L, D)
        visible = torch.cat([torch.ones_like(visible[:, :1]), visible], dim=1)
        x = x + self.position
        inputs = AttentionInputs(mask=visible[:, None, None], causal=False)
        for block in self.blocks:
            x = block(x, inputs)
        return self.norm(x), visible


def _cat(tokens: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Tokens and visibility of several conditions, one after the other."""
    return torch.cat([t for t, _ in tokens], dim=1), torch.cat([v for _, v in tokens], dim=1)
