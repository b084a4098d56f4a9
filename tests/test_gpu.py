"""What only a GPU can show: captured steps there give the same bits in every order of events.

The CPU's tests of the same code are in ``test_captured``.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from study_examples import SETTINGS, records, study_in
from toy_models import random_weights

from alhpo import ActiveLearner, ImageDataset, Tuner
from alhpo.studies import run_study
from alhpo.training.activations import Activations
from alhpo.training.epochs import EpochOf
from alhpo.training.lanes import CAPTURING, deterministic_convolutions

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

HYPERPARAMETERS = {
    "sgd": {},
    "plain sgd": {"momentum": 0.0, "augmentation": "none"},
    "nesterov": {"nesterov": True, "label_smoothing": 0.1, "lr_steps": "epoch"},
    "adam": {"optimizer": "adam", "lr": 0.001},
    "adamw": {"optimizer": "adamw", "lr": 0.001, "augmentation": "flip"},
}


@pytest.fixture(scope="module")
def noise():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (160, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(160) % 10
    return ImageDataset.from_arrays(
        images[:120], labels[:120], eval_images=images[120:], eval_labels=labels[120:]
    )


def task_of(data, captured=True, **settings):
    learner = ActiveLearner(data, device="cuda", **{"model": "test_resnet"} | settings)
    learner.compute = dataclasses.replace(learner.compute, captured=captured)
    learner.label_initial(80)
    return learner._task("gpu", max_epochs=5)


def trainings_of(task, count, **hp):
    values = task.recipe.hyperparameters.create({"batch_size": 16, "lr": 0.05} | hp)
    images = task.device_images(np.arange(len(task.labels)))
    return [
        EpochOf(
            task.recipe.start(values.resolved("crop-flip"), 5, task.compute), images, 0, (3, number)
        )
        for number in range(count)
    ]


def train(task, trainings, epochs):
    """The losses of each epoch."""
    losses = []
    for epoch in epochs:
        now = [dataclasses.replace(one, epoch=epoch) for one in trainings]
        if task.together is None:
            losses.append([one.training.epoch(one.images, one.epoch, *one.key) for one in now])
        else:
            losses.append(task.together.train_together(now))
    return losses


def tensors(trainings):
    return [
        {name: value.detach().cpu().clone() for name, value in one.training.tensors().items()}
        for one in trainings
    ]


def equal(some, others):
    return len(some) == len(others) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(some, others, strict=True)
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("hp", HYPERPARAMETERS.values(), ids=HYPERPARAMETERS)
def test_the_same_bits_repeated_resumed_alone_and_as_the_eager_steps(noise, hp, precision):
    task = task_of(noise, precision=precision)
    ends = []
    for count in (4, 4, 1):
        trainings = trainings_of(task, count, **hp)
        train(task, trainings, range(4))
        ends.append(tensors(trainings))
    assert equal(ends[0], ends[1])
    assert equal(ends[0][:1], ends[2])
    assert not equal(ends[0][:1], ends[0][1:2])

    interrupted = trainings_of(task, 4, **hp)
    train(task, interrupted, range(2))
    resumed = trainings_of(task, 4, **hp)
    for one, state in zip(resumed, tensors(interrupted), strict=True):
        one.training.restore(state)
    train(task, resumed, range(2, 4))
    assert equal(ends[0], tensors(resumed))

    eager = task_of(noise, captured=False, precision=precision)
    assert eager.together is None
    with CAPTURING, deterministic_convolutions():  # other algorithms would round otherwise
        losses = train(eager, trainings_of(eager, 1, **hp), range(4))
    np.testing.assert_allclose(losses, train(task, trainings_of(task, 1, **hp), range(4)), 1e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.5},
        {"strategy": "lpl"},
        {"model": "resnet18"},
        {"model": "test_efficientnet"},
        {"model": "test_convnext", "input_size": 64},
        {"model": "test_vit", "input_size": 160},
    ],
    ids=str,
)
def test_families_are_captured(noise, settings):
    task = task_of(noise, **settings)
    assert task.together is not None
    ends = []
    for count in (3, 1):
        trainings = trainings_of(task, count, lr=0.01)
        losses = train(task, trainings, range(5))
        assert np.isfinite(losses).all()
        ends.append(tensors(trainings))
    assert equal(ends[0][:1], ends[1])


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("model", "side"),
    [("resnet18", 32), ("test_efficientnet", 32), ("test_convnext", 64), ("test_vit", 160)],
)
def test_fine_tuning_is_captured_from_activations_and_whole(
    noise, tmp_path, monkeypatch, model, side, precision
):
    weights = random_weights(tmp_path, model, 3)
    settings = {"recipe": "finetune", "weights": weights, "input_size": side}
    task = task_of(noise, model=model, precision=precision, **settings)
    assert task.together is not None
    for hp in (
        {"train_from": -1},
        {"train_from": -2, "layer_decay": 0.5, "augmentation": "crop-flip"},
        {"train_from": 0, "optimizer": "adamw", "batch_norm": "update", "backbone_lr": 0.1},
    ):
        hp = {"lr": 0.01, "views": 2, **hp}
        ends, losses = [], []
        for count in (3, 3, 1):
            trainings = trainings_of(task, count, **hp)
            losses.append(train(task, trainings, range(4)))
            ends.append(tensors(trainings))
        assert np.isfinite(losses[0]).all()
        assert equal(ends[0], ends[1])
        assert equal(ends[0][:1], ends[2])
        resumed = trainings_of(task, 3, **hp)
        half = trainings_of(task, 3, **hp)
        train(task, half, range(2))
        for one, state in zip(resumed, tensors(half), strict=True):
            one.training.restore(state)
        train(task, resumed, range(2, 4))
        assert equal(ends[0], tensors(resumed))
        with monkeypatch.context() as patch:
            patch.setattr(Activations, "_fits", lambda self, total: False)
            fresh = task_of(noise, model=model, precision=precision, **settings)
            fetched = trainings_of(fresh, 1, **hp)
            found = train(fresh, fetched, range(4))
        np.testing.assert_allclose(found, [epoch[:1] for epoch in losses[0]], 1e-2)


def test_a_model_that_cannot_be_captured_is_trained_step_by_step(noise, caplog):
    task = task_of(noise)
    stem = task.recipe.template.conv1 = torch.nn.Sequential(task.recipe.template.conv1, Waits())
    with caplog.at_level(logging.WARNING, "alhpo.training"):
        assert task.together is None
        train(task, trainings_of(task, 2), range(2))
    assert len(stem) == 2 and len(caplog.records) == 1 and "step by step" in caplog.text
    task = task_of(noise)  # and later captures are as good as ever
    assert np.isfinite(train(task, trainings_of(task, 2), range(2))).all()


class Waits(torch.nn.Module):
    def forward(self, x):
        return x * (1.0 + 0.0 * x.detach().sum().item())


def test_an_interrupted_search_goes_on_with_lagging_checkpoints(noise, tmp_path, monkeypatch):
    def search(folder, stop_at=None):
        learner = ActiveLearner(noise, "test_resnet", device="cuda", validation="kfold:2")
        learner.label_initial(60)
        objective = learner.objective(4)
        objective.let_checkpoints_lag()
        assert objective.checkpoints_lag
        seen = []

        def stop(row):
            seen.append(row)
            if len(seen) == stop_at:
                raise KeyboardInterrupt

        tuner = Tuner(
            objective,
            objective.configuration_space,
            4,
            14,
            tmp_path / folder,
            optimizer="hyperband",
            seed=1,
            callback=stop,
            resume="quiet",
        )
        tuner.run()
        return [(row["configuration_id"], row["epoch"], row["metric"]) for row in tuner.results]

    whole = search("whole")
    monkeypatch.setattr("alhpo.training.objective.LAG", 1e9)
    for stop_at in (3, 4, 2):
        with pytest.raises(KeyboardInterrupt):
            search("interrupted", stop_at)
    assert search("interrupted") == whole


def test_threads_on_one_gpu_record_what_one_after_the_other_does(tmp_path):
    values = {
        "settings": {
            **SETTINGS,
            "device": "cuda",
            "model": "test_resnet",
            "dropout": 0.5,
            "budget": 22,
            "max_epochs": 3,
        },
        "grid": {"strategy": ["random", "badge"], "hpo": ["fixed", "per-cycle"]},
    }
    found = []
    for launcher, options in (("in-process", {}), ("threads", {"workers": 4})):
        folder = tmp_path / launcher
        folder.mkdir()
        study = study_in(folder, **values)
        assert run_study(study, launcher, options=options).complete
        found.append(records(study))
    assert found[0] == found[1] and len(found[0]) == 8
