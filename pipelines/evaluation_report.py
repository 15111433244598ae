"""The result of an evaluation: JSON, Markdown, and the picture of the worst pairs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from ..pretrained import write_text
from .png import write_png

JSON_FILE, TEXT_FILE, PAIRS_FILE = "report.json", "report.md", "worst-pairs.png"
NAMES = {
    "fid": "FID", "frechet_distance": "Frechet distance", "kid": "KID", "kernel_distance": "kernel distance",
    "precision": "precision", "recall": "recall", "inception_score": "Inception Score",
    "class_agreement": "class agreement",
}  # fmt: skip
"""Figures in the order of the report, and how they are called."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of samples, each with what it takes to compare them with other figures."""

    report: dict[str, Any]
    worst_pairs: Image.Image | None = None
    """Samples next to their nearest training images."""

    def write(self, out: str | Path) -> Path:
        """Write `report.json`, `report.md` and `worst-pairs.png`; return the path of the second."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        if self.worst_pairs is not None:
            write_png(self.worst_pairs, out / PAIRS_FILE)
        write_text(out / JSON_FILE, json.dumps(self.record(), indent=2) + "\n")
        write_text(out / TEXT_FILE, "# Evaluation\n\n" + "\n".join(self.lines()) + "\n")
        return out / TEXT_FILE

    def record(self) -> dict[str, Any]:
        """The report with its format and the version that made it."""
        return {"format": 1, "imgtf": version("imgtf"), **self.report}

    def lines(self) -> list[str]:
        """The report as Markdown."""
        samples, reference = self.report["samples"], self.report["reference"]
        h, w = reference["size"]
        lines = [
            f"{samples['n']} samples of {samples['of']}, against the {reference['images']} images of "
            f"{reference['data']}, split {reference['split']}, at {h}x{w} px.",
            "", "| features | figure | samples | floor |", "|---|---|---|---|",
        ]  # fmt: skip
        for name, figures in self.report["features"].items():
            lines += _rows(name, figures)
        lines += [
            "",
            "The floor is the figure of two random parts of the reference, thus of real images (class agreement: of "
            "the held-out images).",
        ]
        for name, figures in self.report["features"].items():
            lines.append(_about(name, figures))
        return lines + _memorisation(self.report.get("memorisation"))


def _rows(name: str, figures: dict[str, Any]) -> list[str]:
    network, noise = figures["network"], figures["floor"]
    rows = []
    for key, title in NAMES.items():
        if key in figures:
            spread = f" ± {figures[f'{key}_std']:.2g}" if f"{key}_std" in figures else ""
            least = network.get("held_out_accuracy") if key == "class_agreement" else noise.get(key)
            shown = "" if least is None else _number(least)
            rows.append(f"| {name} | {title} | {_number(figures[key])}{spread} | {shown} |")
    return rows


def _about(name: str, figures: dict[str, Any]) -> str:
    network, noise = figures["network"], figures["floor"]
    parts = [
        f"{name}: {network['dimension']} features, {network['preprocessing']}, weights "
        f"{network['weights_sha256'] or 'without a hash'}"
    ]
    if noise:
        parts.append(f"floor of {noise['images'][0]} against {noise['images'][1]} images")
    if network.get("held_out_accuracy") is not None:
        parts.append(f"right about {network['held_out_accuracy']:.1%} of held-out images")
    return "- " + "; ".join(parts) + "."


def _memorisation(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    lines = ["", "| nearest training image | median distance, samples / held-out | nearer than 99 % of held-out |",
             "|---|---|---|"]  # fmt: skip
    for space in ("features", "pixels"):
        own = found[space]
        where = f"features of {found['features_of']}" if space == "features" else space
        lines.append(f"| in {where} | {own['ratio']:.3f} | {own['share_near']:.1%} |")
    counts = f"{found['flagged']} of {found['compared']} samples are flagged as near to a training image"
    return [
        *lines,
        "",
        f"{counts}; {found['training_images']} training, {found['held_out_images']} held-out images.",
    ]


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
