"""Learning loss: the ranking loss, the head, the stopped gradient, exact resume, other runs."""

from __future__ import annotations

import copy
import multiprocessing
from dataclasses import replace

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from alhpo import ActiveLearner
from alhpo.base.errors import CheckpointError, ConfigurationError, DivergedError
from alhpo.base.types import Query
from alhpo.hyperparameters import Hyperparameters
from alhpo.models.timm_models import ModelSpec, build_model, weights_hash
from alhpo.training.checkpoints import FILE_NAME
from alhpo.training.compute import Compute
from alhpo.training.epochs import classification_loss
from alhpo.training.loss_prediction import (
    add_loss_predictor,
    loss_at,
    predicted_losses,
    ranking_loss,
)
from alhpo.training.recipes import RECIPES
from alhpo.training.recipes.learning_loss import LearningLossRecipe

CPU = Compute.resolve("cpu", "float32", 8)
CONFIGURATION = {"lr": 0.05, "weight_decay": 1e-3}
numbers = st.floats(-100, 100, width=32)


def by_loss(pool, n, generator):
    order = pool.predicted_losses.argsort(descending=True, stable=True)[:n]
    return Query(tuple(pool.indices[order].tolist()))


by_loss.needs = frozenset({"predicted_losses"})


def at_random(pool, n, generator):
    return Query(tuple(int(i) for i in generator.choice(pool.indices.numpy(), n, replace=False)))


at_random.needs = frozenset()


def learner_of(dataset, strategy=by_loss, **options):
    options = {"model": "resnet10t", "max_epochs": 6, "precision": "float32"} | options
    options.setdefault("hyperparameters", {"batch_size": 8})
    learner = ActiveLearner(dataset, strategy=strategy, **options)
    learner.label_initial(24)
    return learner


def with_head(name="resnet10t", size=16):
    model = build_model(ModelSpec(name, 10, 1, (size, size)), 0)
    add_loss_predictor(model, (1, size, size), 0)
    return model


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9))
def test_ranking_loss_is_that_of_the_definition(values):
    predicted, losses = torch.tensor(values).T
    pairs = []
    for i in range(len(values) // 2):
        j = len(values) - 1 - i
        sign = 1 if losses[i] > losses[j] else -1
        pairs.append(max(0.0, -sign * float(predicted[i] - predicted[j]) + 1))
    expected = sum(pairs) / len(pairs) if pairs else 0.0
    assert float(ranking_loss(predicted, losses)) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_head_sees_averaged_stages():
    model = with_head().eval()
    images = torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        with predicted_losses(model) as batches:
            model(images)
            model.forward_features(images[:2])
        hidden = model.maxpool(model.act1(model.bn1(model.conv1(images))))
        pooled = []
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            hidden = stage(hidden)
            pooled.append(F.adaptive_avg_pool2d(hidden, 1).flatten(1))
        head = model.loss_predictor
        parts = [F.relu(b(p)) for b, p in zip(head.branches, pooled, strict=True)]
        expected = head.score(torch.cat(parts, dim=1))[:, 0]
    assert [b.out_features for b in head.branches] == [128] * 4
    torch.testing.assert_close(batches[0], expected)
    torch.testing.assert_close(batches[1], expected[:2])


@pytest.mark.parametrize(
    ("name", "size", "stages"),
    [
        ("resnet18", 8, 4),
        ("efficientnet_b0", 32, 4),
        ("convnext_atto", 32, 4),
        ("vit_tiny_patch16_224", 224, 4),
        ("swin_tiny_patch4_window7_224", 224, 4),
        ("levit_128s", 224, 3),
    ],
)
def test_models_of_other_families_have_stages(name, size, stages):
    model = build_model(ModelSpec(name, 10, 1, (size, size)), 0)
    before = weights_hash(model)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    add_loss_predictor(model, (1, size, size), 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    images = torch.randn(2, 1, size, size)
    model.eval()
    with predicted_losses(model) as batches, torch.no_grad():
        logits = model(images)
    assert batches[0].shape == (2,)
    assert len(model.loss_predictor.branches) == stages
    head = model.loss_predictor
    del model.loss_predictor
    assert weights_hash(model) == before
    with torch.no_grad():
        assert torch.equal(model(images), logits)
    add_loss_predictor(model, (1, size, size), 0)
    for mine, theirs in zip(head.parameters(), model.loss_predictor.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_models_without_stages_are_refused_before_any_work(few_digits, monkeypatch):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward_features(self, images):
            return images.flatten(1)

        def forward_head(self, hidden, pre_logits=False):
            return hidden if pre_logits else self.layer(hidden)

        def forward(self, images):
            return self.forward_head(self.forward_features(images))

    monkeypatch.setattr("alhpo.training.recipes.network.build_model", lambda *_, **__: Flat())
    with pytest.raises(ConfigurationError, match="Flat has no stages"):
        ActiveLearner(few_digits, strategy=by_loss)
    assert len(ActiveLearner(few_digits, strategy=at_random).ask_initial(3)) == 3


@pytest.mark.parametrize(("progress", "joint"), [(0.0, True), (0.59, True), (0.6, False)])
def test_the_head_trains_the_classifier_for_sixty_percent(progress, joint):
    model = with_head()
    model.loss_predictor.score.weight.data.fill_(0.01)
    images, labels = torch.randn(7, 1, 16, 16), torch.arange(7)
    hp = Hyperparameters.create({"label_smoothing": 0.1})

    def gradients(loss_of):
        copied = copy.deepcopy(model)
        loss = loss_of(copied, images, labels, hp, CPU)
        loss.backward()
        return loss, {name: p.grad for name, p in copied.named_parameters()}

    loss, together = gradients(loss_at(progress))
    alone, plain = gradients(classification_loss)
    assert loss > alone + 0.1
    for name, gradient in plain.items():
        if name.startswith("loss_predictor."):
            assert gradient is None
            assert together[name] is not None
        elif name.startswith("fc."):
            torch.testing.assert_close(together[name], gradient)  # the head is before it
        elif name == "conv1.0.weight":
            assert torch.allclose(together[name], gradient, rtol=1e-3, atol=1e-6) != joint


def test_true_losses_are_not_trained_by_the_ranking():
    losses = torch.rand(6, requires_grad=True)
    model = with_head()
    images, labels = torch.randn(6, 1, 16, 16), torch.zeros(6, dtype=torch.int64)
    loss_at(0.9)(model, images, labels, Hyperparameters.create({}), CPU).backward()
    predicted = torch.rand(6, requires_grad=True)
    ranking_loss(predicted, losses).backward()
    assert predicted.grad.abs().sum() > 0
    assert losses.grad is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"validation": "kfold:2"}, marks=pytest.mark.slow),
        pytest.param({"start": "warm"}, marks=pytest.mark.slow),
    ],
)
def test_ten_epochs_at_once_equal_parts_in_other_processes(few_digits, tmp_path, options):
    learner = learner_of(few_digits, max_epochs=10, **options)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    at_once = learner.objective()(CONFIGURATION, 10, 0, whole)
    rows = []
    for first, last in ((0, 4), (4, 7), (7, 10)):  # the gradient is stopped at epoch 6
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        objective = learner.objective()
        process = context.Process(
            target=lambda a=first, b=last, o=objective, q=queue: q.put(
                o(CONFIGURATION, b, a, parts)
            )
        )
        process.start()
        rows += queue.get()
        process.join()
    assert rows == at_once
    one, two = load_file(whole / FILE_NAME), load_file(parts / FILE_NAME)
    assert one.keys() == two.keys()
    assert any("loss_predictor" in name for name in one)
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_a_fit_is_continued_and_restored_with_its_head(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr("alhpo.training.final_fit.CHECKPOINT_SECONDS", 0.0)
    whole = learner_of(few_digits)
    whole.fit(CONFIGURATION)

    class Killed(BaseException):
        pass

    def kill(epoch):
        if epoch == 5:
            raise Killed

    with pytest.raises(Killed):
        learner_of(few_digits).fit(CONFIGURATION, checkpoint_path=tmp_path / "fit", callback=kill)
    resumed = learner_of(few_digits)
    resumed.fit(CONFIGURATION, checkpoint_path=tmp_path / "fit")
    restored = learner_of(few_digits)
    restored.restore(tmp_path / "fit")
    expected = whole.predict().predicted_losses
    assert expected.std() > 0
    for other in (resumed, restored):
        assert torch.equal(other.predict().predicted_losses, expected)
    assert resumed.ask(9) == whole.ask(9)
    with pytest.raises(CheckpointError, match="another strategy"):
        learner_of(few_digits, strategy=at_random).restore(tmp_path / "fit")


def test_it_is_part_of_the_identity_and_of_checkpoints(few_digits, tmp_path):
    with_it = learner_of(few_digits).objective()
    without = learner_of(few_digits, strategy=at_random).objective()
    assert with_it.identity != without.identity
    without(CONFIGURATION, 1, 0, tmp_path)
    with pytest.raises(CheckpointError, match="weights"):
        with_it(CONFIGURATION, 2, 1, tmp_path)


def test_other_runs_stay_what_they_were(few_digits, tmp_path):
    """Weights and checkpoints of a run whose strategy does not look at predicted losses."""
    for name, strategy in (("random", "random"), ("own", at_random)):
        learner_of(few_digits, strategy=strategy).fit(checkpoint_path=tmp_path / name)
    contents = [(tmp_path / name / FILE_NAME).read_bytes() for name in ("random", "own")]
    assert contents[0] == contents[1]
    assert b"loss_predict" not in contents[0]


def test_divergence_is_handled_as_ever(few_digits, tmp_path):
    learner = learner_of(few_digits)
    rows = learner.objective()({"lr": 1e25, "weight_decay": 0.0}, 3, 0, tmp_path)
    assert rows[-1]["diverged"]
    assert rows[-1]["metric"] == 0
    with pytest.raises(DivergedError, match="Lower lr"):
        learner.fit({"lr": 1e25})


def test_a_head_that_diverges_alone_counts(few_digits):
    class Broken(LearningLossRecipe):
        def __init__(self, spec, seed):
            super().__init__(spec, seed)
            self.template.loss_predictor.score.weight.data.fill_(float("nan"))

    RECIPES.register("broken-head", Broken)
    learner = learner_of(few_digits, recipe="broken-head")
    with pytest.raises(DivergedError):
        learner.fit(CONFIGURATION)


@pytest.mark.slow
def test_predicted_losses_rank_the_true_ones(digits):
    data = replace(digits, images=digits.images[:700], labels=digits.labels[:700])
    learner = ActiveLearner(data, "resnet10t", by_loss, max_epochs=20, hyperparameters={"lr": 0.05})
    learner.label_initial(100)
    learner.fit()
    free = learner.pool.available
    outputs = learner.predict(free)
    true = F.cross_entropy(outputs.logits, data.labels[free], reduction="none")
    correlation = scipy.stats.spearmanr(outputs.predicted_losses, true).statistic
    assert correlation > 0.2  # 0 by chance, with a deviation of 0.04
