"""The conformance suite for recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from alhpo.base.errors import CheckpointError
from alhpo.base.seeding import torch_generator
from alhpo.data.batches import InputFormat
from alhpo.data.dataset import ImageDataset
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.models.timm_models import ModelSpec
from alhpo.testing.process_state import global_seed, process_left_alone, require
from alhpo.training.compute import Compute
from alhpo.training.evaluation import predict
from alhpo.training.inputs import model_inputs
from alhpo.training.recipes import RECIPES
from alhpo.training.recipes.recipe import Recipe, RecipeFactory
from alhpo.training.trainer import Task, Trainer, advance_together

EPOCHS = 4
CLASSES = 3


def check_recipe(
    recipe: str | RecipeFactory,
    configuration: Mapping[str, Any] | None = None,
    *,
    other: Mapping[str, Any] | None = None,
    diverging: Mapping[str, Any] | None = None,
    model: str = "resnet10t",
    weights: str | None = None,
    image_size: tuple[int, int] = (8, 8),
    compute: Compute | None = None,
) -> None:
    """Check that trainings of a recipe are reproducible, resumable and identifiable.

    On 30 random images of three classes:

    - the same seed gives the same recipe and the same training, with any global seed, and the
      state of the process does not change;
    - two trainings side by side do not affect each other or the initial weights;
    - training that is saved and restored after every epoch gives the same losses, tensors and
      predictions, bit by bit;
    - a checkpoint of another configuration, of other labelled images or of other initial weights
      is refused;
    - predictions have the declared outputs and shapes; predictions in blocks equal those of all
      images at once, up to rounding; predicting does not change the model;
    - ``classifier`` maps the features to the logits, if there are features;
    - a recipe that trains several models together trains each as if it were alone;
    - divergence is a loss that is not finite, never an exception, and survives a checkpoint.

    Args:
        recipe: a registered name, or a recipe factory.
        configuration: hyperparameters of the training; the others have the recipe's defaults.
        other: another configuration; by default one with another ``lr``.
        diverging: a configuration that diverges within four epochs; by default one with
            ``lr=1e30``. An empty mapping skips that rule.
        model: name of the timm model, if the recipe uses one.
        weights: its pretrained weights, as in ``ActiveLearner``; None for random ones.
        image_size: (height, width) of the images, in pixels.
        compute: device and precision; by default the CPU and float32. Only on the CPU do recipes
            have to be equal bit by bit.

    Raises:
        AssertionError: the message is the broken rule.
    """
    make = RECIPES.get(recipe) if isinstance(recipe, str) else recipe
    name = f"Recipe {recipe if isinstance(recipe, str) else RECIPES.name_of(make) or make!r}"
    create = make.hyperparameters.create
    given = dict(configuration or {})
    hp = create(given)
    second = create(given, {"lr": getattr(hp, "lr", 1.0) * 2} if other is None else other)
    spec = ModelSpec(model, CLASSES, 1, image_size, weights=weights)
    compute = compute or Compute(torch.device("cpu"), "float32", False)
    with process_left_alone(name):
        made = make(spec, 0)
    task = _task(made, image_size, compute)
    with global_seed(1):
        again = _task(make(spec, 0), image_size, compute)
    require(task.identity == again.identity, f"{name}: the same seed made other weights.")
    whole, losses = _trained(task, hp)
    with global_seed(2), process_left_alone(name):
        repeated, same_losses = _trained(again, hp)
    require(
        losses == same_losses and _equal(whole, repeated),
        f"{name}: the same training gave other losses or weights: all randomness must come from "
        "the key.",
    )
    require(
        task.identity == _task(made, image_size, compute).identity
        and made.weights == make(spec, 0).weights,
        f"{name}: training changed the weights that trainings start from.",
    )
    _check_resume(name, task, hp, whole, losses)
    _check_together(name, task, hp, second)
    _check_identity(name, task, hp, second, make(spec, 1), image_size)
    _check_predictions(name, made, make.outputs, task, whole)
    if diverging is None or diverging:
        broken = create(given, {"lr": 1e30} if diverging is None else diverging)
        _check_divergence(name, task, broken)


def _task(recipe: Recipe, size: tuple[int, int], compute: Compute, *, seed: int = 0) -> Task:
    generator = torch_generator("check_recipe", seed)
    images = torch.randint(256, (30, *size, 1), generator=generator, dtype=torch.uint8)
    labels = torch.arange(30) % CLASSES
    dataset = ImageDataset.from_arrays(
        images, labels, classes=CLASSES, eval_images=images[:1], eval_labels=labels[:1]
    )
    form = InputFormat((0.5,), (0.25,), recipe.input_size, compute.channels_last)
    inputs = model_inputs(recipe, dataset, form, compute)
    return Task(inputs.pool[:], labels, recipe, inputs.form, compute, EPOCHS, 7, "none")


def _trainer(task: Task, hp: TrainingHyperparameters) -> Trainer:
    parts = [task.device_images(np.arange(24)), task.device_images(np.arange(6, 30))]
    return Trainer(task, hp, parts, "none")


def _trained(task: Task, hp: TrainingHyperparameters) -> tuple[Trainer, list[float]]:
    trainer = _trainer(task, hp)
    return trainer, [trainer.advance() for _ in range(EPOCHS)]


def _equal(one: Trainer, other: Trainer) -> bool:
    mine, theirs = one._tensors(), other._tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


def _check_resume(
    name: str, task: Task, hp: TrainingHyperparameters, whole: Trainer, losses: list[float]
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder)
        _trainer(task, hp).save(path)
        resumed: list[float] = []
        trainer = _trainer(task, hp)
        for _ in range(EPOCHS):
            trainer = _trainer(task, hp)
            trainer.load(path)
            resumed.append(trainer.advance())
            trainer.save(path)
        require(
            resumed == losses and _equal(trainer, whole),
            f"{name}: training that was restored after every epoch gave losses {resumed} where "
            f"training at once gave {losses}, or other weights: tensors() must hold all that "
            "changes.",
        )


def _check_together(
    name: str, task: Task, hp: TrainingHyperparameters, second: TrainingHyperparameters
) -> None:
    alone, other, together = _trainer(task, hp), _trainer(task, second), _trainer(task, hp)
    advance_together([other])
    for _ in range(2):
        (expected,) = advance_together([alone])
        _, found = advance_together([other, together])
        require(
            found == expected and _equal(alone, together),
            f"{name}: a model trained beside others has other weights or another loss.",
        )


def _check_identity(
    name: str,
    task: Task,
    hp: TrainingHyperparameters,
    second: TrainingHyperparameters,
    other_weights: Recipe,
    size: tuple[int, int],
) -> None:
    require(second != hp, f"{name}: {second!r} is the same configuration; give another.")
    cases = {
        "another configuration": (task, second),
        "other labelled images": (_task(task.recipe, size, task.compute, seed=1), hp),
    }
    if other_weights.weights != task.recipe.weights:  # a recipe may have no random weights
        cases["other initial weights"] = (replace(task, recipe=other_weights), hp)
    with TemporaryDirectory() as folder:
        trainer = _trainer(task, hp)
        trainer.advance()
        trainer.save(Path(folder))
        for case, (theirs, values) in cases.items():
            try:
                _trainer(theirs, values).load(Path(folder))
            except CheckpointError:
                continue
            raise AssertionError(f"{name}: a checkpoint was taken up with {case}.")


def _check_predictions(
    name: str, recipe: Recipe, outputs: frozenset[str], task: Task, trained: Trainer
) -> None:
    compute, model = task.compute, trained.models[0]
    images = task.form.on_device(task.inputs, task.labels, compute.device)
    before = {n: t.clone() for n, t in trained._tensors().items()}
    with process_left_alone(name):
        at_once = predict(recipe, model, images, compute)
    for rows in (slice(0, 1), slice(3, 20)):
        part = predict(recipe, model, images.part(torch.arange(30)[rows]), compute)
        for field, values in at_once._asdict().items():
            mine = getattr(part, field)
            require(
                (values is None) == (mine is None) == (field not in outputs),
                f"{name}: {field} is declared in outputs and not predicted, or predicted and not "
                "declared.",
            )
            if values is not None and mine is not None:
                require(
                    values.dtype == torch.float32 and len(values) == 30,
                    f"{name}: {field} is {values.dtype} of {tuple(values.shape)}.",
                )
                require(
                    torch.allclose(values[rows], mine, rtol=1e-4, atol=1e-5),
                    f"{name}: {field} of images {rows} depends on what is predicted beside them.",
                )
    require(
        tuple(at_once.logits.shape) == (30, CLASSES) and not at_once.logits.requires_grad,
        f"{name}: logits must be (N, C) without gradients, not {tuple(at_once.logits.shape)}.",
    )
    alone = predict(recipe, model, images, compute, features=False).logits
    require(
        torch.allclose(alone, at_once.logits, rtol=1e-4, atol=1e-5),
        f"{name}: logits are others where no features are asked for.",
    )
    after = trained._tensors()
    require(
        all(torch.equal(before[n], after[n]) for n in before), f"{name}: predicting trained it."
    )
    if at_once.features is not None:
        with torch.no_grad():
            logits = recipe.classifier(model)(at_once.features)
        require(
            torch.allclose(logits, at_once.logits, rtol=1e-3, atol=1e-4),
            f"{name}: classifier(model) does not make the logits of the features.",
        )


def _check_divergence(name: str, task: Task, hp: TrainingHyperparameters) -> None:
    try:
        trainer, losses = _trained(task, hp)
    except Exception as error:
        raise AssertionError(f"{name}: diverging training raised {error!r}.") from error
    require(
        trainer.diverged and not math.isfinite(losses[-1]),
        f"{name}: training with {hp!r} gave losses {losses}, and no divergence was told. If it "
        "does not diverge, give a configuration that does.",
    )
    with TemporaryDirectory() as folder:
        trainer.save(Path(folder))
        again = _trainer(task, hp)
        again.load(Path(folder))
        require(again.diverged, f"{name}: divergence was forgotten in a checkpoint.")
