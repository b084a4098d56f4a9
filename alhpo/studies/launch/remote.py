"""Sends cells to other processes as text, and runs them there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alhpo.base.errors import ConfigurationError
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.studies.cell_runner import LOG, Outcome, run_cell
from alhpo.studies.config import Cell


def pack(cell: Cell) -> str:
    """A cell as one line of JSON."""
    values = {
        "kind": cell.kind,
        "index": cell.index,
        "config": cell.config.model_dump(),
        "coordinates": dict(cell.coordinates),
        "run": cell.run,
    }
    return json.dumps(values)


def unpack(text: str) -> Cell:
    """The cell in the result of ``pack``."""
    values = json.loads(text)
    schema = RunConfig if values["kind"] == "run" else TuneConfig
    config = schema.create(values["config"])
    return Cell(values["index"], config, values["coordinates"], values["run"])


def run_packed(text: str) -> str:
    """Run a cell given as text, with all output of the process in its log; return text."""
    try:
        cell = unpack(text)
    except (
        ConfigurationError
    ) as error:  # such as a strategy that is registered only in the other process
        return Outcome(json.loads(text)["index"], "failed", str(error)).to_json()
    with _output_to(cell.path / LOG):
        return run_cell(cell).to_json()


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Redirect stdout and stderr of the process, also of C libraries, to a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:  # such as a full disk, which the cell itself reports
        log = os.open(os.devnull, os.O_WRONLY)
    saved = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(log, number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        for number, before in zip((1, 2), saved, strict=True):
            os.dup2(before, number)
            os.close(before)
        os.close(log)
