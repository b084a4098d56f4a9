"""The resumable objective: the training of one cycle behind HPO4DL's contract."""

from __future__ import annotations

import gc
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from alhpo.base.errors import CheckpointError, ConfigurationError
from alhpo.base.files import content_hash
from alhpo.base.metrics import VALIDATED, Metric, metric_of
from alhpo.base.protocols import ValidationScheme
from alhpo.base.schema import unknown_name
from alhpo.base.seeding import numpy_generator
from alhpo.base.types import Evaluation
from alhpo.data.batches import DeviceRows
from alhpo.hyperparameters import TrainingHyperparameters, check_space, check_warmup, load_space
from alhpo.training.checkpoints import FILE_NAME
from alhpo.training.compute import gpu_memory
from alhpo.training.evaluation import ImageScores, evaluate, score_images
from alhpo.training.image_scores import KEY, Gain, gain_between, packed_scores, unpacked_scores
from alhpo.training.lanes import CAPTURING
from alhpo.training.recipes.recipe import refuse_unsuitable
from alhpo.training.trainer import Task, Trainer, advance_together
from alhpo.tuning.failures import is_out_of_memory
from alhpo.tuning.processes.deferred import Deferred
from alhpo.validation import unweighted
from alhpo.validation.weights import effective_size

if TYPE_CHECKING:
    import ConfigSpace as CS

Divergence = Literal["worst", "nan"]

#: Memory for the models of recent trials, so that an epoch needs no reading; the checkpoint is
#: written in any case before a result is returned. Where memory is short they are let go of, and
#: the epochs trained once more from the checkpoint.
LIVE_BYTES = 2**30


#: Where checkpoints may lag, seconds of training between two of a trial, in seconds of writing one.
LAG = 20


#: The arguments of a call of an objective.
Request = tuple[Mapping[str, Any], int, int, "str | os.PathLike[str]"]


@dataclass(frozen=True)
class _Prepared:
    """A trial in memory, the epoch to reach, and the folder of its checkpoint."""

    trainer: Trainer
    epoch: int
    folder: Path


def check_metric(metric: str) -> None:
    """Refuse an unknown metric.

    Raises:
        ConfigurationError: the message lists the legal metrics.
    """
    if metric not in get_args(Metric):
        raise unknown_name("metric", str(metric), get_args(Metric))


class Objective:
    """``objective(configuration, epoch, previous_epoch, checkpoint_path) -> list[dict]``.

    HPO4DL's ``Tuner`` and ``alhpo.Tuner`` maximise it: the mean validation metric of models trained
    on the labelled images, epoch by epoch, resumable at every epoch. ``ActiveLearner.objective``
    makes it.

    Args:
        task: the labelled images, the recipe and the length of training.
        space: the space to search. A configuration must have every hyperparameter of the space
            that has no condition.
        fixed: values of hyperparameters outside the space; the others have their defaults.
        validation: the scheme that splits the labelled images.
        metric: "accuracy"; "balanced-accuracy" or "macro-f1", in which all classes count equally;
            or "likelihood", exp(-NLL), which is finer on few images. It is of the means over the
            splits, in [0, 1]; higher is better.
        on_divergence: metric of diverged training: "worst" is 0, "nan" is NaN.
        weights: (L,) weights of the labelled images, for a weighted scheme. They are divided by
            their sum over each validation part.
        selection: identity of what the weights depend on.
        test: images on which fully trained models are also measured, for the record.

    Attributes:
        max_epochs: the epoch at which a configuration is fully trained.

    Raises:
        ConfigurationError: a space or fixed hyperparameter that cannot be trained, or too few
            labels for the validation scheme.
    """

    #: Checkpoint files are replaced by renaming, never written in place.
    replaces_files = True
    #: Whether a checkpoint may be of an earlier epoch than its trial; see ``let_checkpoints_lag``.
    checkpoints_lag = False
    #: Whether rows hold the score of every validation image, for ``gain``.
    keeps_image_scores = False

    def __init__(
        self,
        task: Task,
        *,
        space: str | CS.ConfigurationSpace = "paper",
        fixed: Mapping[str, Any] | None = None,
        validation: ValidationScheme,
        metric: Metric = "accuracy",
        on_divergence: Divergence = "worst",
        weights: np.ndarray | None = None,
        selection: str = "",
        test: DeviceRows | None = None,
    ) -> None:
        check_metric(metric)
        if on_divergence not in ("worst", "nan"):
            raise unknown_name("on_divergence", str(on_divergence), ("worst", "nan"))
        self._legal = legal = task.recipe.hyperparameters
        self._space = Deferred(load_space(space, legal))  # training needs no ConfigSpace
        self.max_epochs = task.max_epochs
        self._fixed = dict(fixed or {})
        suitable = partial(refuse_unsuitable, task.recipe)
        check_space(self.configuration_space, self._fixed, legal, suitable)
        self._task = task
        self._metric: Metric = metric
        self._worst = 0.0 if on_divergence == "worst" else math.nan
        self._test = test
        self._scheme = validation.name
        self._required = _unconditional(self.configuration_space)
        check_warmup(self.configuration_space, self._fixed, self.max_epochs, legal)
        splitting = unweighted(validation)  # weights keep the splits
        generator = numpy_generator(task.seed, "validation", splitting.name)
        splits = validation.splits(task.labels.numpy(), generator)
        self._training = [task.device_images(train) for train, _ in splits]
        self._weights = None
        self._sizes: list[float] = []
        if weights is not None:
            parts = [weights[held_out] for _, held_out in splits]
            _check_weights(weights, parts, self._scheme)
            self._sizes = [effective_size(part) for part in parts]
            device = task.compute.device
            self._weights = [torch.from_numpy(part).double().to(device) for part in parts]
        self._selection = selection
        self._validation = [task.device_images(held_out) for _, held_out in splits]
        self._held_out = np.concatenate([held_out for _, held_out in splits])
        #: Trainer, signature of the checkpoint, and bytes, of each trial in memory.
        self._live: OrderedDict[str, tuple[Trainer, tuple[int, ...], int]] = OrderedDict()
        #: Seconds that each of them was trained since its checkpoint was written.
        self._unsaved: dict[str, float] = {}
        self._seconds_to_write = 0.0

    @property
    def identity(self) -> str:
        """A hash of everything that results depend on; tuners name their folders by it."""
        values = {
            **self._task.identity,
            "augmentation": self._task.augmentation,
            "validation": self._scheme,
            "metric": self._metric,
            "worst": repr(self._worst),
            "fixed": self._fixed,
        }
        if self._weights is not None:
            values["selection"] = self._selection
        if self._test is not None:  # without it, identities stay as they were before this option
            values["test"] = self._test.digest
        return content_hash(values)

    def hyperparameters(self, configuration: Mapping[str, Any]) -> TrainingHyperparameters:
        """All hyperparameters of a configuration, including fixed ones and defaults.

        Raises:
            ConfigurationError: an unknown name, an illegal value, or a missing name of the space.
        """
        hp = self._legal.create(self._fixed, configuration)
        missing = [name for name in self._required if name not in configuration]
        if missing:
            raise ConfigurationError(
                f"The configuration lacks {', '.join(missing)}; it has "
                f"{', '.join(configuration) or 'nothing'}. Required: {', '.join(self._required)}. "
                "Legal besides: "
                f"{', '.join(n for n in self._legal.model_fields if n not in self._required)}."
            )
        hp.check_epochs(self.max_epochs)
        return hp

    def __call__(
        self,
        configuration: Mapping[str, Any],
        epoch: int,
        previous_epoch: int,
        checkpoint_path: str | os.PathLike[str],
    ) -> list[dict[str, Any]]:
        """Train a trial from ``previous_epoch`` to ``epoch``.

        Args:
            configuration: hyperparameter names and values.
            epoch: the epoch to reach, at most ``max_epochs``.
            previous_epoch: the epoch reached before; 0 starts the trial.
            checkpoint_path: a folder of this trial alone; made if missing.

        Returns:
            One dict per epoch trained: ``epoch``, ``metric``, the scores ``accuracy``,
            ``balanced_accuracy``, ``macro_f1`` and ``nll`` (means over the splits), ``train_loss``,
            ``split_accuracy`` and ``diverged``. After divergence, the scores and ``train_loss`` are
            None. With weights, the scores are weighted, and the dict also has them unweighted, with
            names that end in ``_unweighted``, and ``effective_size``: the mean over the splits of
            (Σ w)² / Σ w². With ``test``, the dict of epoch ``max_epochs`` also has those on the
            test images, with names that begin with ``test_``.

        Raises:
            ConfigurationError: an illegal configuration or pair of epochs.
            CheckpointError: the checkpoint is missing or truncated, or is of another configuration,
                labelled set, model, validation scheme or epoch.
        """
        request = (configuration, epoch, previous_epoch, checkpoint_path)
        try:
            return self._trained([self._prepared(*request)])[0]
        except Exception as error:
            if not (self._live and is_out_of_memory(error)):
                raise
        # outside the except block, where the exception no longer holds the model in memory
        self.release_memory()
        return self._trained([self._prepared(*request)])[0]

    @property
    def train_together(self) -> Callable[[Sequence[Request]], list[Any]] | None:
        """Trains several trials at once; None if the recipe trains its models one by one.

        It takes a sequence of the arguments of a call, each of another trial, and returns what each
        call would return, bit by bit, or the exception that it would raise.
        """
        return None if self._task.together is None else self._train_together

    @property
    def in_processes(self) -> bool:
        """Whether ``alhpo.Tuner(parallel=N)`` trains N trials in processes: on the CPU, unless the
        recipe trains its models together in one."""
        return self._task.together is None and self._task.compute.device.type == "cpu"

    def _train_together(self, requests: Sequence[Request]) -> list[Any]:
        results: list[Any] = [None] * len(requests)
        ready: dict[int, _Prepared] = {}
        for number, request in enumerate(requests):
            try:
                ready[number] = self._prepared(*request)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                results[number] = error
        for number, rows in zip(ready, self._trained(list(ready.values())), strict=True):
            results[number] = rows
        return results

    def let_checkpoints_lag(self) -> None:
        """Write fewer checkpoints if steps are captured: an epoch then takes less time than its
        checkpoint, 90 MB for a ResNet-18.

        The checkpoint of a trial in memory is written when its training since the last one took 20
        times as long as writing one takes. A new process trains the epochs in between again, with
        the same results. For callers that need checkpoints only to go on with a trial.
        """
        self.checkpoints_lag = self._task.compute.captured

    def gain(self, row: Mapping[str, Any], over: Mapping[str, Any]) -> Gain:
        """How much better the configuration of one row predicts the validation images than that of
        another, image by image.

        Where the metric is balanced accuracy or macro-F1, all classes count equally. With weights,
        the images have these weights.

        Args:
            row, over: rows of this objective, or of another one on the same labelled images with
                the same splits, without divergence, trained with ``keeps_image_scores``.
        """
        weights = np.concatenate([self._weights_of(n) for n in range(len(self._validation))])
        ours, theirs = unpacked_scores(row[KEY]), unpacked_scores(over[KEY])
        return gain_between(ours, theirs, self._held_out, weights)

    def _weights_of(self, split: int) -> np.ndarray:
        """Weights of the validation images of a split, for their mean."""
        labels = self._validation[split].own_labels.cpu().numpy()
        weights = np.ones(len(labels))
        if self._weights is not None:
            weights = self._weights[split].cpu().numpy()
        if self._metric in ("balanced-accuracy", "macro-f1"):
            of_class = np.bincount(labels, weights)[labels]
            weights = weights / np.where(of_class > 0, of_class, 1)
        return weights / weights.sum()

    def release_memory(self) -> None:
        """Drop the models of recent trials from memory; their checkpoints are on disk."""
        while self._live:
            self._drop(next(iter(self._live)))
        gc.collect()
        if torch.cuda.is_available():
            with CAPTURING:
                torch.cuda.empty_cache()

    @property
    def configuration_space(self) -> CS.ConfigurationSpace:
        """The space, for the tuner."""
        return self._space.value

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_live": OrderedDict(), "_unsaved": {}}

    def _prepared(
        self,
        configuration: Mapping[str, Any],
        epoch: int,
        previous_epoch: int,
        checkpoint_path: str | os.PathLike[str],
    ) -> _Prepared:
        hp = self.hyperparameters(configuration)
        if not 0 <= previous_epoch < epoch <= self.max_epochs:
            raise ConfigurationError(
                f"Cannot train from epoch {previous_epoch} to {epoch}: "
                f"0 <= previous_epoch < epoch <= max_epochs={self.max_epochs} must hold."
            )
        folder = Path(checkpoint_path)
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(
                f"checkpoint_path is {str(folder)!r}, a file; expected is a folder. Give "
                "another path."
            )
        return _Prepared(self._trainer(hp, previous_epoch, folder), epoch, folder)

    def _trained(self, trials: Sequence[_Prepared]) -> list[list[dict[str, Any]]]:
        """Train trials side by side and save them; the rows of each."""
        rows: list[list[dict[str, Any]]] = [[] for _ in trials]
        start = time.monotonic()
        while behind := [n for n, one in enumerate(trials) if one.trainer.epoch < one.epoch]:
            losses = advance_together([trials[n].trainer for n in behind])
            for number, loss in zip(behind, losses, strict=True):
                rows[number].append(self._row(trials[number].trainer, loss))
        seconds = (time.monotonic() - start) / max(len(trials), 1)
        for one in trials:
            self._keep(one.folder, one.trainer, seconds)
        return rows

    def _row(self, trainer: Trainer, loss: float) -> dict[str, Any]:
        results: list[Evaluation] = []
        unweighted: list[Evaluation] = []
        scores: list[ImageScores] = []
        if not trainer.diverged:
            scores = [
                score_images(self._task.recipe, model, images, self._task.compute)
                for model, images in zip(trainer.models, self._validation, strict=True)
            ]
            unweighted = results = [score.mean() for score in scores]
            if self._weights is not None:
                pairs = zip(scores, self._weights, strict=True)
                results = [score.mean(weights) for score, weights in pairs]
            trainer.diverged = not all(math.isfinite(one.nll) for one in (*results, *unweighted))
        if trainer.diverged:
            results, unweighted = [], []
        means = _means(results)
        return {
            "epoch": trainer.epoch,
            "metric": metric_of(means, self._metric) if results else self._worst,
            **means,
            "train_loss": None if trainer.diverged else loss,
            "split_accuracy": [result.accuracy for result in results],
            "diverged": trainer.diverged,
            **self._unweighted(unweighted),
            **self._tested(trainer),
            **self._by_image(scores if results else []),
        }

    def _by_image(self, scores: list[ImageScores]) -> dict[str, str]:
        if not (scores and self.keeps_image_scores):
            return {}
        return {KEY: packed_scores(scores, self._metric)}

    def _unweighted(self, results: list[Evaluation]) -> dict[str, float | None]:
        if self._weights is None:
            return {}
        means = {f"{name}_unweighted": mean for name, mean in _means(results).items()}
        return means | {"effective_size": sum(self._sizes) / len(self._sizes)}

    def _tested(self, trainer: Trainer) -> dict[str, float | None]:
        """Test scores of a fully trained trial; None if training diverged or outputs are not
        finite."""
        if self._test is None or trainer.epoch < self.max_epochs:
            return {}
        results: list[Evaluation] = []
        if not trainer.diverged:
            task, test = self._task, self._test
            results = [evaluate(task.recipe, model, test, task.compute) for model in trainer.models]
        if not all(math.isfinite(result.nll) for result in results):
            results = []
        return {f"test_{name}": mean for name, mean in _means(results).items()}

    def _trainer(self, hp: TrainingHyperparameters, previous_epoch: int, folder: Path) -> Trainer:
        live = self._live.pop(str(folder.resolve()), None)
        at = (_signature(folder), hp, previous_epoch)
        if live and (live[1], live[0].hp, live[0].epoch) == at:
            trainer = live[0]
        else:
            trainer = Trainer(self._task, hp, self._training, self._scheme)
            # where checkpoints lag, perhaps none was written yet: all epochs are trained again
            if previous_epoch > 0 and (_signature(folder) or not self.checkpoints_lag):
                trainer.load(folder)
        if self.checkpoints_lag:
            while trainer.epoch < previous_epoch and not trainer.diverged:
                advance_together([trainer])
        if trainer.epoch != previous_epoch:
            raise CheckpointError(
                f"The checkpoint in {folder} is of epoch {trainer.epoch}; expected is "
                f"previous_epoch={previous_epoch}. Give the epoch that the trial reached."
            )
        return trainer

    def _keep(self, folder: Path, trainer: Trainer, seconds: float) -> None:
        """Keep a trial in memory and write its checkpoint, at the latest when it is dropped.

        Args:
            folder: of the checkpoint.
            trainer: of the trial.
            seconds: since it was kept before.
        """
        name = str(folder.resolve())
        self._unsaved[name] = self._unsaved.get(name, 0.0) + seconds
        if not self.checkpoints_lag or trainer.diverged:
            self._save(name, trainer)
        elif trainer.epoch == self.max_epochs:  # nobody goes on with it
            del self._unsaved[name]
        elif self._unsaved[name] >= LAG * self._seconds_to_write:
            self._save(name, trainer)
        self._live[name] = (trainer, _signature(folder), trainer.nbytes)
        budget = _live_bytes(self._task.compute.device)
        for path in reversed(list(self._live)):
            budget -= self._live[path][2]
            if budget < 0:
                self._drop(path)

    def _save(self, name: str, trainer: Trainer) -> None:
        start = time.monotonic()
        trainer.save(Path(name))
        self._seconds_to_write = time.monotonic() - start
        self._unsaved.pop(name, None)

    def _drop(self, name: str) -> None:
        trainer, _, _ = self._live.pop(name)
        if name in self._unsaved:
            self._save(name, trainer)


def _live_bytes(device: torch.device) -> int:
    """Memory for models of recent trials; what a GPU has is there for them."""
    if device.type != "cuda":
        return LIVE_BYTES
    return max(int(gpu_memory(device) / 3), LIVE_BYTES)


def _means(results: list[Evaluation]) -> dict[str, Any]:
    """Mean scores over the splits by name; None without results."""
    if not results:
        return dict.fromkeys(VALIDATED)
    every = [result.scores for result in results]
    return {name: sum(one[name] for one in every) / len(every) for name in VALIDATED}


def _check_weights(weights: np.ndarray, parts: list[np.ndarray], scheme: str) -> None:
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ConfigurationError(
            f"Validation by {scheme} gave weights that are negative or not finite: {weights}. Use "
            "a scheme without weights."
        )
    empty = [number for number, part in enumerate(parts) if not part.sum() > 0]
    if empty:
        raise ConfigurationError(
            f"Validation by {scheme} gave all images of validation split {empty[0]} weight 0. Hold "
            "out more images, or use a scheme without weights."
        )


def _signature(folder: Path) -> tuple[int, ...]:
    """Identity of the checkpoint file; models in memory are used only while it is the same."""
    try:
        status = (folder / FILE_NAME).stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _unconditional(space: CS.ConfigurationSpace) -> list[str]:
    older = getattr(space, "get_all_unconditional_hyperparameters", None)  # ConfigSpace < 1
    free = set(older() if older else space.unconditional_hyperparameters)  # pyright: ignore[reportAttributeAccessIssue]
    return [hp.name for hp in space.values() if hp.name in free]
