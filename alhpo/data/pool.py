"""The pool: which images are labelled, in what order and in which cycle, and which are pending.

The state is a function of the journal of queries and labels, so replaying the journal restores it
exactly. Two processes may add to one journal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alhpo.base.errors import LabelError
from alhpo.base.files import Journal, Lock, write_text
from alhpo.base.schema import suggestion

#: Classes that a message names.
SHOWN = 12


class Pool:
    """An ordered log of labels of images.

    In memory and for users an image is its index in the pool, and a class its number. In the
    journal an image is its identity and a class its name: so labels stay with their image when
    images or classes come, go or change places.

    Several processes may work on one journal. Every ``ask`` and ``tell`` locks it, and first reads
    what others have added.

    Args:
        images: identity of each image, all different.
        classes: names of the classes.
        journal: every change is recorded in it before it counts; its entries are replayed. None
            keeps the pool in memory only.
        paths: the file of each image, to be recorded with it, or None.

    Raises:
        LabelError: the journal has a class that is not among these, or two labels of one image.
    """

    def __init__(
        self,
        images: Sequence[str],
        classes: Sequence[str],
        journal: Journal | None = None,
        *,
        paths: Sequence[str] | None = None,
    ) -> None:
        self.size = len(images)
        self.classes = tuple(classes)
        #: Images of the journal that are not in the pool: identity and file ("" if unknown) of each
        #: that is labelled or was asked for.
        self.missing: dict[str, str] = {}
        self._images = tuple(images)
        self._paths = None if paths is None else tuple(paths)
        self._place = {identity: index for index, identity in enumerate(images)}
        self._class_number = {name: number for number, name in enumerate(classes)}
        self._journal = journal
        self._read_to = 0
        self._lock = None if journal is None else Lock(journal.path.with_suffix(".lock"))
        self._labels: dict[int, int] = {}
        self._cycles: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._states: dict[str, Mapping[str, Any]] = {}
        self._draws: dict[int, float | None] = {}
        self._asked_by: dict[int, str] = {}
        self._missing_labels: dict[str, str] = {}
        self.refresh()

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the journal's lock, after reading what others have added.

        May be nested. Without a journal there is nothing to lock.
        """
        if self._lock is None:
            yield
            return
        with self._lock.held():
            self.refresh()
            yield

    def refresh(self) -> None:
        """Read what other processes have added to the journal.

        Raises:
            LabelError: an entry that does not fit, or the journal was cut short.
        """
        if self._journal is None:
            return
        entries, end = self._journal.read_from(self._read_to)
        for entry in entries:
            self._replay(entry, self._journal.path)
        self._read_to = end  # after an entry that does not fit, every later call is refused too

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
        chosen = self._indices(indices)
        entry: dict[str, Any] = {"event": "ask", "cycle": cycle} | self._entry(chosen)
        if strategy:
            entry["strategy"] = strategy
        if state is not None:
            entry["state"] = dict(state)
        if probabilities is not None:
            entry["probabilities"] = list(probabilities)
        with self.locked():
            taken = [i for i in chosen if i in self._labels or i in self._pending]
            if taken:
                raise LabelError(
                    f"{self._called(taken[0])} is labelled or was asked for already. Choose "
                    "another."
                )
            self._record(entry)

    def tell(self, indices: Sequence[int], labels: Sequence[int | str], cycle: int) -> None:
        """Record labels: of all pending images, of some, or of images that were not asked for.

        Telling the same label again changes nothing. After an error, nothing of the call is
        recorded.

        Args:
            indices: pool indices.
            labels: the class of each, by number (from 0) or name.
            cycle: the current cycle. An image that was asked for belongs to the cycle of asking.

        Raises:
            LabelError: an index or label is out of range or not an integer, an index is there
                twice, or an image already has another label.
        """
        with self.locked():
            self._tell(indices, labels, cycle)

    def _tell(self, indices: Sequence[int], labels: Sequence[int | str], cycle: int) -> None:
        chosen = self._indices(indices)
        told = _values(labels)
        if len(chosen) != len(told):
            raise LabelError(
                f"{len(chosen)} indices came with {len(told)} labels; expected one label per index."
            )
        classes = [self._class_of(label, index) for label, index in zip(told, chosen, strict=True)]
        for index, label in zip(chosen, classes, strict=True):
            if self._labels.get(index, label) != label:
                raise LabelError(
                    f"{self._called(index)} was labelled {self.classes[self._labels[index]]!r} "
                    f"before and is now told {self.classes[label]!r}. Labels cannot be changed "
                    "within a run; start a new one with the corrected labels (export() lists the "
                    "indices)."
                )
        new = [(i, c) for i, c in zip(chosen, classes, strict=True) if i not in self._labels]
        if new:
            told = {"labels": [self.classes[label] for _, label in new]}
            self._record(
                {"event": "tell", "cycle": cycle} | self._entry([i for i, _ in new]) | told
            )

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

    def _class_of(self, label: Any, index: int) -> int:
        """The number of a class that is given by number or name."""
        if isinstance(label, str):
            if label not in self._class_number:
                raise LabelError(
                    f"Label {label!r} of index {index} is not a class. The classes are "
                    f"{', '.join(self.classes)}." + suggestion(label, self.classes)
                )
            return self._class_number[label]
        number = _integer(label, "Label")
        if not 0 <= number < self.num_classes:
            raise LabelError(
                f"Label {number} of index {index} is out of range: the {self.num_classes} classes "
                f"are 0 to {self.num_classes - 1} ({', '.join(self.classes[:SHOWN])}"
                f"{', ...' if self.num_classes > SHOWN else ''})."
            )
        return number

    def _called(self, index: int) -> str:
        return f"Index {index}" + ("" if self._paths is None else f" ({self._paths[index]})")

    def _entry(self, indices: Sequence[int]) -> dict[str, Any]:
        """How images are recorded."""
        entry: dict[str, Any] = {"images": [self._images[index] for index in indices]}
        if self._paths is not None:
            entry["paths"] = [self._paths[index] for index in indices]
        return entry

    def _record(self, entry: dict[str, Any]) -> None:
        if self._journal:
            self._read_to = self._journal.append(entry)
        self._apply(entry)

    def _replay(self, entry: Any, source: Path) -> None:
        """Apply a recorded entry; refuse one of another kind."""
        try:
            images, labels = entry["images"], entry.get("labels", [])
            known = isinstance(images, list) and all(isinstance(image, str) for image in images)
            known &= len(set(images)) == len(images)
            known &= entry["event"] == "ask" or (
                entry["event"] == "tell" and len(labels) == len(images)
            )
            known &= len(entry.get("paths", images)) == len(images)
            known &= all(isinstance(label, str) for label in labels)
            known &= int(entry["cycle"]) >= 0
            known &= isinstance(entry.get("state", {}), dict)
            known &= isinstance(entry.get("strategy", ""), str)
            drawn = entry.get("probabilities")
            known &= drawn is None or (len(drawn) == len(images) and all(0 < p <= 1 for p in drawn))
        except (KeyError, TypeError, ValueError, AttributeError):
            known, labels = False, []
        if not known:
            raise LabelError(
                f"{source} holds {entry!r}, which is not of what was asked and told. Restore the "
                "file from a copy, or choose another path if it is not a journal of labels."
            )
        lost = next((label for label in labels if label not in self._class_number), None)
        if lost is not None:
            raise LabelError(
                f"{source} holds the label {lost!r}, but the classes of the data set are "
                f"{', '.join(self.classes)}. Bring the class back, or choose another path if the "
                "labels belong to another data set."
            )
        self._apply(entry)

    def _apply(self, entry: dict[str, Any]) -> None:
        images = entry["images"]
        paths = entry.get("paths", [""] * len(images))
        for image, path in zip(images, paths, strict=True):
            if image not in self._place:
                self.missing[image] = path
        if entry["event"] == "ask":
            drawn = entry.get("probabilities", [None] * len(images))
            strategy = entry.get("strategy", "")
            for image, probability in zip(images, drawn, strict=True):
                if (index := self._place.get(image)) is not None:
                    self._pending[index] = entry["cycle"]
                    self._draws[index] = probability
                    self._asked_by[index] = strategy
            if "state" in entry:
                self._states[strategy] = entry["state"]
            return
        for image, path, label in zip(images, paths, entry["labels"], strict=True):
            index = self._place.get(image)
            before = self._missing_labels.get(image)
            if index is not None and index in self._labels:
                before = self.classes[self._labels[index]]
            if before not in (None, label):
                raise LabelError(
                    f"The journal of labels has two labels for one image, {before!r} and "
                    f"{label!r}: {path or image}. Restore it from a copy, or remove the wrong line."
                )
            if index is None:
                self._missing_labels[image] = label
            elif index not in self._labels:
                self._labels[index] = self._class_number[label]
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
