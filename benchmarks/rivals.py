"""Other packages' searches in the race, each in an environment and a process of its own.

The process runs ``rival_search.py``. It knows the configurations and gets metrics only for the
epochs that it asks for, which are counted here as those of every other optimizer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ConfigSpace import CategoricalHyperparameter, Configuration, ConfigurationSpace
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
            if not weights.is_dir():
                sys.exit(f"--ifbo-weights {weights} is no folder; legal: one that holds .model/")
            command.append(f"--ifbo-weights={weights.resolve()}")
        try:
            about = subprocess.run([*command, "--about"], capture_output=True, text=True)
        except OSError as error:
            sys.exit(f"--rival {one} cannot run: {error}. Give NAME=PYTHON.")
        if about.returncode:
            sys.exit(f"--rival {one} cannot be asked:\n{about.stderr}")
        found.append(Rival(name, tuple(command), json.loads(about.stdout)))
    return found


def points(space: ConfigurationSpace, table: CurveTable) -> tuple[np.ndarray, list[int]]:
    """(n, d) configurations in the unit cube, and d numbers of categories, 0 for numbers."""
    parts = [space[name] for name in space]
    choices = [len(p.choices) if isinstance(p, CategoricalHyperparameter) else 0 for p in parts]
    rows = [Configuration(space, values=dict(one)).get_array() for one in table.configurations]
    return np.nan_to_num(np.array(rows, dtype=float), nan=INACTIVE), choices


def race(rival: Rival, table: CurveTable, *, budget: int, seed: int) -> Race:
    """Let a rival search a table; as ``race.race``, which tells what the arguments are.

    Raises:
        RuntimeError: the rival failed; with the end of what it printed.
    """
    x, choices = points(table.space, table)
    task = {"x": x.tolist(), "choices": choices, "epochs": table.metrics.shape[1]}
    task |= {"budget": budget, "seed": seed}
    done, reached = Race(), dict.fromkeys(range(len(x)), 0)
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(
            rival.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        with process:
            answer: dict = task
            while True:
                start = time.perf_counter()
                try:
                    process.stdin.write(json.dumps(answer) + "\n")
                    process.stdin.flush()
                except BrokenPipeError:
                    pass  # it failed, which the next line tells
                line = process.stdout.readline()
                done.seconds += time.perf_counter() - start
                question = json.loads(line) if line else None
                if question is None:
                    break
                answer = _trained(done, table, reached, question, budget)
        if not line:
            printed.seek(0)
            raise RuntimeError(f"{rival.title} failed:\n{printed.read()[-600:]}")
    return done


def _trained(
    done: Race, table: CurveTable, reached: dict[int, int], question: dict, budget: int
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
