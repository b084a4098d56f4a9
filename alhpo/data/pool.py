"""The pool: which images are labelled, in what order and in which cycle, and which are pending.

The state is a function of the journal of queries and labels, so replaying the journal restores it
exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alhpo.base.errors import LabelError
from alhpo.base.files import Journal, write_text


class Pool:
    """An ordered log of labels over ``size`` images.

    Args:
        size: number of images; indices run from 0.
        num_classes: number of classes; labels run from 0.
        journal: every change is recorded in it before it counts; its entries are replayed. None
            keeps the pool in memory only.

    Raises:
        LabelError: the journal does not fit this size and number of classes.
    """

    def __init__(self, size: int, num_classes: int, journal: Journal | None = None) -> None:
        self.size = size
        self.num_classes = num_classes
        self._journal = journal
        self._labels: dict[int, int] = {}
        self._cycles: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._states: dict[str, Mapping[str, Any]] = {}
        self._draws: dict[int, float | None] = {}
        self._asked_by: dict[int, str] = {}
        if journal:
            for entry in journal.read():
                self._replay(entry, journal.path)

    @property
    def labeled(self) -> np.ndarray:
        """(L,) indices of the labelled images, in the order in which they were labelled."""
        return np.fromiter(self._labels, dtype=np.int64, count=len(self._labels))

    @property
    def labels(self) -> np.ndarray:
        """(L,) their labels, in the same order."""
        return np.fromiter(self._labels.values(), dtype=np.int64, count=len(self._labels))

    @property
    def pending(self) -> np.ndarray:
        """Indices whose labels were asked for and not told yet, in the order of asking."""
        return np.fromiter(self._pending, dtype=np.int64, count=len(self._pending))

    @property
    def available(self) -> np.ndarray:
        """Ascending indices that are neither labelled nor asked for."""
        free = np.ones(self.size, dtype=bool)
        free[self.labeled] = False
        free[self.pending] = False
        return np.flatnonzero(free)

    @property
    def draws(self) -> dict[int, float | None]:
        """Images in the order of asking, each with its probability at its draw, or None."""
        return dict(self._draws)

    @property
    def cycle(self) -> int:
        """The latest cycle of an ``ask`` or ``tell``; 0 before the first."""
        return max((*self._cycles.values(), *self._pending.values()), default=0)

    def __len__(self) -> int:
        return len(self._labels)

    def state(self, strategy: str) -> Mapping[str, Any] | None:
        """The state left by the latest query of the strategy of this name, or None."""
        return self._states.get(strategy)

    def asked_by(self, index: int) -> str:
        """Name of the strategy that chose an image, or "" if none did."""
        return self._asked_by.get(index, "")

    def ask(
        self,
        indices: Sequence[int],
        cycle: int,
        *,
        state: Mapping[str, Any] | None = None,
        strategy: str = "",
        probabilities: Sequence[float] | None = None,
    ) -> None:
        """Record a query: the labels of these images are wanted.


        Args:
            indices: pool indices.
            cycle: the cycle that the images belong to.
            state: JSON-able state of the strategy; None keeps its earlier state.
            strategy: name of the strategy that chose the images.
            probabilities: probability of each index at its draw, or None if not known.

        Raises:
            LabelError: an index is out of range, there twice, labelled, or asked for already.
        """
        entry: dict[str, Any] = {"event": "ask", "cycle": cycle}
        entry["indices"] = self._indices(indices)
        if strategy:
            entry["strategy"] = strategy
        if state is not None:
            entry["state"] = dict(state)
        if probabilities is not None:
            entry["probabilities"] = list(probabilities)
        taken = [i for i in entry["indices"] if i in self._labels or i in self._pending]
        if taken:
            raise LabelError(
                f"Index {taken[0]} is labelled or was asked for already. Choose another."
            )
        self._record(entry)

    def tell(self, indices: Sequence[int], labels: Sequence[int], cycle: int) -> None:
        """Record labels: of all pending images, of some, or of images that were not asked for.

        Telling the same label again changes nothing. After an error, nothing of the call is
        recorded.

        Args:
            indices: pool indices.
            labels: the class of each, from 0.
            cycle: the current cycle. An image that was asked for belongs to the cycle of asking.

        Raises:
            LabelError: an index or label is out of range or not an integer, an index is there
                twice, or an image already has another label.
        """
        chosen = self._indices(indices)
        classes = [_integer(label, "Label") for label in _values(labels)]
        if len(chosen) != len(classes):
            raise LabelError(
                f"{len(chosen)} indices came with {len(classes)} labels; expected one "
                "label per index."
            )
        for index, label in zip(chosen, classes, strict=True):
            if not 0 <= label < self.num_classes:
                raise LabelError(
                    f"Label {label} of index {index} is out of range: the {self.num_classes} "
                    f"classes are 0 to {self.num_classes - 1}."
                )
            if self._labels.get(index, label) != label:
                raise LabelError(
                    f"Index {index} was labelled {self._labels[index]} before and is now told "
                    f"{label}. Labels cannot be changed within a run; start a new one with the "
                    "corrected labels (export() lists the indices)."
                )
        new = [(i, c) for i, c in zip(chosen, classes, strict=True) if i not in self._labels]
        if new:
            told = {"indices": [i for i, _ in new], "labels": [c for _, c in new]}
            self._record({"event": "tell", "cycle": cycle} | told)

    def by_cycle(self) -> dict[int, list[int]]:
        """Labelled indices of each cycle of acquisition, in the order of labelling."""
        result: dict[int, list[int]] = {}
        for index in self._labels:
            result.setdefault(self._cycles[index], []).append(index)
        return dict(sorted(result.items()))

    def export(self, path: str | Path) -> None:
        """Write the labelled indices as dal-toolbox's ``queried_indices.json``:
        ``{"cycle0": [...], "cycle1": [...]}``; cycle 0 holds the initial labels."""
        cycles = self.by_cycle()
        content = {f"cycle{n}": cycles.get(n, []) for n in range(max(cycles, default=-1) + 1)}
        write_text(Path(path), json.dumps(content, indent=1) + "\n")

    def _indices(self, indices: Sequence[int]) -> list[int]:
        chosen = [_integer(index, "Index") for index in _values(indices)]
        for index in chosen:
            if not 0 <= index < self.size:
                raise LabelError(
                    f"Index {index} is out of range: the pool's {self.size} images are 0 to "
                    f"{self.size - 1}."
                )
        if len(set(chosen)) < len(chosen):
            twice = next(index for index in chosen if chosen.count(index) > 1)
            raise LabelError(f"Index {twice} is given twice in one call.")
        return chosen

    def _record(self, entry: dict[str, Any]) -> None:
        if self._journal:
            self._journal.append(entry)
        self._apply(entry)

    def _replay(self, entry: Any, source: Path) -> None:
        """Apply a recorded entry; refuse one of another kind or another data set."""
        try:
            indices, labels = entry["indices"], entry.get("labels", [])
            known = entry["event"] == "ask" or (
                entry["event"] == "tell" and len(labels) == len(indices)
            )
            fits = all(0 <= index < self.size for index in indices) and all(
                0 <= label < self.num_classes for label in labels
            )
            cycle = int(entry["cycle"])
            known &= isinstance(entry.get("state", {}), dict)
            known &= isinstance(entry.get("strategy", ""), str)
            drawn = entry.get("probabilities")
            known &= drawn is None or (
                len(drawn) == len(indices) and all(0 < p <= 1 for p in drawn)
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            known, fits, cycle = False, False, 0
        if not known or cycle < 0:
            raise LabelError(
                f"{source} holds {entry!r}, which is not of what was asked and told. Restore the "
                "file from a copy, or choose another path if it is not a journal of labels."
            )
        if not fits:
            raise LabelError(
                f"{source} holds {entry!r}, but the data set has {self.size} images and "
                f"{self.num_classes} classes: it belongs to another data set. Choose another path."
            )
        self._apply(entry)

    def _apply(self, entry: dict[str, Any]) -> None:
        if entry["event"] == "ask":
            self._pending.update(dict.fromkeys(entry["indices"], entry["cycle"]))
            unknown = [None] * len(entry["indices"])
            drawn = entry.get("probabilities", unknown)
            self._draws.update(zip(entry["indices"], drawn, strict=True))
            self._asked_by.update(dict.fromkeys(entry["indices"], entry.get("strategy", "")))
            if "state" in entry:
                self._states[entry.get("strategy", "")] = entry["state"]
            return
        for index, label in zip(entry["indices"], entry["labels"], strict=True):
            self._labels[index] = label
            self._cycles[index] = self._pending.pop(index, entry["cycle"])


def read_queried_indices(path: str | Path, size: int) -> list[list[int]]:
    """The indices of each cycle in dal-toolbox's ``queried_indices.json``, cycle 0 first.

    Args:
        path: the file.
        size: number of images of the pool.

    Raises:
        LabelError: the file cannot be read or has another form, the pool does not have an index,
            or an index is there twice.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        cycles = [
            [_integer(index, "Index") for index in content[f"cycle{n}"]]
            for n in range(len(content))
        ]
    except OSError as error:
        raise LabelError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LabelError(
            f'{path} is not of the form {{"cycle0": [...], "cycle1": [...]}}: {error!r}.'
        ) from error
    seen: set[int] = set()
    for index in (index for cycle in cycles for index in cycle):
        if not 0 <= index < size:
            raise LabelError(
                f"{path} holds the index {index}, but the pool has the {size} images 0 to "
                f"{size - 1}: it belongs to other data. Give the file of this data set."
            )
        if index in seen:
            raise LabelError(f"{path} holds the index {index} twice; each image is labelled once.")
        seen.add(index)
    return cycles


def _values(values: Iterable[Any]) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)  # type: ignore[attr-defined]


def _integer(value: Any, what: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise LabelError(f"{what} is {value!r}; expected an integer.")
    return int(value.__index__())
