"""A progress bar, if stderr is a terminal."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class SearchProgress:
    """Show on stderr the epochs trained, the best metric and the current configuration.

    Args:
        total: epochs of the whole search, or None if it ends by itself.
        shown: False shows nothing. Nothing is shown either if stderr is not a terminal.
    """

    def __init__(self, total: int | None, *, shown: bool) -> None:
        self._progress = Progress(
            TextColumn("HPO"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs, best {task.fields[best]}, configuration {task.fields[current]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not (shown and sys.stderr.isatty()),
        )
        self._task = self._progress.add_task("", total=total, best="–", current="–")

    def __enter__(self) -> SearchProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def suggested(self, configuration_id: int) -> None:
        """A configuration is about to be trained."""
        self._progress.update(self._task, current=configuration_id)

    def trained(self, epochs: int, best: dict[str, Any] | None) -> None:
        """``epochs`` epochs are done; ``best`` is the best row."""
        shown = "–" if best is None else f"{best['metric']:.4g}"
        self._progress.update(self._task, completed=epochs, best=shown)
