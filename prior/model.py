"""Stage two: a GPT-style transformer over the token grid.

Shapes: B batch, h, w grid, T = h*w tokens in raster order, S condition slots (1 for a label), F width of features,
D width, V codebook size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError
from ..pretrained import PretrainedModel
from .cache import KVCache
from .condition import FeatureEmbedding, LabelEmbedding, attention_mask
from .config import PriorConfig
from .layers import Attention, Block, FeedForward, GeluFeedForward, make_norm
from .positions import rotary_table


class Prior(PretrainedModel):
    """Decoder-only transformer: [condition, code 0, ..., code T-2] predicts [code 0, ..., code T-1].

    The condition is a label in one slot, or features in S slots.
    """

    kind = "prior"
    config_class = PriorConfig
    config: PriorConfig

    def __init__(self, config: PriorConfig) -> None:
        super().__init__(config)
        self.label_embedding: LabelEmbedding | None = None
        self.feature_embedding: FeatureEmbedding | None = None
        if config.feature_width:
            self.feature_embedding = FeatureEmbedding(
                config.feature_width, config.feature_slots, config.width, config.label_dropout
            )
        else:
            self.label_embedding = LabelEmbedding(config.classes, config.width, config.label_dropout)
        self.code_embedding = nn.Embedding(config.codebook_size, config.width)
        # Slot t knows which place it predicts; rotary angles alone tell it only where the last code was.
        learned = config.positions in ("learned", "both")
        self.position = nn.Parameter(torch.empty(config.slots, config.width)) if learned else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.norm = make_norm(config)
        self.head = None if config.tied_head else nn.Linear(config.width, config.codebook_size, bias=False)
        rotary = config.positions in ("rotary", "both")
        table = rotary_table(
            config.grid,
            config.head_width,
            config.rope_base,
            condition=config.condition_slots,
            zero=config.zero_condition,
        )
        self.register_buffer("rotary", table if rotary else None, persistent=False)
        self.rotary: Tensor | None
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        # What a block adds to the residual stream shrinks with the depth, so that its sum does not grow (GPT-2).
        if isinstance(module, Attention):
            nn.init.normal_(module.proj.weight, std=0.02 / math.sqrt(2 * self.config.depth))
        if isinstance(module, (FeedForward, GeluFeedForward)):
            nn.init.normal_(module.down.weight, std=0.02 / math.sqrt(2 * self.config.depth))
        if module is self and self.position is not None:
            nn.init.normal_(self.position, std=0.02)
        # All codes equally likely at the start: the first loss is ln V.
        if module is self and self.head is not None:
            nn.init.zeros_(self.head.weight)

    def forward(self, codes: Tensor, label: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """Codes (B, T) or (B, h, w) with labels (B,) or features (B, S, F) or neither, to logits (B, T, V).

        logits[:, t] predicts code t from the condition and the codes before t.
        """
        codes = self._sequence(codes)
        condition = self.condition(len(codes), label, features)
        visible = self.embedding.visible(condition)
        mask = attention_mask(visible, 0, self.config.slots) if visible is not None else None
        x = torch.cat([self.embedding(condition), self.code_embedding(codes[:, :-1])], dim=1)  # (B, S+T-1, D)
        if self.position is not None:
            x = x + self.position
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, self.rotary, mask=mask)
        return self._logits(x[:, self.config.condition_slots - 1 :])  # (B, T, V)

    def log_prob(self, codes: Tensor, label: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """Natural log of each code's probability given those before it, (B, T)."""
        codes = self._sequence(codes)
        return -F.cross_entropy(self(codes, label, features).mT, codes, reduction="none")

    @property
    def embedding(self) -> LabelEmbedding | FeatureEmbedding:
        """What makes the condition's slots, whichever of the two the configuration asks for."""
        embedding = self.feature_embedding if self.label_embedding is None else self.label_embedding
        assert embedding is not None
        return embedding

    def condition(self, rows: int, label: Tensor | None, features: Tensor | None = None) -> Tensor:
        """The condition of each row, checked and complete: (B,) labels or (B, S, F) features."""
        given, wrong = (features, label) if self.config.feature_width else (label, features)
        if wrong is not None:
            kind = "features, not labels" if self.config.feature_width else "labels, not features"
            raise DataError(f"this prior takes {kind}")
        return self.embedding.resolve(given, rows, self.device)

    def step(self, x: Tensor, slot: int, cache: KVCache) -> Tensor:
        """Inputs (B, n, D) of the slots from `slot` on to the logits (B, V) after the last of them.

        The first step takes the condition, each later one a code; the cache holds the slots before.
        """
        end = slot + x.shape[1]
        mask = attention_mask(cache.visible, slot, x.shape[1]) if cache.visible is not None else None
        if self.position is not None:
            x = x + self.position[slot:end]
        rotary = self.rotary[slot:end] if self.rotary is not None else None
        for block in self.blocks:
            x = block(x, rotary, cache, slot, mask)
        return self._logits(x[:, -1])

    def new_cache(self, condition: Tensor) -> KVCache:
        """An empty cache for sequences that start with this `condition`, where and as the weights are."""
        dtype, visible = self.code_embedding.weight.dtype, self.embedding.visible(condition)
        return KVCache(self.config, len(condition), self.device, dtype, visible)

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
