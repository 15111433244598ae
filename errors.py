"""What goes wrong, by name. The library raises these; only `cli.py` turns them into exit codes.

Every message is one line that says what was wrong, where, and what to do.
"""


class ImgtfError(Exception):
    """Anything a user can cause and mend. Base of all errors raised on purpose."""


class ConfigError(ImgtfError):
    """A setting that is unknown, of the wrong type, out of range, or at odds with another."""


class DataError(ImgtfError):
    """Images or tables that are missing, unreadable or not what was asked for."""


class CheckpointError(ImgtfError):
    """A model folder or training state that is missing, damaged, or does not belong here."""


class Interrupted(ImgtfError):
    """Training was stopped by Ctrl-C or SIGTERM after its state was saved."""
