"""Stage two: a GPT-style transformer over the token grid.

Shapes: B batch, h, w grid, T = h*w tokens in raster order, S condition slots (1 for a label), N = S + T - 1 slots
(S + T for masked priors), M memory slots, D width, V codebook size.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import DataError
from ..pretrained import PretrainedModel
from .conditions.condition import Condition, EncodedCondition
from .conditions.embedding import ConditionEmbedding
from .conditions.encoder import ConditionEncoder
from .conditions.image import aligned_at
from .config import PriorConfig
from .decoding.cache import KVCache
from .decoding.compiled import fused_blocks, fused_head
from .decoding.packed import Linear
from .layers import Attention, Block, Context, CrossAttention, FeedForward, GeluFeedForward, make_norm
from .positions import Places, Positions

if TYPE_CHECKING:
    from .decoding.captured import CapturedSteps


class PriorNetwork(PretrainedModel):
    """Transformer over [condition, codes]; three objectives, one network.

    - raster: slot t reads code t - 1 (the first the condition) and predicts code t; attention is causal.
    - random: the same along any order; a slot is told the place that it predicts.
    - masked: slot t reads code t, or that it is not known, and predicts it; attention goes both ways.
    """

    kind = "prior"
    config_class = PriorConfig
    config: PriorConfig
    fused: bool = False
    """Whether steps of one slot run compiled; `fused.fused` sets it."""
    captures: bool = False
    """Whether they are captured and replayed; `capture.capturing` sets it."""
    recording: CapturedSteps | None = None
    """The captured steps of the last batch."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__(config)
        self.conditions = ConditionEncoder(config)
        self.code_embedding = nn.Embedding(config.codebook_size, config.width)
        self.unknown = nn.Parameter(torch.empty(config.width)) if config.objective == "masked" else None
        self.positions = Positions(config)
        self.dropout = nn.Dropout(config.token_dropout)
        cross = config.encoder_length > 0
        self.blocks = nn.ModuleList(Block(config, layer, cross=cross) for layer in range(config.depth))
        self.norm = make_norm(config)
        self.head = Linear(config.width, config.codebook_size, bias=False)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        """GPT-2's: normal with deviation 0.02, biases zero."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        # What a block adds to the residual stream shrinks with the depth, so that its sum does not grow (GPT-2).
        shrunk = 0.02 / math.sqrt(2 * self.config.depth)
        if isinstance(module, (Attention, CrossAttention)):
            nn.init.normal_(module.proj.weight, std=shrunk)
        if isinstance(module, (FeedForward, GeluFeedForward)):
            nn.init.normal_(module.down.weight, std=shrunk)
        if isinstance(module, Positions) and module.learned is not None:
            nn.init.normal_(module.learned, std=0.02)
        if module is self and self.unknown is not None:
            nn.init.normal_(self.unknown, std=0.02)
        if isinstance(module, ConditionEmbedding):
            module.initialise()
        # All codes equally likely at the start: the first loss is ln V.
        if module is self:
            nn.init.zeros_(self.head.weight)

    def forward(
        self,
        codes: Tensor,
        label: Tensor | None = None,
        *,
        order: Tensor | None = None,
        **conditions: Tensor | None,
    ) -> Tensor:
        """Codes (B, T) or (B, h, w) and what is known of the picture (see `Condition`), to logits (B, T, V).

        logits[:, t] predicts code t from the condition and the codes that come before it in the order (T,) or
        (B, T); raster where there is none. A masked prior takes no order: it predicts every code from all that are
        known, and -1 stands for a code that is not.

        Raises:
            DataError: for another grid where positions are learned, or conditions the prior was not trained with.
        """
        codes, grid = self._sequence(codes)
        encoded = self.encode(Condition(label=label, **conditions), len(codes), grid)
        if self.config.objective == "masked":
            return self.masked_logits(codes, encoded, grid)
        return self._causal(codes, encoded, grid, order)

    def _causal(
        self, codes: Tensor, encoded: EncodedCondition, grid: tuple[int, int], order: Tensor | None
    ) -> Tensor:
        S = self.config.prefix_length
        if order is not None:
            order = self._checked_order(order, codes)
            codes = codes.gather(1, order)
        x = torch.cat([encoded.prefix, self.code_embedding(codes[:, :-1])], dim=1)  # (B, S+T-1, D)
        x = self._blocks(x, self.places(order, grid), encoded)
        x = x[:, S - 1 :]  # (B, T, D)
        if order is not None:  # back to raster order
            x = x.gather(1, order.argsort(1)[..., None].expand(-1, -1, x.shape[-1]))
        return self.logits(x)  # (B, T, V)

    def masked_logits(self, codes: Tensor, encoded: EncodedCondition, grid: tuple[int, int]) -> Tensor:
        assert self.unknown is not None
        S, T = self.config.prefix_length, codes.shape[1]
        known = (codes >= 0)[..., None]
        read = torch.where(known, self.code_embedding(codes.clamp_min(0)), self.unknown)  # (B, T, D)
        x = torch.cat([encoded.prefix, read], dim=1)  # (B, S+T, D)
        place = torch.arange(-S, T, device=x.device)
        x = self._blocks(x, self.positions(place, place, grid, x.device), encoded, causal=False)
        return self.logits(x[:, S:])  # (B, T, V)

    def encode(
        self, condition: Condition, rows: int, grid: tuple[int, int] | None = None
    ) -> EncodedCondition:
        """The condition of `rows` pictures as the network reads it, for codes of the trained grid or another."""
        return self.conditions(condition, rows, grid or self.config.grid, self.device)

    def places(self, order: Tensor | None, grid: tuple[int, int]) -> Places:
        """Where the slots of a causal sequence stand, along the order (T,) or (B, T); raster where there is none."""
        S, (h, w) = self.config.prefix_length, grid
        order = torch.arange(h * w, device=self.device) if order is None else order
        front = torch.arange(-S, 0, device=self.device).expand(*order.shape[:-1], S)
        held = torch.cat([front, order[..., :-1]], dim=-1)  # (..., S+T-1)
        target = torch.cat([front[..., 1:], order], dim=-1)
        return self.positions(held, target, grid, self.device)

    def step(
        self,
        x: Tensor,
        places: Places,
        encoded: EncodedCondition,
        cache: KVCache,
        slot: int,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Inputs (B, n, D) of the slots from `slot` on to their outputs (B, n, D), before the head.

        The cache holds the slots before. Without a mask, n slots in front are causal, and later one at a time.
        """
        cache.reserve(slot + x.shape[1])
        if mask is None and encoded.prefix_visible is not None:
            mask = prefix_mask(encoded.prefix_visible, slot, x.shape[1], causal=True)
        return self._blocks(x, places, encoded, mask=mask, cache=cache, slot=slot)

    def one_step(
        self, x: Tensor, places: Places, encoded: EncodedCondition, cache: KVCache, slot: Tensor
    ) -> Tensor:
        """The same for one slot (B, 1, D), whose number (1,) is a tensor; the cache has room for it.

        All that depends on how far the sequence has come is in tensors, so that the step can be captured.
        """
        if encoded.states_mask is not None:
            encoded = replace(encoded, states_mask=hiding(encoded.states_mask, x.dtype))
        return self._blocks(x, places, encoded, cache=cache, at=slot, bias=self._bias(encoded, cache, slot))

    def _bias(self, encoded: EncodedCondition, cache: KVCache, slot: Tensor) -> Tensor:
        """Hides the slots behind `slot`, and those of the prefix that are padding, (room,) or (B, 1, 1, room)."""
        key = torch.arange(cache.room, device=slot.device)
        seen = key <= slot
        if encoded.prefix_visible is not None:
            S = encoded.prefix_visible.shape[1]
            seen = seen & F.pad(encoded.prefix_visible, (0, cache.room - S), value=True)[:, None, None] | (
                key == slot
            )
        return hiding(seen, cache.keys.dtype)

    def logits(self, x: Tensor) -> Tensor:
        """Outputs (..., D) of the blocks to logits (..., V), float32."""
        if self.fused and x.shape[1] == 1:
            return fused_head(self.norm, self.head, x)
        x = self.norm(x)
        return self.head(x).float()

    def new_cache(self, encoded: EncodedCondition, slots: int) -> KVCache:
        """An empty cache for sequences under this condition, where and as the weights are."""
        rows, dtype = len(encoded.prefix), self.code_embedding.weight.dtype
        cache = KVCache(self.config, rows, slots, self.device, dtype)
        cache.memory = self.memory(encoded)
        return cache

    def memory(self, encoded: EncodedCondition) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of cross-attention by layer, (B, key_heads, M, head_width) each; none without a memory."""
        if encoded.states is None:
            return []
        return [block.cross.keys_values(encoded.states, encoded.states_rotary) for block in self.blocks]  # type: ignore

    def _blocks(
        self,
        x: Tensor,
        places: Places,
        encoded: EncodedCondition,
        *,
        causal: bool = True,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        slot: int = 0,
        at: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        if places.added is not None:
            x = x + places.added.to(x.dtype)
        if encoded.aligned is not None:
            x = x + aligned_at(encoded.aligned, places.place)
        if mask is None and encoded.prefix_visible is not None and cache is None:
            mask = prefix_mask(encoded.prefix_visible, 0, x.shape[1], causal)
        context = Context(
            places.query, places.key, mask, causal, None, slot, at, bias, encoded.states, None, encoded.states_mask,
            places.target, encoded.states_rotary,
        )  # fmt: skip
        x = self.dropout(x)
        recompute = self.training and self.config.gradient_checkpointing
        contexts = [context] * len(self.blocks)
        if cache is not None:
            contexts = [
                replace(context, past=cache.layer(layer), memory=None, memory_past=cache.past(layer))
                for layer in range(len(self.blocks))
            ]
        if self.fused and at is not None:
            return fused_blocks(list(self.blocks), x, contexts)
        for block, seen in zip(self.blocks, contexts, strict=True):
            x = checkpoint(block, x, seen, use_reentrant=False) if recompute else block(x, seen)
        return x

    def _sequence(self, codes: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Codes (B, T) and their grid. Other grids than the trained one come as (B, h, w)."""
        grid = self.config.grid
        if codes.dim() == 3:
            grid = (codes.shape[1], codes.shape[2])
            codes = codes.flatten(1)
        h, w = grid
        if codes.dim() != 2 or codes.shape[1] != h * w:
            raise DataError(f"the prior takes codes (B, {h * w}) or (B, {h}, {w}), got {tuple(codes.shape)}")
        return codes.long(), grid

    def _checked_order(self, order: Tensor, codes: Tensor) -> Tensor:
        if self.config.objective == "raster":
            raise DataError("this prior draws codes in raster order only; train one with objective random")
        order = order.to(codes.device).expand(codes.shape)
        places = torch.arange(codes.shape[1], device=codes.device)
        if not self.training and not (order.sort(1).values == places).all():
            raise DataError(f"an order names each of the {codes.shape[1]} places once")
        return order

    def __getstate__(self) -> dict[str, Any]:
        """Copies capture their own steps."""
        return self.__dict__ | {"recording": None}

    def extra_repr(self) -> str:
        h, w = self.config.grid
        return f"{h}x{w} grid, {self.config.codebook_size} codes, {self.parameter_count():,} parameters"


def hiding(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Added to scores it hides what is not `seen`: 0 or -inf, made on the device, for a graph cannot ask the host."""
    zero = torch.zeros((), dtype=dtype, device=seen.device)
    return torch.where(seen, zero, torch.full_like(zero, -torch.inf))


def prefix_mask(visible: Tensor, slot: int, n: int, causal: bool) -> Tensor:
    """Which keys the n tokens from `slot` on may read, (B, 1, n, slot + n), given the visible prefix (B, S).

    Each reads itself and what comes before it (everything, where not causal), except padding in the prefix.
    """
    end = slot + n
    shown = F.pad(visible, (0, max(0, end - visible.shape[1])), value=True)[:, None, None, :end]
    query = torch.arange(slot, end, device=visible.device)[:, None]
    key = torch.arange(end, device=visible.device)
    return ((key < query) | (not causal)) & shown | (key == query)
