"""A stage that fits a line: the smallest run of the training loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from imgtf.pretrained import PretrainedModel
from imgtf.training.accelerator import make_accelerator
from imgtf.training.config import TrainingConfig
from imgtf.training.loop import Trainer
from imgtf.training.stage import Batch, Stage


@dataclass(frozen=True)
class LineConfig:
    inputs: int = 2


class LineModel(PretrainedModel):
    kind = "line"
    config_class = LineConfig

    def __init__(self, config: LineConfig) -> None:
        super().__init__(config)
        self.line = nn.Linear(config.inputs, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += x.mean()
        return self.line(x)


class LineStage(Stage):
    """`spoil(step, x)` changes the inputs of a step."""

    name = "line"
    metric = "loss"

    def __init__(
        self, config: TrainingConfig, spoil: Callable[[int, Tensor], Tensor] = lambda _, x: x
    ) -> None:
        torch.manual_seed(0)
        self.model = LineModel(LineConfig())
        self.config, self.spoil = config, spoil

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        parts = self.config.gradient_accumulation_steps
        i = start_step * parts
        while True:
            x = torch.randn(4, 2, generator=torch.Generator().manual_seed(i))
            yield {"x": self.spoil(i // parts, x), "noise": torch.rand(())}
            i += 1

    def step(self, batch: Batch) -> dict[str, Tensor]:
        loss = (self.network(batch["x"]) - batch["x"].sum(1, keepdim=True) - batch["noise"]).square().mean()
        return {"loss": loss, **self.update(loss)}

    def evaluate(self) -> dict[str, float]:
        return {"loss": float((self.model.line.weight - 1).square().sum())}

    def preview(self, path: Path) -> None:
        Image.new("L", (4, 4)).save(path)


def trainer(folder: Path, stage: LineStage | None = None, **settings: Any) -> Trainer:
    """A trainer of a line: 12 steps, a state every 3, a log line every 2."""
    known: dict[str, Any] = {
        "steps": 12, "save_every": 3, "log_every": 2, "eval_every": 4, "preview_every": 100, "warmup": 0,
        "lr": 0.05, "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    config = TrainingConfig(**known | settings)
    stage = stage or LineStage(config)
    stage.config = config
    return Trainer(stage, config, folder, make_accelerator(config))


def log_rows(folder: Path) -> list[dict[str, Any]]:
    """The log of a line's run."""
    lines = (folder / "training/line/log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
