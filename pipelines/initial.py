"""The model a run starts with: sized to the data, or the weights of another model to go on from."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ..data.image import bit_depth, count_channels, smallest_side
from ..data.source import ImageSource
from ..errors import CheckpointError, ConfigError, DataError
from ..options import build, to_dict
from ..pretrained import PretrainedModel, describe_mismatch
from ..prior.config import PriorConfig, SamplingConfig
from ..prior.model import Prior
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
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


def new_prior(settings: Settings, tokenizer: Tokenizer, source: ImageSource) -> Prior:
    """A prior with random weights; its grid and codes are the tokenizer's, its classes the data's."""
    config = settings.part(
        PriorConfig,
        grid=tokenizer.config.grid,
        codebook_size=tokenizer.config.codebook_size,
        class_names=class_names(source),
        tokenizer_sha256=tokenizer.weights_sha256(),
        sampling=settings.part(SamplingConfig),
    )
    return Prior(config)


def continued_tokenizer(folder: Path, settings: Settings) -> Tokenizer:
    """The tokenizer of another model folder, with what the user set changed where its weights still fit."""
    loaded = Tokenizer.from_pretrained(folder / "tokenizer")
    model = Tokenizer(build(TokenizerConfig, to_dict(loaded.config) | _given(settings, TokenizerConfig)))
    _take(model, loaded, folder)
    return model


def continued_prior(folder: Path, settings: Settings, tokenizer: Tokenizer, source: ImageSource) -> Prior:
    """The prior of another model folder, for the classes of this data.

    A class that it knows by name keeps its embedding; a new one starts as "no label".

    Raises:
        CheckpointError: when it learned the codes of another tokenizer.
    """
    loaded = Prior.from_pretrained(folder / "prior")
    sha = tokenizer.weights_sha256()
    if loaded.config.tokenizer_sha256 not in ("", sha) or loaded.config.grid != tokenizer.config.grid:
        raise CheckpointError(
            f"{folder / 'prior'}: learned the codes of another tokenizer; copy {folder / 'tokenizer'} into the "
            f"new model folder, or train a prior from the start"
        )
    names = class_names(source)
    changed = _given(settings, PriorConfig) | {"class_names": names, "tokenizer_sha256": sha}
    sampling = to_dict(loaded.config.sampling) | _given(settings, SamplingConfig)
    model = Prior(build(PriorConfig, to_dict(loaded.config) | changed | {"sampling": sampling}))
    if loaded.label_embedding is None:
        raise ConfigError(f"{folder / 'prior'}: takes text features, which training cannot give yet")
    known = loaded.config.class_names
    rows = [known.index(name) if name in known else len(known) for name in (*names, None)]
    loaded.label_embedding.table.weight = torch.nn.Parameter(loaded.label_embedding.table.weight[rows])
    _take(model, loaded, folder)
    return model


def class_names(source: ImageSource) -> tuple[str, ...]:
    """The classes to train with: a single one says nothing."""
    if len(source.class_names) == 1:
        logger.warning("one class only (%s): the prior is trained without labels", source.class_names[0])
        return ()
    return source.class_names


def _given(settings: Settings, cls: type) -> dict[str, object]:
    return {name: settings.values[name] for name in option_names(cls) if name in settings.explicit}


def _take(model: PretrainedModel, loaded: PretrainedModel, folder: Path) -> None:
    state = loaded.state_dict()
    shapes = [{name: tuple(t.shape) for name, t in m.items()} for m in (model.state_dict(), state)]
    mismatch = describe_mismatch(*shapes)
    if mismatch:
        raise ConfigError(f"the weights of {folder / model.kind} do not fit the sizes asked for: {mismatch}")
    model.load_state_dict(state)
