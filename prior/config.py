"""What a prior is (`PriorConfig`) and how it samples by default (`SamplingConfig`). No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ConfigError
from ..options import option


@dataclass(frozen=True)
class SamplingConfig:
    """How the next code is drawn from its probabilities."""

    temperature: float = option(1.0, "Divides the logits: below 1 plainer, above 1 wilder.", minimum=1e-4)
    top_k: int = option(0, "Keep only the k likeliest codes; 0 keeps all.", minimum=0)
    top_p: float = option(
        1.0, "Keep the likeliest codes up to this total probability.", minimum=1e-6, maximum=1
    )
    min_p: float = option(
        0.0,
        "Drop codes less likely than this share of the likeliest one's probability.",
        minimum=0,
        maximum=1,
    )
    cfg_scale: float = option(
        1.0, "Classifier-free guidance: 1 is none, 2 doubles the pull of the label.", minimum=0
    )


@dataclass(frozen=True)
class PriorConfig:
    """The causal transformer, complete: the network can be rebuilt from this alone."""

    grid: tuple[int, int]
    """Grid (h, w) of the codes; T = h * w."""
    codebook_size: int
    """V."""
    class_names: tuple[str, ...] = ()
    """One name a label; empty for a prior without labels."""
    tokenizer_sha256: str = ""
    """Identity of the tokenizer weights that made the codes; empty when unknown."""
    feature_width: int = 0
    """Width of the features (a text encoder's) that stand in front of the codes; 0: one label stands there."""
    feature_slots: int = 120
    """Length of the features."""

    width: int = option(128, "Model width D.", minimum=8)
    depth: int = option(4, "Transformer blocks.", minimum=1)
    heads: int = option(4, "Attention heads.", minimum=1)
    hidden: int | None = option(
        None,
        "Width of the feed-forward layer.",
        minimum=1,
        auto="8/3 of the width, rounded up to 64; 4 times the width for gelu",
    )
    norm: str = option("rms", "RMSNorm, or LayerNorm as in GPT-2.", choices=("rms", "layer"))
    feed_forward: str = option(
        "swiglu", "Feed-forward layer: gated, or one exact GELU as in GPT-2.", choices=("swiglu", "gelu")
    )
    bias: bool = option(False, "Biases in the blocks' linear layers and in LayerNorm.")
    dropout: float = option(
        0.1, "Dropout of embeddings, attention and feed-forward outputs.", minimum=0, maximum=1
    )
    label_dropout: float = option(
        0.1, "Share of labels hidden in training, which makes guidance possible.", minimum=0, maximum=1
    )
    positions: str = option(
        "both",
        "rotary: queries and keys turn with row and column; learned: an embedding of the place to be predicted.",
        choices=("rotary", "learned", "both"),
    )
    qk_norm: bool = option(False, "Normalise queries and keys (steadier at high learning rates).")
    tied_head: bool = option(False, "Share the embedding with the output layer.")
    rope_base: float = option(10000.0, "Base of the 2-D rotary positions.", minimum=1)
    zero_condition: bool = False
    """The condition's queries and keys are zero, not just unturned: LlamaGen's rotary table is zero there."""
    norm_eps: float = option(1e-5, "Epsilon of the normalisations.", minimum=0)

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Settings that `sample` uses unless told otherwise."""

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ConfigError(
                f"width {self.width} over {self.heads} heads: 2-D rotary positions need heads of a multiple of 4"
            )

    @property
    def tokens(self) -> int:
        """T, codes an image."""
        return self.grid[0] * self.grid[1]

    @property
    def condition_slots(self) -> int:
        """Slots in front of the codes: one for a label, or the features."""
        return self.feature_slots if self.feature_width else 1

    @property
    def slots(self) -> int:
        """Length of the sequence: the condition and all codes but the last, which nothing follows."""
        return self.condition_slots + self.tokens - 1

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def feed_forward_width(self) -> int:
        """Width of the feed-forward layer, computed where it is not given."""
        default = 4 * self.width if self.feed_forward == "gelu" else -(-8 * self.width // 3 // 64) * 64
        return self.hidden or default


@dataclass(frozen=True)
class PriorRecipe:
    """What training does to the codes."""

    code_noise: float = option(
        0.0,
        "Share of the codes read in training that are replaced by random ones: teaches the prior to go on "
        "after a mistake of its own.",
        minimum=0,
        maximum=1,
    )
