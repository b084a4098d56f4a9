"""A progress bar on the terminal, and nothing where there is none."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class SearchProgress:
    """Epochs of the budget, the best metric so far and the configuration at work, on stderr.

    Args:
        total: epochs of the whole search, or None where it ends by itself.
        shown: False shows nothing; nor does a stderr that is no terminal.
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
        """So many epochs are done."""
        shown = "–" if best is None else f"{best['metric']:.4g}"
        self._progress.update(self._task, completed=epochs, best=shown)
