"""The errors of imgtf. The library raises them; only the command line turns them into exit codes.

Every message is one line: what was wrong, where, and what to do.
"""

from __future__ import annotations

from os import PathLike


class ImgtfError(Exception):
    """Base of all errors that a user can cause and fix."""


class ConfigError(ImgtfError):
    """A setting that is unknown, of the wrong type, out of range, or in conflict with another."""


class DataError(ImgtfError):
    """Images or tables that are missing, unreadable or unsuitable."""


class CheckpointError(ImgtfError):
    """A model folder, training state or token cache that is missing, damaged or does not match."""


class OtherProcessError(ImgtfError):
    """Work of several processes has ended because of an error in another process, which reports it."""


class Interrupted(ImgtfError):
    """Training was stopped by a signal, after its state was saved."""

    def __init__(
        self, message: str, number: int = 2, stage: str = "", model: str | PathLike[str] = ""
    ) -> None:
        """`number`: of the signal, 2 for SIGINT. `stage`, `model`: the run to resume."""
        super().__init__(message)
        self.number, self.stage, self.model = number, stage, model


ONEDNN = ("could not create a primitive", "could not execute a primitive", "could not create a memory object")
"""All that oneDNN, which computes on CPUs, says without memory. Where it lacks an operation, the text goes on."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether Python, PyTorch's CPU allocator or a GPU ran out of memory. Imports nothing."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return text.strip() in ONEDNN or any(own in text for own in ("can't allocate memory", "out of memory"))
