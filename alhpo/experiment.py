"""A run: the one module that knows the order of an active-learning cycle.

    labels -> search or fixed hyperparameters -> fit on all labels -> evaluation -> query -> record
    -> labels

A run's state is what is on disk, so that a killed run is continued by the same call:

    format.json           the format of the folder, and the version that began it
    config.yaml           the settings
    dataset.json          sizes, classes and hash of the data
    sessions.jsonl        versions, device and threads of every start
    labels.jsonl          what was asked and told, in order
    cycles.jsonl          one record per cycle
    hpo/cycle_000/        the tuner's experiment of a cycle
    fit/cycle_000/        the model fitted last
    query/cycle_000/      what a strategy trains for a query, until that is recorded
    queried_indices.json  the labelled pool in dal-toolbox's form
    first_query.png       the first images that the first query picked
    run.json              written at the end
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ConfigSpace as CS
import numpy as np
import torch
import yaml
from PIL import Image, PngImagePlugin

from alhpo.config import RunConfig
from alhpo.datasets import ImageDataset
from alhpo.files import Journal, atomic_path, exclusive, write_json, write_text
from alhpo.formats import claim_format
from alhpo.hyperparameters import Hyperparameters
from alhpo.learner import ActiveLearner
from alhpo.provenance import check_dataset, session
from alhpo.results import read_records
from alhpo.seeding import derive_seed
from alhpo.steps import (
    Observer,
    Silent,
    Stopwatch,
    constants,
    fitted,
    load_data,
    need_evaluation_split,
    results_within,
    searched,
    storage_of,
    validation_of,
    within,
)
from alhpo.strategies import get_strategy
from alhpo.types import (
    CheckpointError,
    ConfigurationError,
    CycleRecord,
    DataError,
    Evaluation,
    LabelError,
    RunResult,
)

#: Images of a query that are kept as a picture, and the white columns between them.
PICTURED, GAP = 16, 2


def run_experiment(
    config: RunConfig | Mapping[str, Any],
    *,
    dataset: ImageDataset | None = None,
    observer: Observer | None = None,
) -> RunResult:
    """Run active learning as configured, or continue or return what was run before.

    Args:
        config: the settings, or a mapping of them.
        dataset: instead of loading ``config.dataset``, which then only names it.
        observer: is told of the progress.

    Returns:
        The run's folder and its records.

    Raises:
        ConfigurationError: settings that cannot be used, before anything is run.
        DataError: a data set that cannot be loaded, or is not the one the run began with; or a
            damaged record.
        LabelError: the record of labels does not go with that of the cycles.
        CheckpointError: with ``start="warm"``, the model to go on from is gone or damaged.
        RunLockedError: another process works in the run's folder.
        FormatError: the run was begun by a version of alhpo that writes folders otherwise.
    """
    if not isinstance(config, RunConfig):
        config = RunConfig.create(config)
    path = Path(config.output_dir).expanduser() / config.name
    with exclusive(path):
        return _Run(config, path, dataset, observer or Silent()).complete()


@dataclass
class _Search:
    """What a search, or the measurement of one configuration, found."""

    configuration: dict[str, Any]
    validation: dict[str, float] | None
    epochs: int
    metric: float = -math.inf
    experiment: Path | None = None


class _Run:
    def __init__(
        self, config: RunConfig, path: Path, dataset: ImageDataset | None, observer: Observer
    ) -> None:
        self.config = config
        self.path = path
        self._dataset = dataset
        self._observer = observer
        self._journal = Journal(path / "cycles.jsonl")
        self.records = read_records(path / "cycles.jsonl")
        self._cycles = len(config.sizes)
        self._storage: Path | None = None
        self._watch = Stopwatch()

    def complete(self) -> RunResult:
        if self._ended():
            return RunResult(self.path, tuple(self.records), resumed=True)
        claim_format(self.path)
        resumed = bool(self.records)
        learner = self._begin()
        total = self._cycles + (self.config.hpo == "final")
        self._observer.started(self.config, self.path, len(self.records), total)
        while not self._finished():
            self._cycle(learner)
        if self.config.hpo == "final" and self.records[-1].kind == "cycle":
            self._final(learner)
        learner.pool.export(self.path / "queried_indices.json")
        write_json(self.path / "run.json", {"cycles": self._cycles, "records": len(self.records)})
        return RunResult(self.path, tuple(self.records), resumed)

    def _ended(self) -> bool:
        """Whether the run was finished before, and all its records are still there."""
        try:
            records = json.loads((self.path / "run.json").read_text(encoding="utf-8"))["records"]
        except (OSError, ValueError, KeyError, TypeError):
            return False  # or its file is damaged, which is then written anew
        if records != len(self.records):
            raise DataError(
                f"{self._journal.path} holds {len(self.records)} records, but the run was finished "
                f"with {records}: it was cut short or changed. {self._advice()}"
            )
        return True

    def _advice(self) -> str:
        return f"Restore it from a copy, or remove {self.path} to run anew."

    def _begin(self) -> ActiveLearner:
        config = self.config
        dataset = self._dataset or load_data(config)
        if config.budget > len(dataset):
            raise ConfigurationError(
                f"budget is {config.budget} labels, but the pool of {dataset.name!r} has "
                f"{len(dataset)} images. Lower the budget."
            )
        need_evaluation_split(dataset)
        check_dataset(self.path / "dataset.json", dataset)
        learner = ActiveLearner(
            dataset,
            config.model,
            config.strategy,
            seed=config.seed,
            hyperparameters=config.hyperparameters,
            space=config.space,
            validation=config.validation,
            metric=config.metric,
            max_epochs=config.max_epochs,
            start=config.start,
            pretrained=config.pretrained,
            init=config.init,
            cifar_stem=config.cifar_stem,
            input_size=config.input_size,
            dropout=config.dropout,
            mc_passes=config.mc_passes,
            vaal_epochs=config.vaal_epochs,
            query_subset=config.query_subset,
            device=config.device,
            precision=config.precision,
            path=self.path,
        )
        self._check_labels(learner)
        self._storage = storage_of(config)
        settings = yaml.safe_dump(config.model_dump(), sort_keys=False)
        write_text(self.path / "config.yaml", settings)
        Journal(self.path / "sessions.jsonl").append(session(learner.compute))
        learner.label_initial(config.initial_size)
        if self.records:
            self._take_up(learner)
        return learner

    def _check_labels(self, learner: ActiveLearner) -> None:
        """Refuse labels with which the records cannot go on, because a file was damaged."""
        pool, truth = learner.pool, learner.dataset.labels
        labeled, pending = set(pool.labeled.tolist()), set(pool.pending.tolist())
        expected, found = self.config.initial_size, len(labeled)
        if self.records:
            last = self.records[-1]
            expected = last.n_labeled + len(last.queried)
            found = len(labeled | pending & set(last.queried))
        elif not labeled:
            return
        queried = {index for record in self.records for index in record.queried}
        true = truth is None or bool(np.array_equal(truth.numpy()[pool.labeled], pool.labels))
        if found != expected or not queried <= labeled | pending or not true:
            raise LabelError(
                f"{self.path / 'labels.jsonl'} holds {found} labels, but by "
                f"{self._journal.path.name} there are {expected}, or they are not those of the "
                f"same images and classes: one of the files was cut short or changed. "
                f"{self._advice()}"
            )

    def _take_up(self, learner: ActiveLearner) -> None:
        """Bring the learner to where the records end."""
        last = self.records[-1]
        self._picture_first_query(learner.dataset)
        if set(last.queried) & set(learner.pool.pending.tolist()):
            learner.answer()
        if self.config.start == "warm" and not last.diverged:
            try:
                learner.restore(self._fit_folder(last.cycle))
            except CheckpointError as error:
                raise CheckpointError(
                    f"A fit with start=warm goes on from the one before, but: {error} Without it "
                    f"this run cannot be continued. {self._advice()}"
                ) from error

    def _finished(self) -> bool:
        return bool(self.records) and not self.records[-1].queried

    def _cycle(self, learner: ActiveLearner) -> None:
        config, cycle = self.config, len(self.records)
        self._watch = Stopwatch()
        tuned = config.searches(cycle)
        search = self._search(learner, cycle) if tuned else self._untuned(learner, cycle)
        test, diverged = self._fit(learner, search.configuration, cycle)
        queried: tuple[int, ...] = ()
        remaining = config.budget - learner.n_labeled
        if remaining > 0:
            with self._watch.timed("query"):
                queried = self._query(learner, min(config.acquisition_size, remaining), diverged)
        self._record(learner, "cycle", cycle, search, tuned, test, diverged, queried)
        if queried:
            self._picture_first_query(learner.dataset)
            learner.answer()
        learner.pool.export(self.path / "queried_indices.json")

    def _picture_first_query(self, dataset: ImageDataset) -> None:
        file = self.path / "first_query.png"
        queried = self.records[0].queried[:PICTURED]
        if not queried or file.exists():
            return
        try:
            write_picture(file, dataset, queried)
        except Exception as error:  # it is for people to look at; no run depends on it
            warnings.warn(f"No picture of the first query: {error!r}", stacklevel=2)

    def _final(self, learner: ActiveLearner) -> None:
        """The search after the last cycle, and the model retrained with what it found."""
        cycle = self.records[-1].cycle
        self._watch = Stopwatch()
        search = self._search(learner, cycle)
        test, diverged = self._fit(learner, search.configuration, cycle)
        self._record(learner, "final", cycle, search, True, test, diverged, ())

    def _search(self, learner: ActiveLearner, cycle: int) -> _Search:
        """The better of the configuration in force, fully trained, and of what a search finds.

        Without that measurement, which is a part of the budget, a search that had too few epochs
        to train anything through would replace what works by what began well.
        """
        config = self.config
        in_force = self.records[-1].configuration if self.records else config.hyperparameters
        rest = config.max_budget - config.max_epochs
        if not config.measure_current or rest < 1:
            return self._tune(learner, cycle, None, config.max_budget)
        current = self._tune(learner, cycle, Hyperparameters.create(in_force), config.max_epochs)
        found = self._tune(learner, cycle, None, rest, current.experiment)
        best = found if found.metric > current.metric else current
        return replace(best, epochs=current.epochs + found.epochs)

    def _untuned(self, learner: ActiveLearner, cycle: int) -> _Search:
        """The configuration of the latest search, or the fixed one, measured where asked for."""
        if self.config.hpo.startswith("every") and self.records:
            hp = Hyperparameters.create(self.records[-1].configuration)
        else:
            hp = Hyperparameters.create(self.config.hyperparameters)
        if not self.config.validate_fixed:
            return _Search(hp.model_dump(), None, 0)
        return self._tune(learner, cycle, hp, self.config.max_epochs)

    def _tune(
        self,
        learner: ActiveLearner,
        cycle: int,
        only: Hyperparameters | None,
        budget: int,
        measured: Path | None = None,
    ) -> _Search:
        """A search of ``budget`` epochs; of one configuration alone where ``only`` is given.

        ``measured`` is the experiment of what was measured on the same labels before.
        """
        objective = learner.objective(space=None if only is None else constants(only))

        def progress(done: int, row: dict[str, Any]) -> None:
            note = f"validation {row['metric']:.3f}"
            self._observer.progressed(cycle, "search", done, budget, note)

        start = {} if only else self._start(objective.configuration_space, measured)
        with self._watch.timed("hpo"):
            tuner, best = searched(
                objective,
                self.config,
                self.path / "hpo" / f"cycle_{cycle:03d}",
                budget=budget,
                seed=derive_seed(self.config.seed, "hpo", cycle),
                storage=self._storage and self._storage / f"cycle_{cycle:03d}",
                callback=progress,
                alone=only is not None,
                **start,
            )
        hp = only or objective.hyperparameters(best["configuration"])
        return _Search(
            hp.model_dump(),
            validation_of(best),
            tuner.epochs_spent,
            float(best["metric"]),
            tuner.experiment_path,
        )

    def _start(self, space: CS.ConfigurationSpace, measured: Path | None) -> dict[str, Any]:
        """What a search starts from: the fixed hyperparameters, or the searches before it."""
        observed = [] if measured is None else results_within(space, [measured])
        cycles = [record.cycle for record in self.records if record.tuned]
        earlier = [
            results_within(
                space, sorted((self.path / "hpo" / f"cycle_{cycle:03d}").glob("experiment_*"))
            )
            for cycle in cycles
        ]
        if self.config.transfer and any(earlier):
            return {"warm_start": earlier, "observed": observed}
        fixed = Hyperparameters.create(self.config.hyperparameters).model_dump()
        known = [row["configuration"] for row in observed]
        initial = [one for one in within(space, fixed) if one not in known]
        return {"initial_configurations": initial, "observed": observed}

    def _fit(
        self, learner: ActiveLearner, configuration: Mapping[str, Any], cycle: int
    ) -> tuple[Evaluation, bool]:
        folder = self._fit_folder(cycle)
        total = self.config.max_epochs

        def progress(epoch: int) -> None:
            note = f"on {learner.n_labeled} labels"
            self._observer.progressed(cycle, "fit", epoch, total, note)

        with self._watch.timed("fit"):
            return fitted(learner, configuration, folder, progress)

    def _fit_folder(self, cycle: int) -> Path:
        return self.path / "fit" / f"cycle_{cycle:03d}"

    def _query(self, learner: ActiveLearner, n: int, diverged: bool) -> tuple[int, ...]:
        if len(learner.pool.pending):  # asked for before a kill
            return tuple(learner.pool.pending.tolist())
        if diverged:
            strategy, learner.strategy = learner.strategy, get_strategy("random")
            try:
                return learner.ask(n).indices
            finally:
                learner.strategy = strategy
        return learner.ask(n).indices

    def _record(
        self,
        learner: ActiveLearner,
        kind: Literal["cycle", "final"],
        cycle: int,
        search: _Search,
        tuned: bool,
        test: Evaluation,
        diverged: bool,
        queried: tuple[int, ...],
    ) -> None:
        """Write the record of a cycle, and drop the checkpoints that nothing needs any more."""
        record = CycleRecord(
            kind=kind,
            cycle=cycle,
            n_labeled=learner.n_labeled,
            configuration=search.configuration,
            tuned=tuned,
            validation=search.validation,
            test=test.scores,
            epochs={"hpo": search.epochs, "fit": self.config.max_epochs},
            queried=queried,
            diverged=diverged,
            seconds=self._watch.seconds,
        )
        self._journal.append(record.to_dict())
        self.records.append(record)
        for old in (self.path / "fit").glob("cycle_*"):
            if old != self._fit_folder(record.cycle):
                shutil.rmtree(old)
        shutil.rmtree(self.path / "query", ignore_errors=True)
        for checkpoint in (self.path / "hpo").glob("cycle_*/experiment_*/best_trial"):
            shutil.rmtree(checkpoint)
        self._observer.recorded(record)


def write_picture(file: Path, dataset: ImageDataset, indices: Sequence[int]) -> None:
    """Write images of the pool side by side, at their own size, as a PNG.

    Its texts "indices" and "classes" are JSON lists: the images' places in the pool and the names
    of their classes (empty without labels).
    """
    rows = torch.tensor(list(indices))
    images = dataset.images[rows]
    white = images.new_full((images.shape[1], GAP, images.shape[3]), 255)
    strip = torch.cat([part for image in images for part in (white, image)][1:], dim=1)
    labels = [] if dataset.labels is None else dataset.labels[rows].tolist()
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("indices", json.dumps(rows.tolist()))
    texts.add_itxt("classes", json.dumps([dataset.classes[label] for label in labels]))
    picture = Image.fromarray((strip.squeeze(2) if strip.shape[2] == 1 else strip).numpy())
    with atomic_path(file) as temporary:
        picture.save(temporary, format="PNG", pnginfo=texts)
