"""The model that a run starts with: sized to the data, or with the weights of another model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..data.probe import Headers, bit_depth, count_channels
from ..data.sizes import fitting_size, typical_side
from ..errors import CheckpointError, ConfigError, DataError
from ..options import Size, build, check_kept, to_dict, to_size
from ..pretrained import PretrainedModel, describe_mismatch
from ..prior.conditions.base import ConditionConfig
from ..prior.config import PriorConfig, SamplingConfig
from ..prior.model import Prior
from ..prior.recipe import PriorRecipe
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from ..training.config import TrainingConfig
from .codes_names import present_names, renamed
from .condition_loader import ConditionLoader
from .conditions import describe_conditions
from .least_memory import check_memory
from .settings import Settings, option_names


def new_tokenizer(settings: Settings, headers: Headers) -> Tokenizer:
    """A tokenizer with random weights, whose sizes follow the data. Raises as `tokenizer_config` and `check_memory`."""
    config = tokenizer_config(settings, headers)
    check_memory(config, settings.part(TrainingConfig), settings.find_batch)
    return Tokenizer(config)


def tokenizer_config(settings: Settings, headers: Headers) -> TokenizerConfig:
    """The configuration of a new tokenizer; what the user did not set follows the data.

    Channels and bit depth are those of the images. The image size is the preset's, reduced to the typical side of the
    images where that is smaller: enlarging most images would only cost time.

    Raises:
        ConfigError: a size that the user set follows from others, such as the number of codes from `fsq_levels`.
        DataError: the typical side is below the downsampling factor of the network.
    """
    fixed: dict[str, Any] = {}
    if "channels" not in settings.explicit:
        fixed["channels"] = count_channels(headers)
    channels = fixed.get("channels", settings.values.get("channels"))
    if "bit_depth" not in settings.explicit and channels == 1:
        fixed["bit_depth"] = bit_depth(headers)
    config = settings.part(TokenizerConfig, **fixed)
    if "image_size" not in settings.explicit:
        fixed["image_size"] = _image_size(config, headers)
    config = settings.part(TokenizerConfig, **fixed)
    check_kept(config, _given(settings, TokenizerConfig))
    return config


def _image_size(config: TokenizerConfig, headers: Headers) -> Size:
    shorter, side = min(config.size), typical_side(headers, config.size)
    own = min(shorter, fitting_size(side, config.factor))
    if own < config.factor:
        raise DataError(
            f"{headers.source.name}: most images have a side of {side} px, less than the network's factor "
            f"{config.factor}; pass --image-size to enlarge them"
        )
    return to_size([fitting_size(length * own // shorter, config.factor) for length in config.size])


def new_prior(settings: Settings, tokenizer: Tokenizer, loaders: Sequence[ConditionLoader] = ()) -> Prior:
    """A prior with random weights, for the codes of a tokenizer and the conditions of a run.

    Where a code has one vector, similar codes start out alike. Not with code noise, which is for few images seen many
    times: there, samples of the digits agreed less often with their label (92 in place of 99 %).
    """
    config = prior_config(settings, tokenizer, loaders)
    check_memory(config, settings.part(TrainingConfig), settings.find_batch)
    model = Prior(config)
    if tokenizer.config.codes_per_latent == 1 and settings.part(PriorRecipe).code_noise == 0:
        model.start_from_codebook(tokenizer.code_vectors())
    return model


def prior_config(
    settings: Settings, tokenizer: Tokenizer, loaders: Sequence[ConditionLoader] = ()
) -> PriorConfig:
    """The configuration of a new prior."""
    return settings.part(
        PriorConfig,
        grid=tokenizer.config.grid,
        codebook_size=tokenizer.config.codebook_size,
        tokenizer_sha256=tokenizer.codes_sha256(),
        conditions=tuple(loader.config for loader in loaders),
        sampling=settings.part(SamplingConfig),
    )


def continued_tokenizer(folder: Path, settings: Settings) -> Tokenizer:
    """The tokenizer of another model folder, with the user's settings where its weights still fit."""
    loaded = Tokenizer.from_pretrained(folder / "tokenizer", "cpu")
    model = Tokenizer(build(TokenizerConfig, to_dict(loaded.config) | _given(settings, TokenizerConfig)))
    _copy_weights(loaded, model, folder)
    return model


def continued_prior(
    folder: Path, settings: Settings, tokenizer: Tokenizer, loaders: Sequence[ConditionLoader] = ()
) -> Prior:
    """The prior of another model folder, for the conditions of this run.

    A class that it knows by name keeps its embedding; a new one starts as "no label".

    Raises:
        CheckpointError: when it was trained on the codes of another tokenizer.
        ConfigError: when its conditions or sizes differ from those asked for.
    """
    loaded = Prior.from_pretrained(folder / "prior", "cpu")
    loaded.config = renamed(loaded.config, present_names(tokenizer, loaders))
    sha = tokenizer.codes_sha256()
    if loaded.config.tokenizer_sha256 not in ("", sha) or loaded.config.grid != tokenizer.config.grid:
        raise CheckpointError(
            f"{folder / 'prior'}: trained on the codes of another tokenizer; copy {folder / 'tokenizer'} into the "
            f"new model folder, or train a prior from the start"
        )
    conditions = [to_dict(_continuing(loader.config, loaded.config)) for loader in loaders]
    changed = _given(settings, PriorConfig) | {"tokenizer_sha256": sha, "conditions": conditions}
    sampling = to_dict(loaded.config.sampling) | _given(settings, SamplingConfig)
    config = build(PriorConfig, to_dict(loaded.config) | changed | {"sampling": sampling})
    check_conditions(loaded.config, config, folder)
    model = Prior(config)
    _match_classes(loaded, config)
    _copy_weights(loaded, model, folder)
    return model


def check_conditions(loaded: PriorConfig, config: PriorConfig, folder: Path) -> None:
    """ConfigError where the prior in `folder` cannot continue with `config`: only labels may come and go."""
    if (set(loaded.condition_kinds) ^ set(config.condition_kinds)) - {"label"}:
        raise ConfigError(
            f"{folder / 'prior'} has conditions {describe_conditions(loaded)}, this run has "
            f"{describe_conditions(config)}: only labels may differ; see --conditions and --conditioning-column"
        )


def _continuing(own: ConditionConfig, trained: PriorConfig) -> ConditionConfig:
    before = trained.condition(own.kind)
    return own if before is None else own.continuing(before)


def _match_classes(loaded: Prior, config: PriorConfig) -> None:
    """Reorder the rows of the loaded label table to the classes of `config`."""
    embeddings = loaded.conditions.embeddings
    if "label" not in embeddings:
        return
    known, table = loaded.config.class_names, embeddings["label"].table
    rows = [known.index(name) if name in known else len(known) for name in (*config.class_names, None)]
    table.weight = torch.nn.Parameter(table.weight[rows])  # type: ignore[index, union-attr]


def _given(settings: Settings, cls: type) -> dict[str, object]:
    return {name: settings.values[name] for name in option_names(cls) if name in settings.explicit}


def _copy_weights(loaded: PretrainedModel, model: PretrainedModel, folder: Path) -> None:
    state = loaded.state_dict()
    shapes = [{name: tuple(t.shape) for name, t in m.items()} for m in (model.state_dict(), state)]
    mismatch = describe_mismatch(*shapes)
    if mismatch:
        raise ConfigError(f"the weights of {folder / model.kind} do not fit the sizes asked for: {mismatch}")
    model.load_state_dict(state)
