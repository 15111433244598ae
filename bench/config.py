"""Settings of `imgtf bench`. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import option

PARTS = ("sampling", "training", "tokenizer", "loader")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True)
class BenchConfig:
    """What is measured, and how often."""

    parts: tuple[str, ...] = option(
        PARTS,
        "What to measure: sampling, training, tokenizer, loader.",
        choices=PARTS,
        group="measurement",
        common=True,
    )
    rounds: int = option(
        5,
        "Measurements of each case, after one that does not count.",
        minimum=1,
        maximum=10_000,
        group="measurement",
        common=True,
    )
    precision: str = option(
        "auto",
        "As in training and sampling; int8 is for sampling only.",
        choices=PRECISIONS,
        group="measurement",
        common=True,
    )
    batch_sizes: tuple[int, ...] = option(
        (1, 8, 64), "Batch sizes of sampling.", minimum=1, maximum=2**16, group="measurement", common=True
    )
    cfg_scale: float = option(
        2.0, "Guidance scale to compare with no guidance; 1 skips it.", minimum=0, group="measurement"
    )
    top_k: int = option(100, "Top-k filter of sampling; 0 keeps all codes.", minimum=0, group="measurement")
    compile: bool = option(
        False, "Also measure compiled sampling (see `imgtf sample --compile`).", group="measurement"
    )
    against: str = option(
        "none",
        "Also measure `generate` of another library on a network of the same shape.",
        choices=("none", "transformers"),
        group="measurement",
    )

    @property
    def training_precision(self) -> str:
        """Precision of training steps."""
        return "auto" if self.precision == "int8" else self.precision
