"""What a prior is, how it is taught and how it samples. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ConfigError
from ..options import option

OBJECTIVES = ("raster", "random", "masked")
DTYPES = ("fp32", "bf16", "fp16", "int8")
"""What a prior can sample in, see `precision`."""
ORDERS = {
    "raster": ("raster",),
    "random": ("random", "raster", "halton"),
    "masked": ("halton", "confidence", "random", "raster"),
}
"""The orders in which a prior of each objective can fill a grid; the first is its default."""


@dataclass(frozen=True)
class SamplingConfig:
    """How the next codes are drawn from their probabilities, and in which order."""

    temperature: float = option(1.0, "Divides the logits: below 1 plainer, above 1 wilder.", minimum=1e-4)
    final_temperature: float | None = option(
        None,
        "Temperature at the last code; it changes evenly on the way.",
        minimum=1e-4,
        auto="the same all along",
    )
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
        1.0, "Classifier-free guidance: 1 is none, 2 doubles the pull of the condition.", minimum=0
    )
    cfg_schedule: str = option(
        "constant",
        "Guidance on the way: constant, or from 1 at the first code up to cfg_scale at the last.",
        choices=("constant", "linear", "cosine", "power-cosine"),
    )
    cfg_power: float = option(
        2.75, "Power of the power-cosine schedule: the higher, the later guidance sets in.", minimum=0.01
    )
    order: str | None = option(
        None,
        "Order in which the codes are drawn (random and masked priors; confidence: masked ones).",
        choices=("raster", "random", "halton", "confidence"),
        auto="raster, random or halton, by the prior's objective",
    )
    sampling_steps: int | None = option(
        None,
        "Steps that draw all codes, several at once (random and masked priors).",
        minimum=1,
        auto="12 for masked, else one a code",
    )
    step_schedule: str = option(
        "cosine",
        "Codes per step: even, or few at first and more later (cosine).",
        choices=("even", "cosine"),
    )
    confidence_noise: float = option(
        4.5, "Noise on the confidence by which masked priors keep codes; it fades to 0.", minimum=0
    )


@dataclass(frozen=True)
class PriorConfig:
    """The transformer, complete: the network can be rebuilt from this alone."""

    grid: tuple[int, int]
    """Grid (h, w) of the codes; T = h * w."""
    codebook_size: int
    """V."""
    class_names: tuple[str, ...] = ()
    """One name a label; empty for a prior without labels."""
    tokenizer_sha256: str = ""
    """Identity of the tokenizer weights that made the codes; empty when unknown."""
    text_length: int = 0
    """Bytes of a caption read at most; 0: the prior reads none."""
    feature_width: int = 0
    """Width of a text encoder's features; 0: the prior takes none."""
    feature_length: int = 120
    """Length of the features."""
    feature_prefix: bool = False
    """The features stand in front of the codes (LlamaGen), in a label's place; else they are attended to."""
    text_encoder: str = ""
    """Name or path of the text encoder that makes the features; empty when unknown."""
    image_grid: tuple[int, ...] = ()
    """Grid (h', w') of the source picture's codes; empty: the prior takes no source."""
    image_codebook_size: int = 0
    """Codes of the tokenizer of the source pictures."""
    image_sha256: str = ""
    """Identity of the tokenizer of the source pictures."""
    image_reduced_size: int = 0
    """Sources are the pictures themselves reduced to this many pixels (super-resolution); 0: pictures of their own."""

    objective: str = option(
        "raster",
        "raster: one code after the other, row by row; random: in any order, so that any part can be filled in "
        "(arXiv:2411.00776); masked: many at once, without causality (MaskGIT, arXiv:2202.04200).",
        choices=OBJECTIVES,
    )
    width: int = option(128, "Model width D.", minimum=8)
    depth: int = option(4, "Transformer blocks.", minimum=1)
    heads: int = option(4, "Attention heads.", minimum=1)
    kv_heads: int | None = option(
        None, "Heads of keys and values, shared by groups of query heads.", minimum=1, auto="as many as heads"
    )
    intermediate_size: int | None = option(
        None,
        "Width of the feed-forward layer.",
        minimum=1,
        auto="8/3 of the width, rounded up to 64; 4 times the width for gelu",
    )
    encoder_depth: int = option(
        2, "Blocks of the encoder of captions, features and source pictures.", minimum=0
    )
    norm: str = option("rms", "RMSNorm, or LayerNorm as in GPT-2.", choices=("rms", "layer"))
    feed_forward: str = option(
        "swiglu", "Feed-forward layer: gated, or one exact GELU as in GPT-2.", choices=("swiglu", "gelu")
    )
    bias: bool = option(False, "Biases in the blocks' linear layers and in LayerNorm.")
    dropout: float = option(0.1, "Dropout of attention and feed-forward outputs.", minimum=0, maximum=1)
    token_dropout: float = option(0.1, "Dropout of the embeddings.", minimum=0, maximum=1)
    attention_dropout: float = option(0.0, "Dropout of the attention weights.", minimum=0, maximum=1)
    drop_path: float = option(
        0.0, "Share of rows that skip the last block in training; earlier blocks fewer.", minimum=0, maximum=1
    )
    condition_dropout: float = option(
        0.1, "Share of conditions hidden in training, which makes guidance possible.", minimum=0, maximum=1
    )
    positions: str = option(
        "learned",
        "Added embedding of the place to be predicted: learned, sinusoidal over the sequence or the grid, or none.",
        choices=("learned", "sinusoidal", "sinusoidal-2d", "none"),
    )
    rotary: str | None = option(
        None,
        "2-D rotary positions. held: queries turn with the code they read, as in LlamaGen; target: with the place "
        "they predict.",
        choices=("held", "target", "none"),
        auto="target for random priors, else held",
    )
    qk_norm: bool = option(False, "Normalise queries and keys (steadier at high learning rates).")
    rope_base: float = option(10000.0, "Base of the 2-D rotary positions.", minimum=1)
    zero_condition: bool = False
    """The condition's queries and keys are zero, not just unturned: LlamaGen's rotary table is zero there."""
    norm_eps: float = option(1e-5, "Epsilon of the normalisations.", minimum=0)
    gradient_checkpointing: bool = option(
        False, "Keep only the blocks' inputs in training and recompute the rest: less memory, more time."
    )

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Settings that `sample` uses unless told otherwise."""

    def __post_init__(self) -> None:
        if self.rotary is None:
            object.__setattr__(self, "rotary", "target" if self.objective == "random" else "held")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ConfigError(
                f"width {self.width} over {self.heads} heads: 2-D rotary positions need heads of a multiple of 4"
            )
        if self.heads % self.key_heads:
            raise ConfigError(f"kv_heads {self.key_heads} does not divide the {self.heads} heads")
        if self.objective == "random" and self.rotary == "none":
            raise ConfigError(
                "objective random needs rotary positions: without them a code's place is unknown"
            )
        if self.sampling.order not in (None, *ORDERS[self.objective]):
            raise ConfigError(
                f"order {self.sampling.order} is not of {self.objective} priors; "
                f"they know {', '.join(ORDERS[self.objective])}"
            )

    @property
    def tokens(self) -> int:
        """T, codes an image."""
        return self.grid[0] * self.grid[1]

    @property
    def prefix_length(self) -> int:
        """S, slots in front of the codes: one for a label, or the features."""
        return self.feature_length if self.feature_width and self.feature_prefix else 1

    @property
    def sequence_length(self) -> int:
        """Length of the sequence. A causal prior does not read the last code, which nothing follows."""
        return self.prefix_length + self.tokens - (self.objective != "masked")

    @property
    def encoder_length(self) -> int:
        """M, slots of the condition's encoder: a null one and those of captions, features and source; 0 without any."""
        slots = self._said_slots + self.image_cells[0] * self.image_cells[1]
        return slots + 1 if slots else 0

    @property
    def _said_slots(self) -> int:
        """Slots of captions and features beside the sequence."""
        return self.text_length + (
            self.feature_length if self.feature_width and not self.feature_prefix else 0
        )

    @property
    def image_patch(self) -> tuple[int, int]:
        """Codes of the source, down and across, that make one slot: those on one place, where it is finer and fits."""
        if not self.image_grid or any(s % g for s, g in zip(self.image_grid, self.grid, strict=True)):
            return 1, 1
        return self.image_grid[0] // self.grid[0], self.image_grid[1] // self.grid[1]

    @property
    def image_cells(self) -> tuple[int, int]:
        """Grid (h', w') of the source's slots."""
        if not self.image_grid:
            return 0, 0
        return self.image_grid[0] // self.image_patch[0], self.image_grid[1] // self.image_patch[1]

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the prior can be told: of class, text, features, image."""
        given = {
            "class": self.classes, "text": self.text_length, "features": self.feature_width, "image": self.image_grid,
        }  # fmt: skip
        return tuple(name for name, there in given.items() if there)

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def mlp_width(self) -> int:
        """Width of the feed-forward layer, computed where it is not given."""
        default = 4 * self.width if self.feed_forward == "gelu" else -(-8 * self.width // 3 // 64) * 64
        return self.intermediate_size or default


@dataclass(frozen=True)
class PriorRecipe:
    """What the prior is taught with: its conditions, its losses, and what training does to the codes."""

    conditions: tuple[str, ...] | None = option(
        None,
        "What the prior is told: class, text (captions, read as bytes), features (captions through --text-encoder), "
        "image (a source picture), or none; several with commas.",
        auto="class where the images have labels; image too with --conditioning-column or --conditioning-size",
    )
    caption_bytes: int = option(128, "Bytes of a caption that are read; the rest is cut off.", minimum=1)
    text_encoder: str | None = option(
        None, "Text encoder for `features`: a transformers name or folder (extra `text`).", auto="none"
    )
    conditioning_model: str | None = option(
        None, "Model folder whose tokenizer encodes the source pictures.", auto="the images' own tokenizer"
    )
    crops_per_image: int = option(
        1,
        "Crops of each image to train on: its middle, and others at random places (--crop random). For few images.",
        minimum=1,
        maximum=1000,
    )
    code_noise: float = option(
        0.0,
        "Share of the codes read in training that are replaced by random ones: teaches the prior to go on "
        "after a mistake of its own.",
        minimum=0,
        maximum=1,
    )
    label_smoothing: float = option(
        0.0, "Share of each target spread evenly over all codes.", minimum=0, maximum=1
    )
    z_loss: float = option(
        0.0, "Weight of the squared log of the softmax's sum, which keeps logits small (PaLM).", minimum=0
    )
    anneal: tuple[float, ...] = option(
        (),
        "random: two shares of the run between which random orders give way to raster order (RAR: 0.5,0.75).",
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        known = ("class", "text", "features", "image", "none")
        wrong = [name for name in self.conditions or () if name not in known]
        if wrong:
            raise ConfigError(f"conditions: {', '.join(wrong)} is not among {', '.join(known)}")
        if self.anneal and (len(self.anneal) != 2 or self.anneal[0] > self.anneal[1]):
            raise ConfigError(f"anneal takes two rising shares of the run, got {list(self.anneal)}")
