"""Observations of earlier searches, for the surrogate of the current one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alhpo.tuning.history import EarlierSearch
from alhpo.tuning.optimizers.dyhpo.encoding import Encoder
from alhpo.tuning.optimizers.dyhpo.process import Observations
from alhpo.tuning.optimizers.dyhpo.scale import Scale

#: Observations taken from each earlier search, at most; and searches they are taken from.
_EARLIER_ROWS = 80
_EARLIER_SEARCHES = 3


class EarlierObservations:
    """A selection of the observations of each earlier search, each search on its own scale."""

    def __init__(self, history: Sequence[EarlierSearch], encoder: Encoder, max_epochs: int) -> None:
        recent = sorted(history, key=lambda one: one.age)[: _EARLIER_SEARCHES + 1]
        #: Metrics of this same task that were observed before this search.
        self.current = [m for one in recent if one.age == 0 for _, _, m in one.rows]
        others = [one for one in recent if one.age > 0]
        self._scales = {
            one.age: Scale.of(np.array([metric for _, _, metric in one.rows])) for one in others
        }
        self.scale = self._scales[others[0].age] if others else None
        trials: dict[tuple[int, str], int] = {}
        x, search, rows = [], [], []
        for one in recent:
            for configuration, epoch, metric in _thinned(one.rows, max_epochs):
                key = (one.age, repr(sorted(configuration.items())))
                if key not in trials:
                    try:
                        row = encoder.encode(configuration)
                    except ValueError:
                        continue  # another space: this one does not have that category
                    trials[key] = len(trials)
                    x.append(row)
                    search.append(one.age)
                rows.append((trials[key], epoch, metric, one.age))
        self._x = np.array(x).reshape(len(x), encoder.width)
        self._search = np.array(search, dtype=int)
        self._rows = rows

    def observations(self, present: Scale, first_trial: int) -> Observations:
        """Scaled observations, their trials numbered from ``first_trial``."""
        values = [
            float(self._scales.get(age, present).apply(np.array(metric)))
            for _, _, metric, age in self._rows
        ]
        return Observations(
            x=self._x,
            search=self._search,
            trial=np.array([trial for trial, *_ in self._rows], dtype=int) + first_trial,
            epoch=np.array([epoch for _, epoch, _, _ in self._rows], dtype=int),
            value=np.array(values, dtype=float),
        )


def _thinned(rows: Sequence[tuple[Any, int, float]], max_epochs: int) -> list[Any]:
    """Of each curve the epochs 1, 2, 4, ... and the last; of all these, an even selection."""
    rows = [row for row in rows if row[1] <= max_epochs]
    last = {repr(sorted(configuration.items())): epoch for configuration, epoch, _ in rows}
    kept = [
        row
        for row in rows
        if row[1] & (row[1] - 1) == 0 or row[1] == last[repr(sorted(row[0].items()))]
    ]
    if len(kept) <= _EARLIER_ROWS:
        return kept
    return [kept[k] for k in np.linspace(0, len(kept) - 1, _EARLIER_ROWS).round().astype(int)]
