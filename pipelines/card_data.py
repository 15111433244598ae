"""Metadata of a model card, which the Hub searches and shows: library, task, tags, data sets, metrics, results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..prior.config import PriorConfig
from .figures import Figures
from .stage_facts import StageFacts, read_configs

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

METRICS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "rfid": "rFID",
    "usage": "codes used (fraction)",
    "perplexity": "perplexity of the codes",
    "bits_per_token": "bits per token",
    "noisy_psnr": "PSNR with replaced codes (dB)",
}
"""Metrics in words. Others have their own name."""
LOSSES = ("loss", "l1", "l2", "noisy_loss")
"""Not shown: they depend on the settings of the run."""
OBJECTIVES = {"raster": "autoregressive", "random": "autoregressive", "masked": "masked-image-modeling"}
"""Objective -> tag."""


def card_data(folder: Path, name: str, license: str | None = None) -> ModelCardData:
    """Return the metadata of a model folder.

    Args:
        name: of the model, for its results.
        license: as the Hub names it, such as apache-2.0; None: unknown.
    """
    from huggingface_hub import ModelCardData

    results = list(_results(folder, name))
    stages = [StageFacts(folder / stage) for stage in ("tokenizer", "prior")]
    figures = [one for one in (stage.figures for stage in stages) if one]
    bases = sorted({base for base in (stage.base_model() for stage in stages) if base})
    return ModelCardData(
        license=license,
        library_name="imgtf",
        pipeline_tag=task(read_configs(folder)[1]),
        tags=_tags(folder),
        datasets=sorted({one.data for one in figures if one.on_hub}) or None,
        base_model=bases or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def task(prior: PriorConfig | None) -> str | None:
    """Return the task of a model as the Hub names it, None for a tokenizer alone."""
    if prior is None:
        return None
    if "image" in prior.condition_kinds:
        return "image-to-image"
    texts = {"text", "features"} & set(prior.condition_kinds)
    return "text-to-image" if texts else "unconditional-image-generation"


def shown_metrics(figures: Figures | None) -> dict[str, float]:
    """Return the metrics of a run that a reader can compare."""
    return {k: v for k, v in (figures.metrics if figures else {}).items() if k not in LOSSES}


def _tags(folder: Path) -> list[str]:
    tokenizer, prior = read_configs(folder)
    tags = ["imgtf"]
    tags += ["image-tokenizer", tokenizer.quantizer] if tokenizer else []
    tags += [OBJECTIVES[prior.objective]] if prior else []
    return tags + (["class-conditional"] if prior and prior.class_names else [])


def _results(folder: Path, name: str) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    prior = read_configs(folder)[1]
    for stage in ("tokenizer", "prior"):
        figures = StageFacts(folder / stage).figures
        for metric, value in shown_metrics(figures).items():
            assert figures is not None
            yield EvalResult(
                task_type=task(prior) or "image-feature-extraction",
                dataset_type=figures.data,
                dataset_name=figures.data,
                dataset_split=figures.split,
                metric_type=metric,
                metric_name=f"{stage}: {METRICS.get(metric, metric)}",
                metric_value=round(value, 6),
            )
