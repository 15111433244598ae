"""The decoder: runs the decoding steps of a prior network.

Shapes: B images, n tokens of one pass, N capacity of the cache, S prefix length, D width, V codebook size.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError
from ...nn.attention import AttentionInputs, EncoderInputs
from ...runtime.compiler import check_compiler
from ..conditions.condition import Condition, EncodedCondition
from ..config import PriorConfig, SamplingConfig
from ..layers import prefix_mask
from ..network import PriorNetwork, add_embeddings, cross_rotary
from ..positions import TokenPositions
from .cache import KVCache
from .captured import CapturedBatch, CudaGraphs, Recorder
from .compiled import COMPILED
from .filters import guide
from .packed import PackedLinear, decoding_layers, decoding_view
from .step import EAGER, DecodingBatch, DecodingState, Rows


class Decoder:
    """Runs the steps of a network: eagerly, compiled, or captured as CUDA graphs; on a CPU with packed weights.

    It always computes with the network's current weights, in evaluation mode, and leaves the network unchanged. Keep
    one decoder for several batches: packed weights, compiled functions and graphs are reused.
    """

    def __init__(self, network: PriorNetwork, *, compile: bool = False, capture: bool = False) -> None:
        """Wrap a network that is on its device.

        Args:
            compile: run steps of one code per image with `torch.compile`, which takes a minute for each number of rows
                and changes codes in bf16 by rounding. Steps of several codes, and masked priors, stay eager.
            capture: on a CUDA GPU, capture these steps as CUDA graphs. The graphs and the memory of a batch are kept
                for the next batch of the same shape and settings. Not yet tested on a GPU.

        Raises:
            ConfigError: `compile` without a C++ compiler (CPU) or Triton (GPU); `capture` without a CUDA GPU.
        """
        if compile:
            check_compiler(network.device)
        if capture and network.device.type != "cuda":
            raise ConfigError(
                f"capture needs a CUDA GPU, the model is on {network.device}: leave --capture out"
            )
        self.network = network
        self.compile, self.capture = compile, capture
        self._functions = COMPILED if compile else EAGER
        self._recorder: Recorder | None = CudaGraphs(network.device) if self.capture else None
        self._modules: list[nn.Module] = []
        self._view: PriorNetwork = network
        self._captured: CapturedBatch | None = None

    @property
    def config(self) -> PriorConfig:
        """Configuration of the network."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.network.device

    def refresh(self) -> None:
        """Follow changes of the network: replaced modules, and weights to pack. The sampler calls it once per batch."""
        modules = list(self.network.modules())
        if modules != self._modules:
            self._modules, self._view, self._captured = modules, decoding_view(self.network), None
        for layer in decoding_layers(self._view):
            if isinstance(layer, PackedLinear):
                layer.refresh()

    def encode(self, condition: Condition, rows: int, grid: tuple[int, int]) -> EncodedCondition:
        """Encode the condition of `rows` images."""
        return self._view.encode(condition, rows, grid)

    def encode_unconditional(
        self, condition: Condition, rows: int, grid: tuple[int, int]
    ) -> EncodedCondition:
        """Encode what guidance compares a condition with."""
        return self.encode(self._view.conditions.without(condition), rows, grid)

    def masked_logits(self, codes: Tensor, encoded: EncodedCondition, grid: tuple[int, int]) -> Tensor:
        """See `PriorNetwork.masked_logits`."""
        return self._view.masked_logits(codes, encoded, grid)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the embeddings (..., D) of codes (...)."""
        return self._view.code_embedding(codes)

    def positions(self, held: Tensor, target: Tensor, grid: tuple[int, int]) -> TokenPositions:
        """See `Positions.forward`."""
        return self._view.positions(held, target, grid, self.device)

    def positions_in_order(self, order: Tensor, grid: tuple[int, int]) -> TokenPositions:
        """See `Positions.in_order`."""
        return self._view.positions.in_order(order, grid, self.device)

    def begin(
        self, state: DecodingState, length: int, settings: SamplingConfig, *, tempered: bool
    ) -> DecodingBatch:
        """Allocate the cache of a batch of sequences of up to `length` tokens.

        With captured steps the batch may be in the memory of an earlier one: read the codes from its state.
        """
        if self._recorder is None:
            return DecodingBatch(state, self.new_cache(state.encoded, length), settings, tempered)
        key = self._capture_key(state, length, settings, tempered)
        if self._captured is not None and self._captured.key == key:
            self._captured.load(state, self._cross_keys_values(state.encoded))
            return self._captured.batch
        self._captured = None  # frees its memory before the next batch allocates its own
        batch = DecodingBatch(state, self.new_cache(state.encoded, length), settings, tempered)
        self._captured = CapturedBatch(key, batch, self._recorder)
        return batch

    def new_cache(self, encoded: EncodedCondition, length: int) -> KVCache:
        """Return an empty cache for sequences of up to `length` tokens under a condition."""
        rows, dtype = len(encoded.prefix), self._view.code_embedding.weight.dtype
        cache = KVCache(self.config, rows, length, self.device, dtype)
        cache.cross = self._cross_keys_values(encoded)
        return cache

    def forward(
        self, x: Tensor, positions: TokenPositions, rows: Rows, start: int, mask: Tensor | None = None
    ) -> Tensor:
        """Run n tokens (B, n, D) after the first `start` cached ones, to outputs (B, n, D) in front of the head.

        Without a mask, tokens are causal at the start of the sequence, and single ones later.
        """
        rows.cache.reserve(start + x.shape[1])
        visible = rows.encoded.prefix_visible
        if mask is None and visible is not None:
            mask = prefix_mask(visible, start, x.shape[1], causal=True)
        x = add_embeddings(x, positions, rows.encoded)
        for block, inputs in zip(
            self._view.blocks, self._block_inputs(positions, rows, start, mask), strict=True
        ):
            x = block(x, inputs)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Map outputs (B, n, D) to logits (B, n, V) float32."""
        functions = self._functions if x.shape[1] == 1 else EAGER
        return functions.logits(self._view.norm, self._view.head, x)

    def decode_next(self, batch: DecodingBatch, *, guided: bool) -> None:
        """Sample the next code of every image. The cache holds all tokens before the last code's, and has capacity.

        Args:
            guided: with guidance; else the unconditional rows are not computed.
        """
        step = partial(self._step, batch, guided)
        if self._captured is not None and self._captured.batch is batch:
            self._captured.run((batch.cache.capacity, guided), step)
        else:
            step()

    def _step(self, batch: DecodingBatch, guided: bool) -> None:
        state = batch.state
        last, target = (state.order.index_select(1, i) for i in (state.done - 1, state.done))  # (B, 1)
        x = self.embed(state.codes.gather(1, last))  # (B, 1, D)
        x = x.repeat(2, 1, 1) if guided else x
        rows = Rows(state.encoded, batch.cache).part(0, len(x))
        position = state.done + (self.config.prefix_length - 1)
        logits = self._step_logits(x, state.positions.select(position).repeat(len(x)), rows, position)
        if guided:
            logits = guide(logits, state.guidance.index_select(0, state.done))
        temperature = state.temperatures.index_select(0, state.done) if batch.tempered else None
        uniform = state.uniforms.gather(1, target)
        state.write(target, self._functions.draw(logits, uniform, batch.settings, temperature))

    def _step_logits(self, x: Tensor, positions: TokenPositions, rows: Rows, position: Tensor) -> Tensor:
        """Run one token per row (B, 1, D), whose position (1,) is a tensor, to logits (B, 1, V)."""
        x = add_embeddings(x, positions, rows.encoded)
        bias = _attention_bias(rows, position)
        inputs = self._block_inputs(positions, rows, position, bias=bias)
        return self.logits(self._functions.blocks(list(self._view.blocks), x, inputs))

    def _block_inputs(
        self,
        positions: TokenPositions,
        rows: Rows,
        position: int | Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> list[AttentionInputs]:
        """Return the inputs of each block."""
        rotary, cross = positions.rotary, cross_rotary(positions, rows.encoded)
        states_mask = rows.encoded.states_mask
        if bias is not None and states_mask is not None:
            states_mask = _as_bias(states_mask, rows.cache.keys.dtype)
        encoders: list[EncoderInputs | None] = [
            EncoderInputs(None, keys_values, states_mask, cross) for keys_values in rows.cache.cross
        ]
        return [
            AttentionInputs(rotary, mask, True, rows.cache.layer(layer, position, bias), encoder)
            for layer, encoder in enumerate(encoders or [None] * self.config.depth)
        ]

    def _cross_keys_values(self, encoded: EncodedCondition) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values of the encoder states per layer; none without encoder states."""
        if encoded.states is None:
            return []
        return [block.cross.keys_values(encoded.states, encoded.states_rotary) for block in self._view.blocks]  # type: ignore

    def _capture_key(
        self, state: DecodingState, length: int, settings: SamplingConfig, tempered: bool
    ) -> Hashable:
        """Return what must be equal for a graph to be reused: shapes, settings, addresses of the weights."""
        shapes = tuple((t.shape, t.dtype) for t in state.tensors())
        weights = tuple(t.data_ptr() for t in (*self.network.parameters(), *self.network.buffers()))
        return shapes, weights, length, settings, tempered, state.guided

    def __getstate__(self) -> dict[str, Any]:
        """A copy packs weights and captures steps of its own."""
        return self.__dict__ | {"_modules": [], "_view": self.network, "_captured": None}


def _attention_bias(rows: Rows, position: Tensor) -> Tensor:
    """Return what hides the keys after `position` and prefix tokens that are not visible, (N,) or (B, 1, 1, N)."""
    capacity, visible = rows.cache.capacity, rows.encoded.prefix_visible
    key = torch.arange(capacity, device=position.device)
    attended = key <= position
    if visible is not None:
        padded = F.pad(visible, (0, capacity - visible.shape[1]), value=True)[:, None, None]
        attended = attended & padded | (key == position)
    return _as_bias(attended, rows.cache.keys.dtype)


def _as_bias(attended: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where attended to and -inf elsewhere, made on the device: a graph cannot read from the host."""
    zero = torch.zeros((), dtype=dtype, device=attended.device)
    return torch.where(attended, zero, torch.full_like(zero, -torch.inf))
