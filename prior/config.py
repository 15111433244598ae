"""What a prior is and how it samples. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ConfigError
from ..options import bounded, option
from .conditions.base import ConditionConfig

OBJECTIVES = ("raster", "random", "masked")
ORDERS = {
    "raster": ("raster",),
    "random": ("random", "raster", "halton"),
    "masked": ("halton", "confidence", "random", "raster"),
}
"""Orders in which a prior of each objective can fill a grid; the first is its default."""
MAX_WIDTH, MAX_BLOCKS, MAX_TOKENS, MAX_CODES = 2**16, 512, 2**20, 2**20
"""Largest width of a layer, most blocks, tokens and codes: several times those of published models."""
ROTARY = {"raster": "held", "random": "target", "masked": "held"}
"""Default of `rotary` for each objective."""


@dataclass(frozen=True)
class SamplingConfig:
    """How codes are drawn from the logits, and in which order."""

    temperature: float = option(
        1.0, "Divides the logits: below 1 less varied.", minimum=1e-4, group="sampling", common=True
    )
    final_temperature: float | None = option(
        None,
        "Temperature at the last code; it changes linearly from --temperature.",
        minimum=1e-4,
        auto="the same as --temperature",
        group="sampling",
    )
    top_k: int = option(
        0, "Keep only the k most likely codes; 0 keeps all.", minimum=0, group="sampling", common=True
    )
    top_p: float = option(
        1.0,
        "Keep the most likely codes up to this total probability.",
        minimum=1e-6,
        maximum=1,
        group="sampling",
        common=True,
    )
    min_p: float = option(
        0.0,
        "Drop codes below this fraction of the most likely code's probability.",
        minimum=0,
        maximum=1,
        group="sampling",
    )
    cfg_scale: float = option(
        1.0, "Classifier-free guidance scale; 1 is no guidance.", minimum=0, group="sampling", common=True
    )
    cfg_schedule: str = option(
        "constant",
        "Guidance over the codes: constant, or rising from 1 to --cfg-scale.",
        choices=("constant", "linear", "cosine", "power-cosine"),
        group="sampling",
    )
    cfg_power: float = option(
        2.75, "Power of power-cosine: higher delays the guidance (RAR).", minimum=0.01, group="sampling"
    )
    order: str | None = option(
        None,
        "Order of the codes (random and masked priors; confidence: masked only).",
        choices=("raster", "random", "halton", "confidence"),
        auto="raster, random or halton, by the objective",
        group="sampling",
    )
    sampling_steps: int | None = option(
        None,
        "Steps per image, several codes each (random and masked priors).",
        minimum=1,
        maximum=MAX_TOKENS,
        auto="12 for masked priors, else one per code",
        group="sampling",
    )
    step_schedule: str = option(
        "cosine",
        "Codes per step: even, or few at first and more later (cosine).",
        choices=("even", "cosine"),
        group="sampling",
    )
    confidence_noise: float = option(
        4.5, "Noise on the confidence of order confidence; fades to 0.", minimum=0, group="sampling"
    )


@dataclass(frozen=True)
class PriorConfig:
    """The transformer, complete: the network can be rebuilt from this alone."""

    grid: tuple[int, int] = bounded(minimum=1, maximum=MAX_TOKENS, least=2, most=2)
    """Grid (h, w) of the codes; T = h * w."""
    codebook_size: int = bounded(minimum=1, maximum=MAX_CODES)
    """V."""
    tokenizer_sha256: str = ""
    """Identity of the tokenizer weights that made the codes; empty when unknown."""
    conditions: tuple[ConditionConfig, ...] = ()
    """What the prior is conditioned on; empty for an unconditional prior."""

    objective: str = option(
        "raster",
        "raster: row by row; random: any order; masked: many codes at once.",
        choices=OBJECTIVES,
        group="network",
        common=True,
    )
    width: int = option(128, "Model width D.", minimum=8, maximum=MAX_WIDTH, group="network", common=True)
    depth: int = option(4, "Transformer blocks.", minimum=1, maximum=MAX_BLOCKS, group="network", common=True)
    heads: int = option(4, "Attention heads.", minimum=1, maximum=1024, group="network")
    kv_heads: int | None = option(
        None,
        "Key and value heads, shared by groups of query heads (GQA).",
        minimum=1,
        maximum=1024,
        auto="as many as heads",
        group="network",
    )
    intermediate_size: int | None = option(
        None,
        "Width of the feed-forward layer.",
        minimum=1,
        maximum=4 * MAX_WIDTH,
        auto="8/3 of the width rounded up to 64; 4 times the width for gelu",
        group="network",
    )
    encoder_depth: int = option(
        2, "Blocks of the condition encoder.", minimum=0, maximum=MAX_BLOCKS, group="network"
    )
    norm: str = option("rms", "RMSNorm, or LayerNorm as in GPT-2.", choices=("rms", "layer"), group="network")
    feed_forward: str = option(
        "swiglu",
        "Feed-forward layer: SwiGLU, or GELU as in GPT-2.",
        choices=("swiglu", "gelu"),
        group="network",
    )
    bias: bool = option(False, "Biases in linear layers and LayerNorm.", group="network")
    dropout: float = option(
        0.1, "Dropout of attention and feed-forward outputs.", minimum=0, maximum=1, group="network"
    )
    token_dropout: float = option(0.1, "Dropout of the embeddings.", minimum=0, maximum=1, group="network")
    attention_dropout: float = option(
        0.0, "Dropout of the attention weights.", minimum=0, maximum=1, group="network"
    )
    drop_path: float = option(
        0.0,
        "Stochastic depth: rate of the last block, rising linearly over the blocks.",
        minimum=0,
        maximum=1,
        group="network",
    )
    condition_dropout: float = option(
        0.1,
        "Rate of dropped conditions in training, which guidance needs.",
        minimum=0,
        maximum=1,
        group="conditions",
    )
    positions: str = option(
        "learned",
        "Position embedding added to the tokens.",
        choices=("learned", "sinusoidal", "sinusoidal-2d", "none"),
        group="network",
    )
    rotary: str | None = option(
        None,
        "2-D rotary embedding of queries: of the code read (held) or predicted (target).",
        choices=("held", "target", "none"),
        auto="target for random priors, else held",
        group="network",
    )
    qk_norm: bool = option(
        False, "Normalise queries and keys: steadier at high learning rates.", group="network"
    )
    rope_base: float = option(10000.0, "Base of the rotary frequencies.", minimum=1, group="network")
    zero_condition: bool = False
    """Queries and keys of the prefix are zero, not just unrotated: LlamaGen's rotary table is zero there."""
    norm_eps: float = option(1e-5, "Epsilon of the norms.", minimum=0, group="network")
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, more time.", group="network"
    )

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Default settings of sampling."""

    def __post_init__(self) -> None:
        if self.tokens > MAX_TOKENS:
            raise ConfigError(f"a grid of {self.tokens:,} codes is more than {MAX_TOKENS:,}")
        if self.rotary is None:
            object.__setattr__(self, "rotary", ROTARY[self.objective])
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ConfigError(
                f"width {self.width} with {self.heads} heads: the 2-D rotary embedding needs a head width that is a "
                f"multiple of 4"
            )
        if self.heads % self.key_heads:
            raise ConfigError(f"kv_heads {self.key_heads} must divide the {self.heads} heads")
        if self.objective == "random" and self.rotary == "none":
            raise ConfigError("objective random needs rotary: else the network cannot know a code's position")
        kinds = self.condition_kinds
        if len(set(kinds)) < len(kinds):
            raise ConfigError(f"conditions must differ, got {', '.join(kinds)}")
        check_sampling(self, self.sampling)

    @property
    def tokens(self) -> int:
        """T, codes per image."""
        return self.grid[0] * self.grid[1]

    @property
    def prefix_length(self) -> int:
        """S, tokens in front of the codes. An unconditional prior has a start token."""
        return sum(c.length(self.grid) for c in self.conditions if c.is_prefix) or 1

    @property
    def sequence_length(self) -> int:
        """N, tokens of the whole sequence. A causal prior does not read the last code, which nothing follows."""
        return self.prefix_length + self.tokens - (self.objective != "masked")

    @property
    def encoder_length(self) -> int:
        """L, encoder states: a null state and those of each encoded condition; 0 without any."""
        length = sum(c.length(self.grid) for c in self.conditions if not c.is_prefix)
        return length + 1 if length else 0

    @property
    def condition_kinds(self) -> tuple[str, ...]:
        """Names of the conditions."""
        return tuple(c.kind for c in self.conditions)

    def condition(self, kind: str) -> ConditionConfig | None:
        """The settings of one condition, None where the prior does not have it."""
        return next((c for c in self.conditions if c.kind == kind), None)

    def condition_length(self, kind: str) -> int:
        """Tokens of one condition, 0 where the prior does not have it."""
        condition = self.condition(kind)
        return condition.length(self.grid) if condition is not None else 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, empty for a prior without labels."""
        return getattr(self.condition("label"), "class_names", ())

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def key_heads(self) -> int:
        """Key and value heads."""
        return self.kv_heads or self.heads

    @property
    def mlp_width(self) -> int:
        """Width of the feed-forward layer, computed where it is not given."""
        default = 4 * self.width if self.feed_forward == "gelu" else -(-8 * self.width // 3 // 64) * 64
        return self.intermediate_size or default


def check_sampling(config: PriorConfig, settings: SamplingConfig) -> None:
    """Raise ConfigError for settings that do not work with a prior's objective."""
    objective = config.objective
    if settings.order not in (None, *ORDERS[objective]):
        known = " or ".join(ORDERS[objective])
        raise ConfigError(f"order {settings.order} does not work with objective {objective}; use {known}")
    if objective == "raster" and settings.sampling_steps not in (None, config.tokens):
        raise ConfigError(
            "sampling_steps: a raster prior samples one code per step; train one with objective random or masked"
        )
