"""What a terminal, or the log of a cell, shows of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from alhpo.config import RunConfig
from alhpo.types import CycleRecord

#: Characters in a line where the output does not go to a terminal.
WIDTH = 110


def make_console() -> Console:
    """The terminal, or lines of ``WIDTH`` characters where the output goes elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


class RichObserver:
    """Shows a run: one line per finished cycle and, on a terminal, a bar for the work at hand."""

    def __init__(self, console: Console | None = None) -> None:
        self.shown = False
        self._console = console = console or make_console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: tuple[Any, Any] | None = None
        self._cycles = 0

    def __enter__(self) -> RichObserver:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, config: RunConfig, path: Path, records: int, cycles: int) -> None:
        self.shown, self._cycles = True, cycles
        verb = f"continued after {records} of {cycles} cycles" if records else f"{cycles} cycles"
        self._console.print(f"{path}: {verb}", soft_wrap=True)

    def progressed(self, cycle: int, part: str, done: int, total: int, note: str) -> None:
        key = (cycle, part)
        if self._task is None or self._task[0] != key:
            self._drop_task()
            title = f"cycle {cycle} {part}"
            self._task = (key, self._progress.add_task(title, total=total, note=note))
        self._progress.update(self._task[1], completed=done, note=note)

    def recorded(self, record: CycleRecord) -> None:
        self._drop_task()
        validation = record.validation
        judged = f"validation {validation['accuracy']:.3f}  " if validation else ""
        hp = record.configuration
        chosen = f"lr {hp['lr']:.2g}  wd {hp['weight_decay']:.2g}"
        spent = f"{record.epochs['hpo']} + {record.epochs['fit']} epochs"
        seconds = sum(record.seconds.values())
        warning = "  [red]DIVERGED[/]" if record.diverged else ""
        name = "final  " if record.kind == "final" else f"cycle {record.cycle:<2d}"
        self._console.print(
            f"{name} {record.n_labeled:5d} labels  test {record.test['accuracy']:.3f}  {judged}"
            f"{chosen}{' (tuned)' if record.tuned else ''}  {spent}  {seconds:.0f} s{warning}",
            highlight=False,
            soft_wrap=True,
        )

    def _drop_task(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task[1])
            self._task = None
