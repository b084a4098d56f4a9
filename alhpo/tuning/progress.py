"""What a terminal shows of a search while it runs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from alhpo.tuning.training import Trial


@dataclass(frozen=True)
class SearchStatus:
    """Where a search is.

    Attributes:
        epochs: the number trained so far, in this process and before.
        max_epochs: the epoch at which a configuration is fully trained.
        best: the best row so far; None before the first success.
        training: the trials that are being trained, or were last, each before the epoch in
            question.
        measuring: whether a single, known configuration is measured; its values are not shown.
    """

    epochs: int
    max_epochs: int
    best: Mapping[str, Any] | None = None
    training: Sequence[Trial] = ()
    measuring: bool = False

    def __str__(self) -> str:
        """Two lines: the best row, and the trials being trained."""
        return f"best  {self._best()}\nnow   {self._now()}"

    def _best(self) -> str:
        if self.best is None:
            return "–"
        metric, epoch = f"{self.best['metric']:.4g}", f"epoch {self.best['epoch']}"
        if self.measuring:
            return f"{metric}  {epoch}"
        values = configuration_text(self.best["configuration"])
        return f"{metric}  trial {self.best['configuration_id']}, {epoch}:  {values}"

    def _now(self) -> str:
        if not self.training:
            return "–"
        numbers = ", ".join(str(trial.number) for trial in self.training)
        epochs = ", ".join(str(trial.epoch) for trial in self.training)
        if self.measuring:
            return f"the current configuration, epoch {epochs} of {self.max_epochs}"
        if len(self.training) > 1:
            return f"trials {numbers}:  epochs {epochs} of {self.max_epochs}"
        values = configuration_text(self.training[0].configuration)
        return f"trial {numbers}, epoch {epochs} of {self.max_epochs}:  {values}"


#: Called whenever trials are about to be trained for an epoch, and when an epoch is recorded.
ShowStatus = Callable[[SearchStatus], None]


def configuration_text(configuration: Mapping[str, Any]) -> str:
    """The values of a configuration on one line, numbers with three digits."""
    return "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in configuration.items()
    )


class _TimeLeft(TimeRemainingColumn):
    """Says that it is the time left; nothing for a task without a known end."""

    def render(self, task: Task) -> Text:
        time = super().render(task)
        return time.append(" left") if time else time


class SearchProgress(Progress):
    """A bar with epochs, elapsed and remaining time, and lines below it.

    A task has the fields ``unit``, ``note``, which stands beside the bar, and ``below``: lines of
    text, each cut off at the width of the terminal.

    Args:
        console: where it is shown.
        shown: False shows nothing.
    """

    def __init__(self, console: Console, *, shown: bool) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  {task.fields[note]}"),
            TimeElapsedColumn(),
            _TimeLeft(),
            console=console,
            transient=True,
            disable=not shown,
            speed_estimate_period=math.inf,  # an epoch may take longer than any window
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar of each task, with its lines below."""
        for task in self.tasks:
            yield self.make_tasks_table([task])
            for line in task.fields["below"].splitlines():
                yield Text(line, no_wrap=True, overflow="ellipsis")


@contextmanager
def search_view(progress: bool | ShowStatus, max_budget: int | None) -> Iterator[ShowStatus]:
    """Where a Tuner shows its status.

    Args:
        progress: True for stderr, if that is a terminal; False for nowhere; or the function itself.
        max_budget: epochs of the whole search, or None if it ends by itself.
    """
    if not isinstance(progress, bool):
        yield progress
        return
    shown = progress and sys.stderr.isatty()
    with SearchProgress(Console(stderr=True), shown=shown) as bar:
        task = bar.add_task("search", total=max_budget, unit="epochs", note="", below="")

        def show(status: SearchStatus) -> None:
            bar.update(task, completed=status.epochs, below=str(status))

        yield show
