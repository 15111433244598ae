"""What a run writes into its model folder: weights and states."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator

from ..errors import CheckpointError
from ..pretrained import WEIGHTS_FILE, write_text
from ..runtime.durable import REMOVED, link_or_copy, whole_file
from .agreement import Agreement
from .checkpoint import BEST_FILE, Progress, load_state, save_state
from .ema import EMA
from .sharding import whole
from .stage import Stage
from .states import drop_later, find_state, remove_unfinished, state_path

COMPLETE_FILE = "complete"
"""In the folder of a run: everything is written."""


class Store:
    """Writes `<weights_folder>/` (the best weights) and `training/<stage>/state/` of a model folder.

    A folder that was removed is not made again: it may be a disk that is no longer mounted.
    """

    def __init__(
        self, model: Path, stage: Stage, ema: EMA | None, accelerator: Accelerator, agreement: Agreement
    ) -> None:
        self.stage, self.ema, self.accelerator, self.agreement = stage, ema, accelerator, agreement
        self.model, self.weights = model, model / stage.weights_folder
        self.folder = model / "training" / stage.name
        self.states = self.folder / "state"

    def check_there(self) -> None:
        """Raise CheckpointError where the folder of the run was removed."""
        for folder in (self.folder, self.weights):
            if not folder.is_dir():
                raise CheckpointError(
                    f"{folder} is gone: it was removed, or its disk is no longer there; nothing can be saved"
                )

    def load(self, step: int | None = None) -> Progress:
        """Load the newest state, or that of a step. Nothing is written.

        Raises:
            CheckpointError: there is none, or it is damaged, or of another model.
        """
        return load_state(find_state(self.states, step), self.stage, self.ema, self.accelerator)

    def go_back_to(self, step: int) -> None:
        """Let the folder be as it was at the state of a step: later states go, and the best weights are those then."""
        if not self.accelerator.is_main_process:
            return
        drop_later(self.states, step)
        best, own = state_path(self.states, step) / BEST_FILE, self.weights / WEIGHTS_FILE
        if best.exists() and not (own.exists() and own.samefile(best)):
            with whole_file(own, durable=True) as temporary:
                temporary.unlink(missing_ok=True)
                link_or_copy(best, temporary)
            self.stage.model.save_config(self.weights)

    def open(self) -> None:
        """Begin: make the folders, and remove what a killed run left half-written."""
        if self.accelerator.is_main_process:
            for folder in (self.folder, self.weights):
                folder.mkdir(parents=True, exist_ok=True)
            (self.folder / COMPLETE_FILE).unlink(missing_ok=True)
            own = [folder.with_name(folder.name + REMOVED) for folder in (self.folder, self.weights)]
            remove_unfinished((self.folder, self.states, self.weights), own)

    def is_complete(self) -> bool:
        """Return whether the last run wrote everything, also what follows its last step."""
        return (self.folder / COMPLETE_FILE).exists()

    def mark_complete(self) -> None:
        """Note that everything is written."""
        if self.accelerator.is_main_process:
            write_text(self.folder / COMPLETE_FILE, "", durable=True)

    def save_weights(self) -> None:
        """Save the model's present weights as the best ones. To be called in all processes.

        Raises:
            CheckpointError: a file cannot be written. The weights before are kept.
        """

        main = self.accelerator.is_main_process
        state = whole(self.stage.model.state_dict(), keep=main)

        def save() -> None:
            self.check_there()
            self.stage.model.save_pretrained(self.weights, state)

        self.agreement.write(
            f"{self.weights}: the best weights", save if main else None, "those before are kept"
        )

    def save_state(self, progress: Progress, keep: int) -> None:
        """Save a state, and remove all but the newest `keep`.

        Raises:
            CheckpointError: a file cannot be written. The states before are kept.
        """
        self.agreement.write(str(self.folder), self.check_there, "")
        weights = self.weights / WEIGHTS_FILE
        kept = progress.best["step"] or self.stage.keeps_start
        best = weights if kept and weights.exists() else None
        save_state(
            self.states, self.stage, self.ema, self.accelerator, progress,
            keep=keep, best=best, agreement=self.agreement,
        )  # fmt: skip
