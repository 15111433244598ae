"""The decisions on the number of steps of a run with `--minutes`, as text in its settings. No heavy imports."""

from __future__ import annotations

from functools import lru_cache

from ..errors import ConfigError


@lru_cache(maxsize=16)
def parse_plan(plan: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Return the decisions of a `step_plan` as pairs: the step of the decision, the number of steps of the run.

    Raises:
        ConfigError: not of the form STEP:STEPS, or not in the order of the steps.
    """
    try:
        pairs = tuple((int(step), int(steps)) for step, steps in (one.split(":") for one in plan))
    except ValueError:
        pairs = ((-1, 0),)
    decided = [step for step, _ in pairs]
    if any(step < 0 or steps <= step for step, steps in pairs) or decided != sorted(set(decided)):
        raise ConfigError(
            f"step_plan must list STEP:STEPS in the order of the steps, such as 40:1200,300:1150; "
            f"got {','.join(plan):.80}"
        )
    return pairs


def check_plan(plan: tuple[str, ...], steps: int) -> None:
    """Raise ConfigError unless a plan, if there is one, ends with that number of steps."""
    if plan and parse_plan(plan)[-1][1] != steps:
        raise ConfigError(
            f"step_plan ends with {parse_plan(plan)[-1][1]} steps, but steps is {steps}: remove step_plan"
        )
