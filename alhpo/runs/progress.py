"""What a terminal, or the log of a cell, shows of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from alhpo.base.types import CycleRecord
from alhpo.data.dataset import ImageDataset
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.tuning.progress import SearchProgress

#: Characters in a line where the output does not go to a terminal.
WIDTH = 110


def make_console() -> Console:
    """The terminal, or lines of ``WIDTH`` characters where the output goes elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


@contextmanager
def log_observer(path: Path, title: str) -> Iterator[RichObserver]:
    """An observer that appends to a log, under a line with the time and ``title``.

    A log is a convenience: where it cannot be written, such as on a full disk, lines are lost and
    nothing else.
    """
    file = None
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    console = Console(file=cast(TextIO, _Forgiving(file)), width=WIDTH, force_terminal=False)
    console.print(
        f"\n{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {title}", highlight=False, markup=False
    )
    try:
        with RichObserver(console) as observer:
            yield observer
    finally:
        if file is not None:
            with suppress(OSError):
                file.close()


class _Forgiving:
    """A text file that takes what it can."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def write(self, text: str) -> int:
        if self._file is not None:
            with suppress(OSError):
                self._file.write(text)
        return len(text)

    def flush(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.flush()


class RichObserver:
    """Shows a run: one line per finished cycle and, on a terminal, a bar for the work at hand."""

    def __init__(self, console: Console | None = None, *, bar: bool = True) -> None:
        self.shown = False
        self._console = console = console or make_console()
        self._progress = SearchProgress(console, shown=bar and console.is_terminal)
        self._task: tuple[str, Any] | None = None

    def __enter__(self) -> RichObserver:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(
        self, config: RunConfig | TuneConfig, path: Path, records: int, cycles: int
    ) -> None:
        self.shown = True
        if isinstance(config, TuneConfig):
            what = f"{config.max_budget} epochs of search on {config.labels} labels"
        else:
            what = (
                f"continued after {records} of {cycles} cycles" if records else f"{cycles} cycles"
            )
            if budgets := config.search_budgets:
                shares = " + ".join(f"{n:,}" for n in budgets)
                what += f"; {len(budgets)} searches of {shares} epochs"
        self._console.print(f"{path}: {what}", soft_wrap=True)

    def loaded(self, dataset: ImageDataset) -> None:
        for line in (dataset.summary(), *dataset.notes):
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def encoded(self, done: int, total: int) -> None:
        self._show("features", "images", done, total, "")
        if done == total:
            self._drop_task()
            self._console.print(f"{total:,} images encoded", highlight=False)

    def progressed(self, cycle: int, part: str, done: int, total: int, note: str) -> None:
        self._show(f"cycle {cycle} {part}", "epochs", done, total, note)

    def _show(self, title: str, unit: str, done: int, total: int, note: str) -> None:
        if self._task is None or self._task[0] != title:
            self._drop_task()
            task = self._progress.add_task(title, total=total, unit=unit, note="", below="")
            self._task = (title, task)
        beside, below = ("", note) if "\n" in note else (note, "")
        self._progress.update(self._task[1], completed=done, note=beside, below=below)

    def recorded(self, record: CycleRecord) -> None:
        self._drop_task()
        validation = record.validation
        judged = f"validation {validation['accuracy']:.3f}  " if validation else ""
        hp = record.configuration
        chosen = f"lr {hp['lr']:.2g}  wd {hp['weight_decay']:.2g}"
        if "stacks" in hp:
            chosen += f"  {hp['blocks']} blocks x {hp['stacks']} stacks"
        if "train_from" in hp:
            chosen += f"  from {hp['train_from']}"
            if hp["train_from"] != -1:
                chosen += f"  backbone x {hp['backbone_lr']:.2g}"
        spent = f"{record.epochs['hpo']} + {record.epochs['fit']} epochs"
        seconds = sum(record.seconds.values())
        test = f"test {record.test['accuracy']:.3f}" if record.test else "not evaluated"
        warning = "  [red]DIVERGED[/]" if record.diverged else ""
        warning += "  [red]RANDOM QUERY[/]" if record.random_query else ""
        name = f"cycle {record.cycle:<2d}" if record.kind == "cycle" else f"{record.kind:7s}"
        self._console.print(
            f"{name} {record.n_labeled:5d} labels  {test}  {judged}"
            f"{chosen}{' (tuned)' if record.tuned else ''}  {spent}  {seconds:.0f} s{warning}",
            highlight=False,
            soft_wrap=True,
        )

    def _drop_task(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task[1])
            self._task = None


class RichStudyObserver:
    """Shows a study: one line per cell and, on a terminal, a bar with the time that is left."""

    def __init__(self, console: Console | None = None, *, bar: bool = True) -> None:
        self._console = console = console or make_console()
        self._progress = Progress(
            TextColumn("cells"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not (bar and console.is_terminal),
        )
        self._task = self._progress.add_task("cells", total=None, left="")
        self._total = 0

    def __enter__(self) -> RichStudyObserver:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begun(self, path: Path, total: int, done: int, at_once: int) -> None:
        self._total = total
        self._progress.update(self._task, total=total, completed=done)
        before = f", {done} of them before" if done else ""
        self._say(f"{path}: {total} cells{before}; {at_once} at once")

    def settled(
        self, title: str, status: str, message: str, seconds: float, done: int, left: float | None
    ) -> None:
        rest = "" if left is None or done == self._total else f"  about {duration(left)} left"
        self._progress.update(self._task, completed=done, left=rest.strip())
        width = len(str(self._total))
        took = f"  {duration(seconds)}" if seconds else ""
        why = f"  {message}" if message else ""
        self._say(f"{done:{width}d}/{self._total} {status:8s} {title}{took}{why}{rest}")

    def noted(self, title: str, message: str) -> None:
        self._say(f"{title}: {message}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """``42 s``, ``12 min``, ``3 h 20 min`` or ``4 d 3 h``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
