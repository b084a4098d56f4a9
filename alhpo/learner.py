"""``ActiveLearner``: the state of one active-learning run, one cycle at a time."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import ConfigSpace as CS
import numpy as np
import torch
from torch import nn

from alhpo.adversarial import Discrimination, check_image_size
from alhpo.batches import DeviceImages, InputFormat
from alhpo.checkpoints import read_checkpoint
from alhpo.datasets import ImageDataset
from alhpo.files import Journal
from alhpo.hyperparameters import Hyperparameters, load_space
from alhpo.loss_prediction import add_loss_predictor, predicted_losses
from alhpo.models import ModelSpec, build_model, classifier, model_input
from alhpo.objective import Divergence, Metric, Objective
from alhpo.pool import Pool, read_queried_indices
from alhpo.protocols import SELECTION_NEEDS, Strategy, ValidationScheme, WeightingScheme
from alhpo.seeding import derive_seed, numpy_generator, torch_generator
from alhpo.stochastic import DropoutPasses, keep_masks
from alhpo.strategies import (
    check_dropout,
    get_strategy,
    run_strategy,
    strategy_name,
    strategy_needs,
)
from alhpo.trainer import Task, Trainer
from alhpo.training import Compute, Precision, evaluate, predict
from alhpo.tuning.upstream import enable_on_numpy2
from alhpo.types import (
    AlhpoError,
    CheckpointError,
    ConfigurationError,
    DivergedError,
    Evaluation,
    LabelError,
    PoolOutputs,
    Query,
    Selection,
)
from alhpo.validation import get_validation
from alhpo.weights import pixel_features

#: Seconds between checkpoints of a final fit.
CHECKPOINT_SECONDS = 30.0
#: Unlabelled images, at most, that the labelled ones are compared with for validation weights.
REFERENCE_SIZE = 5000
Start = Literal["cold", "warm"]


class ActiveLearner:
    """Label, tune, train and query, in that order, as often as wanted.

    Args:
        dataset: the pool and the evaluation split.
        model: a timm name.
        strategy: name of a query strategy, or a function with the signature of
            ``alhpo.protocols.Strategy``.
        seed: of the run; every random stream is derived from it.
        hyperparameters: fixed hyperparameters; defaults where it says nothing.
        space: what ``objective`` searches: "paper", "hpo4dl", a file, or a ConfigSpace space.
        validation: the scheme that judges configurations, such as "holdout:0.2" or "kfold:5".
        metric: what the objective returns, "accuracy" or "likelihood".
        max_epochs: length of a full training where a call does not say.
        start: "cold" restarts every training from the same initial weights; "warm" from the model
            fitted before.
        pretrained: start from timm's pretrained weights.
        cifar_stem: 3x3 stride-1 stem without max-pool; None decides by the image size.
        input_size: pixels to which images are resized on the device; None keeps their size.
        dropout: probability with which each feature is dropped before the classifier (timm's
            ``drop_rate``), in training and in the passes that strategies such as "bald" look at.
        mc_passes: number of those passes.
        query_subset: the strategy looks at a random subset of this many images of the pool, drawn
            anew for every query. A strategy that looks at nothing (random) does without.
        vaal_epochs: passes over the candidates for which the networks behind ``labeled_scores``
            are trained at each query (VAAL).
        device: "auto" or a torch device.
        precision: "auto", "float32" or "bfloat16".
        path: a folder in which every label is recorded as it comes; one that holds a record is
            continued. None keeps the labels in memory only.

    Raises:
        ConfigurationError: an argument that cannot be used, before any work.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        model: str = "resnet18",
        strategy: str | Strategy = "badge",
        *,
        seed: int = 0,
        hyperparameters: Mapping[str, Any] | None = None,
        space: str | CS.ConfigurationSpace = "paper",
        validation: str | ValidationScheme = "holdout:0.2",
        metric: Metric = "accuracy",
        max_epochs: int = 27,
        start: Start = "cold",
        pretrained: bool = False,
        cifar_stem: bool | None = None,
        input_size: int | None = None,
        dropout: float = 0.0,
        mc_passes: int = 100,
        query_subset: int | None = None,
        vaal_epochs: int = 10,
        device: str = "auto",
        precision: Precision = "auto",
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.strategy = get_strategy(strategy)
        self.space = load_space(space)
        self.validation = get_validation(validation)
        self.fixed = dict(hyperparameters or {})
        if max_epochs < 1:
            raise ConfigurationError(f"max_epochs is {max_epochs}; at least 1 is needed.")
        if start not in ("cold", "warm"):
            raise ConfigurationError(f"start is {start!r}. Legal: cold, warm.")
        if query_subset is not None and query_subset < 1:
            raise ConfigurationError(f"query_subset is {query_subset}; at least 1 is needed.")
        if vaal_epochs < 1:
            raise ConfigurationError(f"vaal_epochs is {vaal_epochs}; at least 1 is needed.")
        if mc_passes < 1:
            raise ConfigurationError(f"mc_passes is {mc_passes}; at least 1 is needed.")
        check_dropout(self.strategy, dropout)
        Hyperparameters.create(self.fixed).check_epochs(max_epochs)
        self.max_epochs = max_epochs
        self._metric: Metric = metric
        self._start = start
        self._mc_passes = mc_passes
        self._query_subset = query_subset
        self._vaal_epochs = vaal_epochs
        self._path = None if path is None else Path(path)
        self._spec = ModelSpec(
            model,
            dataset.num_classes,
            dataset.channels,
            dataset.image_size,
            pretrained,
            cifar_stem,
            input_size,
            dropout,
        )
        self._initial = build_model(self._spec, seed)
        size, settings = model_input(self._spec, self._initial)
        self.compute = Compute.resolve(device, precision, max(size or dataset.image_size))
        self._form = self._input_format(size, settings)
        if "predicted_losses" in strategy_needs(self.strategy):
            shape = (dataset.channels, *(size or dataset.image_size))
            add_loss_predictor(self._initial, shape, seed)
        if "labeled_scores" in strategy_needs(self.strategy):
            check_image_size(dataset.image_size)
        journal = None if path is None else Journal(Path(path) / "labels.jsonl")
        self.pool = Pool(len(dataset), dataset.num_classes, journal)
        self._fitted: nn.Module | None = None
        self._eval_images: DeviceImages | None = None

    @property
    def n_labeled(self) -> int:
        """Number of labelled images."""
        return len(self.pool)

    @property
    def cycle(self) -> int:
        """Number of the present cycle: 0 once the initial labels are there, one more with each
        acquisition that was asked for after them."""
        return self.pool.cycle

    @property
    def model(self) -> nn.Module:
        """The model fitted last.

        Raises:
            AlhpoError: nothing was fitted yet.
        """
        if self._fitted is None:
            raise AlhpoError("No model was fitted yet: call fit(configuration) first.")
        return self._fitted

    def label_initial(self, n: int) -> Query:
        """Label ``n`` random images with the data set's own labels; the same seed takes the same
        images whatever the strategy. Where initial labels are there already (a run continued from
        its ``path``), they stay, and nothing is added.

        Raises:
            LabelError: the data set has no labels or fewer than ``n`` images.
        """
        self._need_truth()
        if not self.n_labeled:
            if not len(self.pool.pending):
                self.ask_initial(n)
            self.answer()
        return Query(tuple(self.pool.by_cycle().get(0, ())))

    def ask_initial(self, n: int) -> Query:
        """Choose ``n`` random images for the initial labels, to be answered with ``tell``."""
        candidates = self._candidates(n)
        chosen = numpy_generator(self.seed, "initial").choice(candidates, n, replace=False)
        probabilities = tuple(1 / (len(candidates) - draw) for draw in range(n))
        query = Query(tuple(int(i) for i in chosen), probabilities=probabilities)
        return self._asked(query, new_cycle=False)

    def ask(self, n: int) -> Query:
        """Choose ``n`` unlabelled images with the strategy and the model fitted last.

        Images that were asked for before and not answered yet are not chosen again.

        Args:
            n: how many, at most as many as are neither labelled nor asked for.

        Returns:
            Indices, scores and, where images came from files, their paths. Answer with ``tell``,
            in parts or late if need be.

        Raises:
            LabelError: ``n`` is below 1 or exceeds what is left of the pool.
            AlhpoError: the strategy needs a model and none was fitted.
        """
        candidates = self._candidates(n)
        step = self.cycle + 1
        looks = bool(strategy_needs(self.strategy))
        if looks and self._query_subset is not None and self._query_subset < len(candidates):
            size = max(self._query_subset, n)
            generator = numpy_generator(self.seed, "query subset", step)
            candidates = np.sort(generator.choice(candidates, size, replace=False))
        folder = None if self._path is None else self._path / "query" / f"cycle_{step - 1:03d}"
        outputs = self._outputs(candidates, folder, step)
        generator = numpy_generator(self.seed, "query", step)
        query = run_strategy(self.strategy, outputs, n, generator)
        if len(candidates) < len(self.pool.available):  # images outside the subset had no chance
            query = replace(query, probabilities=None)
        query = self._asked(query, new_cycle=True)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return query

    def tell(self, indices: Sequence[int], labels: Sequence[int]) -> None:
        """Record labels that people (or an oracle) gave; all, some, or late.

        Args:
            indices: pool indices.
            labels: the class of each, from 0.

        Raises:
            LabelError: an index or label that cannot be; nothing of the call is recorded then.
        """
        self.pool.tell(indices, labels, self.cycle)

    def query(self, n: int) -> Query:
        """``ask`` and answer with the data set's own labels: one simulated acquisition.

        Labels still waited for are answered too.

        Raises:
            LabelError: as ``ask``, or the data set has no labels.
        """
        self._need_truth()
        query = self.ask(n)
        self.answer()
        return query

    def answer(self) -> None:
        """Answer everything that is waited for with the data set's own labels.

        Raises:
            LabelError: the data set has no labels.
        """
        self._need_truth()
        assert self.dataset.labels is not None
        waited = self.pool.pending
        self.tell(waited.tolist(), self.dataset.labels[torch.from_numpy(waited)].tolist())

    def objective(
        self,
        max_epochs: int | None = None,
        *,
        space: str | CS.ConfigurationSpace | None = None,
        validation: str | ValidationScheme | None = None,
        metric: Metric | None = None,
        on_divergence: Divergence = "worst",
        measure_test: bool = False,
    ) -> Objective:
        """This cycle's training as a resumable objective with HPO4DL's contract.

        Args:
            max_epochs: epochs of a full training; by default the learner's. It becomes the length
                of later ``fit`` calls.
            space: instead of the learner's space.
            validation: instead of the learner's scheme.
            metric: instead of the learner's metric.
            on_divergence: metric of diverged training: "worst" (0) or "nan".
            measure_test: measure fully trained models on the evaluation split too, for the record
                alone: to judge validation by it, never to choose by it.

        Raises:
            ConfigurationError: too few labels for the scheme, no evaluation split to measure, no
                probabilities for ``acquisition:SCHEME``, or an illegal argument.
        """
        enable_on_numpy2()
        if max_epochs is not None:
            self.max_epochs = max_epochs
        test = self._evaluation_images() if measure_test else None
        if measure_test and test is None:
            raise ConfigurationError(
                f"measure_test is on, but data set {self.dataset.name!r} has no evaluation split. "
                "Give eval_images, or leave measure_test off."
            )
        task = self._task("objective")
        scheme = self.validation if validation is None else get_validation(validation)
        weights, selection = self._weights(scheme, task)
        return Objective(
            task,
            space=self.space if space is None else space,
            fixed=self.fixed,
            validation=scheme,
            weights=weights,
            selection=selection,
            metric=metric or self._metric,
            on_divergence=on_divergence,
            test=test,
        )

    def fit(
        self,
        configuration: Mapping[str, Any] | None = None,
        max_epochs: int | None = None,
        *,
        checkpoint_path: str | os.PathLike[str] | None = None,
        callback: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Train on all labels; the model is the one that ``ask`` and ``evaluate`` use.

        Args:
            configuration: hyperparameters over the fixed ones, such as a tuner's incumbent.
            max_epochs: by default the learner's, or what ``objective`` was given last.
            checkpoint_path: a folder from which an interrupted fit of the same labels and
                configuration is continued, and in which the fitted model is left. Another
                training's checkpoint there is replaced.
            callback: called with the number of epochs trained so far, after every epoch.

        Returns:
            How it does on the evaluation split (n = 0 and NaN where there is none).

        Raises:
            ConfigurationError: an illegal configuration, or no labels yet.
            DivergedError: the loss or the outputs became NaN or infinite; there is no fitted
                model then.
        """
        if max_epochs is not None:
            self.max_epochs = max_epochs
        hp = Hyperparameters.create(self.fixed, configuration or {})
        hp.check_epochs(self.max_epochs)
        task = self._task("fit")
        parts = [task.device_images(np.arange(len(task.labels)))]
        trainer = Trainer(task, hp, parts, "none")
        folder = None if checkpoint_path is None else Path(checkpoint_path)
        if folder is not None:
            try:
                trainer.load(folder)
            except CheckpointError:
                trainer = Trainer(task, hp, parts, "none")
        saved, last = trainer.epoch, time.monotonic()
        while trainer.epoch < self.max_epochs and not trainer.diverged:
            trainer.advance()
            if callback:
                callback(trainer.epoch)
            due = time.monotonic() - last > CHECKPOINT_SECONDS
            if folder is not None and (due or trainer.epoch == self.max_epochs):
                trainer.save(folder)
                saved, last = trainer.epoch, time.monotonic()
        if folder is not None and saved != trainer.epoch:
            trainer.save(folder)
        self._fitted = None
        if not trainer.diverged:
            self._fitted = trainer.models[0]
            result = self.evaluate()
            if result.n == 0 or math.isfinite(result.nll):
                return result
            self._fitted = None
        raise DivergedError(
            f"Training diverged (non-finite outputs by epoch {trainer.epoch}) with {hp!r}. "
            "Lower lr, or search lower rates."
        )

    def restore(self, checkpoint_path: str | os.PathLike[str]) -> None:
        """Take the fitted model from the ``checkpoint_path`` of an earlier ``fit`` or trial.

        Raises:
            CheckpointError: no checkpoint there, a damaged one, or another architecture's.
        """
        tensors, description = read_checkpoint(Path(checkpoint_path))
        spec = self._spec.identity()
        theirs = {n: v for n, v in description.get("model", {}).items() if n != "weights"}
        if theirs != spec:
            raise CheckpointError(
                f"The model in {checkpoint_path} was made for {theirs}, this learner's is {spec}."
            )
        if description["diverged"]:
            raise CheckpointError(f"The training in {checkpoint_path} diverged; it has no model.")
        model = copy.deepcopy(self._initial)
        start = "0.model."
        weights = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:  # one was trained with a head that predicts losses
            raise CheckpointError(
                f"The model in {checkpoint_path} was trained for another strategy: {error}"
            ) from error
        self._fitted = self.compute.place(model)

    def evaluate(self) -> Evaluation:
        """How the fitted model does on the evaluation split."""
        images = self._evaluation_images()
        return (
            Evaluation.nothing() if images is None else evaluate(self.model, images, self.compute)
        )

    def predict(self, indices: Sequence[int] | np.ndarray | None = None) -> PoolOutputs:
        """Logits and penultimate features of pool images under the fitted model.

        Args:
            indices: pool indices; all of the pool where None.
        """
        chosen = np.arange(len(self.dataset)) if indices is None else np.asarray(indices)
        return self._predicted(chosen, features=True)

    def import_queried_indices(self, path: str | os.PathLike[str]) -> None:
        """Take over a labelled pool in dal-toolbox's form, with the data set's own labels.

        Args:
            path: ``{"cycle0": [...], "cycle1": [...], ...}``; see ``Pool.export`` for the reverse.

        Raises:
            LabelError: another form, indices outside the pool, labels here already, or a data set
                without labels.
        """
        self._need_truth()
        if self.n_labeled:
            raise LabelError("The pool has labels already; import into a new learner.")
        assert self.dataset.labels is not None
        for cycle, indices in enumerate(read_queried_indices(Path(path))):
            self.pool.tell(indices, self.dataset.labels[torch.tensor(indices)].tolist(), cycle)

    def _weights(self, scheme: ValidationScheme, task: Task) -> tuple[np.ndarray | None, str]:
        """The weights of the labelled images by the scheme, and what they are derived from.

        Nothing of it depends on models that were fitted, so that a resumed run has the same; nor
        should it: a model tells the images it was trained on from others whatever their selection.
        """
        if not isinstance(scheme, WeightingScheme):
            return None, ""
        needs = frozenset(scheme.needs)
        if illegal := needs - SELECTION_NEEDS:
            raise ConfigurationError(
                f"Validation scheme {scheme.name!r} needs {sorted(map(str, illegal))}. Legal: "
                f"{', '.join(sorted(SELECTION_NEEDS))}."
            )
        selection, identity = Selection(len(self.dataset)), hashlib.sha256()
        identity.update(str(selection.pool_size).encode())
        if "probabilities" in needs:
            draws, probabilities = self._draws(scheme.name)
            selection = replace(selection, draws=draws, probabilities=probabilities)
            identity.update(draws.tobytes() + probabilities.tobytes())
        if "features" in needs:
            others = np.setdiff1d(np.arange(len(self.dataset)), self.pool.labeled)
            if len(others) > REFERENCE_SIZE:
                generator = numpy_generator(task.seed, "reference")
                others = np.sort(generator.choice(others, REFERENCE_SIZE, replace=False))
            images = self.dataset.images[torch.from_numpy(others)]
            identity.update(images.contiguous().numpy().tobytes())
            labeled, unlabeled = self._selection_features(task.images, images)
            selection = replace(selection, labeled_features=labeled, unlabeled_features=unlabeled)
        weights = scheme.weights(selection, numpy_generator(task.seed, "weights", scheme.name))
        weights = np.asarray(weights, dtype=np.float64)
        if weights.shape != (self.n_labeled,):
            raise ConfigurationError(
                f"Validation scheme {scheme.name!r} gave weights of shape {weights.shape} for "
                f"{self.n_labeled} labelled images; expected is one for each."
            )
        return weights, identity.hexdigest()[:16]

    def _selection_features(
        self, labeled: torch.Tensor, unlabeled: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features of a pretrained initial model, or of the pixels where there is none."""
        if not self._spec.pretrained or not len(unlabeled):
            return pixel_features(labeled, unlabeled)
        model = self.compute.place(copy.deepcopy(self._initial))
        found = []
        for images in (labeled, unlabeled):
            hidden = predict(model, self._images(images, None), self.compute)[1]
            assert hidden is not None
            found.append(hidden.float().cpu().numpy())
        return found[0], found[1]

    def _draws(self, scheme: str) -> tuple[np.ndarray, np.ndarray]:
        """(L,) number and probability of the draw of each labelled image."""
        known, labeled = self.pool.draws, self.pool.labeled.tolist()
        advice = (
            "The strategies that draw with known probabilities are random and albl with random "
            "among its arms, without query_subset; after others, use weighted:SCHEME."
        )
        missing = [index for index in labeled if known.get(index) is None]
        if missing:
            raise ConfigurationError(
                f"Validation by {scheme} needs the probability with which each labelled image was "
                f"drawn; {len(missing)} of {len(labeled)} have none on record. {advice}"
            )
        if len(known) > len(labeled):
            raise ConfigurationError(
                f"Validation by {scheme} needs the labels of all images that were drawn; "
                f"{len(known) - len(labeled)} are still waited for. Tell them first."
            )
        number = {index: draw for draw, index in enumerate(known, start=1)}
        draws = np.array([number[index] for index in labeled], dtype=np.int64)
        return draws, np.array([known[index] for index in labeled], dtype=np.float64)

    def _evaluation_images(self) -> DeviceImages | None:
        if self._eval_images is None and len(self.dataset.eval_images):
            self._eval_images = self._images(self.dataset.eval_images, self.dataset.eval_labels)
        return self._eval_images

    def _input_format(
        self, size: tuple[int, int] | None, settings: Mapping[str, Any]
    ) -> InputFormat:
        if self._spec.pretrained and len(settings.get("mean", ())) == self.dataset.channels:
            mean, std = tuple(settings["mean"]), tuple(settings["std"])
        else:
            mean, std = self.dataset.channel_statistics()
        return InputFormat(mean, std, size, self.compute.channels_last)

    def _task(self, purpose: str) -> Task:
        if not self.n_labeled:
            raise ConfigurationError(
                "Nothing is labelled yet: label_initial(n) or tell(...) first."
            )
        if self.max_epochs < 1:
            raise ConfigurationError(f"max_epochs is {self.max_epochs}; at least 1 is needed.")
        indices = torch.from_numpy(self.pool.labeled)
        template = self._initial
        if self._start == "warm" and self._fitted is not None:
            template = self._fitted
        return Task(
            images=self.dataset.images[indices],
            labels=torch.from_numpy(self.pool.labels),
            template=template,
            model=self._spec.identity(),
            form=self._form,
            compute=self.compute,
            max_epochs=self.max_epochs,
            seed=derive_seed(self.seed, purpose, self.n_labeled),
            augmentation=self.dataset.augmentation,
        )

    def _images(self, images: torch.Tensor, labels: torch.Tensor | None) -> DeviceImages:
        return DeviceImages(images, labels, self._form, self.compute.device)

    def _predicted(self, indices: np.ndarray, *, features: bool) -> PoolOutputs:
        chosen = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        images = self._images(self.dataset.images[chosen], None)
        with predicted_losses(self.model) as losses:
            logits, hidden = predict(self.model, images, self.compute, features=features)
        predicted = torch.cat(losses) if losses else None
        return PoolOutputs(chosen, logits, hidden, predicted_losses=predicted)

    def _outputs(self, candidates: np.ndarray, folder: Path | None, step: int) -> PoolOutputs:
        """What the strategy needs of the candidates and of the labelled images, and nothing else.

        Each of the two sets is run through the model once, at most.
        """
        needs = strategy_needs(self.strategy)
        rows, labeled = torch.from_numpy(candidates), torch.from_numpy(self.pool.labeled)
        outputs: dict[str, Any] = {
            "labels": torch.from_numpy(self.pool.labels),
            "labeled_indices": labeled,
            "state": self.pool.state(strategy_name(self.strategy)),
        }
        if needs & {"logits", "features", "passes", "predicted_losses"}:
            features = bool(needs & {"features", "passes"})
            predicted = self._predicted(candidates, features=features)
            outputs |= {
                "logits": predicted.logits,
                "features": predicted.features,
                "predicted_losses": predicted.predicted_losses,
            }
            if "passes" in needs:
                assert predicted.features is not None
                outputs["passes"] = self._passes(predicted.features, step)
        if needs & {"labeled_logits", "labeled_features"}:
            features = "labeled_features" in needs
            predicted = self._predicted(self.pool.labeled, features=features)
            outputs["labeled_logits"] = predicted.logits
            outputs["labeled_features"] = predicted.features
        if "labeled_scores" in needs:
            outputs["labeled_scores"] = self._labeled_scores(candidates, folder)
        if "images" in needs:
            outputs["images"] = self.dataset.images[rows]
        if "labeled_images" in needs:
            outputs["labeled_images"] = self.dataset.images[labeled]
        return PoolOutputs(
            rows, **{name: value for name, value in outputs.items() if name in needs}
        )

    def _passes(self, features: torch.Tensor, step: int) -> DropoutPasses:
        check_dropout(self.strategy, self._spec.dropout)
        generator = torch_generator(self.seed, "dropout passes", step)
        keep = keep_masks(self._mc_passes, features.shape[1], self._spec.dropout, generator)
        return DropoutPasses(features, classifier(self.model), keep, self._spec.dropout)

    def _labeled_scores(self, candidates: np.ndarray, folder: Path | None) -> torch.Tensor:
        """What a discriminator trained for this query says of the candidates."""
        images = self.dataset.images
        training = Discrimination(
            labeled=images[torch.from_numpy(self.pool.labeled)],
            unlabeled=images[torch.from_numpy(candidates)],
            form=replace(self._form, size=None),
            compute=self.compute,
            epochs=self._vaal_epochs,
            seed=derive_seed(self.seed, "labeled scores", self.cycle),
        )
        return training.scores(folder)

    def _candidates(self, n: int) -> np.ndarray:
        available = self.pool.available
        if not 1 <= n <= len(available):
            raise LabelError(
                f"{n} images were asked for; {len(available)} are left of the pool of "
                f"{self.pool.size} ({self.n_labeled} labelled, {len(self.pool.pending)} waited "
                "for)."
            )
        return available

    def _asked(self, query: Query, *, new_cycle: bool) -> Query:
        cycle = self.cycle + 1 if new_cycle else self.cycle
        owner = strategy_name(self.strategy)
        self.pool.ask(
            query.indices,
            cycle,
            state=query.state,
            strategy=owner,
            probabilities=query.probabilities,
        )
        paths = self.dataset.paths
        return (
            query if paths is None else replace(query, paths=tuple(paths[i] for i in query.indices))
        )

    def _need_truth(self) -> None:
        if self.dataset.labels is None:
            raise LabelError(
                f"Data set {self.dataset.name!r} has no labels to simulate with: use ask() and "
                "tell()."
            )
