"""One run of a stage in a model folder: that the folder is free, the start, and what follows the last step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..errors import CheckpointError, ConfigError
from ..pretrained import CONFIG_FILE
from ..prior.train import PriorStage
from ..runtime.batch_random import seed_batch_generators
from ..runtime.durable import remove_folder
from ..runtime.threads import threads_beside_others
from ..tokenizer.train import TokenizerStage
from ..training.accelerator import make_accelerator
from ..training.config import TrainingConfig
from ..training.lock import only_run
from ..training.loop import Trainer, TrainingResult
from ..training.states import latest_state
from .card import write_card
from .figures import save_figures
from .files import check_writable, run_file, stage_of
from .fitted import Fit
from .run_budget import run_budget
from .run_plots import draw_plots
from .run_report import RunReport
from .settings import Settings

logger = logging.getLogger("imgtf")


@contextmanager
def own_run(folder: Path, settings: Settings, stage: str, resume: bool, force: bool) -> Iterator[Accelerator]:
    """Check that the run may write to the model folder, keep other runs out of it, and choose the number of threads."""
    check_free(folder, stage, resume, force)
    accelerator = make_accelerator(settings.part(TrainingConfig), folder / "training" / stage)
    with only_run(folder, accelerator.is_main_process), threads_beside_others(accelerator.device):
        yield accelerator


def start(
    stage: TokenizerStage | PriorStage,
    folder: Path,
    accelerator: Accelerator,
    fit: Fit,
    sections: tuple[Any, ...],
    resume: bool,
    resume_from: int | None,
    started: float | None,
) -> Trainer:
    """Prepare the run and write its settings. Nothing before this writes to the folder, except token caches.

    A run that cannot be resumed is refused before anything is written.
    """
    seed_batch_generators(stage.config.seed)
    settings, file = fit.settings, run_file(folder, stage.name)
    budget = run_budget(stage, fit, file, sections, started)
    trainer = Trainer(stage, stage.config, folder, accelerator, budget)
    if resume:
        trainer.restore(resume_from)
        budget.expected_steps += trainer.completed_steps
    budget.check_left(trainer.agreement.any)  # before older weights are removed
    if accelerator.is_main_process:
        if not resume:
            remove_folder(folder / "training" / stage.name)
            if not stage.keeps_start:
                remove_folder(folder / stage.name)
        if stage.name == "tokenizer":
            _remove_tuned_decoder(folder)
        settings.save(file, sections)
    start_trackers(stage.name, accelerator, settings.resolved(sections))
    return trainer


def _remove_tuned_decoder(folder: Path) -> None:
    """Remove the run of `tune_decoder`, because a run of the tokenizer makes another decoder."""
    file = run_file(folder, "decoder")
    if file.exists():
        logger.warning("%s: the decoder of tune-decoder is removed; this run makes another one", file)
    remove_folder(folder / "training" / "decoder")
    file.unlink(missing_ok=True)


def finish(
    trainer: Trainer, stage: TokenizerStage | PriorStage, folder: Path, settings: Settings, resumed: bool
) -> TrainingResult:
    """Train to the last step, and write the figures, the model card, the plots and the report."""
    active = trainer.accelerator.is_main_process
    report = RunReport(folder, stage, settings, active=active, resumed=resumed)
    trainer.after_evaluation = report.update
    with report.ended_early():
        outcome = trainer.run()
    if not outcome.best_step:
        logger.info(
            "%s: no weights were better on held-out images than those at the start, which are kept",
            stage.name,
        )
    if active:
        if outcome.best_step:
            save_figures(folder, stage.name, outcome, stage.held_out_set, stage.config.eval_images)
        write_card(folder)
        draw_plots(stage, folder)
    report.finish()
    trainer.store.mark_complete()
    return outcome


def start_trackers(name: str, accelerator: Accelerator, settings: dict[str, Any]) -> None:
    """Open a run named `imgtf-<stage>` in every tracker asked for, with the resolved settings."""
    flat = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in settings.items()}
    if accelerator.log_with:
        accelerator.init_trackers(f"imgtf-{name}", flat)


def check_free(folder: Path, run: str, resume: bool, force: bool) -> None:
    """Check that a run may begin.

    Raises:
        CheckpointError: it would replace something, or there is no run to resume.
        ConfigError: the folder cannot be written to, or both `resume` and `force` are given.
    """
    if resume and force:
        raise ConfigError("resume goes on with a run, and force replaces it: give one of them")
    state = latest_state(folder / "training" / run / "state")
    if resume and state is None:
        raise CheckpointError(f"{folder} holds no {run} run to resume; start one without --resume")
    if resume or force:
        pass
    elif run != stage_of(run) and state:
        raise CheckpointError(
            f"{folder} already holds a {run} run: go on with --resume, or start another one from its present weights "
            f"with --force"
        )
    elif run == stage_of(run) and (state or (folder / run / "model.safetensors").exists()):
        raise CheckpointError(
            f"{folder} already holds a {run}: go on with --resume, replace it with --force, "
            f"or name another folder with --model"
        )
    check_writable(folder)


def check_tokenizer(folder: Path) -> None:
    """Raise CheckpointError where a model folder holds no tokenizer."""
    if not (folder / "tokenizer" / CONFIG_FILE).exists():
        raise CheckpointError(
            f"{folder} holds no tokenizer: train one first (imgtf tokenizer train --model {folder})"
        )
