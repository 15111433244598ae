"""`report.html` in a model folder: what its runs were and did, on one page that needs nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Interrupted
from ..pretrained import write_text
from ..prior.train import PriorStage
from ..runtime.machine import describe_machine
from ..tokenizer.train import TokenizerStage
from .figures import package_versions
from .files import REPORT_FILE, RUNS
from .html_page import render
from .report_parts import part_of
from .run_record import FAILED, FINISHED, RUNNING, STOPPED, RunRecord, given_settings, now, read_record
from .settings import Settings

logger = logging.getLogger("imgtf")

SECONDS = 10
"""A report is written at most this often during a run."""
RELOAD = 30
"""Seconds after which a browser loads the page of a running run again."""
LEFT_OUT = ("date", "load")
"""Facts of a machine at one moment."""


def write_report(folder: Path) -> Path | None:
    """Write the report of a model folder; return its path, or None where no stage has a run.

    Raises:
        ImgtfError, OSError, ValueError: a file of a run cannot be read, or the report cannot be written.
    """
    parts = [part for part in (part_of(folder, run) for run in RUNS) if part]
    if not parts:
        return None
    running, title = any(part["running"] for part in parts), f"Training of {folder.resolve().name}"
    page = render("run_report.html", title=title, parts=parts, reload=RELOAD if running else 0, written=now())
    path = folder / REPORT_FILE
    write_text(path, page)
    return path


class RunReport:
    """Keeps the report of a model folder up to date during a run. What fails here is said once and stops no run.

    Only the report of an `active` process, the main one, writes.
    """

    def __init__(
        self,
        folder: Path,
        stage: TokenizerStage | PriorStage,
        settings: Settings,
        *,
        active: bool,
        resumed: bool,
    ) -> None:
        self.folder, self.run, self.active = folder, folder / "training" / stage.name, active
        self.warned, self.written = False, 0.0
        self.record: RunRecord | None = None
        if active:
            self._try(lambda: self._start(stage, settings, resumed))

    def update(self) -> None:
        """Write the page of a run that goes on, unless that was done a few seconds ago."""
        if time.monotonic() - self.written >= SECONDS:
            self.write(RUNNING)

    def finish(self) -> None:
        """Write the page of a run that has reached its last step."""
        self.write(FINISHED)

    @contextmanager
    def ended_early(self) -> Iterator[None]:
        """Write the page also of a run that ends with an error or a signal."""
        try:
            yield
        except Interrupted:
            self.write(STOPPED)
            raise
        except BaseException:
            self.write(FAILED)
            raise

    def write(self, status: str) -> None:
        """Write the page with a status of the run. A folder that was removed is not made again."""
        if self.active and self.run.is_dir():
            self._try(lambda: self._write(status))

    def _start(self, stage: TokenizerStage | PriorStage, settings: Settings, resumed: bool) -> None:
        before = read_record(self.run) if resumed else None
        device, accelerator = stage.accelerator.device, stage.accelerator
        machine = {k: v for k, v in describe_machine(device).items() if k not in LEFT_OUT}
        self.record = RunRecord(
            status=RUNNING,
            started=before.started if before else now(),
            steps=stage.config.steps,
            parameters=stage.model.parameter_count(),
            images=len(stage.train_set),
            held_out=min(len(stage.held_out_set or ()), stage.config.eval_images),
            precision=accelerator.mixed_precision,
            processes=accelerator.num_processes,
            machine={"device": str(device), **machine},
            versions=package_versions(),
            # The settings of a resumed run come from its file, whoever set them.
            given=before.given
            if before
            else {}
            if resumed
            else given_settings(settings.values, settings.explicit),
        )
        self._write(RUNNING)
        logger.info(
            "%s: curves and previews of the run, from now on: %s", stage.name, self.folder / REPORT_FILE
        )

    def _write(self, status: str) -> None:
        if self.record is not None:
            self.record = self.record.save(self.run, status)
            write_report(self.folder)
            self.written = time.monotonic()

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if not self.warned:
                line = " ".join(f"{type(error).__name__}: {error}".split())
                logger.warning(
                    "%s could not be written (%s); the run goes on", self.folder / REPORT_FILE, line
                )
            self.warned = True
