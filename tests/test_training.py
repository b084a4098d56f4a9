"""Training against plain loops, schedules against torch's, evaluation against scikit-learn's."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
)
from torch import nn
from torch.nn import functional as F
from toy_models import ToyNet

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import Evaluation
from alhpo.data.batches import DeviceImages, InputFormat
from alhpo.data.loading import load_dataset
from alhpo.hyperparameters import Hyperparameters
from alhpo.models.timm_models import ModelSpec, build_model, weights_hash
from alhpo.testing.process_state import global_seed, process_left_alone
from alhpo.training import evaluation
from alhpo.training.compute import Compute
from alhpo.training.epochs import learning_rate, make_optimizer, train_epoch
from alhpo.training.evaluation import ImageScores
from alhpo.training.recipes.network import NetworkRecipe

CPU = torch.device("cpu")
PLAIN = Compute(CPU, "float32", False)
KEY = (0, "training", 3)
#: A recipe that is asked about the models of the tests.
NETWORK = NetworkRecipe(ModelSpec("resnet10t", 10, 1, (8, 8)), 0)
evaluate = partial(evaluation.evaluate, NETWORK)
predict = partial(evaluation.predict, NETWORK)
score_images = partial(evaluation.score_images, NETWORK)


@pytest.fixture(scope="module")
def digits():
    """The first 70 digits, on the device."""
    dataset = load_dataset("digits", pool_size=70, eval_size=150)
    form = InputFormat(*dataset.channel_statistics())
    return DeviceImages(dataset.images, dataset.labels, form, CPU)


@pytest.fixture(scope="module")
def resnet():
    """A timm model for the digits; not to be trained."""
    return build_model(ModelSpec("resnet10t", 10, 1, (8, 8)), 0)


def small_model(dropout=0.0):
    """A classifier with batch norm and, if asked for, dropout. No bias before the batch norm: its
    gradient is rounding noise, which Adam would scale up."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(144, 10),
        )


def hyperparameters(**values):
    return Hyperparameters.create(
        {"augmentation": "crop", "batch_size": 16, "lr_steps": "epoch"}, values
    )


# --- schedule ------------------------------------------------------------------------------------


def rates(hp, max_epochs):
    return [learning_rate(hp, epoch, max_epochs) for epoch in range(max_epochs)]


def torch_rates(hp, max_epochs, main):
    """Those of torch's LinearLR followed by ``main(optimizer)``."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=hp.lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = main(optimizer)
        if hp.warmup_epochs:
            warmup = torch.optim.lr_scheduler.LinearLR(
                optimizer, start_factor=0.01, total_iters=hp.warmup_epochs
            )
            scheduler = torch.optim.lr_scheduler.SequentialLR(
                optimizer, [warmup, scheduler], [hp.warmup_epochs]
            )
        result = []
        for _ in range(max_epochs):
            result.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return result


@pytest.mark.parametrize(
    ("warmup", "max_epochs"), [(0, 1), (0, 27), (1, 2), (5, 27), (10, 200), (26, 27)]
)
def test_cosine_is_torchs(warmup, max_epochs):
    hp = hyperparameters(lr=0.3, warmup_epochs=warmup)
    expected = torch_rates(
        hp,
        max_epochs,
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=max_epochs - warmup),
    )
    assert np.allclose(rates(hp, max_epochs), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("warmup", "max_epochs"), [(0, 8), (0, 200), (4, 24), (10, 50)])
def test_step_is_torchs(warmup, max_epochs):
    hp = hyperparameters(lr=0.3, schedule="step", warmup_epochs=warmup)
    rest = max_epochs - warmup
    expected = torch_rates(
        hp,
        max_epochs,
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [rest // 2, rest * 3 // 4]),
    )
    assert np.allclose(rates(hp, max_epochs), expected, rtol=1e-12)


@pytest.mark.parametrize(("steps", "size"), [("step", 5), ("epoch", 1)])
def test_rates_change_after_every_step_or_every_epoch(digits, steps, size):
    """70 images fill five batches of 16; warm-up ends with its last step, cosine at 0."""
    hp = hyperparameters(lr=2.0, warmup_epochs=1, lr_steps=steps)
    model, seen = small_model(), []
    optimizer = make_optimizer(model.parameters(), hp)
    step = optimizer.step
    optimizer.step = lambda: (seen.append(optimizer.param_groups[0]["lr"]), step())
    train(model, digits, hp, 3, max_epochs=3, optimizer=optimizer)
    times = [epoch + part / size for epoch in range(3) for part in range(size)]
    warm_up = [2 * (0.01 + 0.99 * time) for time in times if time < 1]
    cosine = [1 + math.cos(math.pi * (time - 1) / 2) for time in times if time >= 1]
    assert seen[:: 5 // size] == pytest.approx(warm_up + cosine)
    assert len(seen) == 15


def test_closed_forms():
    hp = hyperparameters(lr=2.0)
    assert rates(hp, 4) == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)])
    hp = hyperparameters(lr=2.0, schedule="step")
    assert rates(hp, 8) == pytest.approx([2, 2, 2, 2, 0.2, 0.2, 0.02, 0.02])
    assert rates(hp, 5) == pytest.approx([2, 2, 2, 0.2, 0.02])  # 3/5 is past the half, 4/5 past 3/4
    hp = hyperparameters(lr=2.0, schedule="constant", warmup_epochs=4)
    assert rates(hp, 6) == pytest.approx([0.02, 0.515, 1.01, 1.505, 2, 2])


@given(
    st.floats(1e-6, 10),
    st.sampled_from(["cosine", "step", "constant"]),
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
)
def test_rates_rise_in_the_warm_up_and_fall_or_stay_after_it(lr, schedule, lengths):
    max_epochs, warmup = lengths
    hp = hyperparameters(lr=lr, schedule=schedule, warmup_epochs=warmup)
    found = rates(hp, max_epochs)
    rising, falling = found[: warmup + 1], found[warmup:]
    assert rising == sorted(rising) and falling == sorted(falling, reverse=True)
    assert found[warmup] == lr and all(0 < rate <= lr for rate in found)
    assert warmup == 0 or found[0] == pytest.approx(0.01 * lr)


# --- epochs --------------------------------------------------------------------------------------


def by_hand(model, images, hp, max_epochs, n_epochs, optimizer):
    """The same epochs, one plain step after the other; returns the mean loss of each."""
    model.train()
    losses = []
    for epoch in range(n_epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(hp, epoch, max_epochs)
        sums = []
        key, drawn = (*KEY, epoch), hp.epoch_images
        for inputs, labels in images.epoch(hp.batch_size, hp.augmentation, *key, images=drawn):
            log_p = model(inputs).log_softmax(1)
            smooth = hp.label_smoothing
            target = torch.full_like(log_p, smooth / log_p.shape[1])
            target[torch.arange(len(labels)), labels] += 1 - smooth
            loss = -(target * log_p).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sums.append(loss.item())
        losses.append(sum(sums) / len(sums))
    return losses


def train(model, images, hp, n_epochs, max_epochs=4, optimizer=None, compute=PLAIN, start=0):
    optimizer = optimizer or make_optimizer(model.parameters(), hp)
    return [
        train_epoch(model, optimizer, images, hp, compute, epoch, max_epochs, *KEY)
        for epoch in range(start, n_epochs)
    ]


def plain_optimizer(parameters, hp):
    """torch's optimizers in their simplest implementation."""
    simple = {"lr": hp.lr, "weight_decay": hp.weight_decay, "foreach": False}
    if hp.optimizer == "sgd":
        simple |= {"momentum": hp.momentum, "nesterov": hp.nesterov}
        return torch.optim.SGD(parameters, **simple)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[hp.optimizer]
    return kind(parameters, betas=(hp.momentum, 0.999), **simple)


@pytest.mark.parametrize(
    "values",
    [
        {"weight_decay": 0, "momentum": 0},
        {"weight_decay": 0.05},
        {"nesterov": True, "momentum": 0.8},
        {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.05, "momentum": 0.7},
        {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.05},
        {"label_smoothing": 0.3},
        {"warmup_epochs": 2, "schedule": "step"},
        {"batch_size": 500, "augmentation": "crop-flip"},
        {"batch_size": 2, "augmentation": "none"},
        {"epoch_images": "drop"},
        {"epoch_images": 200},
    ],
    ids=str,
)
def test_training_is_the_plain_loop(digits, values):
    hp = hyperparameters(**values)
    model, expected = small_model(), small_model()
    losses = train(model, digits, hp, 3)
    plain = plain_optimizer(expected.parameters(), hp)
    assert np.allclose(losses, by_hand(expected, digits, hp, 4, 3, plain), rtol=1e-4)
    for (name, found), wanted in zip(
        model.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5), name


def test_one_sgd_step_by_its_formula():
    """w' = w - lr (gradient + decay w), with the gradient of a linear softmax classifier."""
    images = torch.tensor([[[[51]]], [[[255]]]], dtype=torch.uint8)
    source = DeviceImages(images, torch.tensor([0, 1]), InputFormat((0.0,), (1.0,)), CPU)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    w = np.array([[0.5], [-1.0]])
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(w))
    hp = hyperparameters(lr=0.1, weight_decay=0.2, augmentation="none")
    [loss] = train(model, source, hp, 1)
    x, y = np.array([[0.2], [1.0]]), np.eye(2)
    p = np.exp(x @ w.T) / np.exp(x @ w.T).sum(1, keepdims=True)
    gradient = (p - y).T @ x / 2
    assert loss == pytest.approx(-np.log(p[[0, 1], [0, 1]]).mean(), rel=1e-5)
    assert np.allclose(model[1].weight.detach(), w - 0.1 * (gradient + 0.2 * w), atol=1e-6)


def test_weights_that_need_no_gradient_stay(digits):
    model = small_model()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    train(model, digits, hyperparameters(), 1)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_is_a_function_of_its_key(digits, dropout):
    hp = hyperparameters(augmentation="crop-flip")

    def trained():
        model = small_model(dropout)
        return train(model, digits, hp, 2), weights_hash(model)

    train(small_model(), digits, hp, 1)  # whatever torch sets up at first use
    with process_left_alone("train_epoch"):
        first = trained()
    for seed in (1, 2):
        with global_seed(seed):
            assert trained() == first


def test_dropout_is_drawn_anew_in_every_epoch_and_for_every_key():
    """With copies of one image, the same weights and no augmentation, only the dropout differs."""
    images = load_dataset("digits", pool_size=1).images.repeat(30, 1, 1, 1)
    source = DeviceImages(images, torch.zeros(30, dtype=int), InputFormat((0.5,), (0.2,)), CPU)
    hp = hyperparameters(augmentation="none").model_copy(update={"lr": 0.0})
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    losses = {
        train_epoch(model, optimizer, source, hp, PLAIN, epoch, 9, key)
        for epoch in (0, 1, 2)
        for key in ("a", "b")
    }
    assert len(losses) == 6


def test_dropout_and_order_do_not_share_a_stream(digits):
    """Dropout in the model leaves the order and the augmentation as they are without it."""

    class Recorder(nn.Module):
        def __init__(self, rate):
            super().__init__()
            self.head = nn.Sequential(nn.Flatten(), nn.Dropout(rate), nn.Linear(64, 10))
            self.seen = []

        def forward(self, inputs):
            self.seen.append(inputs.clone())
            return self.head(inputs)

    recorders = [Recorder(0.0), Recorder(0.5)]
    for recorder in recorders:
        train(recorder, digits, hyperparameters(augmentation="crop-flip"), 1)
    for one, other in zip(*(recorder.seen for recorder in recorders), strict=True):
        assert torch.equal(one, other)


def test_epochs_one_at_a_time_with_another_training_in_between(digits):
    hp = hyperparameters()
    together, apart = small_model(0.3), small_model(0.3)
    losses = train(together, digits, hp, 3)
    optimizer, separate = make_optimizer(apart.parameters(), hp), []
    for epoch in range(3):
        separate += train(apart, digits, hp, epoch + 1, optimizer=optimizer, start=epoch)
        train(small_model(0.5), digits, hp, 1)
        score_images(apart, digits, PLAIN)
    assert separate == losses and weights_hash(apart) == weights_hash(together)


def test_divergence_is_reported_as_a_loss_that_is_not_finite(digits):
    hp = hyperparameters(lr=1e30, schedule="constant")
    assert not math.isfinite(train(small_model(), digits, hp, 3)[-1])


def test_training_learns_the_digits(digits):
    model = small_model()
    before = score_images(model, digits, PLAIN).mean().accuracy
    hp = hyperparameters(batch_size=8, augmentation="none")
    losses = train(model, digits, hp, 15, max_epochs=15)
    assert losses[-1] < 0.5 * losses[0]
    assert score_images(model, digits, PLAIN).mean().accuracy > max(0.85, before)


def test_bfloat16_is_close_and_keeps_the_weights_in_float32(digits):
    hp = hyperparameters(augmentation="none")
    model, exact = small_model(), small_model()
    losses = train(model, digits, hp, 2, compute=Compute(CPU, "bfloat16", False))
    expected = train(exact, digits, hp, 2)
    assert losses != expected and np.allclose(losses, expected, rtol=0.05)
    assert all(p.dtype == torch.float32 for p in model.parameters())


# --- evaluation and prediction -------------------------------------------------------------------


def probabilities(model, images):
    with torch.no_grad():
        model.eval()
        inputs = torch.cat([inputs for inputs, _ in images.blocks()])
        return model(inputs).double().softmax(1).numpy()


def test_scores_are_scikit_learns(digits):
    model = small_model(0.5)
    train(model, digits, hyperparameters(), 2)
    found = score_images(model, digits, PLAIN).mean()
    p, labels = probabilities(model, digits), digits.labels.numpy()
    assert found.n == 70
    assert found.accuracy == pytest.approx(accuracy_score(labels, p.argmax(1)), abs=1e-12)
    assert found.nll == pytest.approx(log_loss(labels, p, labels=range(10)), rel=1e-5)


def test_evaluate_over_several_blocks():
    """3,000 images of a linear model: more than one block, the last one short."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3001, 2, 2, 1), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (3001,), generator=generator)
    source = DeviceImages(images, labels, InputFormat((0.5,), (0.3,)), CPU)
    assert len(list(source.blocks())) > 1
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    found, p = evaluate(model, source, PLAIN), probabilities(model, source)
    assert found.n == 3001
    assert found.accuracy == pytest.approx(accuracy_score(labels, p.argmax(1)), abs=1e-12)
    assert found.nll == pytest.approx(log_loss(labels, p), rel=1e-5)


def calibration_error(p, labels, weights=None):
    """Guo et al.'s eq. 3, bin by bin: m covers ((m - 1) / 15, m / 15]."""
    confidence, correct = p.max(1), p.argmax(1) == labels
    weights = np.ones(len(p)) if weights is None else weights
    error = 0.0
    for m in range(1, 16):
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if weights[inside].sum() > 0:
            accuracy = np.average(correct[inside], weights=weights[inside])
            mean = np.average(confidence[inside], weights=weights[inside])
            error += weights[inside].sum() / weights.sum() * abs(accuracy - mean)
    return error


def squared_errors(p, labels):
    return ((p - np.eye(p.shape[1])[labels]) ** 2).sum(1)


def test_calibration_on_digits_is_that_of_the_definition(digits):
    model = small_model()
    train(model, digits, hyperparameters(), 3)
    found = score_images(model, digits, PLAIN).mean()
    p, labels = probabilities(model, digits), digits.labels.numpy()
    assert found.brier == pytest.approx(squared_errors(p, labels).mean(), abs=1e-9)
    assert found.ece == pytest.approx(calibration_error(p, labels), abs=1e-9)
    assert found.ece > 0.01  # else the comparison says little
    assert found.scores == {
        "accuracy": found.accuracy,
        "nll": found.nll,
        "brier": found.brier,
        "ece": found.ece,
        "balanced_accuracy": found.balanced_accuracy,
        "macro_f1": found.macro_f1,
    }


def fixed_outputs(logits, labels):
    """A model with these outputs, and images for it: image i has the value i."""
    n = len(labels)
    assert n < 256
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None]

    class Table(nn.Module):
        def forward(self, inputs):
            return torch.as_tensor(logits)[(inputs.flatten() * 255).round().long()]

    source = DeviceImages(images, torch.as_tensor(labels), InputFormat((0.0,), (1.0,)), CPU)
    return Table(), source


def test_two_classes_are_scikit_learns_brier_score():
    """Over both classes the sum is twice the score of one."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(60, 2)).astype(np.float32)
    labels = generator.integers(0, 2, 60)
    found = evaluate(*fixed_outputs(logits, labels), PLAIN)
    p = torch.from_numpy(logits).double().softmax(1).numpy()[:, 1]
    assert found.brier == pytest.approx(2 * brier_score_loss(labels, p), abs=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 10, 15, 30])
def test_closed_forms_of_calibration(classes):
    """The uniform prediction, one that is sure and right, one that is sure and wrong."""
    labels = np.arange(60) % classes
    balanced = labels[: 60 // classes * classes]
    uniform = evaluate(*fixed_outputs(np.zeros((60, classes), np.float32), balanced), PLAIN)
    diverged = Evaluation.uniform(classes)
    for name in uniform.scores:
        assert getattr(diverged, name) == pytest.approx(getattr(uniform, name), abs=1e-6)
    assert uniform.brier == pytest.approx(1 - 1 / classes)
    sure = 1000 * np.eye(classes, dtype=np.float32)
    right = evaluate(*fixed_outputs(sure[labels], labels), PLAIN)
    assert (right.accuracy, right.brier, right.ece) == (1, 0, 0)
    assert right.balanced_accuracy == right.macro_f1 == 1
    wrong = evaluate(*fixed_outputs(sure[(labels + 1) % classes], labels), PLAIN)
    assert (wrong.accuracy, wrong.brier) == (0, 2) and wrong.ece == pytest.approx(1)


def test_no_images_and_outputs_that_are_not_finite_have_no_scores():
    nothing = Evaluation.nothing()
    assert nothing.n == 0 and all(math.isnan(value) for value in nothing.scores.values())
    logits = np.zeros((4, 3), np.float32)
    logits[2] = np.nan
    found = evaluate(*fixed_outputs(logits, [0, 0, 0, 0]), PLAIN)
    assert all(math.isnan(value) for value in (found.nll, found.brier, found.ece))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@given(
    st.integers(2, 6), st.integers(1, 40), st.integers(0, 10**6), st.sampled_from([0.1, 1, 5, 40])
)
def test_scores_of_any_outputs_and_weights(classes, n, seed, scale):
    generator = np.random.default_rng(seed)
    logits = (generator.normal(size=(n, classes)) * scale).astype(np.float32)
    labels = generator.integers(0, classes, n)
    scores = score_images(*fixed_outputs(logits, labels), PLAIN)
    p = torch.from_numpy(logits).double().softmax(1).numpy()
    weights = generator.exponential(size=n) * (generator.random(n) < 0.7)
    weights[generator.integers(n)] += 0.1
    for given_weights in (None, weights):
        w = None if given_weights is None else torch.from_numpy(given_weights)
        found = scores.mean(w)
        assert found.n == n
        assert found.accuracy == pytest.approx(
            np.average(p.argmax(1) == labels, weights=given_weights), abs=1e-9
        )
        nll = -torch.from_numpy(logits).double().log_softmax(1).numpy()[np.arange(n), labels]
        assert found.nll == pytest.approx(
            np.average(nll, weights=given_weights), rel=1e-5, abs=1e-6
        )
        assert found.brier == pytest.approx(
            np.average(squared_errors(p, labels), weights=given_weights), abs=1e-9
        )
        assert found.ece == pytest.approx(calibration_error(p, labels, given_weights), abs=1e-9)
        assert 0 <= found.brier <= 2 and 0 <= found.ece <= 1
        assert found.balanced_accuracy == pytest.approx(
            balanced_accuracy_score(labels, p.argmax(1), sample_weight=given_weights), abs=1e-9
        )
        f1 = {"average": "macro", "zero_division": 0, "sample_weight": given_weights}
        assert found.macro_f1 == pytest.approx(f1_score(labels, p.argmax(1), **f1), abs=1e-9)
    whole = torch.ones(n, dtype=torch.float64)
    assert scores.mean(whole * 7).scores == pytest.approx(scores.mean().scores)
    *columns, _ = (getattr(scores, name) for name in scores.__annotations__)
    doubled = ImageScores(*(column.repeat(2) for column in columns), classes)
    assert doubled.mean().scores == pytest.approx(scores.mean().scores)


def test_predictions_are_those_that_are_evaluated(digits, resnet):
    found = evaluate(resnet, digits, PLAIN)
    logits, features, _ = predict(resnet, digits, PLAIN)
    assert logits.shape == (70, 10) and features.shape == (70, resnet.num_features)
    assert logits.dtype == features.dtype == torch.float32
    assert int((logits.argmax(1) == digits.labels).sum()) == round(found.accuracy * 70)
    assert float(F.cross_entropy(logits, digits.labels)) == pytest.approx(found.nll, rel=1e-5)
    alone, *nothing = predict(resnet, digits, PLAIN, features=False)
    assert nothing == [None, None] and torch.allclose(alone, logits, atol=1e-5)


def test_images_without_labels_are_predicted(digits, resnet):
    bare = DeviceImages(digits.values, None, InputFormat((0.0,), (1.0,)), CPU)
    assert predict(resnet, bare, PLAIN)[0].shape == (70, 10)


@pytest.mark.parametrize("training", [True, False])
def test_looking_at_a_model_does_not_change_it(digits, resnet, training):
    resnet.train(training)
    before = weights_hash(resnet)
    with process_left_alone("evaluate and predict"):
        evaluate(resnet, digits, PLAIN)
        predict(resnet, digits, PLAIN)
    assert weights_hash(resnet) == before and resnet.training == training
    broken = DeviceImages(
        digits.values.repeat(1, 1, 1, 2), digits.labels, InputFormat((0.0,), (1.0,)), CPU
    )
    with pytest.raises(RuntimeError):
        evaluate(resnet, broken, PLAIN)
    assert resnet.training == training


def test_dropout_and_batch_statistics_are_off_when_predicting(digits):
    model = ToyNet(10, 1, drop_rate=0.9)
    assert evaluate(model, digits, PLAIN) == evaluate(model, digits, PLAIN)
    first = digits.part(torch.tensor([0]))
    one = predict(model, first, PLAIN, features=False)[0]
    assert torch.allclose(one, predict(model, digits, PLAIN, features=False)[0][:1], atol=1e-5)


# --- device --------------------------------------------------------------------------------------


def test_compute_for_this_machine():
    compute = Compute.resolve("cpu")
    assert compute == Compute(CPU, "float32", True)
    assert not Compute.resolve("cpu", image_size=8).channels_last
    assert Compute.resolve("cpu", image_size=16).channels_last
    assert Compute.resolve("cpu", "bfloat16").precision == "bfloat16"
    assert Compute.resolve().device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "cpu:x", "meta"])
def test_device_that_is_not_there(device):
    with pytest.raises(ConfigurationError, match="Legal: auto, cpu"):
        Compute.resolve(device)


def test_unknown_precision():
    with pytest.raises(ConfigurationError, match="Legal: auto, float32, bfloat16"):
        Compute.resolve("cpu", "float16")


def test_place_sets_the_memory_order_and_keeps_the_weights():
    model = nn.Conv2d(3, 4, 3)
    before = weights_hash(model)
    placed = Compute(CPU, "float32", True).place(model)
    assert placed.weight.is_contiguous(memory_format=torch.channels_last)
    assert not placed.weight.is_contiguous()
    assert weights_hash(placed) == before
    assert Compute(CPU, "float32", False).place(placed).weight.is_contiguous()


def test_bfloat16_on_the_cpu_trains_close_to_float32():
    from alhpo import ActiveLearner

    data = load_dataset("digits")

    losses = {}
    for precision in ("float32", "bfloat16"):
        learner = ActiveLearner(data, "alhpo_toy", max_epochs=4, precision=precision)
        learner.label_initial(20)
        learner.fit({"lr": 0.01})
        losses[precision] = learner.predict(range(50)).logits.softmax(1)
    difference = (losses["float32"] - losses["bfloat16"]).abs()
    assert 0 < difference.max() < 0.2
