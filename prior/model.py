"""Stage two: a GPT-style transformer over the token grid.

Shapes: B batch, h, w grid, T = h*w tokens in raster order, D width, V codebook size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError
from ..pretrained import PretrainedModel
from .cache import KVCache
from .condition import LabelEmbedding
from .config import PriorConfig
from .layers import Attention, Block, FeedForward
from .positions import rotary_table


class Prior(PretrainedModel):
    """Decoder-only transformer: [label, code 0, ..., code T-2] predicts [code 0, ..., code T-1]."""

    kind = "prior"
    config_class = PriorConfig
    config: PriorConfig

    def __init__(self, config: PriorConfig) -> None:
        super().__init__(config)
        self.label_embedding = LabelEmbedding(config.classes, config.width, config.label_dropout)
        self.code_embedding = nn.Embedding(config.codebook_size, config.width)
        # Slot t knows which place it predicts; rotary angles alone tell it only where the last code was.
        learned = config.positions in ("learned", "both")
        self.position = nn.Parameter(torch.empty(config.tokens, config.width)) if learned else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.head = None if config.tied_head else nn.Linear(config.width, config.codebook_size, bias=False)
        rotary = config.positions in ("rotary", "both")
        table = rotary_table(config.grid, config.head_width, config.rope_base) if rotary else None
        self.register_buffer("rotary", table, persistent=False)
        self.rotary: Tensor | None
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        # What a block adds to the residual stream shrinks with the depth, so that its sum does not grow (GPT-2).
        if isinstance(module, Attention):
            nn.init.normal_(module.proj.weight, std=0.02 / math.sqrt(2 * self.config.depth))
        if isinstance(module, FeedForward):
            nn.init.normal_(module.down.weight, std=0.02 / math.sqrt(2 * self.config.depth))
        if module is self and self.position is not None:
            nn.init.normal_(self.position, std=0.02)
        # All codes equally likely at the start: the first loss is ln V.
        if module is self and self.head is not None:
            nn.init.zeros_(self.head.weight)

    def forward(self, codes: Tensor, label: Tensor | None = None) -> Tensor:
        """Codes (B, T) or (B, h, w), labels (B,) or None for none, to logits (B, T, V).

        logits[:, t] predicts code t from the label and the codes before t.
        """
        codes = self._sequence(codes)
        label = self.label_embedding.resolve(label, len(codes), codes.device)
        prefix = self.label_embedding(label)  # (B, 1, D)
        x = torch.cat([prefix, self.code_embedding(codes[:, :-1])], dim=1)  # (B, T, D)
        if self.position is not None:
            x = x + self.position
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, self.rotary)
        return self._logits(x)  # (B, T, V)

    def log_prob(self, codes: Tensor, label: Tensor | None = None) -> Tensor:
        """Natural log of each code's probability given those before it, (B, T)."""
        codes = self._sequence(codes)
        return -F.cross_entropy(self(codes, label).mT, codes, reduction="none")

    def prefix(self, label: Tensor) -> Tensor:
        """The first slot's input (B, 1, D) for resolved labels (B,), ready for `step`."""
        return self.label_embedding(label)

    def step(self, x: Tensor, slot: int, cache: KVCache) -> Tensor:
        """One slot's input (B, 1, D) to the logits (B, V) of code `slot`; the cache holds the slots before."""
        if self.position is not None:
            x = x + self.position[slot]
        rotary = self.rotary[slot : slot + 1] if self.rotary is not None else None
        for block in self.blocks:
            x = block(x, rotary, cache, slot)
        return self._logits(x[:, -1])

    def new_cache(self, rows: int) -> KVCache:
        """An empty cache for `rows` sequences, where and as the weights are."""
        return KVCache(self.config, rows, self.device, self.code_embedding.weight.dtype)

    def _logits(self, x: Tensor) -> Tensor:
        head = self.code_embedding.weight if self.head is None else self.head.weight
        return F.linear(self.norm(x), head).float()

    def _sequence(self, codes: Tensor) -> Tensor:
        h, w = self.config.grid
        if codes.dim() == 3:
            if tuple(codes.shape[1:]) != (h, w):
                raise DataError(f"the prior models grids of {h}x{w} codes, got {tuple(codes.shape[1:])}")
            codes = codes.flatten(1)
        if codes.dim() != 2 or codes.shape[1] != h * w:
            raise DataError(f"the prior takes codes (B, {h * w}) or (B, {h}, {w}), got {tuple(codes.shape)}")
        return codes.long()

    def extra_repr(self) -> str:
        h, w = self.config.grid
        return f"{h}x{w} grid, {self.config.codebook_size} codes, {self.parameter_count():,} parameters"
