"""The text of a model card: what a model is, how to use it, how it was made, what it reaches."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import tomli_w

from ..options import to_dict
from ..prior.config import PriorConfig
from ..tokenizer.config import TokenizerConfig
from .card_data import METRICS, shown_metrics
from .conditions import describe_conditions
from .figures import Figures, package_versions
from .files import RUNS, run_command, run_file, stage_of
from .pictures import PICTURES
from .stage_facts import StageFacts, read_configs

STAGES = ("tokenizer", "prior")
MAX_CLASS_NAMES = 50
COLOURS = {1: "greyscale", 3: "colour"}


def card_text(folder: Path, name: str, pictures: bool = True) -> str:
    """Return the card of a model folder without its metadata.

    Args:
        name: what its commands load: a folder, or an id of the Hub.
    """
    tokenizer, prior = read_configs(folder)
    sections = [f"# {name.rsplit('/', 1)[-1]}", _summary(tokenizer, prior)]
    sections += _pictures(folder, prior) if pictures else []
    if tokenizer:
        sections.append(_usage(name, prior))
    sections += [*_figures(folder), *_data(folder)]
    if tokenizer:
        sections += [f"## Tokenizer\n\n{_tokenizer_facts(tokenizer)}", *_settings(folder, "tokenizer")]
        sections += _settings(folder, "decoder")
    if prior:
        sections += [f"## Prior\n\n{_prior_facts(prior)}", *_settings(folder, "prior")]
    return "\n\n".join([*sections, *_made_by(folder), _versions(folder)])


def _summary(tokenizer: TokenizerConfig | None, prior: PriorConfig | None) -> str:
    made = "made with imgtf"
    if tokenizer is None:
        return f"A prior (a transformer over image tokens) without its tokenizer, {made}."
    height, width = tokenizer.size
    colour = COLOURS.get(tokenizer.channels, f"{tokenizer.channels}-channel")
    colour = "16-bit greyscale" if tokenizer.bit_depth == 16 else colour
    images = f"{colour} images of {height}x{width} pixels{_order(tokenizer)}"
    if prior is None:
        return f"An image tokenizer for {images}, {made}. It has no prior yet, so it cannot sample."
    return (
        f"A two-stage image generation model for {images}, {made}: the prior, a transformer, samples "
        f"discrete tokens; the tokenizer decodes them to images."
    )


def _pictures(folder: Path, prior: PriorConfig | None) -> list[str]:
    """The pictures that are there, with what they show."""
    figures = StageFacts(folder / "tokenizer").figures
    images = "Held-out" if figures is None or figures.images else "Training"
    texts = {
        "prior": ("Samples", _samples_caption(prior)),
        "tokenizer": ("Reconstructions", f"{images} images, and below each row its reconstructions."),
    }
    return [
        f"## {title}\n\n![{title}]({PICTURES[stage]})\n\n{text}"
        for stage, (title, text) in texts.items()
        if (folder / PICTURES[stage]).exists()
    ]


def _samples_caption(prior: PriorConfig | None) -> str:
    kinds = prior.condition_kinds if prior else ()
    if not prior or not prior.encoder_length:
        return "Samples with the default settings, not selected."
    first = "conditioning images, " if "image" in kinds else ""
    return f"From above: {first}samples with the default settings, the images whose conditions they have."


def _usage(name: str, prior: PriorConfig | None) -> str:
    if prior is None:
        shell = f"imgtf tokenizer reconstruct image.png --model {name} --out reconstructed"
        code = [
            "from imgtf import Tokenizer",
            "",
            f'tokenizer = Tokenizer.from_pretrained("{name}")',
            'codes = tokenizer.encode_images("image.png")',
            'tokenizer.decode_images(codes)[0].save("reconstructed.png")',
        ]
    else:
        option, argument = _condition(prior)
        shell = f"imgtf sample --model {name} --n 16{option}"
        code = [
            "from imgtf import Pipeline",
            "",
            f'pipeline = Pipeline.from_pretrained("{name}")',
            f"images = pipeline.sample(n=16, seed=0{argument})",
            'images[0].save("sample.png")',
        ]
    return "\n".join(["## Use", "", "```shell", shell, "```", "", "```python", *code, "```"])


def _condition(prior: PriorConfig) -> tuple[str, str]:
    """An example of the first condition: as options of the command line, and as arguments in Python."""
    examples = {"image": "image.png", "text": "a caption", "features": "a caption"}
    if prior.class_names:
        examples["label"] = prior.class_names[0]
    kind = next((kind for kind in prior.condition_kinds if kind in examples), None)
    if kind is None:
        return "", ""
    value, argument = examples[kind], "text" if kind == "features" else kind
    return f" --{argument} {shlex.quote(value)}", f", {argument}={value!r}".replace("'", '"')


def _figures(folder: Path) -> list[str]:
    """A table of the held-out metrics of both stages."""
    rows = []
    for stage in STAGES:
        found = StageFacts(folder / stage).figures
        rows += [_row(stage, name, value, found) for name, value in shown_metrics(found).items() if found]
    if not rows:
        return []
    head = [
        "| stage | metric | value | data | split | images | weights of step |",
        "|---|---|---|---|---|---|---|",
    ]
    return ["\n".join(["## Figures", "", *head, *rows])]


def _row(stage: str, metric: str, value: float, found: Figures) -> str:
    words, step = METRICS.get(metric, metric), f"{found.step:,} of {found.steps:,}"
    step += f" ({found.run})" if found.run else ""
    return f"| {stage} | {words} | {value:.4g} | {found.data} | `{found.split}` | {found.images:,} | {step} |"


def _data(folder: Path) -> list[str]:
    """What the images of the runs are, once where both stages read the same."""
    texts = {stage: StageFacts(folder / stage) for stage in STAGES}
    lines = {stage: facts.data_lines() or [f"`{facts.data}`"] for stage, facts in texts.items() if facts.data}
    if len({texts[stage].data for stage in lines}) == 1:
        lines = {"": next(iter(lines.values()))}
    facts = [f"- {f'{stage}: ' if stage else ''}{line}" for stage, own in lines.items() for line in own]
    return ["\n".join(["## Data", "", *facts])] if facts else []


def _order(config: TokenizerConfig) -> str:
    """What the two numbers of a size are, where they differ."""
    return "" if isinstance(config.image_size, int) else " (height x width)"


def _tokenizer_facts(config: TokenizerConfig) -> str:
    (height, width), (h, w) = config.size, config.grid
    return (
        f"- {height}x{width} pixels{_order(config)} to {h}x{w} tokens (downsampling factor {config.factor})\n"
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


def _settings(folder: Path, run: str) -> list[str]:
    """All settings of the run, folded."""
    settings = StageFacts.of_run(folder, run).settings()
    summary = f"<summary>Settings of the {run}'s run</summary>"
    return [f"<details>\n{summary}\n\n{_toml(settings)}\n\n</details>"] if settings else []


def _made_by(folder: Path) -> list[str]:
    """The commands that make such a model again."""
    lines, imported = [], []
    for run in RUNS:
        facts, file = StageFacts.of_run(folder, run), run_file(Path(), run)
        if facts.origin and run == stage_of(run):
            imported.append(f"The {run} was imported from {facts.origin}.")
        elif facts.settings():
            figures = facts.figures
            known = facts.data == "digits" or (figures and figures.on_hub)
            data = "" if known else f" --data {shlex.quote(facts.data)}"
            lines.append(f"imgtf {run_command(run)} --config {file.as_posix()} --model new-model{data}")
    commands = ["```shell", *lines, "```"] if lines else []
    parts = [*imported, *(["\n".join(commands)] if commands else [])]
    return ["## Made by", *parts] if parts else []


def _versions(folder: Path) -> str:
    """The packages that trained the model, or that imported it."""
    found = [StageFacts(folder / stage).figures for stage in reversed(STAGES)]
    versions = next((figures.versions for figures in found if figures), package_versions())
    return "## Versions\n\n" + ", ".join(f"{name} {number}" for name, number in versions.items())


def _toml(values: dict[str, Any]) -> str:
    return f"```toml\n{tomli_w.dumps(values)}```"
