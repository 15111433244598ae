"""How a stage is trained (`TrainingConfig`), the same for both stages. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..options import option

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
"""Where Accelerate can send figures, and the package each needs."""


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, saving and reporting of one run. A step is one update of the weights."""

    steps: int = option(1000, "Updates of the weights in the whole run.", minimum=1)
    batch_size: int = option(64, "Images an update, over all processes and accumulated parts.", minimum=1)
    gradient_accumulation_steps: int = option(
        1, "Parts that a batch is computed in, to save memory.", minimum=1
    )
    lr: float = option(1e-3, "Highest learning rate.", minimum=0)
    final_lr_ratio: float = option(
        0.0, "Learning rate at the end, as a share of the highest.", minimum=0, maximum=1
    )
    warmup: int = option(50, "Steps over which the learning rate rises.", minimum=0)
    beta1: float = option(0.9, "AdamW's first decay.", minimum=0, maximum=1)
    beta2: float = option(0.99, "AdamW's second decay.", minimum=0, maximum=1)
    weight_decay: float = option(0.0, "AdamW's decay of the weight matrices.", minimum=0)
    grad_clip: float = option(1.0, "Largest gradient norm; 0 leaves gradients alone.", minimum=0)
    ema_decay: float = option(
        0.99,
        "Decay of the weights' moving average, which is what gets saved; 0 saves the raw weights.",
        minimum=0,
        maximum=1,
    )
    precision: str = option(
        "auto",
        "Arithmetic: auto takes bf16 where the machine is fast at it.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    compile: bool = option(
        False,
        "Compile the network for training with torch.compile: slow at the start, and it needs a C++ compiler.",
    )
    device: str = option("auto", "Where to train: auto takes a GPU if there is one.", choices=("auto", "cpu"))
    init_from: str | None = option(
        None, "Model folder to start from with its weights (fine-tuning).", auto="random weights"
    )
    seed: int = option(0, "Seed of weights, order and augmentation.", minimum=0)
    log_every: int = option(20, "Steps between lines of the log.", minimum=1)
    eval_every: int = option(100, "Steps between evaluations on held-out images.", minimum=1)
    eval_images: int = option(1000, "Held-out images an evaluation looks at, at most.", minimum=1)
    preview_every: int = option(200, "Steps between pictures of the progress.", minimum=1)
    save_every: int = option(500, "Steps between saved states to resume from.", minimum=1)
    log_with: tuple[str, ...] = option(
        (),
        f"Send the log's figures there as well: {', '.join(TRACKERS)}; each is a package to install.",
        choices=tuple(TRACKERS),
    )

    def __post_init__(self) -> None:
        if self.batch_size % self.gradient_accumulation_steps:
            raise ConfigError(
                f"batch_size {self.batch_size} cannot be split into {self.gradient_accumulation_steps} equal parts"
            )
