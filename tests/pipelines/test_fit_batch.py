"""`--batch-size auto` with two processes (gloo, on the CPU), one of which runs out of memory."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imgtf.errors import ConfigError
from imgtf.pipelines.fit_batch import fit_batch
from imgtf.training.config import TrainingConfig

from ..training.processes import launch
from ..training.test_processes import losses
from .conftest import SMALL_PRIOR, SMALL_TOKENIZER, draw_images, run

PARTS = 3
LIMITED = """
import torch
import imgtf.pipelines.settings as settings
from imgtf.training.stage import Stage

preset_values, backward = settings.preset_values, Stage.backward
settings.preset_values = lambda *names: preset_values(*names) | {"batch_size": 12}
out_of_memory = {("1", 1), ("0", 2)}

def limited(self, loss):
    "Fail where the other process goes on to the collective operations of the backward pass."
    rank, parts = os.environ["RANK"], self.config.gradient_accumulation_steps
    with open(f"{sys.argv[0]}-{rank}.jsonl", "a") as file:
        print(json.dumps([self.name, type(self.network).__name__, parts]), file=file)
    if (rank, parts) in out_of_memory:
        raise torch.OutOfMemoryError("simulated")
    return backward(self, loss)

Stage.backward = limited
"""
"""The second process has no memory for a batch at once, the first one none for half of it."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models: `one` process with the micro-batches given, and `two` that find them; their prior is sharded."""
    folder = tmp_path_factory.mktemp("fit_batch")
    draw_images(folder / "images")
    every = ["--precision", "fp32", "--log-every", "1", "--lr", "1e-3", "--steps", "4"]
    first = ["tokenizer", "train", "--data", folder / "images", *SMALL_TOKENIZER, "--lpips-weight", "0"]
    first += ["--discriminator-weight", "0.5", "--discriminator-start", "2", "--lecam-weight", "0.1"]
    first += [*every, "--workers", "0", "--preset", "tiny"]
    second = ["prior", "train", *SMALL_PRIOR, "--dropout", "0.1", "--optimizer", "muon", *every]
    given = ["--batch-size", "12", "--gradient-accumulation-steps", str(PARTS)]
    one, two = folder / "one", folder / "two"
    assert run(*first, *given, "--model", one) == 0
    shutil.copytree(one / "tokenizer", two / "tokenizer")
    assert run(*second, *given, "--model", one) == 0
    found = ["--batch-size", "auto", "--model"]
    commands = [[*first, *found, folder / "two-tokenizer"], [*second, "--shard", *found, two]]
    launch(folder, *commands, before=LIMITED)
    return folder


def passes(runs: Path, rank: int) -> list[Any]:
    """Stage, wrapper of the network and number of micro-batches of every backward pass of a process."""
    return [json.loads(line) for line in (runs / f"commands.py-{rank}.jsonl").read_text().splitlines()]


def test_processes_agree_on_what_fits_in_the_memory_of_each(runs: Path) -> None:
    tried = [list(dict.fromkeys(tuple(one[:3]) for one in passes(runs, rank))) for rank in (0, 1)]
    assert tried[0] == tried[1]
    for stage, wrapper in (("tokenizer", "DistributedDataParallel"), ("prior", "FSDPWrappedModel")):
        own = [one[1:] for one in tried[0] if one[0] == stage]
        assert own == [(wrapper, n) for n in (1, 2, PARTS)]


@pytest.mark.parametrize(("stage", "name"), [("tokenizer", "two-tokenizer"), ("prior", "two")])
def test_the_run_is_that_of_one_process_with_these_micro_batches(runs: Path, stage: str, name: str) -> None:
    model = runs / name
    settings = tomllib.loads((model / stage / "train.toml").read_text())
    assert (settings["batch_size"], settings["gradient_accumulation_steps"]) == (12, PARTS)
    assert len(losses(model, stage)) == 4
    assert losses(model, stage) == pytest.approx(losses(runs / "one", stage), rel=1e-4)


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    accelerator: Any = SimpleNamespace(num_processes=3)
    with pytest.raises(ConfigError, match="a batch of 64 images cannot be divided evenly among 3 processes"):
        fit_batch(TrainingConfig(batch_size=64), accelerator, build=lambda _: pytest.fail("built"))
