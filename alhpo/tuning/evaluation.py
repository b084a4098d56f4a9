"""Call the user's objective for one epoch, and check what it returns."""

from __future__ import annotations

import logging
import math
import numbers
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alhpo.base.errors import DivergedError, TunerError
from alhpo.base.plain import to_plain

logger = logging.getLogger("alhpo.tuning")

#: ``objective(configuration, epoch, previous_epoch, checkpoint_path)``, HPO4DL's contract.
Objective = Callable[[dict[str, Any], int, int, str], Any]


class ObjectiveError(Exception):
    """The objective raised an exception.

    Attributes:
        error: the exception.
        seconds: how long the objective ran before it.
    """

    def __init__(self, error: Exception, seconds: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.seconds = seconds


@dataclass(frozen=True)
class Outcome:
    """One epoch of one trial, as the journal holds it.

    Attributes:
        configuration_id: number of the configuration.
        epoch: the epoch, from 1.
        metric: the objective's own value, or None where training diverged or failed.
        status: "ok"; "diverged" where the metric was not finite or the objective raised
            ``DivergedError``; "failed" where it raised another exception (see ``max_failures`` of
            ``Tuner``).
        time: seconds the objective took.
        result: everything the objective returned, in its order, as JSON-able values.
        checkpoint: whether the trial had a checkpoint after the epoch.
        digest: checksum of that checkpoint, if the epoch was the best so far.
        error: the exception in one line, if the trial failed.
        traceback: the traceback of that exception.
    """

    configuration_id: int
    epoch: int
    metric: float | None
    status: Literal["ok", "diverged", "failed"]
    time: float
    result: dict[str, Any] = field(default_factory=dict)
    checkpoint: bool = False
    digest: str | None = None
    error: str | None = None
    traceback: str | None = None


def evaluate(
    objective: Objective,
    configuration_id: int,
    configuration: Mapping[str, Any],
    epoch: int,
    checkpoint_path: Path,
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Train one more epoch. ``clock`` measures the seconds.

    Raises:
        ObjectiveError: the objective raised an exception other than ``DivergedError``.
        TunerError: what the objective returned breaks the contract.
    """
    start = clock()
    returned: Any
    try:
        returned = objective(dict(configuration), epoch, epoch - 1, str(checkpoint_path))
    except Exception as error:
        returned = error
    return outcome_of(returned, configuration_id, epoch, checkpoint_path, clock() - start)


def outcome_of(
    returned: Any, configuration_id: int, epoch: int, checkpoint_path: Path, seconds: float
) -> Outcome:
    """The outcome of an epoch.

    Args:
        returned: what the objective returned, or the exception that it raised.
        configuration_id: number of the configuration.
        epoch: the epoch that was asked for, from 1.
        checkpoint_path: where the objective keeps the trial's checkpoint.
        seconds: how long the objective took.

    Raises:
        ObjectiveError: an exception other than ``DivergedError``.
        TunerError: what was returned breaks the contract.
    """
    if isinstance(returned, DivergedError):
        _warn_of_divergence(configuration_id, epoch, str(returned))
        return Outcome(configuration_id, epoch, metric=None, status="diverged", time=seconds)
    if isinstance(returned, Exception):
        raise ObjectiveError(returned, seconds) from returned
    result, metric = _checked(returned, epoch)
    finite = math.isfinite(metric)
    if not finite:
        _warn_of_divergence(configuration_id, epoch, f"metric {metric}")
    return Outcome(
        configuration_id,
        epoch,
        metric=metric if finite else None,
        status="ok" if finite else "diverged",
        time=seconds,
        result=result,
        checkpoint=checkpoint_path.exists(),
    )


def _warn_of_divergence(configuration_id: int, epoch: int, how: str) -> None:
    logger.warning(
        "Configuration %d diverged in epoch %d (%s) and is not trained any further.",
        *(configuration_id, epoch, how),
    )


def _checked(returned: Any, epoch: int) -> tuple[dict[str, Any], float]:
    entries = [returned] if isinstance(returned, Mapping) else returned
    if not isinstance(entries, list | tuple) or not all(isinstance(e, Mapping) for e in entries):
        raise TunerError(
            f"The objective returned {returned!r}; expected a dict with 'epoch' and 'metric', or "
            "a list of one such dict."
        )
    if len(entries) != 1:
        raise TunerError(
            f"The objective returned {len(entries)} results when asked for epoch {epoch} alone; "
            "expected one."
        )
    result = to_plain(entries[0])
    for key in ("epoch", "metric"):
        if key not in result:
            raise TunerError(
                f"The objective returned a result without {key!r}, which has {list(result)}; "
                "expected both 'epoch' and 'metric'."
            )
    if isinstance(result["epoch"], bool) or result["epoch"] != epoch:
        raise TunerError(
            f"The objective returned epoch {result['epoch']!r} when asked for epoch {epoch}. "
            "Return the epoch that was trained."
        )
    metric = result["metric"]
    if isinstance(metric, bool) or not isinstance(metric, numbers.Real):
        raise TunerError(
            f"The objective returned the metric {metric!r} ({type(metric).__name__}); expected a "
            "number."
        )
    result["epoch"] = epoch
    return result, float(metric)
