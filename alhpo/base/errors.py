"""The errors that alhpo raises on purpose."""

from __future__ import annotations


class AlhpoError(Exception):
    """Base of every error that alhpo raises on purpose."""


class ConfigurationError(AlhpoError, ValueError):
    """A setting, hyperparameter or argument is not legal; the message says what is."""


class DataError(AlhpoError, ValueError):
    """A data set or a file of a run cannot be read, or is not what was expected."""


class LabelError(AlhpoError, ValueError):
    """The pool cannot accept an index or a label; nothing of the call was recorded."""


class CheckpointError(AlhpoError, RuntimeError):
    """A checkpoint is missing, damaged, or of another training."""


class DivergedError(AlhpoError, RuntimeError):
    """Training diverged, or the outputs of a model are NaN or infinite.

    Attributes:
        epochs: number of epochs trained before divergence was seen; 0 if not known.
    """

    def __init__(self, message: str, epochs: int = 0) -> None:
        super().__init__(message)
        self.epochs = epochs


class TunerError(AlhpoError, RuntimeError):
    """A search cannot continue, for example because its objective raised an exception."""


class EarlierResultWarning(UserWarning):
    """An earlier search is continued, or its result returned."""


class DeviceError(AlhpoError, RuntimeError):
    """An error broke the GPU for this process; a new process can continue."""


class RunLockedError(AlhpoError, RuntimeError):
    """Another process is using the same folder."""


class FormatError(AlhpoError, RuntimeError):
    """A folder has the format of another version of alhpo, and this version cannot continue it."""


def error_line(error: Exception) -> str:
    """An error as one line: the message alone for errors of alhpo, else with the type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AlhpoError) else f"{type(error).__name__}: {text}"
