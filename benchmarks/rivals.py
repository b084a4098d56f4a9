"""Other packages' searches in the race, each in an environment and a process of its own.

The process runs ``rival_search.py``. It knows the configurations and gets metrics only for the
epochs that it asks for, which are counted here as those of every other optimizer.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from ConfigSpace import CategoricalHyperparameter
from race import CurveTable, Race

SCRIPT = Path(__file__).with_name("rival_search.py")
#: Where an inactive hyperparameter lies on its axis.
INACTIVE = 0.5


@dataclass(frozen=True)
class Rival:
    """A search of another package.

    Attributes:
        name: by which ``rival_search.py`` knows it.
        command: that starts it.
        versions: of its packages, its own first, and of Python.
    """

    name: str
    command: tuple[str, ...]
    versions: Mapping[str, str] = field(hash=False)

    @property
    def title(self) -> str:
        """Its name and version."""
        return f"{self.name} {next(iter(self.versions.values()))}"


def rivals_of(given: Sequence[str], weights: Path | None) -> list[Rival]:
    """The rivals of ``--rival NAME=PYTHON``; ifBO only where there are weights for it."""
    found = []
    for one in given:
        name, _, python = one.partition("=")
        command = [python, str(SCRIPT), name]
        if name == "ifbo":
            if weights is None:
                print("ifbo is skipped: its network's weights are given by --ifbo-weights PATH")
                continue
            files = {one.suffix for one in weights.glob("*")}
            if weights.name != ".model" or not {".gz", ".pt"} <= files:
                sys.exit(
                    f"--ifbo-weights {weights} has no weights; legal: a folder .model with the "
                    "archive that ifbo downloads, and the .pt file out of it"
                )
            command.append(f"--ifbo-weights={weights.resolve()}")
        try:
            about = subprocess.run([*command, "--about"], capture_output=True, text=True)
        except OSError as error:
            sys.exit(f"--rival {one} cannot run: {error}. Give NAME=PYTHON.")
        if about.returncode:
            sys.exit(f"--rival {one} cannot be asked:\n{about.stderr}")
        found.append(Rival(name, tuple(command), json.loads(about.stdout)))
    return found


def points(table: CurveTable) -> tuple[np.ndarray, list[int]]:
    """(n, d) configurations in the unit cube, and d numbers of categories, 0 for numbers."""
    columns, choices = [], []
    for name in table.space:
        part = table.space[name]
        values = [one.get(name) for one in table.configurations]
        if isinstance(part, CategoricalHyperparameter):
            choices.append(len(part.choices))
            columns.append([part.choices.index(value) for value in values])
            continue
        scale = np.log if part.log else np.asarray
        low, high = scale(part.lower), scale(part.upper)
        column = (scale(np.array(values, dtype=float)) - low) / (high - low)
        choices.append(0)
        columns.append(np.nan_to_num(column, nan=INACTIVE).clip(0, 1))
    return np.array(columns, dtype=float).T, choices


@functools.cache
def _started(rival: Rival) -> tuple[subprocess.Popen[str], IO[str]]:
    """The rival's process, which searches one table after the other, and what it prints."""
    printed = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long as the process)
    pipe = subprocess.PIPE
    process = subprocess.Popen(rival.command, stdin=pipe, stdout=pipe, stderr=printed, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # it has loaded its packages
    return process, printed


def race(rival: Rival, table: CurveTable, *, budget: int, seed: int) -> Race:
    """Let a rival search a table; as ``race.race``, which tells what the arguments are.

    Raises:
        RuntimeError: the rival failed; with the end of what it printed.
    """
    try:
        return _race(rival, table, budget, seed)
    except RuntimeError:
        _started.cache_clear()  # its process is of no use any more
        raise


def _race(rival: Rival, table: CurveTable, budget: int, seed: int) -> Race:
    x, choices = points(table)
    answer: dict = {"x": x.tolist(), "choices": choices, "epochs": table.metrics.shape[1]}
    answer |= {"budget": budget, "seed": seed}
    process, printed = _started(rival)
    assert process.stdin is not None and process.stdout is not None
    done, reached = Race(), [0] * len(x)
    while True:
        start = time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # it has ended, as the next line tells
            print(json.dumps(answer), file=process.stdin, flush=True)
        line = process.stdout.readline()
        done.seconds += time.perf_counter() - start
        if not line:
            printed.seek(0)
            raise RuntimeError(f"{rival.title} failed:\n{printed.read()[-600:]}")
        question = json.loads(line)
        if question is None:
            return done
        answer = _trained(done, table, reached, question, budget)


def _trained(
    done: Race, table: CurveTable, reached: list[int], question: dict, budget: int
) -> dict:
    """What the epochs that a rival asks for bring, and whether the budget is spent."""
    row, target = question["row"], question["epochs"]
    if not reached[row] < target <= table.metrics.shape[1]:
        raise RuntimeError(f"row {row} cannot be trained from epoch {reached[row]} to {target}")
    done.suggestions += 1
    metrics: list[float | None] = []
    while reached[row] < target and len(done.rows) < budget:
        reached[row] += 1
        metric = float(table.metrics[row, reached[row] - 1])
        done.rows.append((table.configurations[row], reached[row], metric))
        metrics.append(metric if np.isfinite(metric) else None)
        if metrics[-1] is None:
            break
    return {"metrics": metrics, "ended": len(done.rows) >= budget}
