"""The learner of a session: a model fitted on what people said, and the images it asks for next."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from alhpo.base.errors import CheckpointError, ConfigurationError, DivergedError, LabelError
from alhpo.base.files import content_hash
from alhpo.base.seeding import numpy_generator
from alhpo.base.types import CycleRecord, PoolOutputs, Query
from alhpo.data.pool import Pool
from alhpo.learner import ActiveLearner
from alhpo.runs.cycle_search import CycleSearch, Found
from alhpo.runs.fit import fit_or_continue
from alhpo.runs.observer import Observer
from alhpo.runs.stopwatch import Stopwatch
from alhpo.sessions.datasets import NO_CLASS, dataset_of
from alhpo.sessions.events import Asked, EventLog, Fitted, now
from alhpo.sessions.photos import Photos
from alhpo.sessions.settings import SessionSettings
from alhpo.strategies import needs_model
from alhpo.training.recipes import encodes
from alhpo.validation import unweighted

#: Parts of the labels that are predicted in turn, to find doubtful ones.
REVIEW_FOLDS = 5


@dataclass(frozen=True)
class Labelled:
    """What a fit depends on, besides the settings.

    Attributes:
        training: class of each labelled photo that is trained on, by identity, in order.
        evaluation: class of each evaluation image, by identity.
        classes: names of the classes.
    """

    training: dict[str, str]
    evaluation: dict[str, str]
    classes: tuple[str, ...]

    @property
    def identity(self) -> str:
        pairs = [list(pair) for pair in self.training.items()]
        return content_hash([pairs, sorted(self.evaluation.items()), self.classes])

    @property
    def can_train(self) -> bool:
        """Whether there are classes to tell apart."""
        return len(set(self.training.values())) > 1


class SessionLearner:
    """Fits and queries for one command of a session.

    Args:
        path: folder of the session.
        settings: its settings.
        photos: the photos that are there now.
        log: what people said so far.
        observer: is told of the progress.

    Raises:
        ConfigurationError, DataError: settings or photos that cannot be used.
    """

    def __init__(
        self,
        path: Path,
        settings: SessionSettings,
        photos: Photos,
        log: EventLog,
        observer: Observer,
    ) -> None:
        self._path = path
        self._settings = settings
        self._log = log
        self._observer = observer
        labels = log.state.labels
        self.dataset = dataset_of(
            path.name,
            photos,
            labels,
            tuple(log.state.classes) or (NO_CLASS,),
            settings.eval,
            settings.image_size,
            decode=self.decodes,
        )
        self._place = {image: row for row, image in enumerate(self.dataset.identities)}
        names = [self.dataset.classes[number] for number in self.dataset.eval_labels.tolist()]
        self.labelled = Labelled(
            {image: label for image, label in labels.items() if image in self._place},
            dict(zip(self.dataset.eval_identities, names, strict=True)),
            self.dataset.classes,
        )
        self.learner = ActiveLearner.of(settings, self.dataset)
        self.learner.pool = self._pool()
        self._observer.loaded(self.dataset)

    def _pool(self) -> Pool:
        """The photos with all that was asked and said of them. Skipped ones wait for ever."""
        state, place = self._log.state, self._place
        pool = Pool(self.dataset.identities, self.dataset.classes, paths=self.dataset.paths)
        labels = {place[image]: label for image, label in state.labels.items() if image in place}
        skipped = {place[image] for image in state.skipped if image in place}
        waiting = {place[image] for image in state.pending if image in place}
        known = labels.keys() | skipped | waiting
        for number, event in enumerate(self._log.events, 1):
            if not isinstance(event, Asked) or event.evaluation:
                continue
            drawn = event.probabilities
            chosen = [
                (at, place[image])
                for at, image in enumerate(event.images)
                if state.asked[image] == number and place.get(image) in known
            ]
            pool.ask(
                [row for _, row in chosen],
                event.cycle,
                state=event.state,
                strategy=event.strategy,
                probabilities=None if drawn is None else [drawn[at] for at, _ in chosen],
            )
        pool.ask(sorted(skipped - set(pool.pending.tolist())), pool.cycle)
        pool.tell(list(labels), list(labels.values()), 0)
        return pool

    # ------------------------------------------------------------------------------------- fit

    def fit(self) -> Fitted | None:
        """The model of what people said up to now: that of the last fit, or a new one.

        Returns:
            The fit; None if fewer than two classes have labels.
        """
        if not self.labelled.can_train:
            return None
        self.learner.prepare(self._observer.encoded)
        fits = self._log.state.fits
        mine = (self.labelled.identity, self._settings.model_identity)
        if fits and (fits[-1].labels, fits[-1].settings) == mine:
            self._load(fits[-1].cycle_record)
            return fits[-1]
        return self._new_fit(mine, [f.cycle_record for f in fits if f.settings == mine[1]])

    def need_model(self) -> None:
        """Fit, where there must be a model afterwards.

        Raises:
            LabelError: fewer than two classes have labels.
            DivergedError: training diverged.
        """
        if self.fit() is None:
            raise LabelError(
                "There is no model without labels of at least two classes. Label more photos: ask, "
                "then tell."
            )
        if not self.has_model:
            raise DivergedError(
                "Training diverged, so there is no model. Lower lr in session.yaml."
            )

    @property
    def scores(self) -> dict[str, float] | None:
        """Scores of the model on the evaluation images, None without any."""
        evaluation = self.learner.evaluate()
        return evaluation.scores if evaluation.n else None

    @property
    def decodes(self) -> bool:
        """Whether photos are decoded before they are looked at."""
        return not encodes(self._settings.recipe)

    def doubted(self, n: int) -> list[tuple[str, str, float]]:
        """Labelled photos whose label models disagree with that were not trained on it.

        Returns:
            At most ``n`` identities, with the predicted class and its probability; the largest
            difference of the probabilities of that class and of the label first.

        Raises:
            LabelError: too few labels.
        """
        logits, labels, indices = self.learner.held_out(f"kfold:{REVIEW_FOLDS}")
        if not len(labels):
            raise LabelError(
                f"{self.learner.n_labeled} labels are too few to look at again; expected at least "
                f"{REVIEW_FOLDS}."
            )
        probabilities = torch.softmax(logits.double(), 1)
        best, predicted = probabilities.max(1)
        difference = best - probabilities.gather(1, labels[:, None])[:, 0]
        order = torch.argsort(-difference, stable=True).tolist()
        return [
            (
                self.dataset.identities[indices[row]],
                self.dataset.classes[int(predicted[row])],
                round(float(best[row]), 4),
            )
            for row in order
            if predicted[row] != labels[row]
        ][:n]

    def _load(self, record: CycleRecord) -> None:
        """Load the model of a fit on the same labels; fit it again if its file is gone."""
        if record.diverged:
            return
        folder = self._folder(record.cycle)
        try:
            self.learner.restore(folder, configuration=record.configuration)
        except CheckpointError:
            self.learner.fit(record.configuration, checkpoint_path=folder)

    def _new_fit(self, identity: tuple[str, str], records: list[CycleRecord]) -> Fitted:
        learner, settings = self.learner, self._settings
        cycle, watch = len(self._log.state.fits), Stopwatch()
        searches = CycleSearch(settings, self._path, self._observer)
        # where labels were too few to validate, no mode had its turn
        able = [record for record in records if record.validation or record.tuned]
        sizes = [*(record.n_labeled for record in able), learner.n_labeled]
        tuned = settings.mode.searches(len(able), sizes, tuple(able))
        found = Found(searches.current(records).model_dump())
        if (few := self._too_few()) and tuned:
            warnings.warn(
                f"No search with {learner.n_labeled} labels: {few} The hyperparameters stay as "
                "they are.",
                stacklevel=4,
            )
        with watch.timed("hpo"):
            if tuned and not few:
                found = searches.search(learner, cycle, records)
            elif settings.validate_fixed and not few:
                found = searches.measure(learner, cycle, searches.current(records))

        def progress(epoch: int) -> None:
            note = f"on {learner.n_labeled} labels"
            self._observer.progressed(cycle, "fit", epoch, settings.max_epochs, note)

        with watch.timed("fit"):
            fit = fit_or_continue(learner, found.configuration, self._folder(cycle), progress)
        evaluated = len(self.labelled.evaluation)
        record = CycleRecord(
            kind="cycle",
            cycle=cycle,
            n_labeled=learner.n_labeled,
            configuration=found.configuration,
            tuned=tuned and not few,
            validation=found.validation,
            test=fit.test.scores if evaluated else None,
            epochs={"hpo": searches.epochs(cycle, records), "fit": fit.epochs},
            diverged=fit.diverged,
            search=found.search,
            seconds=watch.seconds,
        )
        with self._log.locked():
            fitted = Fitted(
                event="fitted",
                at=now(),
                labels=identity[0],
                settings=identity[1],
                evaluated=evaluated,
                record=record.to_dict(),
            )
            self._log.add(fitted)
        self._observer.recorded(record)
        for folder in (self._path / "models").glob("fit_*"):
            if folder != self._folder(cycle):
                shutil.rmtree(folder, ignore_errors=True)
        return fitted

    def _folder(self, cycle: int) -> Path:
        return self._path / "models" / f"fit_{cycle:03d}"

    def _too_few(self) -> str:
        """Why the labels cannot be split for validation; "" if they can."""
        learner = self.learner
        scheme = unweighted(learner.validation)
        try:
            scheme.splits(learner.pool.labels, numpy_generator(self._settings.seed, "too few?"))
        except ConfigurationError as error:
            return str(error)
        return ""

    @property
    def has_model(self) -> bool:
        """Whether there is a fitted model, which did not diverge."""
        return self.learner.fitted

    # ----------------------------------------------------------------------------------- query

    def choose(self, n: int) -> Chosen:
        """Choose at most ``n`` photos that nobody labelled, skipped or was asked for.

        Call it with the log locked: it looks at what was said until now.

        Raises:
            LabelError: no photo is left.
        """
        learner = self.learner
        learner.pool = self._pool()
        left = len(learner.pool.available)
        if not left:
            raise LabelError(
                f"No photo is left to ask for: {learner.n_labeled} are labelled, "
                f"{len(learner.pool.pending)} are asked for or skipped. Add photos to "
                f"{self._settings.images}, or take questions back."
            )
        n = min(n, left)
        if self.has_model or not needs_model(learner.strategy):
            try:
                query = learner.ask(n)
            except DivergedError as error:
                warnings.warn(f"The photos are chosen at random. {error}", stacklevel=3)
                query = learner.ask(n, strategy="random")
        elif self.labelled.can_train:
            warnings.warn(
                "Training diverged, so the photos are chosen at random. Lower lr in session.yaml.",
                stacklevel=3,
            )
            query = learner.ask(n, strategy="random")
        else:
            query = learner.ask_initial(n)
        strategy = learner.pool.asked_by(query.indices[0]) or "random"
        return Chosen(query, learner.cycle, strategy, self.predicted(query.indices))

    def predicted(self, indices: Sequence[int]) -> list[tuple[str, float]] | None:
        """Class and its probability for photos of the pool; None without a model."""
        if not self.has_model or not len(indices):
            return None
        return best_classes(self.learner.predict(list(indices)), self.dataset.classes)


@dataclass(frozen=True)
class Chosen:
    """What a strategy chose.

    Attributes:
        query: the photos, as indices of the data set.
        cycle: number of the question.
        strategy: what chose them.
        predicted: class and its probability for each; None without a model.
    """

    query: Query
    cycle: int
    strategy: str
    predicted: list[tuple[str, float]] | None


def best_classes(outputs: PoolOutputs, classes: Sequence[str]) -> list[tuple[str, float]]:
    """The most probable class of each image, with its probability."""
    assert outputs.logits is not None
    probability, number = torch.softmax(outputs.logits.double(), 1).max(1)
    pairs = zip(number.tolist(), probability.tolist(), strict=True)
    return [(str(classes[int(best)]), round(p, 4)) for best, p in pairs]
