"""The events of a session, and the state that follows from them.

``events.jsonl`` is the session: everything that people said, that was asked and that was fitted, in
order, each as one line that is written whole or not at all. Nothing in it is ever changed. An image
is known by its identity, the SHA-256 of its file, so that it may be renamed or moved.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from alhpo.base.errors import DataError
from alhpo.base.files import Journal, Lock
from alhpo.base.types import CycleRecord

#: What a person says of an image instead of a class: cannot tell; take back what was said or asked.
SKIP, TAKE_BACK = "?", "-"

Kind = Literal["labelled", "corrected", "skipped", "withdrawn"]


def now() -> str:
    """The time as events have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


class _Entry(pydantic.BaseModel):
    """A part of the file; unknown keys and NaN are errors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Answer(_Entry):
    """What somebody said of one image."""

    image: str
    path: str
    kind: Kind
    label: str = ""
    by: str


class Told(_Entry):
    """People said something, all of it at once. The first event of a session is one, too."""

    event: Literal["begun", "told"]
    at: str
    by: str
    classes: tuple[str, ...] = ()
    answers: tuple[Answer, ...] = ()
    source: str = ""


class Asked(_Entry):
    """Images were chosen for people to label."""

    event: Literal["asked"] = "asked"
    at: str
    by: str
    images: list[str]
    paths: list[str]
    cycle: int = pydantic.Field(ge=0)
    strategy: str
    state: dict[str, Any] | None = None
    probabilities: list[float] | None = None
    #: Class and its probability that the model predicts for each image.
    predicted: list[tuple[str, float]] | None = None
    #: The file or folder for people, and its format; "" if there was none.
    out: str = ""
    format: str = ""
    evaluation: bool = False


class Undone(_Entry):
    """What an earlier event of the kind ``Told`` said does not count."""

    event: Literal["undone"] = "undone"
    at: str
    by: str
    number: int = pydantic.Field(ge=1)


class Fitted(_Entry):
    """A model was fitted: on which labels, with which settings, and how well it does."""

    event: Literal["fitted"] = "fitted"
    at: str
    labels: str
    settings: str
    evaluated: int
    record: dict[str, Any]

    @property
    def cycle_record(self) -> CycleRecord:
        return CycleRecord.from_dict(self.record)


Event = Annotated[Told | Asked | Undone | Fitted, pydantic.Field(discriminator="event")]
_EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(Event)


@dataclass
class State:
    """What follows from the events so far.

    Attributes:
        classes: names of the classes, in the order in which they were added.
        answers: for each image, the latest answer of each person, a class or ``SKIP``, oldest
            first.
        order: images in the order in which they got their first label that still counts.
        pending: images that were asked for and not answered, each with the number of the event.
        asked: the latest question for each image that was ever asked for.
        paths: the latest path that is recorded of each image.
        said: every answer that counts or did before a later one: image, person and answer.
        fits: all fits.
    """

    classes: list[str] = field(default_factory=list)
    answers: dict[str, dict[str, str]] = field(default_factory=dict)
    order: dict[str, None] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    said: set[tuple[str, str, str]] = field(default_factory=set)
    fits: list[Fitted] = field(default_factory=list)

    def label(self, image: str) -> str | None:
        """The class of an image: what was said last, whoever said it. None without a label."""
        said = [answer for answer in self.answers.get(image, {}).values() if answer != SKIP]
        return said[-1] if said else None

    @property
    def labels(self) -> dict[str, str]:
        """The class of every labelled image, in the order of their first labels."""
        return {image: label for image in self.order if (label := self.label(image)) is not None}

    @property
    def skipped(self) -> list[str]:
        """Images of which everybody who looked at them could not tell the class."""
        return [image for image, said in self.answers.items() if said and not self.label(image)]

    def by_whom(self, image: str) -> str:
        """Who said last what the class of an image is; "" if nobody did."""
        said = [who for who, answer in self.answers.get(image, {}).items() if answer != SKIP]
        return said[-1] if said else ""

    def counts(self) -> Counter[str]:
        """Labelled images of each class."""
        return Counter(self.labels.values())

    def apply(self, number: int, event: Any) -> None:
        """Take in an event that is neither undone nor an undoing."""
        if isinstance(event, Fitted):
            self.fits.append(event)
        elif isinstance(event, Asked):
            for image, path in zip(event.images, event.paths, strict=True):
                self.pending[image] = self.asked[image] = number
                self.paths[image] = path
        elif isinstance(event, Told):
            self.classes += [name for name in event.classes if name not in self.classes]
            for answer in event.answers:
                self._answered(answer)

    def _answered(self, answer: Answer) -> None:
        image = answer.image
        self.paths[image] = answer.path
        self.pending.pop(image, None)
        if answer.kind == "withdrawn":
            self.answers.pop(image, None)
            self.order.pop(image, None)
            return
        text = SKIP if answer.kind == "skipped" else answer.label
        said = self.answers.setdefault(image, {})
        said.pop(answer.by, None)  # to the end: it is the latest
        said[answer.by] = text
        self.said.add((image, answer.by, text))
        if text != SKIP:
            self.order.setdefault(image)
            if text not in self.classes:  # the event that added it was undone
                self.classes.append(text)
        elif self.label(image) is None:
            self.order.pop(image, None)


class EventLog:
    """The events of a session on disk. Several processes may add to them.

    Args:
        path: the file.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)
        self._lock = Lock(path.with_suffix(".lock"))
        self._end = 0
        self.events: list[Any] = []
        self.state = State()
        self.refresh()

    @contextmanager
    def locked(self) -> Iterator[State]:
        """Hold the log, after reading what others have added. May be nested."""
        with self._lock.held():
            self.refresh()
            yield self.state

    def refresh(self) -> None:
        """Read what other processes have added.

        Raises:
            DataError: a line is not an event.
        """
        lines, self._end = self._journal.read_from(self._end)
        self._take_in([self._parsed(line, len(self.events) + n) for n, line in enumerate(lines, 1)])

    def add(self, event: Told | Asked | Undone | Fitted) -> int:
        """Record an event, within ``locked``.

        Returns:
            Its number, from 1: the line of the file.
        """
        self._end = self._journal.append(
            {"event": event.event, **event.model_dump(exclude_defaults=True)}
        )
        self._take_in([event])
        return len(self.events)

    def counting(self) -> list[int]:
        """Numbers of the events of the kind ``Told`` that may be undone, oldest first."""
        undone = {event.number for event in self.events if isinstance(event, Undone)}
        return [
            number
            for number, event in enumerate(self.events, 1)
            if isinstance(event, Told) and event.event == "told" and number not in undone
        ]

    def _take_in(self, events: Sequence[Any]) -> None:
        first = len(self.events) + 1
        self.events += events
        if any(isinstance(event, Undone) for event in events):
            self.state, first = State(), 1
        undone = {event.number for event in self.events if isinstance(event, Undone)}
        for number, event in enumerate(self.events[first - 1 :], first):
            if number not in undone:
                self.state.apply(number, event)

    def _parsed(self, line: Any, number: int) -> Any:
        try:
            return _EVENT.validate_python(line)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DataError(
                f"{self._journal.path}, line {number} is not an event of a session ({where}: "
                f"{first['msg']}). Restore the file from a copy."
            ) from error
