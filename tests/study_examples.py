"""A study of seconds, and what its cells recorded, for the tests of the launchers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import yaml
from toy_models import SMALLEST

from alhpo.studies import StudyConfig, expand, load_study

SETTINGS = {
    "model": "alhpo_toy",
    "initial_size": 12,
    "acquisition_size": 10,
    "budget": 32,
    "max_epochs": 2,
    "max_budget": 4,
    "validate_fixed": False,
    "num_configurations": 5,
    "optimizer": "random",
    "precision": "float32",
    "pool_size": 120,
    "eval_size": 60,
    "device": "cpu",
    "hyperparameters": {"batch_size": 8},
}
#: The same for processes, which know the networks of timm only; its cells last long enough to be
#: killed in the middle.
TIMMS = {**SETTINGS, "model": "lcnet_035"}
#: The same for processes that come to their end.
SHORT_OF_TIMM = {**SETTINGS, "model": SMALLEST}
STUDY = {
    "name": "tiny",
    "settings": SETTINGS,
    "grid": {"strategy": ["random", "entropy"]},
    "tune": {"labels": [22]},
}
LARGER = {**STUDY, "grid": {"strategy": ["random", "entropy"], "seed": [0, 1]}}
LARGER_OF_TIMM = {**LARGER, "settings": TIMMS}


def study_in(folder: Path, **changes: Any) -> StudyConfig:
    """The study with its file and its folder in ``folder``."""
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**STUDY, **changes}))
    return load_study(file, output_dir=str(folder / "study"))


def records(study: StudyConfig) -> dict[str, Any]:
    """What every cell recorded, by the cell's title, without seconds."""
    found = {}
    for cell in expand(study):
        if cell.kind == "run":
            lines = (cell.path / "cycles.jsonl").read_text().splitlines()
            found[cell.title] = [json.loads(line) | {"seconds": {}} for line in lines]
        else:
            found[cell.title] = json.loads((cell.path / "tune.json").read_text()) | {"seconds": {}}
    return found


def begin_command(
    *arguments: object, cwd: Path | None = None, **environment: str
) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "alhpo.cli", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job, such as CI's may be, has SIGINT ignored, which is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def kill_at_work(process: subprocess.Popen[str], folder: Path) -> dict[psutil.Process, str]:
    """Kill a study's command some moment after it began with a cell.

    Returns:
        the processes that it had started, and their names.
    """

    before = starts(folder)
    try:
        wait_until(lambda: starts(folder) > before or process.poll() is not None)
        time.sleep(random.uniform(0, 1))
        assert process.poll() is None, process.communicate()
        return {below: below.name() for below in all_below(process.pid)}
    finally:
        process.kill()
        process.wait()


def starts(folder: Path) -> int:
    """How often cells of the study were begun or gone on with."""
    files = folder.glob("cells/**/sessions.jsonl")
    return sum(file.read_text().count("\n") for file in files)


def all_below(pid: int) -> list[psutil.Process]:
    """A process's children, theirs, and so on."""
    return psutil.Process(pid).children(recursive=True)


def wait_until(condition: Any, seconds: float = 600) -> None:
    """Until the condition holds; the test fails if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def gone(processes: Iterable[psutil.Process]) -> bool:
    """Whether all of these have ended."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # it ended between the two questions
            return False

    return not any(map(runs, processes))
