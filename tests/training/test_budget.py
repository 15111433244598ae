"""Runs that fit a time: the decisions on the number of steps, with a clock of our own, and their exact repetition."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from imgtf.errors import ConfigError
from imgtf.options import MAX_INT
from imgtf.pipelines import run_budget
from imgtf.tokenizer.recipe import TokenizerRecipe, moved
from imgtf.training.budget import Budget
from imgtf.training.config import TrainingConfig
from imgtf.training.plan import parse_plan
from imgtf.training.schedule import learning_rate, progress

from ..pipelines.conftest import SMALL, SMALL_PRIOR, SMALL_TOKENIZER, images, model, run

_ = images, model  # fixtures
SMALL_NETWORK = SMALL_TOKENIZER[: -len(SMALL)]

MINUTES = 5.0


class Clock:
    """A clock whose time a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def simulate(
    speed: Callable[[float], float],
    config: TrainingConfig,
    *,
    before: float = 10,
    costs: Iterable[float] = (),
) -> tuple[float, TrainingConfig, list[float]]:
    """Run steps that take `speed(fraction of the time)` seconds; return the minutes, the settings and all rates."""
    clock = Clock()
    evaluation, preview, saving, end = costs or (1 + 4 * speed(0), 1.0, 0.5, 4.0)
    budget = Budget(config, clock.now, expected_steps=500, clock=clock)
    config = budget.undecided(config)
    start = clock.now
    clock.now += before
    budget.begin()
    step, rates = 0, []
    while step < config.steps:
        rates.append(learning_rate(step, config))
        clock.now += speed((clock.now - start) / 60 / (MINUTES))
        step += 1
        config = budget.decide(step, config) or config
        budget.lap("step")
        for kind, every, seconds in (
            ("evaluation", config.eval_every, evaluation),
            ("preview", config.preview_every, preview),
            ("saving", config.save_every, saving),
        ):
            if step % every == 0 or step == config.steps:
                clock.now += seconds
                budget.lap(kind)
    clock.now += end
    return (clock.now - start) / 60, config, rates


CONFIG = TrainingConfig(minutes=MINUTES, warmup=50, eval_every=100, preview_every=200, save_every=200, lr=1.0)
SPEEDS: dict[str, Callable[[float], float]] = {
    "steady": lambda done: 0.1,
    "slow": lambda done: 3.0,
    "slower from the middle": lambda done: 0.1 if done < 0.5 else 0.2,
    "faster from the middle": lambda done: 0.2 if done < 0.5 else 0.1,
    "half as fast for a while": lambda done: 0.2 if 0.3 < done < 0.6 else 0.1,
    "slower near the end": lambda done: 0.1 if done < 0.85 else 0.2,
    "three times as slow": lambda done: 0.1 if done < 0.4 else 0.3,
}


@pytest.mark.parametrize("speed", SPEEDS.values(), ids=SPEEDS)
def test_a_run_ends_near_its_time_at_the_end_of_its_schedule(speed: Callable[[float], float]) -> None:
    minutes, config, rates = simulate(speed, CONFIG)
    assert 0.9 * MINUTES <= minutes <= 1.1 * MINUTES
    assert config.minutes is None
    assert len(rates) == config.steps
    assert rates[-1] < 0.05
    falling = rates[60:]
    assert falling == sorted(falling, reverse=True)


def test_a_steady_run_decides_once() -> None:
    _, config, _ = simulate(SPEEDS["steady"], CONFIG, costs=(0.6, 0.3, 0.1, 4.0))
    assert len(config.step_plan) == 1


@pytest.mark.parametrize("speed", SPEEDS.values(), ids=SPEEDS)
def test_the_final_settings_repeat_every_learning_rate(speed: Callable[[float], float]) -> None:
    _, config, rates = simulate(speed, CONFIG)
    assert [learning_rate(step, config) for step in range(config.steps)] == rates


def test_the_learning_rate_has_no_jump_at_a_decision() -> None:
    config = TrainingConfig(
        steps=300, warmup=10, lr=1.0, minutes=None, step_plan=("40:1000", "200:400", "250:300")
    )
    rates = [learning_rate(step, config) for step in range(300)]
    assert rates[10:41] == [1.0] * 31
    assert max(abs(a - b) for a, b in pairwise(rates[10:])) < 0.03
    assert progress(300, config) == 1.0


def test_nothing_before_a_decision_depends_on_it() -> None:
    waiting = replace(CONFIG, step_plan=())
    for steps in (200, 100_000):
        final = TrainingConfig(steps=steps, warmup=50, lr=1.0, step_plan=(f"120:{steps}",))
        assert [learning_rate(s, final) for s in range(121)] == [
            learning_rate(s, waiting) for s in range(121)
        ]
        assert progress(120, final) == 0


def test_without_a_plan_progress_is_as_before() -> None:
    config = TrainingConfig(steps=77, warmup=13)
    assert all(progress(step, config) == step / 77 for step in range(78))
    assert all(progress(step, config, 13) == (step - 13) / 64 for step in range(13, 78))
    assert progress(500, config) == 1


@pytest.mark.parametrize(
    "plan", [("x",), ("5",), ("5:5",), ("9:20", "3:30"), ("3:20", "3:30"), ("-1:5",), ("1:2:3",)]
)
def test_a_plan_that_makes_no_sense_is_one_line(plan: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="step_plan must list"):
        parse_plan(plan)
    with pytest.raises(ConfigError, match="remove step_plan"):
        TrainingConfig(steps=30, step_plan=("5:20",))


def test_a_time_that_is_over_before_the_first_step_is_one_line() -> None:
    clock = Clock()
    budget = Budget(TrainingConfig(minutes=1), clock.now, clock=clock)
    clock.now += 50
    with pytest.raises(ConfigError, match=r"0\.8 minutes were over before the first step"):
        budget.begin()


def test_processes_do_as_the_first_one_decides() -> None:
    clock = Clock()
    budget = Budget(CONFIG, clock.now, following=(), clock=clock)
    config = budget.undecided(CONFIG)
    assert budget.decide(3, config, lambda own: 700 if own == 0 else MAX_INT, ask=False) == replace(
        config, minutes=None, steps=700, step_plan=("3:700",)
    )


def test_a_job_limit_leaves_the_time_of_the_last_saving() -> None:
    clock = Clock()
    budget = Budget(TrainingConfig(max_minutes=10), clock.now, clock=clock)
    start = clock.now
    budget.begin()
    over = None
    while over is None:
        clock.now += 2
        budget.lap("step")
        clock.now += 15
        budget.lap("saving")
        over = clock.now - start if budget.is_over() else None
    assert 600 - 3 * 17 <= over <= 600 - 15


def test_the_discriminator_moves_with_the_steps_that_are_left() -> None:
    recipe = TokenizerRecipe(discriminator_start=400, discriminator_ramp=100)
    assert moved(recipe, 100, 2.0, 20).discriminator_start == 700
    assert moved(recipe, 100, 2.0, 20).discriminator_ramp == 200
    assert moved(recipe, 100, 0.01, 20).discriminator_start == 121
    assert moved(recipe, 385, 0.5, 20) == recipe
    assert moved(recipe, 500, 0.5, 20) == recipe


def _rows(folder: Path, stage: str) -> list[dict[str, object]]:
    lines = (folder / "training" / stage / "log.jsonl").read_text().splitlines()
    drop = ("seconds", "images_per_second")
    return [
        {k: v for k, v in json.loads(line).items() if k not in drop}
        for line in lines
        if '"steps"' not in line
    ]


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is 0.35 s later at each look, and 1 s later after half a minute."""
    clock = Clock()

    def tick() -> float:
        clock.now += 0.35 if clock.now < 1030 else 1.0
        return clock.now

    monkeypatch.setattr(
        run_budget, "Budget", lambda config, started, **more: Budget(config, clock=tick, **more)
    )


@pytest.mark.usefixtures("ticking")
def test_the_settings_of_a_timed_run_repeat_it_bit_for_bit(images: Path, tmp_path: Path) -> None:
    timed, again = tmp_path / "timed", tmp_path / "again"
    adversarial = [
        "--preset",
        "small",
        "--lpips-weight",
        "0",
        "--discriminator-width",
        "8",
        "--l2-weight",
        "1",
        "--discriminator-ramp",
        "7",
    ]
    options = [*SMALL_NETWORK, *adversarial, "--batch-size", "8", "--log-every", "2"]
    assert run("tokenizer", "train", "--data", images, "--model", timed, "--minutes", "1", *options) == 0
    settings = tomllib.loads((timed / "tokenizer/train.toml").read_text())
    assert "minutes" not in settings
    assert len(settings["step_plan"]) > 1
    assert 2 < settings["discriminator_start"] < settings["steps"]
    assert settings["discriminator_ramp"] == 7  # as given
    assert settings["step_plan"][-1].endswith(f":{settings['steps']}")
    assert run("tokenizer", "train", "--config", timed / "tokenizer/train.toml", "--model", again) == 0
    weights = [folder / "tokenizer/model.safetensors" for folder in (timed, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert _rows(timed, "tokenizer") == _rows(again, "tokenizer")


@pytest.mark.usefixtures("ticking")
def test_a_job_limit_stops_with_a_state_and_the_run_goes_on(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "m"
    long = ["--steps", "1000000", "--max-minutes", "0.2", *SMALL_TOKENIZER]
    assert run("tokenizer", "train", "--data", images, "--model", folder, *long) == 143
    error = capsys.readouterr().err
    assert "stopped by --max-minutes at step" in error
    assert "--resume" in error
    assert "max_minutes" not in (folder / "tokenizer/train.toml").read_text()
    state = next((folder / "training/tokenizer/state").glob("step-*"))
    done = int(state.name.removeprefix("step-"))
    assert run("tokenizer", "train", "--model", folder, "--resume", "--steps", str(done + 2)) == 0


@pytest.mark.usefixtures("ticking")
def test_a_timed_run_that_was_stopped_goes_on_to_the_same_number_of_steps(
    images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    options = ["--minutes", "1", "--max-minutes", "0.4", *SMALL_NETWORK, "--batch-size", "8"]
    assert run("tokenizer", "train", "--data", images, "--model", folder, *options) == 143
    before = tomllib.loads((folder / "tokenizer/train.toml").read_text())
    assert run("tokenizer", "train", "--model", folder, "--resume") == 0
    after = tomllib.loads((folder / "tokenizer/train.toml").read_text())
    assert before["steps"] == after["steps"]
    assert before["step_plan"] == after["step_plan"]


def test_a_time_that_is_over_before_the_first_step_keeps_the_older_model(
    images: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = Clock()
    monkeypatch.setattr(
        run_budget, "Budget", lambda config, started, **more: Budget(config, 0.0, clock=late, **more)
    )
    folder = tmp_path / "m"
    shutil.copytree(model, folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    again = ["--data", images, "--model", folder, "--force", "--minutes", "1", *SMALL_NETWORK]
    assert run("tokenizer", "train", *again) == 1
    assert "minutes were over before the first step" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_steps_and_minutes_exclude_each_other(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for other in (["--steps", "3"], ["--step-plan", "1:3"]):
        both = [*other, "--minutes", "1", *SMALL_PRIOR]
        assert run("prior", "train", "--data", images, "--model", tmp_path, *both) == 1
        assert "exclude each other" in capsys.readouterr().err
