"""`--config FILE.toml` on every command: what it sets, what it refuses, what wins."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from imgtf.commands.command import config_key
from imgtf.errors import ConfigError
from imgtf.pipelines.settings import LENGTHS, TOKENIZER_CLASSES, collect

from ..pipelines.conftest import SMALL_PRIOR, SMALL_TOKENIZER, run
from .conftest import COMMANDS

EVERY = pytest.mark.parametrize("path", list(COMMANDS), ids=" ".join)
ARGUMENTS = {
    ("tokenizer", "reconstruct"): ["a.png", "--out", "out"],
    ("data",): ["images"],
    ("import",): ["auto", "weights.pt"],
    ("export",): ["taming", "weights.safetensors"],
    ("push",): ["user/model"],
    **{
        ("edit", name): ["a.png"]
        for name in ("complete", "inpaint", "outpaint", "vary", "upscale", "translate")
    },
    ("edit", "mix"): ["a.png", "b.png"],
    ("score",): ["a.png"],
    ("serve",): ["model"],
    ("attention",): ["a.png", "--at", "0,0"],
    ("compress",): ["a.png", "-o", "a.imgtf"],
    ("decompress",): ["a.imgtf", "-o", "a.png"],
}


def parse(path: tuple[str, ...], *arguments: str) -> dict[str, Any]:
    """The parameters that a command would be called with."""
    given = [*ARGUMENTS.get(path, []), *arguments]
    return dict(COMMANDS[path].make_context(path[-1], given).params)


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "run.toml"
    file.write_text(text)
    return str(file)


@EVERY
def test_every_command_reads_a_file(path: tuple[str, ...], tmp_path: Path) -> None:
    assert parse(path, "--config", write(tmp_path, "json = true"))["as_json"] is True


@EVERY
def test_every_command_refuses_an_unknown_key_in_one_line(
    path: tuple[str, ...], tmp_path: Path, capsys: Any
) -> None:
    file = write(tmp_path, "jsno = true")
    assert run(*path, *ARGUMENTS.get(path, []), "--config", file) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {file}: unknown key jsno; did you mean json")


@EVERY
def test_every_option_can_stand_in_the_file(path: tuple[str, ...], tmp_path: Path) -> None:
    """By its long name; what is not possible is refused with the name, never passed over."""
    for param in COMMANDS[path].params:
        if param.expose_value:
            with pytest.raises(ConfigError, match=rf"run\.toml: {config_key(param)}"):
                parse(path, "--config", write(tmp_path, f"{config_key(param)} = 1979-05-27"))


def test_the_file_sets_options_and_the_command_line_wins(tmp_path: Path) -> None:
    file = write(
        tmp_path, 'n = 4\nlabel = ["cat", "dog"]\ntop-k = 7\ncfg_scale = 2\nbatch_size = 8\nforce = true\n'
    )
    params = parse(("sample",), "--config", file, "--top-k", "9")
    expected = {"n": 4, "label": ("cat", "dog"), "top_k": 9, "cfg_scale": 2.0, "batch_size": 8, "force": True}
    assert {name: params[name] for name in expected} == expected
    assert parse(("sample",), "--top-k", "9", "--config", file)["top_k"] == 9
    assert parse(("sample",))["n"] == 16


def test_switches_lists_and_choices_of_settings(tmp_path: Path) -> None:
    text = 'flip = false\nmultipliers = [1, 2]\nbit_depth = 16\nlr = 1\nlog_with = ["wandb"]\ndata = "x"\n'
    params = parse(("tokenizer", "train"), "--config", write(tmp_path, text))
    expected = {
        "flip": False,
        "multipliers": [1, 2],
        "bit_depth": 16,
        "lr": 1.0,
        "log_with": ["wandb"],
        "data": "x",
    }
    assert {name: params[name] for name in expected} == expected
    assert parse(("tokenizer", "train"), "--config", write(tmp_path, text), "--flip")["flip"] is True


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("evaluate", "budget = 5", 5.0),
        ("evaluate", "budget = 0.5", 0.5),
        ("edit complete", "keep = 0.25", 0.25),
        ("edit complete", "box = [1, 2, 3, 4]", (1, 2, 3, 4)),
        ("edit inpaint", 'box = "1,2,3,4"', (1, 2, 3, 4)),
        ("edit outpaint", "size = [64, 96]", (64, 96)),
        ("edit vary", "strength = 0.5", 0.5),
        ("edit mix", "strength = 1", 1.0),
        ("sample", "size = 64", 64),
        ("sample", "size = [64, 96]", (64, 96)),
        ("sample", 'size = "64x96"', (64, 96)),
        ("sample", "size = [64, 64]", 64),
        ("sample", 'batch_size = "auto"', None),
        ("import", "image_size = [64, 96]", (64, 96)),
        ("attention", "at = [3, 5]", (3, 5)),
        ("attention", 'at = "3,5"', (3, 5)),
        ("evaluate", 'features = ["squeeze", "classifier"]', "squeeze,classifier"),
        ("tokenizer eval", 'features = "squeeze,classifier"', "squeeze,classifier"),
        ("tokenizer train", 'batch_size = "auto"', "auto"),
        ("tokenizer tune-decoder", 'batch_size = "auto"', "auto"),
        ("prior train", 'batch_size = "auto"', "auto"),
    ],
)
def test_numbers_sizes_and_boxes_are_written_as_toml_writes_them(
    path: str, text: str, expected: Any, tmp_path: Path
) -> None:
    command, images = COMMANDS[tuple(path.split())], {"edit mix": 2, "import": 2}.get(path, 1)
    has_images = any(isinstance(param, click.Argument) for param in command.params)
    given = ["auto"] * images * has_images
    params = command.make_context("x", [*given, "--config", write(tmp_path, text)]).params
    value = params[text.split(" = ")[0]]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("evaluate", 'budget = "5"', "budget must be int or float, got '5'"),
        ("evaluate", "budget = nan", "budget: nan is not"),
        ("evaluate", "budget = true", "budget must be int or float"),
        ("edit vary", "strength = 1.5", "strength: 1.5 is not in the range"),
        ("edit inpaint", "box = [1, 2, 3]", "box: [1, 2, 3] is not a box"),
        ("edit inpaint", "box = [1.5, 2, 3, 4]", "box: [1.5, 2, 3, 4] is not a box"),
        ("edit inpaint", f"box = [0x{'f' * 5000}, 2, 3, 4]", "is not a box"),
        ("edit inpaint", "box = 3", "box must be str or list, got 3"),
        ("attention", "at = [1, true]", "at: [1, True] is not a row and a column"),
        ("attention", f"at = [0x{'f' * 5000}, 2]", "is not a row and a column"),
        ("evaluate", "features = [1]", "features: [1] is not a list of names"),
        ("sample", "size = [64, 96, 3]", "size: a size must be one side"),
        ("sample", "size = 64.0", "size must be int or str or list"),
        ("tokenizer train", 'batch_size = "many"', "batch_size must be int, got 'many'"),
        ("tokenizer train", 'steps = "3"', "steps must be int, got '3'"),
        ("tokenizer train", "steps = 0", "steps must be at least 1"),
        ("tokenizer train", "steps = 99999999999999999999", "steps must be at most"),
        ("tokenizer train", "steps = true", "steps must be int"),
        ("tokenizer train", "lr = nan", "lr must be a finite number"),
        ("tokenizer train", 'multipliers = "1,2"', "multipliers must be a list of int"),
        ("tokenizer train", "flip = 1", "flip must be bool"),
        ("tokenizer train", 'quantizer = "vqq"', "quantizer must be one of vq"),
        ("tokenizer train", 'preset = "huge"', "preset: 'huge' is not one of"),
        ("tokenizer train", 'force = "yes"', "force must be bool"),
        ("tokenizer train", "model = 3", "model must be str"),
        ("sample", "seed = -1", "seed: -1 is not in the range"),
        ("sample", "n = 1.5", "n must be int"),
        ("sample", "label = [1]", "label must be str"),
        ("sample", 'device = "warp"', "device: 'warp' is not one of auto, cpu"),
        ("sample", "batch_size = 0", "batch_size: 0 is not in the range"),
        ("sample", "[n]\nx = 1", "n must be int"),
        ("sample", "n = ", "not readable as TOML"),
        ("sample", "temperature = 0", "temperature must be at least"),
        ("bench", "parts = ['flying']", "parts must be one of"),
    ],
)
def test_a_wrong_value_is_one_line_with_file_and_key(
    path: str, text: str, message: str, tmp_path: Path, capsys: Any
) -> None:
    file = write(tmp_path, text)
    assert run(*path.split(), *ARGUMENTS.get(tuple(path.split()), []), "--config", file) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {file}: ")
    assert message in line


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    params = parse(("sample",), "--config", write(tmp_path, example), "--seed", "7")
    assert (params["n"], params["label"], params["top_k"], params["seed"]) == (64, ("cat", "dog"), 100, 7)


def test_a_missing_file_is_one_line(capsys: Any) -> None:
    assert run("info", "--config", "none.toml") == 1
    assert capsys.readouterr().err == "Error: none.toml: no such configuration file\n"


def test_help_does_not_read_the_file(tmp_path: Path, capsys: Any) -> None:
    assert run("sample", "--help", "--config", write(tmp_path, "nonsense = 1")) == 0
    assert "Usage" in capsys.readouterr().out


def test_an_argument_can_come_from_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, f'folder = "{tmp_path}"')
    assert COMMANDS[("info",)].make_context("info", ["--config", file]).params["folder"] == str(tmp_path)


def test_a_runs_own_file_repeats_it_and_counts_as_set_by_the_user(images: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    small = ["--steps", "2", *SMALL_TOKENIZER]
    assert run("tokenizer", "train", "--data", images, "--model", first, *small) == 0
    file = first / "tokenizer" / "train.toml"
    assert run("tokenizer", "train", "--config", file, "--model", again) == 0
    assert (again / "tokenizer" / "train.toml").read_text() == file.read_text()
    assert (again / "tokenizer" / "config.json").read_text() == (
        first / "tokenizer" / "config.json"
    ).read_text()
    params = parse(("tokenizer", "train"), "--config", str(file))
    given = {
        k: v for k, v in params.items() if k not in ("model", "resume", "force", "as_json") and v is not None
    }
    assert collect("tokenizer", TOKENIZER_CLASSES, given).explicit >= {
        "image_size",
        "channels",
        "data",
        "steps",
    }


def test_the_priors_own_file_repeats_its_run(model: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    assert (
        run("tokenizer", "train", "--data", images, "--model", folder, "--steps", "2", *SMALL_TOKENIZER) == 0
    )
    assert run("prior", "train", "--model", folder, "--steps", "2", *SMALL_PRIOR, "--top-k", "5") == 0
    file = folder / "prior" / "train.toml"
    before = file.read_text()
    assert run("prior", "train", "--config", file, "--model", folder, "--force") == 0
    assert file.read_text() == before


def test_resume_reads_the_runs_settings_and_then_the_file(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    small = ["--data", images, "--model", folder, *SMALL_TOKENIZER]
    assert run("tokenizer", "train", *small, "--steps", "2") == 0
    file = write(tmp_path, "steps = 4")
    assert run("tokenizer", "train", "--model", folder, "--resume", "--config", file) == 0
    saved = (folder / "tokenizer" / "train.toml").read_text()
    assert "steps = 4" in saved
    assert "image_size = 16" in saved


@pytest.mark.parametrize("path", ["tokenizer train", "tokenizer tune-decoder", "prior train"])
@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("steps = 500", ["--minutes", "5"], {"minutes": 5.0}),
        ("minutes = 5", ["--steps", "7"], {"steps": 7}),
        ('steps = 310\nstep_plan = ["20:310"]', ["--steps", "200"], {"steps": 200}),
        ('steps = 310\nstep_plan = ["20:310"]', ["--minutes", "1"], {"minutes": 1.0}),
        ("steps = 310\nminutes = 5", ["--steps", "3"], {"steps": 3}),
        ('steps = 310\nstep_plan = ["20:310"]', [], {"steps": 310, "step_plan": ["20:310"]}),
        ("steps = 500", ["--warmup", "5"], {"steps": 500}),
    ],
)
def test_a_length_on_the_command_line_replaces_that_of_the_file(
    path: str, text: str, arguments: list[str], expected: dict[str, Any], tmp_path: Path
) -> None:
    params = parse(tuple(path.split()), *arguments, "--config", write(tmp_path, text))
    assert {name: params[name] for name in LENGTHS if params[name] is not None} == expected


def test_a_shorter_run_by_the_file_of_a_timed_one(images: Path, tmp_path: Path, capsys: Any) -> None:
    file = write(tmp_path, 'steps = 310\nstep_plan = ["20:310"]')
    command = ["tokenizer", "train", "--config", file, "--data", images, "--model", tmp_path / "m"]
    assert run(*command, "--steps", "2", *SMALL_TOKENIZER) == 0
    saved = tomllib.loads((tmp_path / "m" / "tokenizer" / "train.toml").read_text())
    assert saved["steps"] == 2
    assert "step_plan" not in saved
    capsys.readouterr()
    both = write(tmp_path, "steps = 310\nminutes = 5")
    assert run("tokenizer", "train", "--config", both, "--model", tmp_path / "other") == 1
    assert "steps and minutes exclude each other" in capsys.readouterr().err


def test_default_map_of_a_caller_stays(tmp_path: Path) -> None:
    context = COMMANDS[("sample",)].make_context(
        "sample", ["--config", write(tmp_path, "n = 4")], default_map={"seed": 3}
    )
    assert (context.params["n"], context.params["seed"]) == (4, 3)
    assert context.get_parameter_source("n") == click.core.ParameterSource.DEFAULT_MAP
