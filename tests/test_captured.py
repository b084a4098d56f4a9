"""Captured steps on the CPU, where they run as they are: against eager training, side by side,
resumed; models that they do not suit."""

from __future__ import annotations

import copy
import logging
import math
import threading
from dataclasses import replace
from functools import cache

import pytest
import torch
import toy_models  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import DropPath
from torch import nn
from torch.nn import functional as F

from alhpo.base.errors import CheckpointError
from alhpo.data.batches import DeviceImages, InputFormat
from alhpo.hyperparameters import Hyperparameters
from alhpo.models.timm_models import ModelSpec
from alhpo.testing.process_state import process_left_alone
from alhpo.training.compute import Compute
from alhpo.training.epochs import EpochOf
from alhpo.training.loss_prediction import add_loss_predictor
from alhpo.training.recipes.learning_loss import LearningLossRecipe
from alhpo.training.recipes.network import NetworkRecipe

CPU = torch.device("cpu")
CAPTURED = Compute(CPU, "float32", False, captured=True)
BFLOAT16 = replace(CAPTURED, precision="bfloat16")
SPEC = ModelSpec("alhpo_toy", 3, 1, (8, 8))
EPOCHS = 5


class Net(nn.Module):
    """A convolution, batch norm and a linear layer.

    All parameters have a multiple of 64 elements: a fused optimizer rounds those that are left over
    by its vectors in another way, and captured training has its parameters in one tensor. There is
    no bias before the batch norm: its gradient is rounding noise, which Adam would scale up.
    """

    def __init__(self, dropout: float = 0.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.feature_info = [{"module": "norm", "num_chs": 64}]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(5)
            self.conv = nn.Conv2d(1, 64, 3, stride=2, bias=False)
            self.norm = nn.BatchNorm2d(64)
            self.fc = nn.Linear(64, 64)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return self.dropout((x + self.drop_path(x)).mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))


class Tied(Net):
    """One weight is used by two linear layers, another one also by a product of its own, for which
    autocast does not round it."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.third, self.scale = nn.Linear(64, 64), nn.Linear(64, 64), Scale(64)
        self.second.weight = self.fc.weight
        self.scale.weight = self.third.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        return self.scale(self.third(self.second(x).relu()))


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() * (1 + self.weight)


def recipe_of(model: nn.Module | None = None) -> NetworkRecipe:
    recipe = NetworkRecipe(SPEC, 0)
    return recipe if model is None else recipe.from_model(model)


@cache
def images(n: int = 30, channels_last: bool = False) -> DeviceImages:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (n, 8, 8, 1), generator=generator, dtype=torch.uint8)
    form = InputFormat((0.5,), (0.25,), None, channels_last)
    return DeviceImages(pixels, torch.arange(n) % 3, form, CPU)


def hyperparameters(**values) -> Hyperparameters:
    return Hyperparameters.create({"augmentation": "none", "batch_size": 8, "lr": 0.05}, values)


def trained(recipe, hp, compute, seen=None):
    """The training after its last epoch, and its losses."""
    seen = images() if seen is None else seen
    training = recipe.start(hp, EPOCHS, compute)
    return training, [training.epoch(seen, epoch, 3, "a") for epoch in range(EPOCHS)]


def state(training) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.tensors().items()}


def assert_same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert some.keys() == others.keys()
    for name in some:
        assert torch.equal(some[name], others[name]), name


def check_against_eager(recipe, hp, compute=CAPTURED, seen=None, *, exact=True) -> None:
    """The same losses, weights and buffers as those of eager training."""
    mine, losses = trained(recipe, hp, compute, seen)
    eager, expected = trained(recipe, hp, replace(compute, captured=False), seen)
    assert type(mine) is not type(eager)
    mine, theirs = mine.model.state_dict(), eager.model.state_dict()
    assert any(not torch.equal(theirs[n], v) for n, v in recipe.template.state_dict().items())
    if exact:
        assert losses == expected
        assert_same(mine, theirs)
        return
    assert mine.keys() == theirs.keys()
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-6, msg=name)


# --- against eager training ----------------------------------------------------------------------

#: Adam takes a learning rate in float64, that of captured steps is float32: this one is in both.
ROUND = {"schedule": "constant", "lr": 2**-8}


@pytest.mark.parametrize("augmentation", ["none", "crop", "flip", "crop-flip", "crop-rotate"])
@pytest.mark.parametrize(
    "values",
    [
        {"momentum": 0.0, "weight_decay": 0.0},
        {"momentum": 0.9, "weight_decay": 0.01, "label_smoothing": 0.1},
        {"nesterov": True, "warmup_epochs": 2},
        {"schedule": "step", "lr_steps": "epoch", "warmup_epochs": 1, "batch_size": 7},
        {"epoch_images": "drop", "batch_size": 7},
        {"epoch_images": 70},
        {"optimizer": "adam", "weight_decay": 0.1, "momentum": 0.8, **ROUND},
        {"optimizer": "adamw", "weight_decay": 0.1, **ROUND},
    ],
    ids=str,
)
def test_training_is_eager_training(values, augmentation):
    check_against_eager(recipe_of(Net()), hyperparameters(augmentation=augmentation, **values))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_any_sizes_and_learning_rates_up_to_rounding(optimizer):
    """Parameters of other sizes than vectors have, and learning rates that float32 rounds."""
    hp = hyperparameters(optimizer=optimizer, lr=0.003, warmup_epochs=1, augmentation="crop-flip")
    recipe = NetworkRecipe(replace(SPEC, dropout=0.3), 0)
    recipe.template.body[0].register_parameter("bias", None)
    check_against_eager(recipe, hp, exact=False)


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_images_than_a_batch(n, augmentation):
    hp = hyperparameters(augmentation=augmentation)
    check_against_eager(recipe_of(Net()), hp, seen=images(n))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "model",
    [Net(), Net(dropout=0.4), Net(drop_path=0.4), Tied()],
    ids=["plain", "dropout", "drop path", "tied"],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_models_and_precisions(model, precision, channels_last):
    compute = Compute(CPU, precision, channels_last, captured=True)
    seen = images(channels_last=channels_last)
    check_against_eager(recipe_of(model), hyperparameters(), compute, seen)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_frozen_parameters_stay(precision):
    model = Net()
    model.conv.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    recipe, compute = recipe_of(model), replace(CAPTURED, precision=precision)
    hp = hyperparameters(weight_decay=0.1)
    check_against_eager(recipe, hp, compute)
    mine, _ = trained(recipe, hp, compute)
    assert torch.equal(mine.model.conv.weight, model.conv.weight)
    assert torch.equal(mine.model.norm.bias, model.norm.bias)


def learning_loss() -> LearningLossRecipe:
    model = Net()
    add_loss_predictor(model, (1, 8, 8), 0)
    return LearningLossRecipe(SPEC, 0).from_model(model)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_learning_loss_over_the_end_of_its_joint_epochs(precision):
    """Of five epochs, the head trains the other layers in three. Its score has one bias, which no
    vector holds: with this learning rate all orders of rounding are the same."""
    hp = hyperparameters(schedule="constant", lr=2**-5, momentum=0.0, weight_decay=0.0)
    check_against_eager(learning_loss(), hp, replace(CAPTURED, precision=precision))


def test_divergence_is_a_loss_that_is_not_finite():
    _, losses = trained(recipe_of(Net()), hyperparameters(lr=1e30), CAPTURED)
    assert not math.isfinite(losses[-1])


@pytest.mark.parametrize("captured", [True, False])
def test_a_head_that_diverges_alone_is_told(captured):
    """No hidden unit of it is on, so that the loss itself stays finite."""
    recipe = learning_loss()
    recipe.template.loss_predictor.branches[0].bias.data.fill_(-torch.inf)
    compute = replace(CAPTURED, captured=captured)
    training = recipe.start(hyperparameters(weight_decay=0.0), EPOCHS, compute)
    assert math.isnan(training.epoch(images(), 0, 0))
    head = training.model.loss_predictor
    assert not head.branches[0].bias.isnan().any() and head.score.weight.isfinite().all()


# --- side by side, and resumed -------------------------------------------------------------------

DIFFERENT = [
    hyperparameters(batch_size=4),
    hyperparameters(nesterov=True, augmentation="crop-flip", warmup_epochs=2),
    hyperparameters(optimizer="adamw", lr=0.003, batch_size=7),
    hyperparameters(momentum=0.0, label_smoothing=0.1, augmentation="flip"),
]
DROPPING = recipe_of(Net(dropout=0.4, drop_path=0.2))


def epoch_of(training, number, epoch):
    return EpochOf(training, images(20 + number), epoch, (7, number))


@cache
def alone(number, compute=CAPTURED):
    """Loss and tensors of one of four trainings after each of its epochs."""
    training, after = DROPPING.start(DIFFERENT[number], EPOCHS, compute), []
    for epoch in range(EPOCHS):
        one = epoch_of(training, number, epoch)
        after.append((training.epoch(one.images, epoch, *one.key), state(training)))
    return after


def check_equals_alone(trainings, numbers, epoch, losses, compute=CAPTURED) -> None:
    for number, loss in zip(numbers, losses, strict=True):
        expected, tensors = alone(number, compute)[epoch]
        assert loss == expected
        assert_same(state(trainings[number]), tensors)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.sampled_from(range(4)), unique=True), min_size=1, max_size=8))
def test_side_by_side_is_as_alone(groups):
    """Each epoch is trained beside the same others, or none, or some, in any order."""
    trainings = [DROPPING.start(hp, EPOCHS, CAPTURED) for hp in DIFFERENT]
    reached = [0] * 4
    for group in groups:
        group = [number for number in group if reached[number] < EPOCHS]
        epochs = [epoch_of(trainings[n], n, reached[n]) for n in group]
        for number, loss in zip(group, DROPPING.train_together(epochs), strict=True):
            check_equals_alone(trainings, [number], reached[number], [loss])
            reached[number] += 1


@pytest.mark.parametrize("compute", [CAPTURED, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("number", range(4))
def test_resumed_at_any_epoch_it_is_as_without_interruption(number, compute):
    for start in range(1, EPOCHS):
        training = DROPPING.start(DIFFERENT[number], EPOCHS, compute)
        tensors = alone(number, compute)[start - 1][1]
        training.restore({name: value.cpu().clone() for name, value in tensors.items()})
        assert_same(state(training), tensors)
        for epoch in range(start, EPOCHS):
            one = epoch_of(training, number, epoch)
            loss = training.epoch(one.images, epoch, *one.key)
            check_equals_alone({number: training}, [number], epoch, [loss], compute)


def test_learning_loss_resumed_across_the_end_of_its_joint_epochs():
    recipe, hp = learning_loss(), hyperparameters()
    whole, losses = trained(recipe, hp, BFLOAT16)
    rest, training = [], recipe.start(hp, EPOCHS, BFLOAT16)
    for epoch in range(EPOCHS):
        fresh = recipe.start(hp, EPOCHS, BFLOAT16)
        fresh.restore(state(training))
        training = fresh
        rest.append(training.epoch(images(), epoch, 3, "a"))
    assert rest == losses
    assert_same(state(training), state(whole))


def test_other_images_in_between_change_nothing():
    """A step is bound to the images of its epoch."""
    hp, others = hyperparameters(batch_size=6, augmentation="crop-flip"), images(9)
    mine, theirs = (recipe_of(Net()).start(hp, EPOCHS, CAPTURED) for _ in range(2))
    before = state(mine)
    mine.epoch(others, 0, 1)
    mine.restore(before)
    assert mine.epoch(images(), 0, 2) == theirs.epoch(images(), 0, 2)
    assert_same(state(mine), state(theirs))


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (Tied(), {}),  # another architecture
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), {}),
        (Net(), {"optimizer": "adam"}),
        (Net(), {"momentum": 0.0}),
    ],
    ids=["more", "other", "adam", "no momentum"],
)
def test_a_checkpoint_of_another_model_is_refused(model, values):
    tensors = state(recipe_of(model).start(hyperparameters(**values), EPOCHS, CAPTURED))
    mine = recipe_of(Net()).start(hyperparameters(), EPOCHS, CAPTURED)
    before = state(mine)
    with pytest.raises(CheckpointError, match="another model"):
        mine.restore(tensors)
    assert_same(state(mine), before)


def test_weights_of_other_shapes_are_refused():
    wide = NetworkRecipe(replace(SPEC, num_classes=4), 0)
    tensors = state(wide.start(hyperparameters(), EPOCHS, CAPTURED))
    with pytest.raises(CheckpointError, match="another model"):
        recipe_of().start(hyperparameters(), EPOCHS, CAPTURED).restore(tensors)


def test_trainings_share_nothing_with_their_recipe():
    recipe = recipe_of(Net())
    before = copy.deepcopy(recipe.template.state_dict())
    trained(recipe, hyperparameters(), CAPTURED)
    assert_same(dict(recipe.template.state_dict()), dict(before))


# --- the process ---------------------------------------------------------------------------------


def test_the_process_is_left_alone():
    with process_left_alone("captured training"):
        recipe = recipe_of(Net(dropout=0.4, drop_path=0.2))
        recipe.train_together(
            [epoch_of(recipe.start(hp, EPOCHS, CAPTURED), n, 0) for n, hp in enumerate(DIFFERENT)]
        )


def test_threads_train_as_one_after_the_other():
    for _ in range(20):
        recipe = recipe_of(Net(dropout=0.4, drop_path=0.2))
        trainings, losses = {}, {}

        def work(number, recipe=recipe, trainings=trainings, losses=losses):
            trainings[number] = training = recipe.start(DIFFERENT[number], EPOCHS, CAPTURED)
            for epoch in range(2):
                one = epoch_of(training, number, epoch)
                losses[number] = training.epoch(one.images, epoch, *one.key)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_equals_alone(trainings, range(4), 1, [losses[number] for number in range(4)])


# --- models that it does not suit ----------------------------------------------------------------


class Drawing(Net):
    """It adds noise in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        return self.fc(x + 0.1 * torch.rand(x.shape) if self.training else x)


class Idle(Net):
    """It has a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("model", "reason"),
    [(Drawing(), "draws random numbers other than"), (Idle(), "have no part in the loss")],
    ids=["drawing", "idle"],
)
def test_other_models_are_trained_step_by_step_with_a_warning(caplog, model, reason):
    recipe, hp = recipe_of(model), hyperparameters()
    with caplog.at_level(logging.WARNING, "alhpo.training"), process_left_alone("the check"):
        mine, losses = trained(recipe, hp, CAPTURED)
        assert not recipe.trains_together(CAPTURED)
        trained(recipe.from_model(copy.deepcopy(model)), hp, CAPTURED)
    eager, expected = trained(recipe, hp, replace(CAPTURED, captured=False))
    assert losses == expected
    assert_same(state(mine), state(eager))
    (warning,) = [r for r in caplog.records if r.name == "alhpo.training"]
    assert "'alhpo_toy' is trained step by step" in warning.message and reason in warning.message


def test_a_model_that_it_suits_trains_together_without_a_word(caplog):
    recipe = recipe_of(Net(dropout=0.4))
    assert recipe.trains_together(CAPTURED)
    assert not recipe.trains_together(replace(CAPTURED, captured=False))
    assert not caplog.records
