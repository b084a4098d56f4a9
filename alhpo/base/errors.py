"""The errors that the parts raise on purpose."""

from __future__ import annotations


class AlhpoError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigurationError(AlhpoError, ValueError):
    """A setting, hyperparameter or argument that cannot be used; the message says what can."""


class DataError(AlhpoError, ValueError):
    """A data set that cannot be read, does not fit, or does not match what was said of it."""


class LabelError(AlhpoError, ValueError):
    """An index or label that the pool cannot accept; nothing of the call was recorded."""


class CheckpointError(AlhpoError, RuntimeError):
    """A checkpoint that is missing, damaged, or belongs to other training than was asked for."""


class DivergedError(AlhpoError, RuntimeError):
    """Training that diverged, or a model whose outputs are NaN or infinite.

    Attributes:
        epochs: trained until it was seen, where that is known; else 0.
    """

    def __init__(self, message: str, epochs: int = 0) -> None:
        super().__init__(message)
        self.epochs = epochs


class TunerError(AlhpoError, RuntimeError):
    """A search that cannot go on for now, such as one whose objective raised an exception."""


class EarlierResultWarning(UserWarning):
    """A search that was there already is gone on with, or its result returned."""


class RunLockedError(AlhpoError, RuntimeError):
    """Another process is at work in the same folder."""


class FormatError(AlhpoError, RuntimeError):
    """A folder that another version of alhpo wrote, in a form that this one does not continue."""


def error_line(error: Exception) -> str:
    """An error in one line: the text of those made for people, others with their type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AlhpoError) else f"{type(error).__name__}: {text}"
