"""Settings of a run, collected from the preset, the configuration file and the options that the user gave."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from ..data.config import AugmentationConfig, ConditionDataConfig, DataConfig
from ..errors import ConfigError
from ..options import build, shown, to_dict, unknown_key
from ..prior.config import PriorConfig, SamplingConfig
from ..prior.recipe import CacheRecipe, PriorRecipe
from ..runtime.durable import whole_file
from ..runtime.regular import check_regular
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.recipe import DecoderRecipe, TokenizerRecipe
from ..training.config import TrainingConfig

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
TOKENIZER_CLASSES = (DataConfig, AugmentationConfig, TokenizerConfig, TokenizerRecipe, TrainingConfig)
"""Configuration classes whose fields are the options of `imgtf tokenizer train`."""
DECODER_CLASSES = (DataConfig, AugmentationConfig, DecoderRecipe, TrainingConfig)
"""Those of `imgtf tokenizer tune-decoder`, besides `NOT_OF_DECODER`."""
NOT_OF_DECODER = ("commitment_weight", "entropy_weight", "init_from", "shard")
"""Settings without a meaning where encoder and codebook are frozen."""
PRIOR_CLASSES = (
    DataConfig, ConditionDataConfig, AugmentationConfig, CacheRecipe, PriorConfig, PriorRecipe, SamplingConfig,
    TrainingConfig,
)  # fmt: skip
"""Those of `imgtf prior train`."""
CACHE_CLASSES = (DataConfig, ConditionDataConfig, AugmentationConfig, CacheRecipe)
"""Those of `imgtf tokenizer encode`: everything that a token cache depends on."""
INHERITED_CLASSES = (DataConfig, ConditionDataConfig, AugmentationConfig)
"""Settings that a command takes from the run that trained the model, unless the user names other data."""
MOST_BYTES = 2**16
"""Largest configuration file."""
PRESET_NOTES = ("about", "expect")
"""Keys of a preset that describe it and set nothing."""
AUTO = "auto"
"""The preset that is chosen when the images are known (pipelines/auto.py)."""
FOLLOWING = {
    "steps", "eval_every", "preview_every", "save_every", "discriminator_start", "discriminator_ramp"
}  # fmt: skip
"""Settings that follow the number of steps, where it is decided in the run."""
LENGTHS = ("steps", "minutes", "step_plan")
"""The length of a run; `steps` or `minutes` that the user gives replaces all of a file."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flat settings by option name."""

    preset: str
    values: Mapping[str, Any]
    """Values of all sources: preset, inherited run, configuration file, options."""
    explicit: frozenset[str]
    """Names that the user set, in a file or on the command line. The others may follow the data."""
    find_batch: bool = False
    """Whether the micro-batches are to be found (batch_size "auto"); the batch is that of the other sources."""
    no_options: frozenset[str] = frozenset()
    """Names that are no options of the command, although its configuration classes have them."""

    def changed(self, changes: Mapping[str, Any], preset: str | None = None) -> Settings:
        """Return the settings with other values, which do not count as set by the user."""
        return dataclasses.replace(self, preset=preset or self.preset, values={**self.values, **changes})

    def part(self, cls: type[T], **fixed: Any) -> T:
        """Return the configuration of one class; `fixed` values take precedence."""
        own = {name: self.values[name] for name in option_names(cls) if name in self.values}
        return build(cls, own | fixed)

    def save(self, path: Path, parts: Iterable[Any]) -> None:
        """Write the resolved settings as TOML that `--config` reads."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, durable=True) as temporary:
            temporary.write_text(tomli_w.dumps(self.resolved(parts)), encoding="utf-8")

    def resolved(self, parts: Iterable[Any]) -> dict[str, Any]:
        """Return all settings by option name, with the values of the configurations that the run uses."""
        values: dict[str, Any] = {"preset": self.preset}
        for part in parts:
            names = option_names(type(part))
            values |= {k: v for k, v in to_dict(part).items() if k in names and v is not None}
        # The limit belongs to a job. Without a plan, there was no decision; before it, there is no number of steps.
        unset = {"max_minutes"} | (FOLLOWING - self.explicit if "minutes" in values else set())
        unset |= set() if values.get("step_plan") else {"step_plan"}
        unset |= self.no_options
        return {key: value for key, value in values.items() if key not in unset}


def collect(
    stage: str,
    classes: Iterable[type],
    given: Mapping[str, Any],
    config: Path | None = None,
    inherit: Path | None = None,
    default: str = "tiny",
) -> Settings:
    """Collect the settings of one command. Later sources win: preset, `inherit`, `config`, `given`.

    Args:
        stage: tokenizer or prior, whose presets are used.
        classes: configuration classes of the command.
        given: options that the user set, by name.
        config: TOML file by option name, such as that of a run to resume, which keeps its preset; its values count as
            set by the user.
        inherit: TOML file of another run. Its data settings apply when the user names no data.
        default: preset where the user names none. `auto` sets nothing before the images are known.

    Raises:
        ConfigError: for an unknown preset or another one than the file's, an unreadable file, an unknown key, or a
            number of steps with `minutes`.
    """
    from_file = read_toml(config) if config else {}
    if given.keys() & {"steps", "minutes"}:
        from_file = {key: value for key, value in from_file.items() if key not in LENGTHS}
    find_batch = given.get("batch_size") == AUTO
    if find_batch:
        given = {name: value for name, value in given.items() if name != "batch_size"}
    preset = _preset(given.get("preset"), from_file.get("preset"), config) or default
    explicit = from_file | dict(given)
    if "minutes" in explicit and (both := explicit.keys() & {"steps", "step_plan"}):
        raise ConfigError(f"{min(both)} and minutes exclude each other: minutes sets the number of steps")
    explicit.pop("preset", None)
    known = {name for cls in classes for name in option_names(cls)}
    for key in from_file:
        if key not in known | {"preset"}:
            raise unknown_key(str(config), key, known)
    values = {} if preset == AUTO else preset_values(stage, preset)
    if inherit and inherit.exists() and "data" not in explicit:
        inherited = {name for cls in INHERITED_CLASSES for name in option_names(cls)}
        values |= {key: value for key, value in read_toml(inherit).items() if key in inherited}
    return Settings(preset, values | explicit, frozenset(explicit), find_batch)


def _preset(given: Any, kept: Any, file: Path | None) -> Any:
    """The preset of a run. ConfigError for another one than in its file: a resumed run keeps its network."""
    if kept is None or given in (None, AUTO, kept):
        return kept or given
    raise ConfigError(
        f"{file}: the run has the preset {shown(kept)}, and a resumed run keeps it; "
        f"leave out the preset {shown(given)}, or start another run"
    )


def collect_for_model(
    model: Path, classes: Iterable[type], given: Mapping[str, Any], stage: str = "tokenizer"
) -> Settings:
    """Collect the settings of a command that uses a trained model: its data are those of the stage's run.

    A prior without a run of its own, such as an imported one, takes those of the tokenizer.
    """
    runs = [model / each / "train.toml" for each in (stage, "tokenizer")]
    return collect(stage, classes, given, inherit=next((run for run in runs if run.exists()), None))


def load_presets(stage: str) -> dict[str, dict[str, Any]]:
    """Return the presets of the tokenizer or the prior by name, from small to large."""
    return read_toml(ROOT / stage / "presets.toml")


def preset_values(stage: str, name: str) -> dict[str, Any]:
    """Return what a preset sets, or raise a ConfigError that names the presets there are."""
    presets = load_presets(stage)
    if name not in presets:
        raise ConfigError(f"no preset {name!r} for the {stage}; there are {', '.join(presets)}")
    return {key: value for key, value in presets[name].items() if key not in PRESET_NOTES}


def with_preset(settings: Settings, stage: str, preset: str, changes: Mapping[str, Any] = {}) -> Settings:
    """Return settings with another preset, or a changed form of it, under what the user or another run has set."""
    own = preset_values(stage, preset) | dict(changes)
    return settings.changed({key: value for key, value in own.items() if key not in settings.values}, preset)


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file as a dict, or raise a ConfigError that says what is wrong with it."""
    try:
        check_regular(path)
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path}: more than {MOST_BYTES:,} bytes, which no configuration file has")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError also for numbers of thousands of digits
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not readable as TOML ({reason:.200})") from error


def option_names(cls: type, group: str | None = None) -> list[str]:
    """Return the fields of a configuration class that are options. The others follow from data or models.

    Args:
        group: only the options under this heading of the command line.
    """
    options = [f for f in dataclasses.fields(cls) if "help" in f.metadata]
    return [f.name for f in options if group in (None, f.metadata["group"])]
