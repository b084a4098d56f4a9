"""From what a file says to events: which photo, class and person is meant, and what is new."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alhpo.base.errors import ConfigurationError, LabelError
from alhpo.base.schema import suggestion
from alhpo.sessions.answers import Said
from alhpo.sessions.events import SKIP, TAKE_BACK, Answer, Kind, State
from alhpo.sessions.photos import Photos


@dataclass(frozen=True)
class Recorded:
    """What became of the answers that somebody told.

    Attributes:
        counts: answers of each kind: labelled, corrected, skipped, withdrawn.
        unchanged: answers that were known already.
        earlier: answers that the same person gave before and that were changed since. They change
            nothing, unless ``again`` is given: so an old file never undoes a correction.
        classes: new classes.
        number: number of the event; 0 if there was nothing new.
    """

    counts: Mapping[Kind, int]
    unchanged: int
    earlier: tuple[str, ...]
    classes: tuple[str, ...]
    number: int


@dataclass(frozen=True)
class News:
    """What is new in what somebody said.

    Attributes:
        answers: the new answers.
        classes: the new classes.
        unchanged, earlier: see ``Recorded``.
    """

    answers: tuple[Answer, ...]
    classes: tuple[str, ...]
    unchanged: int
    earlier: tuple[str, ...]

    def recorded(self, number: int) -> Recorded:
        """The same as a report."""
        counts: Counter[Kind] = Counter(answer.kind for answer in self.answers)
        return Recorded(counts, self.unchanged, self.earlier, self.classes, number)


def check_classes(classes: Iterable[str]) -> None:
    """Refuse names that cannot be told apart from other answers.

    Raises:
        ConfigurationError: the message names the class.
    """
    for name in classes:
        if not isinstance(name, str) or name != name.strip() or not name.isprintable() or not name:
            raise ConfigurationError(
                f"A class is called {name!r}; expected a text of printable letters, without spaces "
                "around it."
            )
        if name in (SKIP, TAKE_BACK):
            raise ConfigurationError(
                f"A class is called {name!r}, which means that nobody can tell ({SKIP}), or that a "
                f"label is taken back ({TAKE_BACK}). Choose another name."
            )


def news(
    said: Sequence[Said],
    photos: Photos,
    state: State,
    by: str,
    *,
    add_classes: bool = False,
    again: bool = False,
) -> News:
    """What is new in what somebody said.

    Args:
        said: what was said.
        photos: the photos that are there.
        state: what was said before.
        by: who says what says nothing of that itself.
        add_classes: take unknown labels as new classes.
        again: take answers that the same person gave before and that were changed since.

    Raises:
        LabelError: something cannot be used; each problem is one line of the message.
    """
    classes = list(state.classes)
    problems: list[str] = []
    meant: dict[tuple[str, str], tuple[str, str]] = {}
    for one in said:
        problem = one.problem
        image = "" if problem else _image(one, photos, state)
        if not problem and not image:
            problem = _unknown_photo(one, photos)
        answer = one.answer
        if not problem and answer not in (SKIP, TAKE_BACK):
            answer = _class_name(answer, classes)
            if answer not in classes and add_classes:
                try:
                    check_classes([answer])
                except ConfigurationError as error:
                    problem = str(error)
                else:
                    classes.append(answer)
            elif answer not in classes:
                problem = (
                    f"label {answer!r} is no class ({', '.join(classes) or 'there are none yet'})."
                    f"{suggestion(answer, classes)}"
                )
        if not problem:
            person = one.by or by
            where, before = meant.setdefault((image, person), (one.where, answer))
            if before != answer:
                problem = f"says {answer!r}, but {where} says {before!r} of the same photo"
        if problem:
            problems.append(f"{one.where}: {problem}")
    if problems:
        known = "" if add_classes else " Unknown labels become classes with --add-classes."
        lines = "\n  ".join(problems)
        raise LabelError(
            f"Nothing was recorded, as {len(problems)} of {len(said)} answers cannot be used:\n"
            f"  {lines}\nCorrect them, or leave the label empty."
            + (known * ("is no class" in lines))
        )
    added = tuple(classes[len(state.classes) :])
    return _compared(meant, photos, state, added, again)


def _compared(
    meant: Mapping[tuple[str, str], tuple[str, str]],
    photos: Photos,
    state: State,
    classes: tuple[str, ...],
    again: bool,
) -> News:
    """What of it was not known before."""
    answers: list[Answer] = []
    unchanged, earlier = 0, []
    for (image, person), (where, answer) in meant.items():
        own = state.answers.get(image, {}).get(person)
        if answer == TAKE_BACK:
            kind: Kind = "withdrawn"
            known = image not in state.answers and image not in state.pending
        else:
            current = state.label(image)
            kind = "skipped" if answer == SKIP else "labelled"
            if kind == "labelled" and current not in (None, answer):
                kind = "corrected"
            # what others said since is not news of this person
            known = own == answer and (answer in (SKIP, current) or not again)
        path = photos.names.get(image) or state.paths.get(image, "")
        if known:
            unchanged += 1
        elif answer != TAKE_BACK and (image, person, answer) in state.said and not again:
            now_is = state.label(image) or ("skipped" if image in state.answers else "taken back")
            earlier.append(f"{where}: {path} is {now_is!r} since {person!r} said {answer!r}")
        else:
            label = "" if kind in ("skipped", "withdrawn") else answer
            answers.append(Answer(image=image, path=path, kind=kind, label=label, by=person))
    return News(tuple(answers), classes, unchanged, tuple(earlier))


def _image(one: Said, photos: Photos, state: State) -> str:
    """The identity of the photo that is meant; "" if it is not clear."""
    if one.image:
        known = one.image in photos.paths or one.image in state.paths
        return one.image if known else ""
    found = photos.find(one.path)
    if not found:  # it was renamed or removed since somebody was asked
        found = [image for image, path in state.paths.items() if path == one.path]
    return found[0] if len(found) == 1 else ""


def _unknown_photo(one: Said, photos: Photos) -> str:
    if not one.image and len(found := photos.find(one.path)) > 1:
        names = ", ".join(sorted(photos.names[image] for image in found))
        return f"{one.path} may be each of {names}. Give the path from {photos.root}"
    called = one.path or one.image or "(no path)"
    return f"{called} is not a photo of the session. It may have been changed or removed"


def _class_name(text: str, classes: Sequence[str]) -> str:
    """A label as the class is called: spreadsheets write 3 as 3.0."""
    whole = re.fullmatch(r"(-?[0-9]+)\.0+", text)
    return whole[1] if text not in classes and whole and whole[1] in classes else text
