"""The model card: `README.md` in a model folder."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

from ..options import to_dict
from ..pretrained import read_json, write_text
from ..prior.config import PriorConfig
from ..prior.model import Prior
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from ..training.checkpoint import latest_state
from .conditions import describe_conditions

ORIGIN_FILE = "origin.txt"
"""Next to imported weights: where they come from, in one line."""
DATA_FILE = "data.txt"
"""Next to trained weights: what the images of the run are, in a few lines."""
MAX_CLASS_NAMES = 50
COLOURS = {1: "greyscale", 3: "colour"}
PACKAGES = ("imgtf", "torch", "accelerate", "vector-quantize-pytorch", "datasets")


def write_card(folder: Path) -> None:
    """Write `folder/README.md`: what the model is, how to use it, how it was trained, what it reaches."""
    tokenizer: TokenizerConfig | None = None
    prior: PriorConfig | None = None
    if (folder / "tokenizer" / "config.json").exists():
        tokenizer = Tokenizer.read_config(folder / "tokenizer")
    if (folder / "prior" / "config.json").exists():
        prior = Prior.read_config(folder / "prior")
    name = folder.resolve().name
    sections = [f"# {name}", _summary(tokenizer, prior)]
    if tokenizer:
        sections.append(_usage(name, prior))
        sections += [f"## Tokenizer\n\n{_tokenizer_facts(tokenizer)}", *_training(folder, "tokenizer")]
    if prior:
        sections += [f"## Prior\n\n{_prior_facts(prior)}", *_training(folder, "prior")]
    sections.append(_versions())
    write_text(folder / "README.md", "\n\n".join(sections) + "\n")


def _summary(tokenizer: TokenizerConfig | None, prior: PriorConfig | None) -> str:
    if tokenizer is None:
        return "A prior (a transformer over image tokens) without its tokenizer, trained with imgtf."
    height, width = tokenizer.size
    colour = COLOURS.get(tokenizer.channels, f"{tokenizer.channels}-channel")
    colour = "16-bit greyscale" if tokenizer.bit_depth == 16 else colour
    images = f"{colour} images of {height}x{width} pixels"
    if prior is None:
        return (
            f"An image tokenizer for {images}, trained with imgtf. It has no prior yet, so it cannot sample."
        )
    return (
        f"A two-stage image generation model for {images}, trained with imgtf: the prior, a transformer, samples "
        f"discrete tokens; the tokenizer decodes them to images."
    )


def _usage(name: str, prior: PriorConfig | None) -> str:
    if prior is None:
        shell = f"imgtf tokenizer reconstruct IMAGE --model {name} --out reconstructed"
        code = [
            "from imgtf import Tokenizer",
            "",
            f'tokenizer = Tokenizer.from_pretrained("{name}/tokenizer")',
        ]
        code += ['codes = tokenizer.encode_images("image.png")', "images = tokenizer.decode_images(codes)"]
    else:
        shell = f"imgtf sample --model {name} --n 16"
        code = ["from imgtf import Pipeline", "", f'pipeline = Pipeline.from_pretrained("{name}")']
        code += ["images = pipeline.sample(n=16, seed=0)"]
    return "\n".join(["## Usage", "", "```shell", shell, "```", "", "```python", *code, "```"])


def _tokenizer_facts(config: TokenizerConfig) -> str:
    (height, width), (h, w) = config.size, config.grid
    return (
        f"- {height}x{width} pixels to {h}x{w} tokens (downsampling factor {config.factor})\n"
        f"- codebook: {config.codebook_size:,} codes"
    )


def _prior_facts(config: PriorConfig) -> str:
    lines = [
        f"- transformer: {config.depth} layers, {config.heads} heads, width {config.width}; "
        f"objective `{config.objective}`",
        f"- conditions: {describe_conditions(config)}",
    ]
    names = config.class_names
    if names:
        more = ", ..." if len(names) > MAX_CLASS_NAMES else ""
        lines.append(f"- class names: {', '.join(names[:MAX_CLASS_NAMES])}{more}")
    sampling = {name: value for name, value in to_dict(config.sampling).items() if value is not None}
    return "\n".join([*lines, "", "Default sampling settings:", "", _toml(sampling)])


def _training(folder: Path, stage: str) -> list[str]:
    """Origin of imported weights; else data, metrics and settings of the run."""
    if (folder / stage / ORIGIN_FILE).exists():
        return [f"Imported from {(folder / stage / ORIGIN_FILE).read_text(encoding='utf-8').strip()}."]
    path = folder / stage / "train.toml"
    settings = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    command = f"imgtf {stage} train --config {stage}/train.toml --model NEW_FOLDER"
    facts = [
        f"- data: `{settings.get('data', 'unknown')}`",
        *_data(folder / stage / DATA_FILE),
        *_metrics(folder, stage),
        f"- train it again: `{command}`",
    ]
    sections = [f"### Training the {stage}", "\n".join(facts if settings else facts[:-1])]
    if settings:
        folded = f"<details>\n<summary>All settings</summary>\n\n{_toml(settings)}\n\n</details>"
        sections.append(folded)
    return sections


def _data(path: Path) -> list[str]:
    """The logged lines about the images of the run, without advice about settings."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [f"- {line}" for line in lines if "--" not in line]


def _metrics(folder: Path, stage: str) -> list[str]:
    """Held-out metrics of the best weights, if the training state is still there."""
    state = latest_state(folder / "training" / stage / "state")
    if state is None:
        return []
    progress = read_json(state / "progress.json")
    best = progress["best"]
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in best["metrics"].items())
    steps = f"step {best['step']} of {progress['step']}"
    return [f"- held-out metrics of the best weights ({steps}): {metrics or 'none, no held-out images'}"]


def _toml(values: dict[str, Any]) -> str:
    return f"```toml\n{tomli_w.dumps(values)}```"


def _versions() -> str:
    return "## Versions\n\n" + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
