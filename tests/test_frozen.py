"""The recipe "frozen": features once, heads trained together, runs of them."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hpo4dl_tuner import best_of_hpo4dl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F
from toy_models import alhpo_toy, toy_weights

import alhpo.models.encoder
from alhpo import ActiveLearner, ImageDataset, RunConfig, Tuner, load_dataset, run_experiment
from alhpo.base.errors import ConfigurationError, DataError
from alhpo.base.seeding import derive_seed, torch_generator
from alhpo.base.types import Query
from alhpo.cli.options import given_settings
from alhpo.data.feature_batches import DeviceFeatures
from alhpo.data.stored_features import stored_features
from alhpo.hyperparameters import HeadHyperparameters
from alhpo.models.encoder import Encoder
from alhpo.models.timm_models import ModelSpec, build_model
from alhpo.testing import check_recipe
from alhpo.training.epochs import EpochOf, learning_rate, make_optimizer
from alhpo.training.heads import SLOTS, Head, HeadTraining, train_heads

CPU = torch.device("cpu")
MODEL = alhpo_toy.__name__
EPOCHS = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return toy_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def digits_200():
    return load_dataset("digits", pool_size=200, eval_size=100)


def learner_of(dataset, weights, **changes):
    return ActiveLearner(dataset, MODEL, "margin", recipe="frozen", weights=weights, **changes)


def features(n, width, classes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    values = (
        torch.randn(n, width, generator=generator)
        + 2 * F.one_hot(labels, max(width, classes))[:, :width]
    )
    return DeviceFeatures(values, labels, CPU)


def new_head(width, classes, hp, seed, dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Head(width, classes, hp.hidden, hp.normalization, dropout)


# --------------------------------------------------------------------------------------- the heads


HYPERPARAMETERS = st.fixed_dictionaries(
    {
        "lr": st.floats(1e-3, 0.3),
        "weight_decay": st.sampled_from([0.0, 1e-2]),
        "momentum": st.sampled_from([0.5, 0.9]),
        "optimizer": st.sampled_from(["sgd", "adam", "adamw"]),
        "batch_size": st.sampled_from([2, 7, 64]),
        "epoch_images": st.sampled_from(["fill", "drop", 30]),
        "schedule": st.sampled_from(["cosine", "step", "constant"]),
        "lr_steps": st.sampled_from(["step", "epoch"]),
        "label_smoothing": st.sampled_from([0.0, 0.2]),
        "normalization": st.sampled_from(["none", "l2", "layer"]),
        "class_weights": st.sampled_from(["none", "balanced"]),
        "hidden": st.sampled_from([0, 9]),
        "warmup_epochs": st.sampled_from([0, 1]),
    }
)


@settings(deadline=None, max_examples=60)
@given(values=HYPERPARAMETERS, nesterov=st.booleans(), n=st.sampled_from([1, 10, 23]))
def test_a_head_is_trained_as_torch_trains_it(values, nesterov, n):
    hp = HeadHyperparameters.create(values, {"nesterov": nesterov and values["optimizer"] == "sgd"})
    images = features(n, 12, 5)
    training = HeadTraining(new_head(12, 5, hp, 0), hp, EPOCHS)
    model = new_head(12, 5, hp, 0)
    optimizer = make_optimizer(model.parameters(), hp)
    class_weights = None
    if hp.class_weights == "balanced":
        there = np.unique(images.labels)
        class_weights = torch.ones(5)
        class_weights[there] = torch.tensor(
            compute_class_weight("balanced", classes=there, y=images.labels.numpy())
        ).float()
    for epoch in range(EPOCHS):
        losses = []
        generator = torch_generator(derive_seed(3, 0, epoch), "epoch")
        order = images.order(hp.batch_size, generator, hp.epoch_images)
        for step, rows in enumerate(order):
            done = step / len(order) if hp.lr_steps == "step" else 0
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(hp, epoch + done, EPOCHS)
            loss = F.cross_entropy(
                model(images.values[rows]),
                images.labels[rows],
                weight=class_weights,
                label_smoothing=hp.label_smoothing,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert training.epoch(images, epoch, 3, 0) == pytest.approx(np.mean(losses), abs=1e-3)
    for mine, theirs in zip(training.parameters, model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n", "width", "classes", "shared"),
    [
        (150, 1280, 10, {}),
        (150, 384, 100, {"optimizer": "adamw"}),
        (70, 13, 3, {"nesterov": True}),
        (9, 1279, 7, {"hidden": 21, "class_weights": "balanced"}),
    ],
)
@settings(
    deadline=None,
    max_examples=4,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_head_is_the_same_in_every_slot_with_any_neighbours(
    threads, n, width, classes, shared, data
):
    """Also where the heads beside it have other batches, so that they are in other products."""
    images, halves = features(n, width, classes), torch.arange(n).chunk(2)
    hp = HeadHyperparameters.create(shared)

    def trained(trainings):
        for epoch in range(2):
            losses = train_heads(
                [EpochOf(training, part, epoch, (number,)) for training, part, number in trainings]
            )
        return losses

    alone = HeadTraining(new_head(width, classes, hp, 0, 0.3), hp, EPOCHS)
    (expected,) = trained([(alone, images, -1)])
    mine = HeadTraining(new_head(width, classes, hp, 0, 0.3), hp, EPOCHS)
    others = []
    for number in range(data.draw(st.integers(1, 2 * SLOTS))):
        other = hp.create(shared, {"lr": data.draw(st.sampled_from([1e-3, 0.1, 1e30]))})
        head = new_head(width, classes, other, number + 1, 0.3)
        part = images if data.draw(st.booleans()) else images.part(halves[number % 2])
        others.append((HeadTraining(head, other, EPOCHS), part, number))
    place = data.draw(st.integers(0, len(others)))
    losses = trained([*others[:place], (mine, images, -1), *others[place:]])
    assert losses[place] == expected
    for one, other in zip(alone.tensors().values(), mine.tensors().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "configuration",
    [{}, {"hidden": 6, "optimizer": "adam", "batch_size": 4}, {"normalization": "l2"}],
)
def test_it_conforms(weights, configuration):
    check_recipe("frozen", configuration, model=MODEL, weights=weights)


def test_dropout_is_drawn_for_each_step(weights, digits_200):
    dry, wet = (learner_of(digits_200, weights, dropout=p, max_epochs=3) for p in (0.0, 0.5))
    for learner in (dry, wet):
        learner.label_initial(20)
        learner.fit()
    assert not torch.equal(dry.predict([0]).logits, wet.predict([0]).logits)
    wet.query(3, strategy="bald")
    with pytest.raises(ConfigurationError, match="dropout"):
        dry.query(3, strategy="bald")


# ------------------------------------------------------------------------------------ the features


def test_random_weights_are_refused(digits_200):
    with pytest.raises(ConfigurationError, match=r"would be random.*--weights"):
        ActiveLearner(digits_200, MODEL, recipe="frozen")


def encoded(dataset, weights, **changes):
    """The learner, and how many images were encoded for it."""
    learner, counts = learner_of(dataset, weights, **changes), [(0, 0)]
    learner.prepare(lambda done, total: counts.append((done, total)))
    return learner, sum(total for done, total in counts if done == total)


def test_every_image_is_encoded_once(digits_200, weights):
    learner, count = encoded(digits_200, weights)
    assert count == 300
    again, count = encoded(digits_200, weights, seed=1)
    assert count == 0
    some = ImageDataset.from_arrays(
        torch.cat([digits_200.images[::3], 255 - digits_200.images[:5]]),
        torch.cat([digits_200.labels[::3], digits_200.labels[:5]]),
        eval_images=digits_200.eval_images[:1],
        eval_labels=digits_200.eval_labels[:1],
        classes=12,  # features do not depend on the classes
    )
    other, count = encoded(some, weights)
    assert count == 5
    for one in (learner, again, other):
        one.label_initial(20)
        one.fit({"normalization": "l2"}, max_epochs=1)
    rows = torch.arange(0, 60, 3)
    theirs = learner.predict(rows.numpy()).features
    assert torch.equal(theirs, other.predict(range(20)).features)
    _, count = encoded(digits_200, weights, input_size=16)
    assert count == 300


def test_features_are_those_of_the_network(digits_200, weights):
    """Of the model in evaluation mode, of grey images in three channels."""
    learner = learner_of(digits_200, weights, max_epochs=1)
    learner.label_initial(20)
    learner.fit()
    spec = ModelSpec(MODEL, 10, 3, (8, 8), weights=weights)
    model = build_model(spec, 0).eval()
    form = Encoder(spec).form
    pixels = digits_200.images.expand(-1, -1, -1, 3).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(part)[:, None, None] for part in (form.mean, form.std))
    with torch.no_grad():
        hidden = model.forward_features((pixels - mean) / std)
        expected = model.forward_head(hidden, pre_logits=True)
    assert torch.allclose(learner.predict().features, expected, atol=1e-4)


def test_the_network_stays_as_it_was_trained(tmp_path):
    """Also a ResNet on small images, of which one that is trained gets another stem."""
    spec = ModelSpec("resnet18", 3, 3, (8, 8), cifar_stem=False)
    save_file(build_model(spec, 0).state_dict(), tmp_path / "w.safetensors")
    given = replace(spec, weights=str(tmp_path / "w.safetensors"), input_size=32)
    kept, asked = (Encoder(replace(given, cifar_stem=stem)) for stem in (None, False))
    assert kept.weights == asked.weights


def test_an_interrupted_pass_goes_on(digits_200, weights, monkeypatch):
    monkeypatch.setattr(alhpo.models.encoder, "PASSES", 1)
    monkeypatch.setattr(alhpo.data.batches, "INFERENCE_PIXELS", 2048)  # 32 images

    class Stop(Exception):
        pass

    def stop(done, total):
        if done >= 64:
            raise Stop

    learner = learner_of(digits_200, weights)
    with pytest.raises(Stop):
        learner.prepare(stop)
    seen = []
    learner.prepare(lambda done, total: seen.append((done, total)))
    assert seen[0] == (32, 136) and (136, 136) in seen
    interrupted = learner
    monkeypatch.setenv("ALHPO_CACHE", "/dev/null/none")  # computed in memory, in one go
    at_once = learner_of(digits_200, weights)
    for one in (interrupted, at_once):
        one.label_initial(30)
        one.fit(max_epochs=2)
    assert torch.equal(interrupted.predict().logits, at_once.predict().logits)


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "rows", "entry"])
def test_a_damaged_cache_is_computed_again(digits_200, weights, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("ALHPO_CACHE", str(tmp_path / "cache"))
    learner, _ = encoded(digits_200, weights)
    (entry,) = (tmp_path / "cache" / "features").glob("[!.]*")
    values, rows = entry / "values.bin", entry / "rows.jsonl"
    content = bytearray(values.read_bytes())
    if damage == "flip":
        content[100] ^= 1
        values.write_bytes(content)
    elif damage == "cut":
        values.write_bytes(content[:-100])
    elif damage == "grow":  # left by a process that was killed: no harm
        values.write_bytes(content + b"more")
    elif damage == "rows":
        rows.write_text("nonsense\n" + rows.read_text())
    else:
        (entry / "entry.json").unlink()
    again, count = encoded(digits_200, weights)
    assert count == (0 if damage == "grow" else 300)
    for one in (learner, again):
        one.label_initial(20)
        one.fit(max_epochs=1)
    if damage != "flip":  # the first learner has the damaged file mapped
        assert torch.equal(learner.predict().features, again.predict().features)


def test_the_limit_of_the_cache_holds_for_features(digits_200, weights, monkeypatch, tmp_path):
    monkeypatch.setenv("ALHPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ALHPO_CACHE_GIB", "0")
    _, count = encoded(digits_200, weights)
    assert count == 300
    files = (tmp_path / "cache" / "features").glob("*/values.bin")
    assert sum(file.stat().st_size for file in files) == 0


def test_images_of_one_identity_take_one_row(monkeypatch, tmp_path):
    monkeypatch.setenv("ALHPO_CACHE", str(tmp_path / "cache"))
    identities = ["a", "b", "a", "c", "d", "b", "e"]
    for _ in range(2):  # computed, and from the cache
        found = stored_features(
            {},
            "letters",
            identities,
            1,
            np.float32,
            lambda rows: np.array([[ord(identities[row])] for row in rows]),
            block=2,
        )
        assert found[:].flatten().tolist() == [ord(one) for one in identities]


def test_another_version_of_timm_gives_its_own_features(digits_200, weights, monkeypatch):
    encoded(digits_200, weights)
    monkeypatch.setattr(alhpo.models.encoder, "version", lambda package: "another")
    assert encoded(digits_200, weights)[1] == 300


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_features_that_are_not_finite_are_refused(value):
    with pytest.raises(DataError, match=r"not finite as float16.*float32"):
        stored_features(
            {},
            "test",
            ["one", "two"],
            3,
            np.float16,
            lambda rows: np.full((len(rows), 3), value, np.float32),
            block=2,
        )


# ------------------------------------------------------------------------------ learners and runs


def test_the_defaults_are_those_of_heads(digits_200, weights):
    learner = learner_of(digits_200, weights)
    assert learner.max_epochs == 200 and learner.validation.name == "kfold:5"
    assert learner.space.keys() == {"lr", "weight_decay"}
    config = RunConfig(recipe="frozen", weights=weights, model=MODEL)
    assert (config.max_epochs, config.max_budget) == (200, 1000)
    assert (config.space, config.validation, config.metric) == ("head", "kfold:5", "likelihood")
    given = RunConfig(
        recipe="frozen", weights=weights, model=MODEL, max_epochs=9, metric="accuracy"
    )
    assert (given.max_epochs, given.metric, given.validation) == (9, "accuracy", "kfold:5")
    assert RunConfig().max_epochs == 27
    assert given_settings({"frozen": True, "seed": None}) == {"recipe": "frozen"}
    with pytest.raises(ConfigurationError, match="--frozen and --recipe network"):
        given_settings({"frozen": True, "recipe": "network"})


def test_an_objective_trains_trials_together_as_each_alone(digits_200, weights, tmp_path):
    learner = learner_of(digits_200, weights, max_epochs=4)
    learner.label_initial(23)  # folds of two sizes
    configurations = [{"lr": lr, "weight_decay": 1e-4} for lr in (0.01, 1.0, 0.1)]
    alone = [
        learner.objective()(values, 3, 0, tmp_path / f"alone{number}")
        for number, values in enumerate(configurations)
    ]
    objective = learner.objective()
    first = objective(configurations[0], 1, 0, tmp_path / "together0")
    rows = objective.train_together(
        [
            (values, 3, number == 0, tmp_path / f"together{number}")
            for number, values in enumerate(configurations)
        ]
    )
    assert [first + rows[0], *rows[1:]] == alone
    errors = objective.train_together([({"lr": 1.0}, 1, 0, tmp_path / "x")] * 1)
    assert isinstance(errors[0], ConfigurationError)
    network = ActiveLearner(digits_200, MODEL)
    network.label_initial(20)
    assert network.objective().train_together is None


def test_a_search_finds_the_same_with_any_number_of_processes(digits_200, weights, tmp_path):
    """Killed and resumed in the middle, with three trials at a time."""

    def search(folder, budget):
        learner = learner_of(digits_200, weights, max_epochs=3)
        learner.label_initial(20)
        objective = learner.objective()
        tuner = Tuner(
            objective_function=objective,
            configuration_space=objective.configuration_space,
            max_epochs=3,
            max_budget=budget,
            output_path=folder,
            optimizer="asha",
            num_configurations=9,
            parallel=3,
            seed=0,
            progress=False,
        )
        best = tuner.run()
        return best["configuration"], best["metric"]

    assert search(tmp_path / "a", 20) == search(tmp_path / "b", 20)


@pytest.mark.hpo4dl
def test_hpo4dl_drives_heads(digits_200, weights, tmp_path):
    learner = learner_of(digits_200, weights, max_epochs=3)
    learner.label_initial(20)
    best = best_of_hpo4dl(learner.objective(), 3, 9, tmp_path)
    assert 0 < best["metric"] <= 1


@pytest.mark.parametrize("hpo", ["fixed", "per-cycle", "final"])
@pytest.mark.parametrize("start", ["cold", "warm"])
def test_runs_tune_heads(few_digits, weights, tmp_path, hpo, start):
    config = {
        "recipe": "frozen",
        "model": MODEL,
        "weights": weights,
        "strategy": "badge",
        "hpo": hpo,
        "start": start,
        "initial_size": 10,
        "acquisition_size": 10,
        "budget": 30,
        "max_epochs": 5,
        "max_budget": 15,
        "optimizer": "random",
        "output_dir": str(tmp_path),
        "device": "cpu",
    }
    result = run_experiment(config, dataset=few_digits)
    assert len(result.records) == 3 + (hpo == "final")
    assert all(record.n_labeled for record in result.records)
    shutil.rmtree(result.path)
    again = run_experiment(config, dataset=few_digits)
    assert [r.test for r in again.records] == [r.test for r in result.records]


def test_weights_of_validation_come_from_the_features(digits_200, weights):
    learner = learner_of(digits_200, weights, max_epochs=1)
    learner.label_initial(20)
    learner.fit()
    learner.query(20)
    assert learner.objective(validation="weighted:kfold:2").identity


def test_oracles_and_image_strategies_see_what_they_need(few_digits, weights):
    def greedy(outputs, n, rng):
        assert outputs.images.shape[1:] == (8, 8, 1) and outputs.features is None
        (result,) = outputs.retrain([[int(outputs.indices[0])]])
        assert 0 <= result.accuracy <= 1
        return Query(tuple(outputs.indices[:n].tolist()))

    greedy.needs = frozenset({"images", "retrain"})
    learner = learner_of(few_digits, weights, max_epochs=1)
    learner.label_initial(10)
    learner.fit()
    assert len(learner.query(2, strategy=greedy).indices) == 2


def test_models_that_an_oracle_compares_are_trained_side_by_side_as_each_alone(few_digits, weights):
    told = []

    def greedy(outputs, n, rng):
        batches = [outputs.indices[i : i + n].tolist() for i in range(7)]
        told.append(outputs.retrain(batches))
        told.append([outputs.retrain([batch])[0] for batch in batches])
        told.append(outputs.retrain(batches, 99))
        told.append(outputs.retrain(batches, 1))
        told.append(outputs.retrain([]))
        return Query(tuple(batches[0]))

    greedy.needs = frozenset({"retrain"})
    learner = learner_of(few_digits, weights, max_epochs=3)
    learner.label_initial(10)
    learner.fit()
    learner.query(4, strategy=greedy)
    together, alone, more, fewer, nothing = told
    assert len({one.nll for one in together}) == 7
    assert together == alone == more
    assert all(a.nll != b.nll for a, b in zip(together, fewer, strict=True))
    assert nothing == []


def test_a_pretrained_network_from_pip_reads_digits():
    """EfficientNet-Lite0 never saw a digit; with 60 labels a head on its features knows most."""
    dataset = load_dataset("digits", pool_size=90, eval_size=60)
    learner = ActiveLearner(
        dataset,
        "tf_efficientnet_lite0",
        recipe="frozen",
        weights="efficientnet-lite0",
        input_size=64,
        precision="float32",
    )
    learner.label_initial(80)
    assert learner.fit().accuracy > 0.6
