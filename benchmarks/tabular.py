"""An objective that looks learning curves up instead of training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from race import FakeClock

from alhpo.base.errors import CheckpointError, ConfigurationError
from alhpo.base.files import atomic_path


class TabularObjective:
    """Recorded learning curves behind HPO4DL's ``objective_function``, strict about its contract.

    ``checkpoint_path`` is treated as a folder of the trial's own, in which the row and the epoch
    reached are kept, so that a search that mixes trials up, skips or repeats epochs, or loses its
    checkpoints is found out, across processes too. Where it is None they are kept in memory, per
    row.

    Args:
        curves: (configurations, epochs) metric after each epoch; NaN where training diverged.
        configurations: the configuration of each row; without it, a configuration is
            ``{"index": row}``.
        clock: advanced by ``seconds`` for every epoch.
        seconds: what an epoch takes on that clock.

    Attributes:
        calls: (row, previous epoch, epoch) of the calls answered by this object, in order.

    Raises:
        ConfigurationError: curves that are no table, or configurations that do not match them.
    """

    def __init__(
        self,
        curves: np.ndarray | Sequence[Sequence[float]],
        configurations: Sequence[Mapping[str, Any]] | None = None,
        *,
        clock: FakeClock | None = None,
        seconds: float = 1.0,
    ) -> None:
        self.curves = np.array(curves, dtype=np.float64)
        if self.curves.ndim != 2 or not self.curves.size:
            raise ConfigurationError(
                f"Curves must be (configurations, epochs), not of shape {self.curves.shape}."
            )
        if configurations is None:
            configurations = [{"index": row} for row in range(len(self.curves))]
        self._rows = {_key(values): row for row, values in enumerate(configurations)}
        if not len(self.curves) == len(configurations) == len(self._rows):
            raise ConfigurationError(
                f"{len(self.curves)} curves need as many different configurations; there are "
                f"{len(self._rows)} different ones among {len(configurations)}."
            )
        self._reached: dict[int, int] = {}
        self._clock = clock
        self._seconds = seconds
        self.calls: list[tuple[int, int, int]] = []

    @property
    def max_epochs(self) -> int:
        """Epochs recorded for every configuration."""
        return self.curves.shape[1]

    @property
    def epochs_run(self) -> int:
        """Epochs answered by this object; those answered twice count twice."""
        return sum(epoch - previous for _, previous, epoch in self.calls)

    def row(self, configuration: Mapping[str, Any]) -> int:
        """The row of the curves that belongs to the configuration.

        Raises:
            ConfigurationError: there is none.
        """
        row = self._rows.get(_key(configuration))
        if row is None:
            example = dict(next(iter(self._rows)))
            raise ConfigurationError(
                f"No curve was recorded for {dict(configuration)!r}; there are {len(self._rows)} "
                f"configurations such as {example!r}."
            )
        return row

    def __call__(
        self,
        configuration: Mapping[str, Any],
        epoch: int,
        previous_epoch: int,
        checkpoint_path: str | os.PathLike[str] | None = None,
    ) -> list[dict[str, Any]]:
        """The recorded ``{"epoch", "metric"}`` of the epochs after ``previous_epoch`` to ``epoch``.

        A ``previous_epoch`` of 0 starts afresh, whatever the checkpoint says.

        Raises:
            ConfigurationError: an unknown configuration, or not
                ``0 <= previous_epoch < epoch <= max_epochs``.
            CheckpointError: the checkpoint is missing or unreadable, belongs to another
                configuration, or holds another epoch than ``previous_epoch``.
        """
        row = self.row(configuration)
        if not 0 <= previous_epoch < epoch <= self.max_epochs:
            raise ConfigurationError(
                f"Cannot train from epoch {previous_epoch} to {epoch}; legal: 0 <= previous_epoch "
                f"< epoch <= {self.max_epochs}."
            )
        if previous_epoch > 0:
            found_row, found_epoch = self._load(row, checkpoint_path)
            if (found_row, found_epoch) != (row, previous_epoch):
                raise CheckpointError(
                    f"The checkpoint at {checkpoint_path} holds configuration {found_row} at epoch "
                    f"{found_epoch}, not configuration {row} at epoch {previous_epoch}."
                )
        self._save(row, epoch, checkpoint_path)
        self.calls.append((row, previous_epoch, epoch))
        if self._clock is not None:
            self._clock.advance(self._seconds * (epoch - previous_epoch))
        return [
            {"epoch": e, "metric": float(self.curves[row, e - 1])}
            for e in range(previous_epoch + 1, epoch + 1)
        ]

    def _load(self, row: int, folder: str | os.PathLike[str] | None) -> tuple[int, int]:
        if folder is None:
            if row not in self._reached:
                raise CheckpointError(f"Configuration {row} was never trained.")
            return row, self._reached[row]
        try:
            saved = json.loads((Path(folder) / "tabular.json").read_text())
            return saved["row"], saved["epoch"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"No readable checkpoint at {folder}: {error!r}") from error

    def _save(self, row: int, epoch: int, folder: str | os.PathLike[str] | None) -> None:
        if folder is None:
            self._reached[row] = epoch
            return
        path = Path(folder) / "tabular.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, durable=False) as beside:
            beside.write_text(json.dumps({"row": row, "epoch": epoch}))


def _key(configuration: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(configuration.items()))
