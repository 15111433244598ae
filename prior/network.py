"""Stage two: a GPT-style transformer over the token grid.

Shapes: B batch, h, w grid, T = h*w tokens, S prefix length, N = S + T - 1 sequence length (S + T for masked priors),
L encoder states, D width, V codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import DataError
from ..nn.attention import AttentionInputs, CrossAttention, EncoderInputs, SelfAttention
from ..nn.feed_forward import GeluMLP, SwiGLU
from ..nn.rotary import Rotary
from ..pretrained import PretrainedModel
from ..runtime.batch_random import BatchDropout
from .conditions.condition import Condition, EncodedCondition
from .conditions.embedding import ConditionEmbedding
from .conditions.encoder import ConditionEncoder
from .conditions.image import aligned_at
from .config import PriorConfig
from .layers import Block, make_norm, prefix_mask
from .positions import Positions, TokenPositions

EMBEDDING_STD, HEAD_STD = 0.1, 0.05
"""Standard deviations of embeddings and head that start from a codebook."""


class PriorNetwork(PretrainedModel):
    """Transformer over [prefix, codes], for three objectives.

    - raster: token t reads code t - 1 (the first token: the prefix) and predicts code t; attention is causal.
    - random: the same in any order; each token also knows the grid position that it predicts.
    - masked: token t reads code t, or a learned "unknown" embedding, and predicts it; attention is bidirectional.
    """

    kind = "prior"
    config_class = PriorConfig
    adamw_lr_ratio = 5.0  # beside Muon, AdamW trains mostly embeddings and head; see docs/quality.md
    config: PriorConfig

    def __init__(self, config: PriorConfig) -> None:
        super().__init__(config)
        self.conditions = ConditionEncoder(config)
        self.code_embedding = nn.Embedding(config.codebook_size, config.width)
        self.unknown = nn.Parameter(torch.empty(config.width)) if config.objective == "masked" else None
        self.positions = Positions(config)
        self.dropout = BatchDropout(config.token_dropout)
        cross = config.encoder_length > 0
        self.blocks = nn.ModuleList(Block(config, layer, cross=cross) for layer in range(config.depth))
        self.norm = make_norm(config)
        self.head = nn.Linear(config.width, config.codebook_size, bias=False)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        """Initialise as GPT-2 does: normal with standard deviation 0.02, biases zero."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        # Outputs of residual branches shrink with the depth, so that the variance of their sum does not grow (GPT-2).
        residual_std = 0.02 / math.sqrt(2 * self.config.depth)
        if isinstance(module, (SelfAttention, CrossAttention)):
            nn.init.normal_(module.proj.weight, std=residual_std)
        if isinstance(module, (SwiGLU, GeluMLP)):
            nn.init.normal_(module.down.weight, std=residual_std)
        if isinstance(module, Positions) and module.learned is not None:
            nn.init.normal_(module.learned, std=0.02)
        if module is self and self.unknown is not None:
            nn.init.normal_(self.unknown, std=0.02)
        if isinstance(module, ConditionEmbedding):
            module.initialise()
        # A zero head makes all codes equally likely: the first loss is ln V.
        if module is self:
            nn.init.zeros_(self.head.weight)

    @torch.no_grad()
    def start_from_codebook(self, vectors: Tensor) -> None:
        """Initialise embeddings and head from code vectors (V, d): similar codes start out alike.

        A random projection keeps the distances between the vectors. See docs/quality.md for what it gains.
        """
        vectors = (vectors - vectors.mean(0)).to(self.device)
        vectors = vectors / vectors.std().clamp_min(1e-6)
        for weight, std in ((self.code_embedding.weight, EMBEDDING_STD), (self.head.weight, HEAD_STD)):
            projection = torch.randn(vectors.shape[1], self.config.width) / math.sqrt(vectors.shape[1])
            weight.copy_(std * vectors @ projection.to(self.device))

    def outer_layers(self) -> Sequence[nn.Module]:
        return [self.head]

    def forward(
        self,
        codes: Tensor,
        label: Tensor | None = None,
        *,
        order: Tensor | None = None,
        **conditions: Tensor | None,
    ) -> Tensor:
        """Return the logits (B, T, V) of codes (B, T) or (B, h, w).

        logits[:, t] predicts code t from the condition and from the codes before it in the order. A masked prior
        predicts every code from all known ones; -1 is an unknown code.

        Args:
            label: (B,) class numbers; -1 is no label.
            order: (T,) or (B, T), a permutation of the grid positions; raster order by default. Random priors only.
            conditions: the values of the other conditions by name, see `Condition`.

        Raises:
            DataError: for codes of another shape, another grid where positions are learned, an order that the prior
                was not trained with, or conditions that it was not trained with.
        """
        codes, grid = self._check_codes(codes)
        encoded = self.encode(Condition(label=label, **conditions), len(codes), grid)
        if self.config.objective == "masked":
            return self.masked_logits(codes, encoded, grid)
        return self._causal_logits(codes, encoded, grid, order)

    def encode(
        self, condition: Condition, rows: int, grid: tuple[int, int] | None = None
    ) -> EncodedCondition:
        """Encode the condition of `rows` images, for codes of the trained grid or another one."""
        return self.conditions(condition, rows, grid or self.config.grid, self.device)

    def masked_logits(self, codes: Tensor, encoded: EncodedCondition, grid: tuple[int, int]) -> Tensor:
        """Return a masked prior's logits (B, T, V) of codes (B, T), -1 where unknown."""
        assert self.unknown is not None
        S, T = self.config.prefix_length, codes.shape[1]
        known = (codes >= 0)[..., None]
        tokens = torch.where(known, self.code_embedding(codes.clamp_min(0)), self.unknown)  # (B, T, D)
        x = torch.cat([encoded.prefix, tokens], dim=1)  # (B, S+T, D)
        position = torch.arange(-S, T, device=x.device)
        positions = self.positions(position, position, grid, x.device)
        x = self._transform(x, positions, encoded, causal=False)
        return self._logits(x[:, S:])  # (B, T, V)

    def _causal_logits(
        self, codes: Tensor, encoded: EncodedCondition, grid: tuple[int, int], order: Tensor | None
    ) -> Tensor:
        S = self.config.prefix_length
        if order is not None:
            order = self._check_order(order, codes)
            codes = codes.gather(1, order)
        x = torch.cat([encoded.prefix, self.code_embedding(codes[:, :-1])], dim=1)  # (B, S+T-1, D)
        x = self._transform(x, self.positions.in_order(order, grid, x.device), encoded, causal=True)
        x = x[:, S - 1 :]  # (B, T, D)
        if order is not None:  # back to raster order
            x = x.gather(1, order.argsort(1)[..., None].expand(-1, -1, x.shape[-1]))
        return self._logits(x)  # (B, T, V)

    def _transform(
        self, x: Tensor, positions: TokenPositions, encoded: EncodedCondition, *, causal: bool
    ) -> Tensor:
        """Run the blocks over whole sequences (B, N, D)."""
        x = self.dropout(add_embeddings(x, positions, encoded))
        visible = encoded.prefix_visible
        mask = None if visible is None else prefix_mask(visible, 0, x.shape[1], causal)
        encoder = None
        if encoded.states is not None:
            rotary = cross_rotary(positions, encoded)
            encoder = EncoderInputs(encoded.states, mask=encoded.states_mask, rotary=rotary)
        inputs = AttentionInputs(positions.rotary, mask, causal, encoder=encoder)
        recompute = self.training and self.config.gradient_checkpointing
        for block in self.blocks:
            x = checkpoint(block, x, inputs, use_reentrant=False) if recompute else block(x, inputs)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        """Map the blocks' outputs (B, n, D) to logits (B, n, V) float32."""
        return self.head(self.norm(x)).float()

    def _check_codes(self, codes: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return codes as (B, T) and their grid. A grid that differs from the trained one needs codes (B, h, w)."""
        grid = self.config.grid
        if codes.dim() == 3:
            grid = (codes.shape[1], codes.shape[2])
            codes = codes.flatten(1)
        h, w = grid
        if codes.dim() != 2 or codes.shape[1] != h * w:
            raise DataError(f"codes must be (B, {h * w}) or (B, {h}, {w}), got {tuple(codes.shape)}")
        return codes.long(), grid

    def _check_order(self, order: Tensor, codes: Tensor) -> Tensor:
        """Return the order as (B, T) on the device of the codes."""
        if self.config.objective == "raster":
            raise DataError("this prior works in raster order only; train one with objective random")
        order = order.to(codes.device).expand(codes.shape)
        positions = torch.arange(codes.shape[1], device=codes.device)
        if not self.training and not (order.sort(1).values == positions).all():
            raise DataError(f"an order must contain each of the {codes.shape[1]} grid positions once")
        return order

    def extra_repr(self) -> str:
        h, w = self.config.grid
        return f"{h}x{w} grid, {self.config.codebook_size} codes, {self.parameter_count():,} parameters"


def add_embeddings(x: Tensor, positions: TokenPositions, encoded: EncodedCondition) -> Tensor:
    """Add the position embedding and the aligned condition to token embeddings (B, n, D)."""
    if positions.embedding is not None:
        x = x + positions.embedding.to(x.dtype)
    return x if encoded.aligned is None else x + aligned_at(encoded.aligned, positions.target)


def cross_rotary(positions: TokenPositions, encoded: EncodedCondition) -> Rotary | None:
    """Return the rotary tables of cross-attention, where the encoder states have positions."""
    if positions.cross_query is None or encoded.states_rotary is None:
        return None
    return Rotary(positions.cross_query, encoded.states_rotary)
