"""A run that fits a time (`--minutes`), and one that stops before the limit of a job (`--max-minutes`).

The number of steps is decided after a twentieth of the time, by the speed so far: updates, evaluations, previews, saved
states, and the end of the run all take their part. Later looks at fixed fractions of the time change it only where the
run would miss its time by more than a tolerance, because the machine has become slower or faster.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from ..errors import ConfigError
from ..options import MAX_INT
from .config import TrainingConfig
from .plan import parse_plan

logger = logging.getLogger("imgtf")

UNDECIDED = MAX_INT
"""Number of steps until it is decided."""
TIME_UP = 1024
"""Stands for the number of a signal where `--max-minutes` stops a run; larger than any signal's."""
AIM = 0.97
"""Fraction of the time after which the run should end. The rest is for what is not foreseen."""
UNMEASURED = 2
"""First steps, which allocate memory and compile: they do not count."""
LEAST_STEPS = 5
"""Steps that the first decision is based on, unless they take `LATEST` of the time."""
FIRST, LATEST = 0.05, 0.2
"""Fractions of the time after which the number of steps is decided."""
LOOKS = (0.25, 0.5, 0.75, 0.9, 0.96, 1.03)
"""Fractions of the time at which the decision is looked at again. After the last one the run ends."""
TOLERANCE, LATE_TOLERANCE = 0.04, 0.025
"""Fraction of the time by which the end may be missed before the number of steps changes; in the last quarter."""
END_SECONDS = 4.0
"""What comes after the last step: the figures, the model card with its pictures, the plots. Also half the time of an
evaluation or preview, because codes are counted and pictures sampled."""
LEAST_LEFT = 0.2
"""Fraction of the time that must be left when the first step begins."""
KINDS = {"evaluation": "eval_every", "preview": "preview_every", "saving": "save_every"}
"""What a run does besides updates, and the setting that says after how many steps."""
OFTEN = {"eval_every": 8, "preview_every": 5, "save_every": 5}
"""Settings that follow the number of steps, and how often their work is done in a run."""
MOST_BESIDES = 0.1
"""Fraction of the time for evaluations, and for each of the others: slow ones are done less often, but once."""
END_SHARE, MOST_END = 0.4, 0.05
"""The end takes about this fraction of the time before the first step, on a busy machine; at most that of all time."""
SECONDS_BETWEEN = 600.0
"""Most time between two evaluations, previews or saved states."""
MARGIN, LEAST_MARGIN, MOST_MARGIN = 0.05, 5.0, 60.0
"""Time that `--max-minutes` leaves for the first saving: a fraction of the limit, within these seconds."""


class Budget:
    """The time of one run, in seconds of `clock` since `started`."""

    def __init__(
        self,
        config: TrainingConfig,
        started: float | None = None,
        *,
        expected_steps: int = UNDECIDED,
        following: Collection[str] = tuple(OFTEN),
        eval_images: int | None = None,
        on_decision: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            started: when the time of the run began; now by default.
            expected_steps: about as many as the time will allow, shown until the number is decided.
            following: of `OFTEN`, those that follow the number of steps.
            eval_images: held-out images of an evaluation.
            on_decision: called after each decision on the number of steps.
        """
        self.clock, self.expected_steps, self.on_decision = clock, expected_steps, on_decision
        self.following = following
        self.started = clock() if started is None else started
        self.seconds = 60 * config.minutes if config.minutes else math.inf
        self.limit = 60 * config.max_minutes if config.max_minutes else math.inf
        self.batches = -(-min(config.eval_images, eval_images or MAX_INT) // config.batch_size)
        self.last = self.clock()
        self.laps = dict.fromkeys(KINDS, 0.0)
        """Seconds of the last one of each kind."""
        self.slowest = 0.0
        """Seconds of the slowest step."""
        self.window: list[float] = []
        """Seconds of each step since the last look."""
        self.steps_seen, self.looks = 0, 0
        self._mean, self.before = 0.0, 0.0
        """Seconds of a step, and before the first step."""

    def shown(self, config: TrainingConfig) -> int:
        """Return the number of steps to show, which is a guess until it is decided."""
        return min(config.steps, self.expected_steps) if config.minutes is not None else config.steps

    def begin(self, any_process: Callable[[bool], bool] = bool) -> None:
        """Start the clock of the first step. Arguments and errors as for `check_left`."""
        self.last = self.clock()
        self.before = self.last - self.started
        self.check_left(any_process)

    def check_left(self, any_process: Callable[[bool], bool] = bool) -> None:
        """Check that time is left to train in.

        Args:
            any_process: returns whether any process says yes.

        Raises:
            ConfigError: most of the time is over.
        """
        over = self.clock() - self.started
        if any_process(over > (1 - LEAST_LEFT) * min(self.seconds, self.limit)):
            raise ConfigError(
                f"{over / 60:.1f} minutes were over before the first step, for reading and encoding images: give more "
                f"than that with --minutes and --max-minutes"
            )

    def lap(self, kind: str) -> None:
        """Say that what took the time since the last call was a step, or one of `KINDS`."""
        now = self.clock()
        seconds, self.last = now - self.last, now
        if kind in KINDS:
            self.laps[kind] = seconds
            return
        self.steps_seen += 1
        if self.steps_seen > UNMEASURED:
            self.window.append(seconds)
            self.slowest = max(self.slowest, seconds)

    def is_over(self) -> bool:
        """Return whether `--max-minutes` leaves no more than the time for a step and for saving the state."""
        if math.isinf(self.limit):
            return False
        saving = 2 * self.laps["saving"] or min(MOST_MARGIN, max(LEAST_MARGIN, MARGIN * self.limit))
        others = self.slowest + self.laps["evaluation"] + self.laps["preview"]
        return self.clock() - self.started + saving + others >= self.limit

    def decide(
        self,
        step: int,
        config: TrainingConfig,
        agree: Callable[[int], int] = lambda own: own,
        ask: bool = True,
    ) -> TrainingConfig | None:
        """Return the settings with another number of steps where the time asks for it after a step, else None.

        Args:
            agree: returns the largest number of all processes.
            ask: whether this process decides, for all of them.
        """
        if math.isinf(self.seconds):
            return None
        steps = agree(self._steps(step, config) if ask else 0)
        if not steps:
            return None
        before = [f"{at}:{total}" for at, total in parse_plan(config.step_plan) if at < step]
        often: dict[str, Any] = self._often(step, steps) if config.minutes is not None else {}
        return replace(config, minutes=None, steps=steps, step_plan=(*before, f"{step}:{steps}"), **often)

    def undecided(self, config: TrainingConfig) -> TrainingConfig:
        """Return the settings of a run before its number of steps is decided; others are returned as they are."""
        if config.minutes is None:
            return config
        never: dict[str, Any] = dict.fromkeys(self.following, UNDECIDED)
        return replace(config, steps=UNDECIDED, step_plan=(), **never)

    def _often(self, step: int, steps: int) -> dict[str, int]:
        """The steps between evaluations and so on. Their first one is after the decision, also in a repetition."""
        between = steps * SECONDS_BETWEEN / min(self.seconds, 1e9)
        times = {KINDS[kind]: self._times(kind) for kind in KINDS}
        return {name: max(step + 1, min(-(-steps // times[name]), int(between))) for name in self.following}

    def _times(self, kind: str) -> int:
        """How often the work of a kind is done in a run."""
        return max(
            1, min(OFTEN[KINDS[kind]], int(MOST_BESIDES * self.seconds / max(1e-3, self._costs()[kind])))
        )

    def _steps(self, step: int, config: TrainingConfig) -> int:
        """The number of steps that fits the time, or 0 where nothing is to be decided."""
        if config.minutes is None:
            return self._look_again(step, config)
        return self._fitting(step, config) if self._is_measured() else 0

    def _is_measured(self) -> bool:
        measured, enough = sum(self.window), len(self.window) >= LEAST_STEPS
        return bool(self.window) and (
            (enough and measured >= FIRST * self.seconds) or measured >= LATEST * self.seconds
        )

    def _look_again(self, step: int, config: TrainingConfig) -> int:
        over = (self.clock() - self.started) / self.seconds
        # A run that has become faster would end before the next look by the time alone.
        if self.looks == len(LOOKS) or step >= config.steps or not self.window:
            return 0
        if max(over, step / config.steps) < LOOKS[self.looks]:
            return 0
        steps, miss = config.steps, abs(self._end(step, config) / self.seconds - AIM)
        if over >= LOOKS[-1]:
            steps = step + 1
        elif miss > (TOLERANCE if over < LOOKS[2] else LATE_TOLERANCE):
            steps = self._fitting(step, config)
        self.looks = sum(max(over, step / steps) >= look for look in LOOKS)
        self._mean, self.window = self.mean, []
        return steps if steps != config.steps else 0

    def _end(self, step: int, config: TrainingConfig) -> float:
        """Seconds after which the run will end with its present number of steps."""
        left = config.steps - step
        return self.clock() - self.started + left * self._per_step(config) + self._at_the_end()

    @property
    def mean(self) -> float:
        """Seconds of a step since the last look, or until it."""
        if self.window:
            self._mean = sum(self.window) / len(self.window)
        return self._mean

    def _fitting(self, step: int, config: TrainingConfig) -> int:
        left = AIM * self.seconds - (self.clock() - self.started) - self._at_the_end()
        if config.minutes is not None:
            left -= sum((self._times(kind) - 1) * seconds for kind, seconds in self._costs().items())
        steps = step + max(1, int(left / self._per_step(config)))
        if config.minutes is not None:
            self.looks = sum((self.clock() - self.started) / self.seconds >= look for look in LOOKS)
            self._mean, self.window = self.mean, []
        return min(steps, MAX_INT - 1)

    def _per_step(self, config: TrainingConfig) -> float:
        """Seconds of a step with its part of evaluations, previews and savings."""
        own = self.mean
        if config.minutes is not None:  # what follows the number of steps is not per step
            return own
        return own + sum(seconds / getattr(config, KINDS[kind]) for kind, seconds in self._costs().items())

    def _at_the_end(self) -> float:
        """Seconds of what follows the last step: an evaluation, a preview, a saving, and the end of the run."""
        costs = self._costs().values()
        end = max(END_SECONDS, min(END_SHARE * self.before, MOST_END * self.seconds))
        return sum(costs) + max(costs) / 2 + end

    def _costs(self) -> Mapping[str, float]:
        """Seconds of each of `KINDS`. Before the first evaluation: a forward pass is a third of a step."""
        guess = self.batches * self.mean / 3
        return self.laps | {"evaluation": self.laps["evaluation"] or guess}
