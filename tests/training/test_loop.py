"""Runs of the training loop that are stopped, killed, resumed, or lose their folder or disk."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from imgtf.errors import CheckpointError, ImgtfError, Interrupted
from imgtf.runtime import durable
from imgtf.training import checkpoint
from imgtf.training.config import TrainingConfig
from imgtf.training.stage import Batch
from imgtf.training.states import states, step_of

from .line import LineModel, LineStage, log_rows, trainer


def at(step: int, action: Callable[[], object]) -> LineStage:
    """A stage that calls `action` when it reads the data of a step."""

    def spoil(now: int, x: Tensor) -> Tensor:
        if now == step:
            action()
        return x

    return LineStage(TrainingConfig(), spoil)


def weights(folder: Path) -> bytes:
    return (folder / "line/model.safetensors").read_bytes()


def saved(folder: Path) -> list[int]:
    return [step_of(state) for state in states(folder / "training/line/state")]


def test_metrics_are_means_over_all_micro_batches(tmp_path: Path) -> None:
    """The gradient norm is that of the whole batch."""
    batches: list[Batch] = []

    class Watched(LineStage):
        def step(self, batch: Batch) -> dict[str, Tensor]:
            batches.append(batch)
            return super().step(batch)

    stage = Watched(TrainingConfig())
    trainer(tmp_path, stage, steps=1, log_every=1, batch_size=8, gradient_accumulation_steps=2, lr=0.0).run()
    assert len(batches) == 2
    x = torch.cat([batch["x"] for batch in batches])
    noise = torch.stack([batch["noise"] for batch in batches]).repeat_interleave(4)
    loss = (stage.model.line(x)[:, 0] - x.sum(1) - noise).square().mean()
    gradients = torch.autograd.grad(loss, list(stage.model.parameters()))
    (row,) = (row for row in log_rows(tmp_path) if "gradient_norm" in row)
    assert row["loss"] == pytest.approx(loss.item())
    assert row["gradient_norm"] == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item())


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "PAUSES", (0.0, 0.0))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_completes_the_step_and_saves(name: str, tmp_path: Path) -> None:
    stage = at(4, lambda: os.kill(os.getpid(), getattr(signal, name)))
    with pytest.raises(Interrupted, match=f"stopped by {name} at step 5 of 12") as stopped:
        trainer(tmp_path / "a", stage).run()
    assert (stopped.value.number, stopped.value.stage) == (getattr(signal, name), "line")
    assert saved(tmp_path / "a") == [5]
    again = trainer(tmp_path / "a")
    again.restore()
    again.run()
    trainer(tmp_path / "b").run()
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_a_second_sigint_stops_while_a_state_is_written_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = checkpoint._write_shared, []

    def interrupted(*arguments: Any) -> list[Path]:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)  # does nothing more
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(checkpoint, "_write_shared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path).run()
    assert [path.name for path in (tmp_path / "training/line/state").iterdir()] == ["step-00000003"]


def test_an_older_state_is_resumed_and_the_later_ones_are_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path / "whole", keep_states=3).run()
    whole, rows = weights(tmp_path / "whole"), log_rows(tmp_path / "whole")
    assert saved(tmp_path / "whole") == [6, 9, 12]
    run = trainer(tmp_path / "whole", keep_states=3)
    with pytest.raises(CheckpointError, match="no saved state of step 7; there are states of steps 6, 9, 12"):
        run.restore(7)
    run.restore(6)
    with caplog.at_level("INFO", "imgtf"):
        run.run()
    assert "from step 6 on: the states of steps 9, 12 and the log lines after it are dropped" in caplog.text
    assert weights(tmp_path / "whole") == whole
    assert [row["step"] for row in log_rows(tmp_path / "whole")] == [row["step"] for row in rows]


def test_going_back_also_restores_the_best_weights_of_then(tmp_path: Path) -> None:
    trainer(tmp_path, keep_states=9, eval_every=3).run()
    run = trainer(tmp_path, keep_states=9, steps=7, eval_every=100, lr=0.0)
    run.restore(6)
    state = tmp_path / "training/line/state/step-00000006" / checkpoint.BEST_FILE
    then = state.read_bytes()
    assert weights(tmp_path) != then
    run.store.go_back_to(6)
    assert weights(tmp_path) == then
    assert LineModel.from_pretrained(tmp_path / "line").config == LineModel(run.stage.model.config).config


def test_what_a_killed_run_left_half_written_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = [tmp_path / "training/line/state/step-00000002.tmp", tmp_path / "line/model.safetensors.tmp"]
    left[0].mkdir(parents=True)
    left[1].parent.mkdir()
    left[1].write_bytes(b"half")
    own = tmp_path / "notes.tmp"
    own.write_text("of the user")
    with caplog.at_level("INFO", "imgtf"):
        trainer(tmp_path).run()
    assert [path.exists() for path in (*left, own)] == [False, False, True]
    assert all(str(path) in caplog.text for path in left)


def test_a_run_killed_after_its_last_step_still_ends(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    again = trainer(tmp_path)
    again.restore()
    assert again.run().steps == 12
    again.store.mark_complete()
    with pytest.raises(CheckpointError, match="12 of 12 steps are done; continue it with more --steps"):
        trainer(tmp_path).restore()


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(("failures", "number"), [(1, errno.ENOSPC), (2, errno.ESTALE)])
def test_an_error_that_passes_is_retried(
    failures: int,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original, calls = checkpoint.write_text, []

    def fail(*arguments: Any, **named: Any) -> None:
        calls.append(1)
        if len(calls) <= failures:
            raise OSError(number, os.strerror(number))
        original(*arguments, **named)

    monkeypatch.setattr(checkpoint, "write_text", fail)
    trainer(tmp_path).run()
    assert caplog.text.count("next try in") == failures
    assert saved(tmp_path) == [12]


@pytest.mark.usefixtures("no_pauses")
def test_a_full_disk_is_found_in_an_error_of_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors import SafetensorError

    def full(*_: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("imgtf.pretrained.save_file", full)
    with pytest.raises(
        CheckpointError, match=r"the training state cannot be saved .*; the previous state is kept"
    ):
        trainer(tmp_path).run()
    assert caplog.text.count("cannot be written (No space left on device); next try in") == 2
    assert list(tmp_path.rglob("*.tmp")) == []


@pytest.mark.parametrize("what", [".", "line", "training"])
def test_a_folder_that_is_removed_is_named_and_not_made_again(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    stage = at(7, lambda: shutil.rmtree(folder / what))
    with pytest.raises(CheckpointError, match="is gone: it was removed, or its disk is no longer there"):
        trainer(folder, stage).run()
    assert not (folder / what).exists()


def test_a_read_only_folder_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    stage = at(7, lambda: monkeypatch.setattr("imgtf.pretrained.save_file", refuse))
    with pytest.raises(CheckpointError, match="Read-only file system"):
        trainer(tmp_path, stage).run()
    assert saved(tmp_path) == [6]


def test_out_of_memory_says_what_to_try(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    with pytest.raises(
        ImgtfError,
        match="micro-batches of 32 images: try --gradient-accumulation-steps 4, which keeps the batch of 64",
    ):
        trainer(tmp_path, at(2, fail), batch_size=64, gradient_accumulation_steps=2).run()
