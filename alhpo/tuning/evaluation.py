"""Asking the user's objective for one epoch, and naming the objective."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import inspect
import logging
import math
import numbers
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alhpo.tuning.spaces import to_plain
from alhpo.types import TunerError

logger = logging.getLogger("alhpo.tuning")

#: ``objective(configuration, epoch, previous_epoch, checkpoint_path)``, HPO4DL's contract.
Objective = Callable[[dict[str, Any], int, int, str], Any]


NO_FAULT_OF_THE_TRIAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
#: How messages begin after which every further use of the GPU in this process fails.
BROKEN_DEVICE = ("CUDA error", "cuDNN error", "NCCL error")


@dataclass(frozen=True)
class Outcome:
    """One epoch of one trial, as the journal holds it.

    Attributes:
        configuration_id: number of the configuration.
        epoch: the epoch, from 1.
        metric: the objective's own value, or None where training diverged or failed.
        status: "ok"; "diverged" where the metric was not finite; "failed" where the objective
            raised an exception.
        time: seconds the objective took.
        result: everything the objective returned, in its order, as JSON-able values.
        checkpoint: whether the trial had a checkpoint afterwards.
        error: the exception in one line, and its traceback.
    """

    configuration_id: int
    epoch: int
    metric: float | None
    status: Literal["ok", "diverged", "failed"]
    time: float
    result: dict[str, Any] = field(default_factory=dict)
    checkpoint: bool = False
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
    """Train one further epoch; ``clock`` gives seconds.

    An exception of the objective (``Exception``, so no interrupt) is an outcome like others, but
    for a disk that is full or broken, and for a GPU on which nothing works in this process any
    more: these end the search, to be continued later.

    Raises:
        OSError: the disk is full or broken.
        RuntimeError: the GPU is.
        TunerError: what the objective returned breaks the contract.
    """
    start = clock()
    try:
        returned = objective(dict(configuration), epoch, epoch - 1, str(checkpoint_path))
    except OSError as error:
        if error.errno in NO_FAULT_OF_THE_TRIAL:
            raise
        return _failed(configuration_id, epoch, error, clock() - start)
    except Exception as error:
        if str(error).startswith(BROKEN_DEVICE):
            raise
        return _failed(configuration_id, epoch, error, clock() - start)
    seconds = clock() - start
    result, metric = _checked(returned, epoch)
    finite = math.isfinite(metric)
    if not finite:
        logger.warning(
            "configuration %d diverged in epoch %d (metric %s) and is left out from now on",
            *(configuration_id, epoch, metric),
        )
    return Outcome(
        configuration_id,
        epoch,
        metric=metric if finite else None,
        status="ok" if finite else "diverged",
        time=seconds,
        result=result,
        checkpoint=checkpoint_path.exists(),
    )


def _failed(configuration_id: int, epoch: int, error: Exception, seconds: float) -> Outcome:
    message = f"{type(error).__name__}: {error}"
    logger.warning(
        "configuration %d failed in epoch %d and is left out from now on: %s",
        *(configuration_id, epoch, message),
    )
    return Outcome(
        configuration_id,
        epoch,
        metric=None,
        status="failed",
        time=seconds,
        error=message,
        traceback="".join(traceback.format_exception(error)),
    )


def _checked(returned: Any, epoch: int) -> tuple[dict[str, Any], float]:
    entries = [returned] if isinstance(returned, Mapping) else returned
    if not isinstance(entries, list | tuple) or not all(isinstance(e, Mapping) for e in entries):
        raise TunerError(
            f"the objective returned {returned!r}; expected a dict with 'epoch' and 'metric', or "
            "a list of one such dict per epoch"
        )
    if len(entries) != 1:
        raise TunerError(
            f"the objective returned {len(entries)} results when asked for epoch {epoch} alone; "
            "expected one per epoch from previous_epoch + 1 to epoch"
        )
    result = to_plain(entries[0])
    for key in ("epoch", "metric"):
        if key not in result:
            raise TunerError(f"the objective's result has no {key!r}; it has {list(result)}")
    if isinstance(result["epoch"], bool) or result["epoch"] != epoch:
        raise TunerError(
            f"the objective returned epoch {result['epoch']!r} when asked for epoch {epoch}"
        )
    metric = result["metric"]
    if isinstance(metric, bool) or not isinstance(metric, numbers.Real):
        raise TunerError(
            f"the objective's metric is {metric!r} ({type(metric).__name__}); expected a number"
        )
    result["epoch"] = epoch
    return result, float(metric)


def identity_of(function: Any) -> Any:
    """What tells one objective (or optimizer factory) from another, as a JSON-able value.

    Its attribute ``identity`` where it has one. Otherwise the module, name and source of the
    function or class, with the plain values (numbers, strings, None, tuples of them) among its
    defaults, closure, bound arguments or instance attributes; give an ``identity`` to an objective
    that depends on anything else.
    """
    identity = getattr(function, "identity", None)
    if identity is not None:
        return to_plain(identity() if callable(identity) else identity)
    if isinstance(function, functools.partial):
        values = {"args": function.args, **function.keywords}
        return ["partial", identity_of(function.func), _plain_items(values)]
    if inspect.ismethod(function):
        return ["method", function.__name__, identity_of(function.__self__)]
    if inspect.isfunction(function):
        defaults = {f"default {n}": value for n, value in enumerate(function.__defaults__ or ())}
        values = {**_closure(function), **defaults, **(function.__kwdefaults__ or {})}
        return [*_where(function), _plain_items(values)]
    if inspect.isclass(function):
        return _where(function)
    return [*_where(type(function)), _plain_items(getattr(function, "__dict__", {}))]


def _where(definition: Any) -> list[Any]:
    try:
        source = inspect.getsource(definition)
    except (OSError, TypeError):
        code = getattr(definition, "__code__", None)
        source = "" if code is None else f"{code.co_code!r}{[*filter(_is_plain, code.co_consts)]}"
    source = hashlib.sha256(source.encode()).hexdigest()
    name = getattr(definition, "__qualname__", type(definition).__qualname__)
    return [getattr(definition, "__module__", None), name, source]


def _closure(function: Any) -> dict[str, Any]:
    values = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a name that has no value yet
            values[name] = cell.cell_contents
    return values


def _plain_items(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: repr(value) for name, value in sorted(values.items()) if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
