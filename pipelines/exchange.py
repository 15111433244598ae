"""Import published weights into a model folder, and export a model to the names of a published family."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..interop.families import WeightFile, to_family
from ..interop.read import read_tensors, read_yaml
from ..interop.shards import one_per_model
from ..interop.stage import IMAGE_SIZE, STAGES, Hints, StageWeights, meta_model
from ..interop.vqmodel_config import to_vqmodel
from ..interop.vqmodel_folder import FILES
from ..options import Size, build, sides_of, to_size
from ..pretrained import CONFIG_FILE, WEIGHTS_FILE, read_json, write_tensors, write_text
from ..prior.config import PriorConfig
from ..prior.model import Prior
from ..runtime.durable import TEMPORARY, publish_folder, remove_folder
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from .card import write_card
from .files import ORIGIN_FILE, RUNS, check_files, check_writable, stage_of

logger = logging.getLogger("imgtf")

YAML = (".yaml", ".yml")
WEIGHTS = FILES[0]
"""Weights in a folder of diffusers."""


def import_weights(
    family: str,
    files: Sequence[Path],
    folder: Path,
    *,
    stage: str | None = None,
    heads: int | None = None,
    image_size: Size | None = None,
    classes: int | None = None,
    force: bool = False,
) -> list[Path]:
    """Import weight files into `folder` and return the folders written, tokenizer first.

    Args:
        family: a name of `FAMILIES`, or "auto" to recognise it by the names of the tensors.
        files: weights, or folders of diffusers' VQModel. A YAML file belongs to the weights before it, or to the first
            ones.
        stage: import only "tokenizer" or "prior" from a file with both.
        heads, image_size, classes: sizes that cannot be read from the tensors. `image_size` is the side of a square, or
            (height, width).
        force: replace existing stages.

    Raises:
        CheckpointError: a file cannot be read, is of another family, or has missing, unknown or misshapen tensors; or
            the two stages do not belong together. Nothing is written then.
    """
    sources = [WeightFile(family, path, yaml) for path, yaml in _with_yaml(files)]
    image_size = None if image_size is None else to_size(image_size, "image_size")
    hints = Hints(heads=heads, image_size=image_size, classes=classes)
    parts: dict[str, StageWeights] = {}
    origins: dict[str, str] = {}
    for each in STAGES:  # the tokenizer first: the prior's grid depends on it
        for source in (s for s in sources if each in s.stages and stage in (None, each)):
            if each in parts:
                raise CheckpointError(
                    f"{source.path}: a second {each}; name only one of the files, or use --stage"
                )
            hints = replace(hints, grid=_grid(folder, parts.get("tokenizer"), image_size))
            parts[each], origins[each] = source.read(each, hints), source.origin()
    if not parts:
        raise CheckpointError(f"{files[0]}: holds no {stage}; check --stage and the files")
    _check_free(folder, parts, force)
    _check_pair(folder, parts)
    _write_stages(folder, parts, origins)
    write_card(folder)
    return [folder / each for each in parts]


def export_weights(
    family: str, folder: Path, file: Path, *, stage: str | None = None, force: bool = False
) -> Path:
    """Write one stage of a model folder with the tensor names of a published family, and return `file`.

    Args:
        file: a safetensors file; for diffusers a folder, in which config.json and the weights are written.
        stage: "tokenizer" or "prior"; None: the only stage of the folder, for diffusers the tokenizer.

    Raises:
        CheckpointError: networks of the family cannot represent the model.
        ConfigError: a file exists and `force` is not given, or its folder cannot be written.
    """
    as_folder = family == "diffusers"
    check_files([file / name for name in (CONFIG_FILE, WEIGHTS)] if as_folder else [file], force)
    if as_folder and file.suffix == ".safetensors":
        raise ConfigError(f"{file}: a VQModel of diffusers is a folder; name a folder")
    if not as_folder and file.is_dir():
        raise ConfigError(f"{file} is a folder: name a file")
    stage = stage or ("tokenizer" if as_folder else None)
    found = [s for s in STAGES if (folder / s / CONFIG_FILE).exists() and stage in (None, s)]
    if len(found) != 1:
        have = " and ".join(found) or f"no {stage or 'model'}"
        raise CheckpointError(f"{folder}: holds {have}; choose with --stage {' or '.join(STAGES)}")
    kind: type[Tokenizer] | type[Prior] = Tokenizer if found[0] == "tokenizer" else Prior
    model = kind.from_pretrained(folder / found[0], "cpu")
    tensors = to_family(family, model)
    if as_folder and isinstance(model.config, TokenizerConfig):
        _write_vqmodel(file, model.config, tensors)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(file, tensors)
    return file


def _write_vqmodel(folder: Path, config: TokenizerConfig, tensors: Mapping[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_text(folder / CONFIG_FILE, json.dumps(to_vqmodel(config), indent=2, sort_keys=True) + "\n")


def _with_yaml(files: Sequence[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Return each weight file with the contents of its YAML file."""
    weights = one_per_model([f for f in files if f.suffix.lower() not in YAML])
    if not weights:
        raise CheckpointError("only YAML files were given: name a file of weights too")
    yaml_of: dict[Path, dict[str, Any]] = {}
    current = weights[0]
    for file in files:
        if file.suffix.lower() in YAML:
            yaml_of[current] = read_yaml(file)
        else:
            current = file
    return [(path, yaml_of.get(path, {})) for path in weights]


def _grid(folder: Path, tokenizer: StageWeights | None, image_size: Size | None) -> tuple[int, int]:
    """Return the prior's grid (h, w): from the tokenizer imported now, the one in the folder, or factor 16."""
    config = tokenizer.config if tokenizer else _tokenizer_config(folder)
    trained, factor = sides_of(IMAGE_SIZE), 16
    if isinstance(config, TokenizerConfig):
        trained, factor = config.size, config.factor
    height, width = trained if image_size is None else sides_of(image_size)
    return height // factor, width // factor


def _tokenizer_config(folder: Path) -> TokenizerConfig | None:
    """Return the configuration of the tokenizer in the folder, if there is one."""
    path = folder / "tokenizer" / CONFIG_FILE
    if not path.exists():
        return None
    header = ("format", "kind", "imgtf")
    return build(TokenizerConfig, {k: v for k, v in read_json(path).items() if k not in header}, str(path))


def _tokenizer_sha256(folder: Path, part: StageWeights | None) -> str:
    """Return the identity of the codes of the tokenizer imported now, else of that in the folder, or "".

    Weights in the folder stay in the mapped file.
    """
    config = part.config if part else _tokenizer_config(folder)
    if config is None:
        return ""
    model = meta_model(config)
    tensors = part.tensors if part else read_tensors(folder / "tokenizer" / WEIGHTS_FILE)
    model.load_state_dict(tensors, assign=True)
    assert isinstance(model, Tokenizer)
    return model.codes_sha256()


def _check_free(folder: Path, stages: Iterable[str], force: bool) -> None:
    taken = [s for s in stages if (folder / s / WEIGHTS_FILE).exists()]
    if taken and not force:
        raise CheckpointError(
            f"{folder} already holds a {taken[0]}: replace it with --force, or name another folder with --model"
        )
    check_writable(folder)


def _check_pair(folder: Path, parts: Mapping[str, StageWeights]) -> None:
    """CheckpointError unless both stages, imported now or already in the folder, have the same codebook size."""
    sizes: dict[str, Any] = {}
    for stage in STAGES:
        path = folder / stage / CONFIG_FILE
        if stage in parts:
            sizes[stage] = parts[stage].config.codebook_size
        elif path.exists():
            sizes[stage] = read_json(path).get("codebook_size")
    if len(set(sizes.values())) > 1:
        raise CheckpointError(
            f"the tokenizer has {sizes['tokenizer']} codes, the prior {sizes['prior']}: import stages that belong "
            f"together"
        )


def _write_stages(folder: Path, parts: Mapping[str, StageWeights], origins: Mapping[str, str]) -> None:
    """Write all stages beside the old ones, and replace those only when that has succeeded."""
    written = {stage: folder / (stage + TEMPORARY) for stage in parts}
    try:
        for stage, temporary in written.items():
            shutil.rmtree(temporary, ignore_errors=True)
            config = parts[stage].config
            if isinstance(config, PriorConfig):
                config = replace(config, tokenizer_sha256=_tokenizer_sha256(folder, parts.get("tokenizer")))
            meta_model(config).save_pretrained(temporary, parts[stage].tensors)
            write_text(temporary / ORIGIN_FILE, origins[stage] + "\n", durable=True)
        for stage, temporary in written.items():
            _remove_stage(folder, stage)
            publish_folder(temporary, folder / stage)
    finally:
        for temporary in written.values():
            shutil.rmtree(temporary, ignore_errors=True)


def _remove_stage(folder: Path, stage: str) -> None:
    """Remove a stage and the training runs that made it."""
    remove_folder(folder / stage)
    for training in (folder / "training" / run for run in RUNS if stage_of(run) == stage):
        if training.exists():
            logger.info("%s: the training run of the replaced model is removed", training)
            remove_folder(training)
