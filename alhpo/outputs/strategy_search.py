"""Weights of strategies for each candidate, from two networks that play labelling (AutoAL).

Wang et al., AutoAL: Automated Active Learning with Differentiable Query Strategy Search (ICML
2025). docs/autoal.md tells what was chosen where the paper and its code differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from alhpo.base.digests import digest
from alhpo.base.errors import CheckpointError, ConfigurationError, DivergedError
from alhpo.base.protocols import Strategy
from alhpo.base.seeding import Key, derive_seed, isolated_torch_rng, numpy_generator
from alhpo.data.batches import DeviceImages, DeviceRows
from alhpo.data.dataset import ImageDataset
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.models.timm_models import ModelSpec
from alhpo.outputs.pool_outputs import OutputSettings, pool_outputs
from alhpo.outputs.soft_selection import (
    COMPONENTS,
    PENALTY,
    TEMPERATURE,
    fit_loss,
    search_loss,
    soft_selection,
    strategy_scores,
)
from alhpo.strategies import strategy_needs
from alhpo.strategies.autoal import choices
from alhpo.training.checkpoints import (
    read_checkpoint,
    restore_training,
    training_tensors,
    write_checkpoint,
)
from alhpo.training.compute import Compute
from alhpo.training.inputs import ModelInputs
from alhpo.training.loss_prediction import HEAD, add_loss_predictor, predicted_losses, ranking_loss
from alhpo.training.recipes.recipe import KeepsActivations, Recipe, RecipeFactory

#: Learning rates of FitNet (Adam), SearchNet and its head that predicts losses (SGD).
FIT_RATE, SEARCH_RATE, HEAD_RATE = 0.005, 0.005, 0.1
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
#: Largest number of images in a step, and of their pixels.
BATCH, BATCH_PIXELS = 1000, 2**20
#: Fewest labels: two in each half, which batch norm needs.
FEWEST = 4
#: Seconds between checkpoints.
CHECKPOINT_SECONDS = 30.0


@dataclass(frozen=True)
class SearchLength:
    """How long the networks are trained.

    Attributes:
        fit_epochs: passes of FitNet over the first half of the labels.
        search_epochs: passes of both networks in turns over the second half.
        cycles: how often this is done, each time with other halves and a new FitNet.
    """

    fit_epochs: int
    search_epochs: int
    cycles: int = 1

    @property
    def passes(self) -> int:
        """Number of passes in all."""
        return self.cycles * (self.fit_epochs + self.search_epochs)


def search_recipe(make: RecipeFactory, spec: ModelSpec, arms: int, seed: int) -> Recipe:
    """The recipe of SearchNet: the task's, with an output for each strategy and no dropout.

    Args:
        make: makes the recipe of the task.
        spec: the task's model.
        arms: K, the number of strategies.
        seed: seed of the run.

    Raises:
        ConfigurationError: a recipe that trains a part of its network only, or whose models are no
            torch modules; or a network without stages, from which losses can be predicted.
    """
    recipe = make(
        replace(spec, num_classes=arms, dropout=0.0), derive_seed(seed, "autoal", "SearchNet")
    )
    if isinstance(recipe, KeepsActivations):
        raise ConfigurationError(
            "Strategy 'autoal' trains networks of its own like the model, which the recipe "
            "'finetune' does not offer. Use recipe network or frozen, or the strategy 'votes'."
        )
    _search_net(recipe, spec, recipe.hyperparameters.create().resolved("none"), 1, seed)
    return recipe


@dataclass(frozen=True)
class StrategySearch:
    """The training for one query.

    Attributes:
        arms: the K strategies by name.
        n: number of images of the query.
        cycle: number of the current cycle; it names the random streams.
        dataset: the data set.
        inputs: the data set as the networks take it.
        indices: (M,) pool indices of the labelled images, at least 4.
        labels: (M,) int64, their classes.
        candidates: (N,) int64, pool indices.
        recipe: the task's recipe, for FitNet.
        searching: that of SearchNet, from ``search_recipe``.
        spec: the task's model.
        hp: the task's hyperparameters, which may decide the shape of the networks.
        length: how long the networks are trained.
        settings: of what the arms look at; device, precision and seed.
    """

    arms: Mapping[str, Strategy]
    n: int
    cycle: int
    dataset: ImageDataset
    inputs: ModelInputs
    indices: np.ndarray
    labels: np.ndarray
    candidates: np.ndarray
    recipe: Recipe
    searching: Recipe
    spec: ModelSpec
    hp: TrainingHyperparameters
    length: SearchLength
    settings: OutputSettings

    def weights(
        self, folder: Path | None = None, callback: Callable[[int], None] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Train both networks, and weigh the strategies for every candidate.

        Args:
            folder: folder of a checkpoint, written every 30 seconds. The same training is continued
                from it exactly; the checkpoint of another training is replaced. None: no
                checkpoint.
            callback: called after every pass with the number of passes so far.

        Returns:
            (N, K) float32 weights, and what happened: ``wanted`` and ``selected``, the number of
            images to select of the second half and those selected in the first and the last pass
            that trained SearchNet; the mean losses ``fit_loss`` of FitNet before the search and
            ``search_loss`` of SearchNet's last pass; and ``diverged``. After divergence all
            weights are 1/K.

        Raises:
            ConfigurationError: fewer than 4 labels.
        """
        if len(self.indices) < FEWEST:
            raise ConfigurationError(
                f"Strategy 'autoal' splits the labels into two halves, and there are "
                f"{len(self.indices)}; expected at least {FEWEST}. Label more first."
            )
        pair = _Networks(self)
        if folder is not None:
            try:
                pair.load(folder)
            except CheckpointError:
                pair = _Networks(self)
        last = time.monotonic()
        try:
            while pair.passes < self.length.passes:
                pair.advance()
                if callback:
                    callback(pair.passes)
                if folder is not None and time.monotonic() - last > CHECKPOINT_SECONDS:
                    pair.save(folder)
                    last = time.monotonic()
            return pair.weights(), pair.told | {"diverged": False}
        except DivergedError:
            equal = torch.full((len(self.candidates), len(self.arms)), 1 / len(self.arms))
            return equal, pair.told | {"diverged": True}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the weights depend on, apart from the candidates."""
        labeled = self.inputs.pool[torch.from_numpy(self.indices)]
        return {
            "labeled": digest(labeled, self.indices, self.labels),
            "networks": [self.recipe.weights, self.searching.weights, dict(self.recipe.identity)],
            "hyperparameters": self.resolved.model_dump(),
            "arms": list(self.arms),
            "query": [self.n, len(self.dataset)],
            "outputs": [self.settings.dropout, self.settings.mc_passes],
            "length": [self.length.fit_epochs, self.length.search_epochs, self.length.cycles],
            "seed": self.seed,
            "precision": self.compute.precision,
            "form": self.inputs.form.identity,
            "settings": [
                *(FIT_RATE, SEARCH_RATE, HEAD_RATE, MOMENTUM, WEIGHT_DECAY, BATCH, BATCH_PIXELS),
                *(TEMPERATURE, COMPONENTS, PENALTY),
            ],
        }

    @cached_property
    def seed(self) -> int:
        """Seed of every random stream."""
        return derive_seed(self.settings.seed, "autoal", self.cycle)

    @cached_property
    def resolved(self) -> TrainingHyperparameters:
        """The hyperparameters, with "auto" resolved."""
        return self.hp.resolved(self.dataset.augmentation)

    @property
    def compute(self) -> Compute:
        """Device and precision, without captured steps."""
        return replace(self.settings.compute, captured=False)


class _Networks:
    """FitNet, SearchNet, their optimizers, and the number of passes so far."""

    def __init__(self, task: StrategySearch) -> None:
        self.passes = 0
        self.told: dict[str, Any] = {}
        self._task = task
        epochs = task.length.search_epochs
        seed = task.settings.seed
        search = _search_net(task.searching, task.spec, task.resolved, epochs, seed)
        self.search = task.compute.place(search)
        head = getattr(self.search, HEAD, None)
        own = [] if head is None else list(head.parameters())
        rest = [p for p in self.search.parameters() if not any(p is one for one in own)]
        groups: list[dict[str, Any]] = [{"params": rest}]
        if own:
            groups.append({"params": own, "lr": HEAD_RATE})
        self._search_steps = torch.optim.SGD(
            groups, lr=SEARCH_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        self._labels = torch.from_numpy(task.labels).to(task.compute.device)
        self._begin(0)

    def advance(self) -> None:
        """One pass: of FitNet over the first half, or of one network over the second.

        Raises:
            DivergedError: a loss is not finite, or what the arms look at.
        """
        length = self._task.length
        cycle, step = divmod(self.passes, length.fit_epochs + length.search_epochs)
        if step == 0 and cycle:
            self._begin(cycle)
        if step < length.fit_epochs:
            loss = self._fit_first_half(cycle, step)
            self.told["fit_loss"] = _finite(loss)
        else:
            if step == length.fit_epochs:
                self._ask_arms(cycle)
            self._search_pass(cycle, step - length.fit_epochs)
        self.passes += 1

    def weights(self) -> torch.Tensor:
        """(N, K) weights of the candidates.

        Raises:
            DivergedError: they are not finite.
        """
        task = self._task
        candidates = torch.from_numpy(task.candidates)
        blocks = task.inputs.form.in_blocks(task.inputs.pool, candidates, task.compute.device)
        logits = torch.cat([self._said(self.search, inputs) for inputs, _ in blocks.blocks()])
        if not bool(logits.isfinite().all()):
            raise DivergedError("SearchNet's outputs are not finite.")
        return logits.softmax(dim=1)

    def _begin(self, cycle: int) -> None:
        """New halves and a new FitNet."""
        task = self._task
        order = numpy_generator(task.seed, "halves", cycle).permutation(len(task.indices))
        half = len(order) // 2
        self._first, second = np.sort(order[:half]), order[half:]
        self._second = second[np.argsort(task.indices[second])]
        fit = task.recipe.start(task.resolved, task.length.fit_epochs, task.compute).model
        self.fit: nn.Module = fit
        self._fit_steps = torch.optim.Adam(fit.parameters(), FIT_RATE, weight_decay=WEIGHT_DECAY)
        self._chosen = torch.zeros(len(order), len(task.arms), dtype=torch.bool)

    def _fit_first_half(self, cycle: int, epoch: int) -> torch.Tensor:
        """A pass of FitNet with the mean cross-entropy."""
        task, total = self._task, torch.zeros((), device=self._task.compute.device)
        key: tuple[Key, ...] = (task.seed, "FitNet", cycle, epoch)
        steps = 0
        self.fit.train()
        with isolated_torch_rng(task.compute.device, *key):
            for inputs, _, rows in self._batches(self._first, *key):
                loss = self._losses(self._says(self.fit, inputs), rows).mean()
                _step(self._fit_steps, loss)
                total += loss.detach()
                steps += 1
        return total / steps

    def _ask_arms(self, cycle: int) -> None:
        """Let every arm choose from the second half, by what FitNet says of it."""
        task = self._task
        pool = pool_outputs(
            frozenset[str]().union(*map(strategy_needs, task.arms.values())),
            task.indices[self._second],
            task.dataset,
            lambda: task.inputs,
            task.indices[self._first],
            task.labels[self._first],
            task.recipe,
            self.fit,
            task.settings,
            cycle=task.cycle,
        )
        generators = {name: numpy_generator(task.seed, "arm", cycle, name) for name in task.arms}
        chosen = choices(task.arms, pool, self._wanted, generators)
        self._chosen[torch.from_numpy(self._second)] = chosen

    @property
    def _wanted(self) -> int:
        """The number of images that an arm chooses of the second half."""
        share = self._task.n / len(self._task.dataset)
        return min(len(self._second), max(2, math.ceil(share * len(self._second))))

    def _search_pass(self, cycle: int, epoch: int) -> None:
        """A pass over the second half, in which the role of the networks depends on the epoch."""
        task, role = self._task, epoch % 3
        if role == 2 and not hasattr(self.search, HEAD):
            return
        key: tuple[Key, ...] = (task.seed, "search", cycle, epoch)
        trained, judge = (self.fit, self.search) if role == 0 else (self.search, self.fit)
        trained.train()
        selected, total, steps = 0.0, torch.zeros((), device=task.compute.device), 0
        with isolated_torch_rng(task.compute.device, *key):
            for inputs, plain, rows in self._batches(self._second, *key):
                chosen = self._chosen[rows.cpu()].to(rows.device)
                wanted = max(1, round(self._wanted * len(rows) / len(self._second)))
                said = self._said(judge, plain)
                if role == 2:
                    loss = self._ranking_step(inputs, said, rows)
                elif not bool(chosen.any()):
                    continue
                elif role == 0:
                    selection = soft_selection(strategy_scores(said, chosen), chosen, wanted)
                    losses = self._losses(self._says(self.fit, inputs), rows)
                    loss = fit_loss(selection, losses)
                    _step(self._fit_steps, loss)
                else:
                    scores = strategy_scores(self._says(self.search, inputs), chosen)
                    selection = soft_selection(scores, chosen, wanted)
                    loss = search_loss(selection, self._losses(said, rows), wanted)
                    _step(self._search_steps, loss)
                    selected += float(selection.detach().sum())
                total += loss.detach()
                steps += 1
        value = _finite(total) / max(steps, 1)
        if role == 1:
            first = self.told.get("selected", [selected])[0]
            wanted = self._wanted
            self.told |= {"wanted": wanted, "selected": [first, selected], "search_loss": value}

    def _ranking_step(
        self, inputs: torch.Tensor, said: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """A step of SearchNet and its head that predicts FitNet's losses, ranked in pairs."""
        with predicted_losses(self.search) as predictions:
            self._says(self.search, inputs)
        loss = ranking_loss(predictions[0], self._losses(said, rows))
        _step(self._search_steps, loss)
        return loss

    def _batches(
        self, positions: np.ndarray, *key: Key
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Shuffled batches of labelled images: augmented, as they are, and their (B,) positions.

        The positions are the labels of the batches, so that one index moves all that belongs to an
        image.
        """
        images = self._on_device.part(torch.from_numpy(positions))
        if not isinstance(images, DeviceImages):  # features, which are not augmented
            size = _even(len(positions), BATCH)
            yield from ((inputs, inputs, rows) for inputs, rows in images.epoch(size, "none", *key))
            return
        pixels = math.prod(images.form.size or images.values.shape[1:3])
        size = _even(len(positions), min(BATCH, max(32, BATCH_PIXELS // pixels)))
        augmentation = getattr(self._task.resolved, "augmentation", "none")
        plan = images.plan(size, augmentation, *key)
        for step in range(plan.steps):
            parts = [part[step] for part in plan.parts]
            inputs, rows = images.batch(plan.source, *parts)
            yield inputs, images.batch(images.values, parts[0])[0], rows

    @cached_property
    def _on_device(self) -> DeviceRows:
        """All labelled images; their labels are their positions."""
        task = self._task
        rows = task.inputs.pool[torch.from_numpy(task.indices)]
        return task.inputs.form.on_device(rows, torch.arange(len(rows)), task.compute.device)

    def _says(self, network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """(B, ·) logits, with gradients."""
        with self._task.compute.autocast():
            return network(inputs).float()

    def _said(self, network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """(B, ·) logits in evaluation mode, without gradients."""
        network.eval()
        with torch.no_grad():
            return self._says(network, inputs)

    def _losses(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, self._labels[rows], reduction="none")

    @property
    def _trainings(self) -> list[tuple[str, nn.Module, torch.optim.Optimizer]]:
        return [
            ("fit.", self.fit, self._fit_steps),
            ("search.", self.search, self._search_steps),
        ]

    def save(self, folder: Path) -> None:
        tensors = {"chosen": self._chosen.to(torch.uint8)}
        for training in self._trainings:
            tensors |= training_tensors(*training)
        state = {"passes": self.passes, "told": self.told}
        write_checkpoint(folder, tensors, self._task.identity | state)

    def load(self, folder: Path) -> None:
        tensors, description = read_checkpoint(folder)
        passes, told = description.pop("passes", 0), description.pop("told", {})
        if description != self._task.identity:
            raise CheckpointError(f"The checkpoint in {folder} is of other images or settings.")
        length = self._task.length
        # the halves of the cycle that has just ended until the next begins
        self._begin(max(passes - 1, 0) // (length.fit_epochs + length.search_epochs))
        for training in self._trainings:
            restore_training(tensors, *training)
        self._chosen = tensors["chosen"].bool()
        self.passes, self.told = passes, told


def _search_net(
    recipe: Recipe, spec: ModelSpec, hp: TrainingHyperparameters, epochs: int, seed: int
) -> nn.Module:
    """SearchNet on the CPU; with a head that predicts losses, unless it takes features."""
    model = recipe.start(hp, epochs, Compute(torch.device("cpu"), "float32", False)).model
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"Strategy 'autoal' trains networks like the model, but models of the recipe are of "
            f"type {type(model).__name__}; expected a torch.nn.Module. Use the strategy 'votes'."
        )
    if recipe.encoder is None and not hasattr(model, HEAD):
        shape = (spec.in_chans, *(recipe.input_size or spec.image_size))
        try:
            add_loss_predictor(model, shape, derive_seed(seed, "autoal"))
        except ConfigurationError as error:
            raise ConfigurationError(f"Strategy 'autoal' predicts losses. {error}") from None
    return model


def _even(count: int, most: int) -> int:
    """Images in each of the fewest batches, of equal size, of at most this many."""
    return -(-count // -(-count // most))


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _finite(loss: torch.Tensor) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise DivergedError("A network of strategy 'autoal' diverged.")
    return value
