"""Settings of a training run, the same for both stages. No heavy imports: `--help` reads this."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..options import option
from .plan import check_plan

TRACKERS = {
    "aim": "aim",
    "clearml": "clearml",
    "comet_ml": "comet-ml",
    "dvclive": "dvclive",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""Experiment trackers that Accelerate supports, and the package of each."""
BELOW_1 = 0.999999
"""Largest decay of a moving average: one of 1 would never move, and AdamW refuses it."""


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, evaluation, saving and logging of one run. A step is one update of the weights."""

    steps: int = option(
        1000, "Number of updates of the weights.", minimum=1, group="optimisation", common=True
    )
    minutes: float | None = option(
        None,
        "Length of the run in minutes, in place of --steps; see docs/training.md#time.",
        minimum=0.1,
        maximum=1e6,
        auto="by --steps",
        group="optimisation",
        common=True,
    )
    max_minutes: float | None = option(
        None,
        "Save the state and stop before this many minutes, for the limit of a job.",
        minimum=0.1,
        maximum=1e6,
        auto="none",
        group="optimisation",
    )
    step_plan: tuple[str, ...] = option(
        (),
        "Decisions of --minutes as STEP:STEPS, which repeat its run.",
        group="optimisation",
    )
    batch_size: int = option(
        64,
        "Images per step, over all processes; auto: in the largest micro-batch that fits.",
        minimum=1,
        group="optimisation",
        common=True,
    )
    gradient_accumulation_steps: int = option(
        1, "Micro-batches per step, to save memory.", minimum=1, group="optimisation"
    )
    optimizer: str = option(
        "adamw",
        "muon: for the matrices inside the network, at 20 times --lr.",
        choices=("adamw", "muon"),
        group="optimisation",
    )
    lr: float = option(1e-3, "Peak learning rate.", minimum=0, group="optimisation", common=True)
    final_lr_ratio: float = option(
        0.0,
        "Final learning rate, relative to the peak.",
        minimum=0,
        maximum=1,
        group="optimisation",
    )
    warmup: int = option(50, "Steps of linear learning rate warm-up.", minimum=0, group="optimisation")
    beta1: float = option(0.9, "beta1 of AdamW.", minimum=0, maximum=BELOW_1, group="optimisation")
    beta2: float = option(0.99, "beta2 of AdamW.", minimum=0, maximum=BELOW_1, group="optimisation")
    weight_decay: float = option(
        0.0,
        "Weight decay of AdamW, on linear and convolution weights.",
        minimum=0,
        group="optimisation",
    )
    grad_clip: float = option(
        1.0, "Largest gradient norm; 0 for no clipping.", minimum=0, group="optimisation"
    )
    skip_spikes: float = option(
        0.0,
        "Skip updates whose gradient norm is above X times the recent median; 0: none.",
        minimum=0,
        group="optimisation",
    )
    ema_decay: float = option(
        0.99,
        "Decay of the weights' moving average, which is saved; 0: save the raw weights.",
        minimum=0,
        maximum=BELOW_1,
        group="optimisation",
    )
    precision: str = option(
        "auto",
        "Arithmetic of training; auto: bf16 if the hardware supports it.",
        choices=("auto", "fp32", "bf16", "fp16"),
        group="optimisation",
        common=True,
    )
    compile: bool = option(
        False,
        "Compile the network with torch.compile: a slow start, then faster steps.",
        group="optimisation",
    )
    shard: bool = option(
        False,
        "Divide weights and optimizer states among processes (FSDP2), to save memory.",
        group="optimisation",
    )
    device: str = option(
        "auto",
        "Device: auto (a GPU if there is one), cpu, cuda or cuda:N.",
        group="optimisation",
        common=True,
    )
    init_from: str | None = option(
        None,
        "Model folder whose weights to start from (fine-tuning).",
        auto="random weights",
        group="optimisation",
        common=True,
    )
    seed: int = option(
        0,
        "Seed of weights, data order and augmentation.",
        minimum=0,
        group="optimisation",
        common=True,
    )
    log_every: int = option(20, "Steps between log lines.", minimum=1, group="logging")
    eval_every: int = option(100, "Steps between evaluations on held-out images.", minimum=1, group="logging")
    eval_images: int = option(1000, "Most held-out images per evaluation.", minimum=1, group="logging")
    preview_every: int = option(200, "Steps between preview images.", minimum=1, group="logging")
    save_every: int = option(500, "Steps between saved training states.", minimum=1, group="logging")
    keep_states: int = option(1, "Newest training states to keep.", minimum=1, group="logging")
    log_with: tuple[str, ...] = option(
        (),
        "Experiment trackers that receive the metrics, for example wandb,tensorboard.",
        choices=tuple(TRACKERS),
        group="logging",
    )

    @property
    def micro_batch_size(self) -> int:
        """Images of a micro-batch, over all processes."""
        return self.batch_size // self.gradient_accumulation_steps

    def __post_init__(self) -> None:
        if self.minutes is None:
            check_plan(self.step_plan, self.steps)
        if self.batch_size % self.gradient_accumulation_steps:
            raise ConfigError(
                f"batch_size {self.batch_size} is not a multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}"
            )
