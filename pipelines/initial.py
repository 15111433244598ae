"""The model a run starts with: sized to the data, or the weights of another model to go on from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from ..data.image import bit_depth, count_channels, smallest_side
from ..data.source import ImageSource
from ..errors import CheckpointError, ConfigError, DataError
from ..options import build, to_dict
from ..pretrained import PretrainedModel, describe_mismatch
from ..prior.config import PriorConfig, PriorRecipe, SamplingConfig
from ..prior.model import Prior
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from .conditions import NOTHING, Beside, describe_conditions
from .settings import Settings, option_names

logger = logging.getLogger("imgtf")


def new_tokenizer(settings: Settings, source: ImageSource) -> Tokenizer:
    """A tokenizer with random weights; what the user did not set follows the data.

    Channels and bits are those of the images. The image size is the preset's, or the images' own where they are
    smaller: enlarging them would only cost.
    """
    fixed: dict[str, int] = {}
    if "channels" not in settings.explicit:
        fixed["channels"] = count_channels(source)
    channels = fixed.get("channels", settings.values.get("channels"))
    if "bit_depth" not in settings.explicit and channels == 1:
        fixed["bit_depth"] = bit_depth(source)
    config = settings.part(TokenizerConfig, **fixed)
    if "image_size" not in settings.explicit:
        own = smallest_side(source) // config.factor * config.factor
        if own < config.factor:
            raise DataError(
                f"{source.name}: has images of less than {config.factor} px; pass --image-size to enlarge"
            )
        fixed["image_size"] = min(config.image_size, own)
    return Tokenizer(settings.part(TokenizerConfig, **fixed))


def new_prior(
    settings: Settings,
    tokenizer: Tokenizer,
    source: ImageSource,
    conditions: frozenset[str] = frozenset({"class"}),
    beside: Beside = NOTHING,
) -> Prior:
    """A prior with random weights; its grid and codes are the tokenizer's, its conditions the run's."""
    config = settings.part(
        PriorConfig,
        grid=tokenizer.config.grid,
        codebook_size=tokenizer.config.codebook_size,
        tokenizer_sha256=tokenizer.weights_sha256(),
        sampling=settings.part(SamplingConfig),
        **_condition_fields(settings, source, conditions, beside),
    )
    return Prior(config)


def continued_tokenizer(folder: Path, settings: Settings) -> Tokenizer:
    """The tokenizer of another model folder, with what the user set changed where its weights still fit."""
    loaded = Tokenizer.from_pretrained(folder / "tokenizer")
    model = Tokenizer(build(TokenizerConfig, to_dict(loaded.config) | _given(settings, TokenizerConfig)))
    _take(model, loaded, folder)
    return model


def continued_prior(
    folder: Path,
    settings: Settings,
    tokenizer: Tokenizer,
    source: ImageSource,
    conditions: frozenset[str] = frozenset({"class"}),
    beside: Beside = NOTHING,
) -> Prior:
    """The prior of another model folder, for the conditions of this run.

    A class that it knows by name keeps its embedding; a new one starts as "no label".

    Raises:
        CheckpointError: when it learned the codes of another tokenizer.
        ConfigError: when it was told other kinds of conditions, which are part of its network, or its weights do not
            fit the sizes asked for.
    """
    loaded = Prior.from_pretrained(folder / "prior")
    sha = tokenizer.weights_sha256()
    if loaded.config.tokenizer_sha256 not in ("", sha) or loaded.config.grid != tokenizer.config.grid:
        raise CheckpointError(
            f"{folder / 'prior'}: learned the codes of another tokenizer; copy {folder / 'tokenizer'} into the "
            f"new model folder, or train a prior from the start"
        )
    fields = _condition_fields(settings, source, conditions, beside)
    changed = _given(settings, PriorConfig) | fields | {"tokenizer_sha256": sha}
    sampling = to_dict(loaded.config.sampling) | _given(settings, SamplingConfig)
    config = build(PriorConfig, to_dict(loaded.config) | changed | {"sampling": sampling})
    check_conditions(loaded.config, config, folder)
    model = Prior(config)
    if loaded.conditions.label is not None:
        known, table = loaded.config.class_names, loaded.conditions.label.table
        rows = [known.index(name) if name in known else len(known) for name in (*fields["class_names"], None)]
        table.weight = torch.nn.Parameter(table.weight[rows])
    _take(model, loaded, folder)
    return model


def check_conditions(loaded: PriorConfig, config: PriorConfig, folder: Path) -> None:
    """Raises ConfigError where the prior in `folder` cannot go on as `config`: of what it is told, only classes may
    come and go."""
    if (set(loaded.conditions) ^ set(config.conditions)) - {"class"}:
        raise ConfigError(
            f"{folder / 'prior'} was told {describe_conditions(loaded)}, this run tells "
            f"{describe_conditions(config)}: only classes may differ; see --conditions and --conditioning-column"
        )
    if loaded.feature_prefix and config.classes:
        raise ConfigError(
            f"{folder / 'prior'} takes features in a label's place: train it with --conditions features"
        )
    if loaded.image_sha256 not in ("", config.image_sha256):
        raise ConfigError(
            f"{folder / 'prior'} read source pictures coded by another tokenizer: name its model with --conditioning-model"
        )


def _condition_fields(
    settings: Settings, source: ImageSource, conditions: frozenset[str], beside: Beside
) -> dict[str, Any]:
    """The fields of `PriorConfig` that say what the prior is told."""
    if len(source.class_names) == 1:
        logger.warning("one class only (%s): the prior is trained without labels", source.class_names[0])
    classes = "class" in conditions and len(source.class_names) > 1
    return {
        "class_names": source.class_names if classes else (),
        "text_length": settings.part(PriorRecipe).caption_bytes if "text" in conditions else 0,
        **beside.prior_config(),
    }


def _given(settings: Settings, cls: type) -> dict[str, object]:
    return {name: settings.values[name] for name in option_names(cls) if name in settings.explicit}


def _take(model: PretrainedModel, loaded: PretrainedModel, folder: Path) -> None:
    state = loaded.state_dict()
    shapes = [{name: tuple(t.shape) for name, t in m.items()} for m in (model.state_dict(), state)]
    mismatch = describe_mismatch(*shapes)
    if mismatch:
        raise ConfigError(f"the weights of {folder / model.kind} do not fit the sizes asked for: {mismatch}")
    model.load_state_dict(state)
