"""What the processes that alhpo starts inherit, and how they ended, in words."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

#: Environment variables that set the number of threads of numerical libraries.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def thread_settings(threads: int) -> dict[str, str]:
    """Environment variables for a process with this number of threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def import_settings() -> dict[str, str]:
    """Environment variables for a process that imports what this one can import, but not from the
    folder that it happens to start in."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path if isinstance(entry, str))
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def how_it_ended(status: int) -> str:
    """How a process ended, in words, from ``Popen.returncode``."""
    if status == -signal.SIGKILL:
        return "was killed (SIGKILL), perhaps for lack of memory"
    return (
        f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    )
