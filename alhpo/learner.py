"""``ActiveLearner``: the state of one active-learning run, one cycle at a time."""

from __future__ import annotations

import inspect
import math
import operator
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ConfigSpace as CS
import numpy as np
import pydantic
import torch

from alhpo.base.errors import (
    AlhpoError,
    ConfigurationError,
    DataError,
    DivergedError,
    LabelError,
)
from alhpo.base.files import Journal
from alhpo.base.formats import claim_format
from alhpo.base.protocols import Strategy, ValidationScheme
from alhpo.base.seeding import derive_seed, numpy_generator
from alhpo.base.types import Evaluation, PoolOutputs, Query
from alhpo.data.batches import DeviceRows, InputFormat
from alhpo.data.dataset import ImageDataset
from alhpo.data.pool import Pool, read_queried_indices
from alhpo.hyperparameters import TrainingHyperparameters, check_space, load_space
from alhpo.models.timm_models import Init, ModelSpec
from alhpo.outputs.adversarial import check_image_size
from alhpo.outputs.held_out import held_out_logits
from alhpo.outputs.initial import initial_outputs
from alhpo.outputs.oracle import check_oracle, retrained
from alhpo.outputs.pool_outputs import OutputSettings, pool_outputs, predicted_outputs
from alhpo.outputs.strategy_search import SearchLength, StrategySearch, search_recipe
from alhpo.strategies import (
    check_dropout,
    check_initial,
    get_strategy,
    needs_model,
    run_strategy,
    strategy_name,
    strategy_needs,
)
from alhpo.training.compute import Compute, Precision
from alhpo.training.evaluation import evaluate
from alhpo.training.final_fit import fit_identity, fitted_model, saved_model
from alhpo.training.inputs import ModelInputs, model_inputs
from alhpo.training.objective import Divergence, Metric, Objective, check_metric
from alhpo.training.recipes import get_recipe
from alhpo.training.recipes.recipe import Recipe, refuse_unsuitable
from alhpo.training.selection_features import selection_features
from alhpo.training.trainer import Task
from alhpo.tuning.arguments import flag, whole_number
from alhpo.validation import get_validation
from alhpo.validation.selection import validation_weights

Start = Literal["cold", "warm"]


class FittedParts(NamedTuple):
    """A fitted model and what it needs to be used.

    Attributes:
        model: the model.
        recipe: its recipe.
        spec: settings of the network.
        form: how images become input of a network that takes images.
        hyperparameters: those that it was fitted with.
        max_epochs: the epochs of the fit.
    """

    model: Any
    recipe: Recipe
    spec: ModelSpec
    form: InputFormat
    hyperparameters: TrainingHyperparameters
    max_epochs: int


class ActiveLearner:
    """Active learning in your own loop: label, tune, fit, query, and again.

    Args:
        dataset: the pool and the evaluation split.
        model: name of a timm model; None for "resnet18", or the recipe's.
        strategy: name of a query strategy, or a function with the signature of
            ``alhpo.base.protocols.Strategy``.
        seed: seed of the run; every random stream is derived from it.
        hyperparameters: fixed hyperparameters; the others have their defaults.
        space: the space that ``objective`` searches: "paper", "hpo4dl", "head", "finetune",
            "architecture", a file, or a ConfigSpace space; None for "paper", or the recipe's.
        validation: the validation scheme, such as "holdout:0.2" (the default of most recipes) or
            "kfold:5" (of "frozen") or "holdout:0.2x3" (of "finetune").
        metric: the metric of the objective: "accuracy" (the default of most recipes),
            "balanced-accuracy", "macro-f1" or "likelihood" (the default of "frozen" and
            "finetune").
        max_epochs: epochs of a full training, unless a call gives others; by default 27, for
            "frozen" 200, for "finetune" 30.
        start: "cold" restarts every training from the same initial weights; "warm" from the model
            fitted before.
        recipe: what is trained: "network" is the whole model; "frozen" is a head on features of
            the pretrained model; "finetune" is the pretrained model from a layer group on;
            "architecture" is a residual network whose ``blocks`` and ``stacks`` are
            hyperparameters. For a strategy that needs predicted losses, "network" becomes
            "learning-loss".
        pretrained: start from timm's pretrained weights, from the hub.
        weights: start from these weights: a file of a state dict (.safetensors, .pth, .pt, .bin),
            or the name of an installed source, such as "efficientnet-lite0".
        init: random initial weights: "timm" (timm's own) or "torch" (PyTorch's defaults for every
            layer).
        cifar_stem: 3x3 stride-1 stem without max-pool; None uses it below 64 pixels.
        input_size: side in pixels to which images are resized on the device; None keeps their size.
        dropout: probability with which each feature is dropped before the classifier (timm's
            ``drop_rate``), in training and in the passes that strategies such as "bald" need.
        train_dropout: whether features are dropped in training; without it, in the passes only.
        mc_passes: number of these passes.
        query_subset: number of unlabelled images that the strategy chooses from, drawn at random
            for every query; None for all. Strategies that need no outputs ("random") choose from
            all.
        initial: strategy that chooses the initial labels, before any training: "random", or one
            that looks at features only, such as "typiclust", "maxherding" or "centroids". The
            features are those of the pretrained network (``pretrained``, ``weights``), else the
            pixels, averaged down to at most 16 a side.
        vaal_epochs: epochs, over the candidates, for which VAAL trains its networks at each query.
        autoal_fit_epochs: epochs, over half of the labels, for which AutoAL trains FitNet at each
            query; None for those of the latest fit.
        autoal_search_epochs: epochs, over the other half, for which it then trains SearchNet and
            FitNet in turns; None for twice those of the latest fit.
        autoal_cycles: how often it does so at each query, with other halves of the labels.
        device: "auto" or a torch device.
        precision: "auto", "float32" or "bfloat16".
        path: folder in which every label is recorded at once, with the identity of its image. A
            record that is there already is continued, also if images came, went or were renamed;
            several processes may share it. None keeps the labels in memory only.

    Raises:
        ConfigurationError: an argument that cannot be used; raised before any work.
        FormatError: ``path`` holds a record in another version's format.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        model: str | None = None,
        strategy: str | Strategy = "badge",
        *,
        seed: int = 0,
        hyperparameters: Mapping[str, Any] | None = None,
        space: str | CS.ConfigurationSpace | None = None,
        validation: str | ValidationScheme | None = None,
        metric: Metric | None = None,
        max_epochs: int | None = None,
        start: Start = "cold",
        recipe: str = "network",
        pretrained: bool = False,
        weights: str | os.PathLike[str] | None = None,
        init: Init = "timm",
        cifar_stem: bool | None = None,
        input_size: int | None = None,
        dropout: float = 0.0,
        train_dropout: bool = True,
        mc_passes: int = 100,
        query_subset: int | None = None,
        initial: str | Strategy = "random",
        vaal_epochs: int = 10,
        autoal_fit_epochs: int | None = None,
        autoal_search_epochs: int | None = None,
        autoal_cycles: int = 1,
        device: str = "auto",
        precision: Precision = "auto",
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.strategy = get_strategy(strategy)
        needs = strategy_needs(self.strategy)
        make_recipe = get_recipe(recipe, needs)
        given = {
            "model": model,
            "space": space,
            "validation": validation,
            "metric": metric,
            "max_epochs": max_epochs,
        }
        chosen = {
            **TrainingHyperparameters.run_defaults,
            **make_recipe.hyperparameters.run_defaults,
        }
        chosen |= {name: value for name, value in given.items() if value is not None}
        self.space = load_space(chosen["space"], make_recipe.hyperparameters)
        self.validation = get_validation(chosen["validation"])
        self.fixed = dict(hyperparameters or {})
        self.max_epochs = whole_number("max_epochs", chosen["max_epochs"], 1)
        if start not in ("cold", "warm"):
            raise ConfigurationError(f"start is {start!r}. Legal: cold, warm.")
        make_recipe.hyperparameters.check_start(start)
        if query_subset is not None:
            query_subset = whole_number("query_subset", query_subset, 1)
        vaal_epochs = whole_number("vaal_epochs", vaal_epochs, 1)
        mc_passes = whole_number("mc_passes", mc_passes, 1)
        for name, epochs in (
            ("autoal_fit_epochs", autoal_fit_epochs),
            ("autoal_search_epochs", autoal_search_epochs),
        ):
            if epochs is not None:
                whole_number(name, epochs, 1)
        self._autoal = autoal_fit_epochs, autoal_search_epochs, autoal_cycles
        whole_number("autoal_cycles", autoal_cycles, 1)
        check_dropout(self.strategy, dropout)
        check_oracle(self.strategy, dataset)
        check_initial(initial)
        make_recipe.hyperparameters.create(self.fixed).check_epochs(self.max_epochs)
        check_metric(chosen["metric"])
        self._metric: Metric = chosen["metric"]
        self._start = start
        self._query_subset = query_subset
        self._initial = get_strategy(initial)
        self._path = None if path is None else Path(path)
        self._spec = ModelSpec(
            chosen["model"],
            dataset.num_classes,
            dataset.channels,
            dataset.image_size,
            pretrained,
            None if weights is None else os.fspath(weights),
            cifar_stem,
            input_size,
            dropout,
            init,
            flag("train_dropout", train_dropout),
        )
        self._make_recipe = make_recipe
        self._recipe = make_recipe(self._spec, seed)
        refuse_unsuitable(self._recipe, make_recipe.hyperparameters.create(self.fixed))
        if "strategy_weights" in needs:
            self._search_recipe(self.strategy)  # refuse now what cannot be trained
        size = self._recipe.input_size
        self.compute = Compute.resolve(device, precision, max(size or dataset.image_size))
        mean, std = self._recipe.input_statistics or dataset.channel_statistics()
        self._form = InputFormat(mean, std, size, self.compute.channels_last)
        self._outputs = OutputSettings(
            self._form, self.compute, dropout, mc_passes, vaal_epochs, seed
        )
        if "labeled_scores" in needs:
            check_image_size(dataset.image_size)
        journal = None
        if self._path is not None:
            claim_format(self._path)
            journal = Journal(self._path / "labels.jsonl")
        self.pool = Pool(dataset.identities, dataset.classes, journal, paths=dataset.paths)
        _warn_of_missing(self.pool)
        self._prepared: ModelInputs | None = None
        self._fitted: Any = None
        #: Hyperparameters and epochs of the last fit.
        self._fitted_with: tuple[TrainingHyperparameters, int] | None = None
        self._evaluation: DeviceRows | None = None

    @classmethod
    def of(
        cls, settings: pydantic.BaseModel, dataset: ImageDataset, **arguments: Any
    ) -> ActiveLearner:
        """Make a learner from the settings of a run or a tuning.

        Args:
            settings: fields with the name of a constructor argument are passed on.
            dataset: the pool and the evaluation split.
            arguments: further constructor arguments; they replace those from ``settings``.

        Raises:
            ConfigurationError: an argument that cannot be used.
        """
        names = type(settings).model_fields.keys() & inspect.signature(cls).parameters.keys()
        given = {name: getattr(settings, name) for name in names - {"dataset"}}
        return cls(dataset, **given | arguments)

    @property
    def n_labeled(self) -> int:
        """Number of labelled images."""
        return len(self.pool)

    @property
    def cycle(self) -> int:
        """Number of the current cycle: 0 with the initial labels, one more with each query."""
        return self.pool.cycle

    @property
    def model(self) -> Any:
        """The model of the last fit; a torch module for the recipes of alhpo.

        Raises:
            AlhpoError: no model was fitted yet.
        """
        if self._fitted is None:
            raise AlhpoError("No model was fitted yet. Call fit(configuration) first.")
        return self._fitted

    @property
    def fitted(self) -> bool:
        """Whether there is a fitted model, which did not diverge."""
        return self._fitted is not None

    def label_initial(self, n: int) -> Query:
        """Label ``n`` images with the data set's own labels: random ones, or chosen by ``initial``.

        They are the same for every strategy of the queries. If there are labels already, as
        with a record in ``path``, nothing is added.

        Args:
            n: number of images, at least 1.

        Returns:
            The images that have initial labels.

        Raises:
            LabelError: the data set has no labels or fewer than ``n`` images, or ``n`` is not an
                integer.
        """
        self._need_truth()
        n = _whole_number(n)
        with self.pool.locked():
            if not self.n_labeled:
                if not len(self.pool.pending):
                    self.ask_initial(n)
                self.answer()
        return Query(tuple(self.pool.by_cycle().get(0, ())))

    def ask_initial(self, n: int) -> Query:
        """Choose ``n`` images for the initial labels: random ones, or by the strategy ``initial``.
        Answer with ``tell``.

        Raises:
            LabelError: fewer than ``n`` images are left, or ``n`` is not an integer.
        """
        with self.pool.locked():
            return self._ask_initial(_whole_number(n))

    def _ask_initial(self, n: int) -> Query:
        candidates = self._candidates(n)
        generator = numpy_generator(self.seed, "initial")
        if self._initial is get_strategy("random"):
            chosen = generator.choice(candidates, n, replace=False)
            probabilities = tuple(1 / (len(candidates) - draw) for draw in range(n))
            query = Query(tuple(int(i) for i in chosen), probabilities=probabilities)
            return self._asked(query, self.cycle)
        outputs = initial_outputs(
            self._subset(candidates, n, self.cycle),
            self.dataset,
            lambda: self._inputs,
            self._recipe if self._spec.starts_pretrained else None,
            self._recipe.hyperparameters.create(self.fixed),
            self.max_epochs,
            self._outputs,
        )
        query = run_strategy(self._initial, outputs, n, generator)
        return self._asked(query, self.cycle, strategy_name(self._initial))

    def ask(self, n: int, *, strategy: str | Strategy | None = None) -> Query:
        """Choose ``n`` unlabelled images with the strategy and the model of the last fit.

        Images that were asked for and not answered yet are not chosen again.

        Args:
            n: number of images, at most those that are neither labelled nor asked for.
            strategy: a strategy for this query; None uses the learner's.

        Returns:
            Indices, scores and, for images from files, their paths. Answer with ``tell``, in parts
            or late if need be.

        Raises:
            LabelError: ``n`` is not an integer, is below 1, or exceeds what is left of the pool.
            ConfigurationError: a strategy that cannot be used here.
            AlhpoError: the strategy needs a model and none was fitted.
            DivergedError: the model's outputs are not finite, or what the strategy trains diverged.
                ``strategy="random"`` needs neither.
        """
        chooser = self.strategy if strategy is None else get_strategy(strategy)
        check_dropout(chooser, self._outputs.dropout)
        check_oracle(chooser, self.dataset)
        with self.pool.locked():  # to the end, so that no other process asks for the same images
            return self._ask(_whole_number(n), chooser)

    def _ask(self, n: int, chooser: Strategy) -> Query:
        candidates = self._candidates(n)
        step = self.cycle + 1
        needs = strategy_needs(chooser)
        if needs:
            candidates = self._subset(candidates, n, step)
        folder = None if self._path is None else self._path / "query" / f"cycle_{self.cycle:03d}"
        outputs = pool_outputs(
            needs,
            candidates,
            self.dataset,
            lambda: self._inputs,
            self.pool.labeled,
            self.pool.labels,
            self._recipe,
            self.model if needs_model(chooser) else None,
            self._outputs,
            cycle=self.cycle,
            state=self.pool.state(strategy_name(chooser)),
            folder=folder,
            retrain=self._retrained,
            held_out=lambda: self.held_out()[:2],
            search=lambda: self._strategy_search(chooser, n, candidates).weights(folder),
        )
        generator = numpy_generator(self.seed, "query", step)
        query = run_strategy(chooser, outputs, n, generator)
        if len(candidates) < len(self.pool.available):  # images outside the subset had no chance
            query = replace(query, probabilities=None)
        query = self._asked(query, self.cycle + 1, strategy_name(chooser))
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return query

    def tell(self, indices: Sequence[int], labels: Sequence[int | str]) -> None:
        """Record labels, all or some of those that were asked for.

        Args:
            indices: pool indices.
            labels: the class of each image, by number (from 0) or name.

        Raises:
            LabelError: an illegal index or label; then nothing of the call is recorded.
        """
        self.pool.tell(indices, labels, self.cycle)

    def query(self, n: int, *, strategy: str | Strategy | None = None) -> Query:
        """Simulate one query: ``ask``, then answer with the data set's own labels.

        Earlier questions that are still open are answered too.

        Args:
            n: number of images, as for ``ask``.
            strategy: a strategy for this query; None uses the learner's.

        Returns:
            As ``ask``.

        Raises:
            LabelError: the data set has no labels; else as ``ask``, with its other errors.
        """
        self._need_truth()
        query = self.ask(n, strategy=strategy)
        self.answer()
        return query

    def answer(self) -> None:
        """Answer all open questions with the data set's own labels.

        Raises:
            LabelError: the data set has no labels.
        """
        self._need_truth()
        assert self.dataset.labels is not None
        with self.pool.locked():
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
            max_epochs: epochs of a full training; None takes the learner's. Give ``fit`` the same,
                so that the final model is trained as long as the trials.
            space: a space for this objective; None takes the learner's.
            validation: a validation scheme for this objective; None takes the learner's.
            metric: a metric for this objective; None takes the learner's.
            on_divergence: metric of diverged training: "worst" (0) or "nan".
            measure_test: also measure fully trained models on the evaluation split. The scores are
                recorded, and no choice depends on them.

        Raises:
            ConfigurationError: too few labels for the scheme, no evaluation split to measure, no
                probabilities for ``acquisition:SCHEME``, or an illegal argument.
        """
        test = self._evaluation_images() if measure_test else None
        if measure_test and test is None:
            raise ConfigurationError(
                f"measure_test is on, but data set {self.dataset.name!r} has no evaluation split. "
                "Give eval_images, or leave measure_test off."
            )
        task = self._task("objective", max_epochs=max_epochs)
        scheme = self.validation if validation is None else get_validation(validation)
        weights, selection = validation_weights(
            scheme, self._inputs.pool, self.pool, task.seed, self._selection_features
        )
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
        """Train a model on all labels. ``ask``, ``evaluate`` and ``predict`` then use it.

        Args:
            configuration: hyperparameters that replace fixed ones, such as a tuner's incumbent.
            max_epochs: epochs of this fit; None takes the learner's.
            checkpoint_path: folder of the fit's checkpoint. An interrupted fit with the same labels
                and configuration is continued; the checkpoint of another training is replaced.
            callback: called after every epoch with the number of epochs trained so far.

        Returns:
            Scores on the evaluation split; n = 0 and NaN if there is none.

        Raises:
            ConfigurationError: an illegal configuration, or no labels yet.
            DivergedError: the loss or the outputs became NaN or infinite; then there is no fitted
                model.
        """
        hp = self._recipe.hyperparameters.create(self.fixed, configuration or {})
        task = self._task("fit", max_epochs=max_epochs)
        hp.check_epochs(task.max_epochs)
        folder = None if checkpoint_path is None else Path(checkpoint_path)
        self._fitted, epochs = fitted_model(task, hp, folder, callback)
        self._fitted_with = hp, task.max_epochs
        if self._fitted is not None:
            result = self.evaluate()
            if result.n == 0 or math.isfinite(result.nll):
                return result
            self._fitted = None
        raise DivergedError(
            f"Training diverged (non-finite outputs by epoch {epochs}) with {hp!r}. Lower lr, or "
            "search a space with lower learning rates.",
            epochs,
        )

    def restore(
        self,
        checkpoint_path: str | os.PathLike[str],
        *,
        configuration: Mapping[str, Any] | None = None,
        n_labeled: int | None = None,
    ) -> None:
        """Load the fitted model from the ``checkpoint_path`` of an earlier ``fit`` or trial.

        A fit must be complete. A trial gives the model of its first validation split, at the epoch
        that the trial reached.

        Args:
            checkpoint_path: the folder.
            configuration: hyperparameters that replace fixed ones. If given, the checkpoint must be
                of a ``fit`` with these hyperparameters and the learner's ``max_epochs``.
            n_labeled: only with ``configuration``: the fit must be on the first ``n_labeled``
                labels; None for all labels.

        Raises:
            CheckpointError: the checkpoint is missing or damaged, or is of an interrupted fit, of
                another architecture, or of another fit.
        """
        expected: dict[str, Any] = {}
        if configuration is not None:
            task = self._task("fit", n_labeled=n_labeled)
            hp = self._recipe.hyperparameters.create(self.fixed, configuration)
            expected = fit_identity(task, hp)
        saved = saved_model(Path(checkpoint_path), self._recipe, self.compute, expected)
        self._fitted, hp, epochs = saved
        self._fitted_with = hp, epochs

    def evaluate(self) -> Evaluation:
        """Scores of the fitted model on the evaluation split; n = 0 and NaN if there is none.

        Raises:
            AlhpoError: no model was fitted yet.
        """
        images = self._evaluation_images()
        if images is None:
            return Evaluation.nothing()
        return evaluate(self._recipe, self.model, images, self.compute)

    def predict(self, indices: Sequence[int] | np.ndarray | None = None) -> PoolOutputs:
        """Outputs of the fitted model for pool images.

        Args:
            indices: (N,) pool indices; None for the whole pool.

        Returns:
            (N, C) logits, (N, D) penultimate features and what else the recipe predicts.

        Raises:
            AlhpoError: no model was fitted yet.
        """
        chosen = np.arange(len(self.dataset)) if indices is None else np.asarray(indices)
        return predicted_outputs(self._recipe, self.model, self._inputs, chosen, self._outputs)

    def fitted_parts(self) -> FittedParts:
        """What the fitted model consists of, to be kept elsewhere.

        Raises:
            AlhpoError: no model was fitted yet.
        """
        model = self.model
        assert self._fitted_with is not None
        hp, max_epochs = self._fitted_with
        return FittedParts(model, self._recipe, self._spec, self._form, hp, max_epochs)

    def predict_images(self, dataset: ImageDataset) -> PoolOutputs:
        """Outputs of the fitted model for the pool of another data set, such as new images.

        Args:
            dataset: images of the same size and colours; its labels and classes play no part.

        Returns:
            As ``predict``.

        Raises:
            AlhpoError: no model was fitted yet.
            DataError: images of another shape.
        """
        if dataset.images.shape[1:] != self.dataset.images.shape[1:]:
            raise DataError(
                f"The images of {dataset.name!r} have shape {tuple(dataset.images.shape[1:])}; "
                f"expected {tuple(self.dataset.images.shape[1:])}, as the model was trained on."
            )
        inputs = model_inputs(self._recipe, dataset, self._form, self.compute)
        every = np.arange(len(dataset))
        return predicted_outputs(self._recipe, self.model, inputs, every, self._outputs)

    def held_out(
        self, validation: str | ValidationScheme | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Predictions for labelled images by models that were not trained on them: those of the
        validation splits, with the configuration and for the epochs of the last fit.

        Args:
            validation: the scheme that splits the labels; None takes the learner's.

        Returns:
            (V, C) float32 logits, (V,) int64 labels and (V,) pool indices, split after split;
            without rows if there are too few labels to split.

        Raises:
            AlhpoError: no model was fitted yet.
            DivergedError: a training diverged.
        """
        if self._fitted_with is None:
            raise AlhpoError("No model was fitted yet. Call fit(configuration) first.")
        hp, max_epochs = self._fitted_with
        task = replace(self._task("objective", max_epochs=max_epochs), recipe=self._recipe)
        scheme = self.validation if validation is None else get_validation(validation)
        logits, labels, places = held_out_logits(task, hp, scheme, self.dataset.num_classes)
        return logits, labels, self.pool.labeled[places]

    def import_queried_indices(self, path: str | os.PathLike[str]) -> None:
        """Import a labelled pool in dal-toolbox's form, with the data set's own labels.

        Args:
            path: JSON file ``{"cycle0": [...], "cycle1": [...], ...}``; ``Pool.export`` writes it.

        Raises:
            LabelError: another form, indices outside the pool or given twice, a pool with labels,
                or a data set without labels; then nothing is imported.
        """
        self._need_truth()
        if self.n_labeled:
            raise LabelError("The pool has labels already. Import into a new learner.")
        assert self.dataset.labels is not None
        for cycle, indices in enumerate(read_queried_indices(Path(path), len(self.dataset))):
            self.pool.tell(
                indices,
                self.dataset.labels[torch.tensor(indices, dtype=torch.int64)].tolist(),
                cycle,
            )

    def _selection_features(
        self, labeled: torch.Tensor, unlabeled: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features of the pretrained model; without pretrained weights, of the pixels."""
        return selection_features(
            labeled,
            unlabeled,
            self._recipe if self._spec.starts_pretrained else None,
            self._recipe.hyperparameters.create(self.fixed),
            self.max_epochs,
            self._form,
            self.compute,
        )

    def check_space(self) -> None:
        """Refuse a space that cannot be searched on the images of this data set.

        Raises:
            ConfigurationError: the message names the hyperparameter and what is legal.
        """
        legal = self._recipe.hyperparameters
        check_space(self.space, self.fixed, legal, partial(refuse_unsuitable, self._recipe))

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compute now what the first training would compute before it begins: for a recipe with a
        frozen network, the features of all images, as far as they are not in the cache.

        Args:
            progress: called with the number of images done, and of those to do.

        Raises:
            DataError: features that are not finite.
        """
        self._prepared = model_inputs(
            self._recipe, self.dataset, self._form, self.compute, progress
        )

    @property
    def _inputs(self) -> ModelInputs:
        if self._prepared is None:
            self.prepare()
        assert self._prepared is not None
        return self._prepared

    def _evaluation_images(self) -> DeviceRows | None:
        if self._evaluation is None and len(self.dataset.eval_images):
            inputs = self._inputs
            self._evaluation = inputs.form.on_device(
                inputs.evaluation[:], self.dataset.eval_labels, self.compute.device
            )
        return self._evaluation

    def _task(
        self, purpose: str, *, max_epochs: int | None = None, n_labeled: int | None = None
    ) -> Task:
        """A training on the first ``n_labeled`` labels (None: all) for ``max_epochs`` epochs (None:
        the learner's)."""
        if not self.n_labeled:
            raise ConfigurationError(
                "Nothing is labelled yet. Call label_initial(n) or tell(...) first."
            )
        epochs = self.max_epochs if max_epochs is None else max_epochs
        indices = torch.from_numpy(self.pool.labeled[:n_labeled])
        recipe = self._recipe
        if self._start == "warm" and self._fitted is not None:
            recipe = recipe.from_model(self._fitted)
        return Task(
            inputs=self._inputs.pool[indices],
            labels=torch.from_numpy(self.pool.labels[:n_labeled]),
            recipe=recipe,
            form=self._inputs.form,
            compute=self.compute,
            max_epochs=whole_number("max_epochs", epochs, 1),
            seed=derive_seed(self.seed, purpose, len(indices)),
            augmentation=self.dataset.augmentation,
        )

    def _search_recipe(self, strategy: Strategy) -> Recipe:
        """The recipe of the network that weighs the strategies that a strategy asks."""
        return search_recipe(self._make_recipe, self._spec, len(_arms(strategy)), self.seed)

    def _strategy_search(
        self, strategy: Strategy, n: int, candidates: np.ndarray
    ) -> StrategySearch:
        """The training behind ``PoolOutputs.strategy_weights``."""
        assert self._fitted_with is not None  # there is a model
        hp, epochs = self._fitted_with
        fit_epochs, search_epochs, cycles = self._autoal
        return StrategySearch(
            arms=_arms(strategy),
            n=n,
            cycle=self.cycle,
            dataset=self.dataset,
            inputs=self._inputs,
            indices=self.pool.labeled,
            labels=self.pool.labels,
            candidates=candidates,
            recipe=self._recipe,
            searching=self._search_recipe(strategy),
            spec=self._spec,
            hp=hp,
            length=SearchLength(fit_epochs or epochs, search_epochs or 2 * epochs, cycles),
            settings=self._outputs,
        )

    def _retrained(
        self, batches: Sequence[Sequence[int]], max_epochs: int | None = None
    ) -> list[Evaluation]:
        """``PoolOutputs.retrain``."""
        images = self._evaluation_images()
        assert images is not None  # check_oracle
        assert self._fitted_with is not None  # there is a model
        hp, most = self._fitted_with
        epochs = most if max_epochs is None else min(max_epochs, most)
        task = replace(self._task("retrain", max_epochs=epochs), recipe=self._recipe)
        labeled = torch.from_numpy(self.pool.labeled)
        return retrained(task, hp, self.dataset, self._inputs, labeled, batches, images)

    def _subset(self, candidates: np.ndarray, n: int, step: int) -> np.ndarray:
        """Candidates, at least ``n``, that a strategy chooses from (``query_subset``)."""
        if self._query_subset is None or self._query_subset >= len(candidates):
            return candidates
        size = max(self._query_subset, n)
        generator = numpy_generator(self.seed, "query subset", step)
        return np.sort(generator.choice(candidates, size, replace=False))

    def _candidates(self, n: int) -> np.ndarray:
        available = self.pool.available
        if not 1 <= n <= len(available):
            raise LabelError(
                f"{n} images were asked for; expected is a number from 1 to what is available, and "
                f"{len(available)} are. The pool has {self.pool.size} images: {self.n_labeled} "
                f"labelled, {len(self.pool.pending)} waited for."
            )
        return available

    def _asked(self, query: Query, cycle: int, strategy: str = "") -> Query:
        self.pool.ask(
            query.indices,
            cycle,
            state=query.state,
            strategy=strategy,
            probabilities=query.probabilities,
        )
        paths = self.dataset.paths
        return (
            query if paths is None else replace(query, paths=tuple(paths[i] for i in query.indices))
        )

    def _need_truth(self) -> None:
        if self.dataset.labels is None:
            raise LabelError(
                f"Data set {self.dataset.name!r} has no labels to simulate with. Use ask() and "
                "tell()."
            )


def _arms(strategy: Strategy) -> Mapping[str, Strategy]:
    arms: Mapping[str, Strategy] = getattr(strategy, "arms", {})
    if not arms:
        raise ConfigurationError(
            f"Strategy {strategy_name(strategy)!r} needs strategy_weights, but has no strategies "
            "to weigh; expected them as its attribute arms, by name."
        )
    return arms


def _warn_of_missing(pool: Pool) -> None:
    """Say which images of a record are not in the pool. Their labels stay in the record."""
    if pool.missing:
        image, path = next(iter(pool.missing.items()))
        warnings.warn(
            f"{len(pool.missing)} images that were labelled or asked for are not in the data set "
            f"now, such as {path or image}: they were removed or changed. Their labels are kept.",
            stacklevel=3,
        )


def _whole_number(n: int) -> int:
    """A number of images as an int."""
    try:
        if isinstance(n, bool | np.bool_):
            raise TypeError
        return operator.index(n)
    except TypeError:
        raise LabelError(
            f"{n!r} images were asked for; expected is a whole number, such as 10."
        ) from None
