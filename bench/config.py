"""What `imgtf bench` measures (`BenchConfig`). No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import option
from ..prior.config import DTYPES

PARTS = ("sampling", "training", "tokenizer", "loader")


@dataclass(frozen=True)
class BenchConfig:
    """Sizes and repetitions of the measurements."""

    parts: tuple[str, ...] = option(PARTS, "What to measure.", choices=PARTS)
    rounds: int = option(
        5, "Times that everything is measured in turn, after a round that does not count.", minimum=1
    )
    batch_sizes: tuple[int, ...] = option(
        (1, 8, 64), "sampling: images at once, one measurement each.", minimum=1
    )
    guidance: float = option(
        2.0, "sampling: guidance scale measured beside none; 1 leaves it out.", minimum=0
    )
    top_k: int = option(100, "sampling: the k likeliest codes, ours and theirs.", minimum=0)
    against: str = option(
        "none",
        "sampling: also time the `generate` of another library on a network of the same shape, in turns with ours.",
        choices=("none", "transformers"),
    )
    dtype: str = option(
        "fp32",
        "sampling: type of the prior's weights, ours and theirs (with int8 theirs are bf16).",
        choices=DTYPES,
    )
    compile: bool = option(False, "sampling: also time ours compiled, as `imgtf sample --compile` does it.")
    training_batch: int = option(8, "training: images a step.", minimum=1)
    precision: str = option(
        "auto", "training: arithmetic, as in training.", choices=("auto", "fp32", "bf16", "fp16")
    )
    coding_batch: int = option(4, "tokenizer: images encoded or decoded at once.", minimum=1)
    loader_batches: int = option(20, "loader: batches timed in a row.", minimum=1)
