"""Exceptions that go from one process to another."""

from __future__ import annotations

import traceback


class Remote(Exception):
    """The traceback, as text, of an exception in another process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Raised:
    """An exception on its way to another process, with its causes."""

    def __init__(self, error: BaseException) -> None:
        self.text = "".join(traceback.format_exception(error))
        self.chain = [error]
        while error.__cause__ is not None and error.__cause__ not in self.chain:
            error = error.__cause__
            self.chain.append(error)

    def again(self) -> BaseException:
        """The exception, whose last cause is a ``Remote``."""
        following = [*self.chain[1:], Remote(self.text)]
        for error, cause in zip(self.chain, following, strict=True):
            error.__cause__ = cause
        return self.chain[0]
