"""``Session``: a folder of photos becomes a labelled set and a model, with people in the loop.

format.json       the format of the folder, and the version that began it
session.yaml      the settings; a change counts from the next command on
events.jsonl      everything that was said, asked and fitted, in order
asked/            files for people, unless they go elsewhere
models/           the model of the last fit
hpo/              searches
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from alhpo.base.errors import ConfigurationError, DataError, LabelError
from alhpo.base.files import exclusive
from alhpo.base.formats import check_format as check_folder_format
from alhpo.base.formats import claim_format
from alhpo.data.sources.source import user_path
from alhpo.sessions.answers import Said, read_answers
from alhpo.sessions.events import SKIP, TAKE_BACK, Asked, EventLog, State, Told, Undone, now
from alhpo.sessions.handover import (
    LOCAL_FILES,
    Predicted,
    Question,
    check_format,
    free_place,
    interface_of,
    write_class_folders,
    write_label_studio,
    write_labels_table,
    write_questions,
)
from alhpo.sessions.photos import (
    Photos,
    evaluation_share,
    find_photos,
    given_evaluation,
    kept_for_evaluation,
)
from alhpo.sessions.settings import EXPORTS, QUESTIONS, SessionSettings
from alhpo.sessions.status import Status, status_of
from alhpo.sessions.telling import News, Recorded, check_classes, news

if TYPE_CHECKING:
    from alhpo.runs.observer import Observer
    from alhpo.sessions.learning import SessionLearner

#: Endings of the files of questions.
_ENDINGS = {"csv": ".csv", "label-studio": ".json", "folder": ""}


class Session:
    """A session that was begun.

    Several people and processes may ask and tell at a time; one at a time fits a model.

    Args:
        path: its folder.

    Raises:
        ConfigurationError: there is none, or its settings cannot be used.
        DataError: its events are damaged.
        FormatError: it has the format of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        if not _begun(self.path):
            raise ConfigurationError(
                f"There is no session in {self.path}. Begin one: alhpo new {self.path} --images "
                "FOLDER."
            )
        check_folder_format(self.path)
        self._images, self._eval = SessionSettings.places(self.path)
        self._log = EventLog(self.path / "events.jsonl")
        #: The file or folder that the last ``ask`` wrote; None if it wrote nothing.
        self.written: Path | None = None

    @classmethod
    def new(
        cls,
        path: str | os.PathLike[str],
        images: str | os.PathLike[str],
        *,
        classes: Sequence[str] = (),
        labels: str | os.PathLike[str] | None = None,
        by: str | None = None,
        **settings: Any,
    ) -> Session:
        """Begin a session.

        Args:
            path: its folder.
            images: folder of the photos, with its sub-folders, or a table of them.
            classes: names of the classes; more may be added later.
            labels: labels that there are already, as ``tell`` takes them; their classes are added.
            by: who gave them; by default the user of this machine.
            settings: other settings of ``SessionSettings``, by name.

        Raises:
            ConfigurationError: illegal settings or classes, or there is a session already.
            DataError: photos or labels that cannot be read.
            LabelError: labels that cannot be used; all are named.
        """
        folder = Path(path).expanduser().absolute()
        given = {"images": str(user_path(os.fspath(images)).absolute()), **settings}
        if given.get("eval") is not None and evaluation_share(str(given["eval"])) is None:
            given["eval"] = str(user_path(str(given["eval"])).absolute())
        chosen = SessionSettings.create(given)
        check_classes(classes)
        taken = ConfigurationError(
            f"There is a session in {folder} already. Go on with ask and tell, or choose another "
            "folder."
        )
        if _begun(folder):
            raise taken
        who, state = by or _user(), State(classes=list(dict.fromkeys(classes)))
        photos = find_photos(chosen.images)
        said = [] if labels is None else read_answers(Path(labels).expanduser())
        first = news(said, photos, state, who, add_classes=True)
        given_evaluation(chosen.eval, [*state.classes, *first.classes])
        with exclusive(folder):
            claim_format(folder)
            log = EventLog(folder / "events.jsonl")
            if log.events:  # another process was faster
                raise taken
            chosen.write(folder)
            with log.locked():
                log.add(
                    Told(
                        event="begun",
                        at=now(),
                        by=who,
                        classes=(*state.classes, *first.classes),
                        answers=first.answers,
                        source="" if labels is None else os.fspath(labels),
                    )
                )
        return cls(folder)

    @cached_property
    def settings(self) -> SessionSettings:
        """The settings, as they stood in ``session.yaml`` when they were first needed.

        Raises:
            ConfigurationError: illegal settings.
        """
        return SessionSettings.read(self.path)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order in which they were added."""
        self._log.refresh()
        return tuple(self._log.state.classes)

    @property
    def labels(self) -> dict[str, str]:
        """The class of each labelled photo by the SHA-256 of its file, in the order of labelling;
        also of photos that are not there now."""
        self._log.refresh()
        return self._log.state.labels

    @property
    def events(self) -> tuple[Any, ...]:
        """All events so far, see ``alhpo.sessions.events``."""
        self._log.refresh()
        return tuple(self._log.events)

    # ------------------------------------------------------------------------------------- ask

    def ask(
        self,
        n: int,
        *,
        out: str | os.PathLike[str] | None = None,
        format: str | None = None,
        evaluation: bool = False,
        image_url: str | None = None,
        by: str | None = None,
        observer: Observer | None = None,
    ) -> list[Question]:
        """Fit a model on what people said, tune it by the HPO mode, and choose photos to label.

        With labels of fewer than two classes, the strategy ``initial`` chooses.

        Args:
            n: number of photos; fewer if fewer are left.
            out: file or folder for people, which must not exist; by default in ``asked``.
            format: "csv", "label-studio" or "folder"; None writes nothing unless ``out`` is given.
            evaluation: choose at random among the photos that are kept for evaluation; no model is
                fitted.
            image_url: for Label Studio, what stands before the path of a photo in its address; by
                default that of its local files, see ``docs/sessions.md``.
            by: who asks.
            observer: receives the progress.

        Returns:
            The photos, the one that is wanted most first. If the command before was killed after
            its question was recorded and before its file was written, then its photos, whose file
            is written now.

        Raises:
            LabelError: no photo is left.
            ConfigurationError, DataError: settings or photos that cannot be used.
            RunLockedError: another process fits a model of this session.
        """
        if n < 1:
            raise LabelError(f"{n} photos were asked for; expected at least 1.")
        form = format or ("" if out is None else "csv")
        with exclusive(self.path):
            with self._log.locked():
                interrupted = self._unwritten()
            if interrupted is None:
                self._check_out(out, form)
            photos = self._photos()
            record = partial(self._record, photos, by, out, form)
            if interrupted is not None:
                event = interrupted
            elif evaluation:
                with self._log.locked() as state:
                    event = record(self._of_evaluation(n, photos, state), evaluation=True)
            else:
                learner = self._learner(photos, observer)
                learner.fit()
                with self._log.locked():
                    chosen = learner.choose(n)
                    drawn = chosen.query.probabilities
                    event = record(
                        [learner.dataset.identities[row] for row in chosen.query.indices],
                        cycle=chosen.cycle,
                        strategy=chosen.strategy,
                        state=chosen.query.state,
                        probabilities=None if drawn is None else list(drawn),
                        predicted=chosen.predicted,
                    )
            questions = _questions(event, photos)
            self.written = None
            if event.out:
                self.written = self.path / event.out
                self._write(questions, self.written, event.format, image_url)
            return questions

    def ask_again(
        self,
        *,
        out: str | os.PathLike[str] | None = None,
        format: str = "csv",
        image_url: str | None = None,
    ) -> list[Question]:
        """All photos that were asked for and are not answered, once more.

        Args:
            out: file or folder, which must not exist; None writes nothing.
            format, image_url: as for ``ask``.

        Raises:
            LabelError: all questions are answered.
        """
        self._check_out(out, format)
        photos = self._photos()
        self._log.refresh()
        pending = self._log.state.pending
        waiting = [
            question
            for number in sorted(set(pending.values()))
            for question in _questions(self._log.events[number - 1], photos)
            if pending.get(question.image) == number
        ]
        if not waiting:
            raise LabelError("All questions are answered. Ask for more photos.")
        questions = [replace(question, rank=n) for n, question in enumerate(waiting, 1)]
        if out is not None:
            self._write(questions, Path(out).expanduser().absolute(), format, image_url)
        return questions

    def _check_out(self, out: str | os.PathLike[str] | None, form: str) -> None:
        if form:
            check_format(form, QUESTIONS, self.classes)
        if out is None:
            return
        place = Path(out).expanduser()
        free_place(place)
        if form == "label-studio":
            if place.suffix.lower() != ".json":
                raise ConfigurationError(
                    f"--out is {out}; Label Studio reads tasks from a .json file."
                )
            free_place(interface_of(place))

    def _unwritten(self) -> Asked | None:
        """The last question, if its file was not written and nobody has answered any of it."""
        asked = [(n, e) for n, e in enumerate(self._log.events, 1) if isinstance(e, Asked)]
        if not asked:
            return None
        number, last = asked[-1]
        waits = all(self._log.state.pending.get(image) == number for image in last.images)
        written = not last.out or os.path.lexists(self.path / last.out)
        return last if waits and not written else None

    def _record(
        self,
        photos: Photos,
        by: str | None,
        out: str | os.PathLike[str] | None,
        form: str,
        images: Sequence[str],
        *,
        cycle: int = 0,
        strategy: str = "random",
        **more: Any,
    ) -> Asked:
        """Record a question, with the log locked."""
        place = None if out is None else str(Path(out).expanduser().absolute())
        if place is None and form:
            place = f"asked/ask_{len(self._log.events) + 1:04d}{_ENDINGS[form]}"
        event = Asked(
            event="asked",
            at=now(),
            by=by or _user(),
            images=list(images),
            paths=[photos.names[image] for image in images],
            cycle=cycle,
            strategy=strategy,
            out=place or "",
            format=form,
            **more,
        )
        self._log.add(event)
        return event

    def _of_evaluation(self, n: int, photos: Photos, state: State) -> list[str]:
        """Random photos that are kept for evaluation, always in the same order."""
        kept = kept_for_evaluation(list(photos.paths), self._eval)
        if not kept:
            raise LabelError(
                "No photo is kept for evaluation. Set a share, such as eval: 0.1, in "
                f"{self.path / 'session.yaml'}."
            )
        left = [i for i in kept if not (i in state.answers or i in state.pending)]
        if not left:
            raise LabelError(f"All {len(kept)} photos that are kept for evaluation were asked for.")
        return sorted(left)[:n]  # by their hash: as good as random

    def _write(
        self, questions: Sequence[Question], out: Path, form: str, image_url: str | None
    ) -> None:
        address = self._image_url(image_url)
        write_questions(questions, out, form, self.classes, address)

    def _image_url(self, given: str | None) -> str:
        place = Path(self._images)
        folder = place if place.is_dir() else place.parent
        return f"{LOCAL_FILES}{quote(folder.name)}/" if given is None else given

    # ------------------------------------------------------------------------------------ tell

    def tell(
        self,
        answers: str | os.PathLike[str] | Mapping[str, str],
        *,
        by: str | None = None,
        add_classes: bool = False,
        again: bool = False,
        dry_run: bool = False,
    ) -> Recorded:
        """Take what people say of photos: all of it, or, if something cannot be used, nothing.

        A class is a label or, for a photo with another one, a correction; "?" says that nobody can
        tell; "-" takes a label, or a question, back. It counts from the next fit on.

        Args:
            answers: a CSV or Parquet table with the columns label, and sha256 or path; a JSON or
                CSV export of Label Studio; a folder with one sub-folder of photos per class; or
                answers by path or SHA-256.
            by: who says it, where the file does not; by default the user of this machine.
            add_classes: take unknown labels as new classes.
            again: also take answers that the same person gave before and that were changed since.
            dry_run: only check, and tell what would be recorded.

        Raises:
            LabelError: something cannot be used; the message has a line for each.
            DataError: a file that cannot be read.
        """
        if isinstance(answers, Mapping):
            said = [_said(key, value) for key, value in answers.items()]
            source = ""
        else:
            said, source = read_answers(Path(answers).expanduser()), os.fspath(answers)
        photos = self._photos()
        with self._log.locked() as state:
            found = news(said, photos, state, by or _user(), add_classes=add_classes, again=again)
            return found.recorded(0 if dry_run else self._tell(found, by, source))

    def _tell(self, found: News, by: str | None, source: str) -> int:
        if not found.answers and not found.classes:
            return 0
        event = Told(
            event="told",
            at=now(),
            by=by or _user(),
            classes=found.classes,
            answers=found.answers,
            source=source,
        )
        return self._log.add(event)

    def add_classes(self, names: Sequence[str], *, by: str | None = None) -> None:
        """Add classes.

        Raises:
            ConfigurationError: an illegal name.
        """
        check_classes(names)
        with self._log.locked() as state:
            new = tuple(name for name in dict.fromkeys(names) if name not in state.classes)
            self._tell(News((), new, 0, ()), by, "")

    def undo(self, *, by: str | None = None) -> Told:
        """Undo the last ``tell`` or ``add_classes`` that was not undone yet.

        Returns:
            What is undone.

        Raises:
            LabelError: there is none.
        """
        with self._log.locked():
            numbers = self._log.counting()
            if not numbers:
                raise LabelError("Nothing was told that could be undone.")
            self._log.add(Undone(event="undone", at=now(), by=by or _user(), number=numbers[-1]))
            return self._log.events[numbers[-1] - 1]

    # ------------------------------------------------------------------------- look and use

    def status(self) -> Status:
        """How the session stands."""
        photos = self._photos()
        self._log.refresh()
        return status_of(photos, self._log.state, self._eval)

    def review(
        self, n: int, *, out: str | os.PathLike[str] | None = None, observer: Observer | None = None
    ) -> list[Question]:
        """Labels to look at again: those that models which were not trained on them disagree with
        most.

        Five models are trained, each without a fifth of the labels. Photos are ranked by how much
        more probable the predicted class is than the label (the idea of confident learning,
        Northcutt et al., 2021).

        Args:
            n: number of photos at most.
            out: CSV file to correct and to hand in, which must not exist; None writes nothing.
            observer: receives the progress.

        Raises:
            LabelError: too few labels.
        """
        self._check_out(out, "csv" if out is not None else "")
        with self._fitted(observer) as (learner, photos):
            rows = learner.doubted(n)
        state = self._log.state
        questions = [
            Question(
                photos.names[image],
                image,
                photos.paths[image],
                rank,
                predicted,
                probability,
                state.label(image) or "",
                state.by_whom(image),
            )
            for rank, (image, predicted, probability) in enumerate(rows, 1)
        ]
        if out is not None:
            self._write(questions, Path(out).expanduser().absolute(), "csv", None)
        return questions

    def predict(
        self, images: str | os.PathLike[str], *, observer: Observer | None = None
    ) -> list[Predicted]:
        """Predict the classes of other photos, by a model of all labels up to now.

        Args:
            images: folder of photos, with its sub-folders, or a table of them.
            observer: receives the progress.

        Raises:
            LabelError: labels of fewer than two classes.
            DataError: no images.
        """
        from alhpo.sessions.predicting import predictions

        others = find_photos(os.fspath(images))
        with self._fitted(observer) as (learner, _):
            return predictions(
                others,
                learner.learner.predict_images,
                learner.dataset.classes,
                learner.dataset.images.shape[1:],
                self.settings.image_size,
                decode=learner.decodes,
            )

    def export(
        self,
        out: str | os.PathLike[str],
        format: str = "csv",
        *,
        image_url: str | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Write the labels, or the model.

        Args:
            out: the file or folder, which must not exist.
            format: "csv" (all photos, with what is known of each), "folders" (copies of the
                labelled photos by class), "label-studio" (tasks with annotations) or "model" (a
                folder that ``predict_with`` reads without the session).
            image_url: for Label Studio, as for ``ask``.
            observer: receives the progress of a fit.

        Raises:
            ConfigurationError: an unknown format, or something is there.
            LabelError: nothing is labelled.
        """
        place = Path(out).expanduser().absolute()
        check_format(format, EXPORTS, self.classes)
        free_place(place)
        if format == "model":
            from alhpo.sessions.portable import save_model

            with self._fitted(observer) as (learner, _):
                about = {
                    "image_size": self.settings.image_size,
                    "labels": learner.learner.n_labeled,
                    "evaluation": learner.scores,
                }
                save_model(learner.learner, self.settings.recipe, place, about)
            return
        photos = self._photos()
        self._log.refresh()
        state = self._log.state
        if format == "csv":
            kept = kept_for_evaluation(list(photos.paths), self._eval)
            rows = [
                (
                    photos.names[image],
                    state.label(image) or "",
                    *_what(image, state, kept),
                    image,
                )
                for image in sorted(photos.paths, key=lambda image: photos.names[image])
            ]
            write_labels_table(rows, place)
            return
        labels = state.labels
        questions = [
            Question(photos.names[i], i, photos.paths[i], n, label=label)
            for n, (i, label) in enumerate(labels.items(), 1)
            if i in photos.paths
        ]
        if not questions:
            raise LabelError("No photo that is there has a label, so there is nothing to write.")
        if format == "folders":
            write_class_folders(questions, place, state.classes)
        else:
            write_label_studio(questions, place, self._image_url(image_url))

    @contextmanager
    def _fitted(self, observer: Observer | None) -> Iterator[tuple[SessionLearner, Photos]]:
        """A learner with a model of all labels, while no other process fits one."""
        with exclusive(self.path):
            photos = self._photos()
            learner = self._learner(photos, observer)
            learner.need_model()
            yield learner, photos

    def _photos(self) -> Photos:
        """The photos that are there now."""
        place = user_path(self._images)
        if not place.exists():
            raise DataError(
                f"There are no images at {place} now. If they were moved, correct the line images: "
                f"in {self.path / 'session.yaml'}."
            )
        return find_photos(self._images)

    def _learner(self, photos: Photos, observer: Observer | None) -> SessionLearner:
        from alhpo.runs.observer import Observers
        from alhpo.sessions.learning import SessionLearner

        self._log.refresh()
        return SessionLearner(self.path, self.settings, photos, self._log, Observers(observer))


def _begun(folder: Path) -> bool:
    """Whether there is a session: its first event is there as a whole."""
    file = folder / "events.jsonl"
    return file.is_file() and b"\n" in file.read_bytes()


def _questions(event: Asked, photos: Photos) -> list[Question]:
    """The questions of an event, of photos that are there."""
    predicted = event.predicted or [("", None)] * len(event.images)
    return [
        Question(photos.names[image], image, photos.paths[image], rank, label, probability)
        for rank, (image, (label, probability)) in enumerate(
            zip(event.images, predicted, strict=True), 1
        )
        if image in photos.paths
    ]


def _what(image: str, state: State, kept: set[str]) -> tuple[str, str]:
    """What is known of a photo, in a word, and by whom."""
    if state.label(image) is not None:
        return "evaluation" if image in kept else "labelled", state.by_whom(image)
    if image in state.answers:
        return "skipped", ", ".join(state.answers[image])
    return "asked" if image in state.pending else "open", ""


def _said(key: str, answer: str) -> Said:
    """An answer of Python code, by path or SHA-256."""
    whole = len(key) == 64 and set(key) <= set("0123456789abcdef")
    if answer is None or not str(answer):
        raise LabelError(
            f"The answer for {key} is {answer!r}; expected a class, {SKIP!r} or {TAKE_BACK!r}."
        )
    return Said(key, key if whole else "", "" if whole else key, str(answer))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in containers
        return "unknown"
