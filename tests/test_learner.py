"""ActiveLearner: ask and tell with people, simulation, warm start, recorded pools, errors."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alhpo import ActiveLearner, AlhpoError, ImageDataset, PoolOutputs, Query
from alhpo.base.errors import (
    CheckpointError,
    ConfigurationError,
    DataError,
    DivergedError,
    LabelError,
)
from alhpo.base.protocols import POOL_OUTPUTS
from alhpo.models.timm_models import weights_hash
from alhpo.outputs.dropout_passes import DropoutPasses
from alhpo.runs.setting_groups import DataSettings, ModelSettings
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.training.evaluation import predict

FAST = {"model": "alhpo_toy", "max_epochs": 1}


def test_simulated_run_with_every_strategy(few_digits):
    for strategy in ("random", "entropy", "coreset", "badge"):
        learner = ActiveLearner(few_digits, strategy=strategy, **FAST)
        first = learner.label_initial(20)
        evaluation = learner.fit()
        assert evaluation == learner.evaluate()
        assert evaluation.n == 60
        query = learner.query(15)
        assert learner.n_labeled == 35
        assert learner.cycle == 1
        assert not set(first.indices) & set(query.indices)
        assert list(learner.pool.labels) == few_digits.labels[learner.pool.labeled].tolist()


def test_same_seed_same_run_other_seed_other_run(few_digits):
    def indices(seed):
        torch.manual_seed(seed + 99)
        np.random.seed(seed + 99)  # noqa: NPY002 - a user's own stream
        learner = ActiveLearner(few_digits, seed=seed, **FAST)
        learner.label_initial(20)
        learner.fit()
        learner.query(10)
        return learner.pool.labeled.tolist()

    assert indices(3) == indices(3)
    assert indices(3) != indices(4)


def test_global_state_is_left_alone(few_digits):
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    learner = ActiveLearner(few_digits, **FAST)
    learner.label_initial(20)
    learner.fit()
    learner.query(5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_people_label_partly_and_late(few_digits):
    learner = ActiveLearner(few_digits, strategy="entropy", **FAST)
    start = learner.ask_initial(20)
    learner.tell(start.indices[:12], few_digits.labels[list(start.indices[:12])])
    assert learner.n_labeled == 12
    learner.fit()
    first = learner.ask(10)
    assert len(first.scores) == 10
    learner.tell(first.indices[:4], few_digits.labels[list(first.indices[:4])])
    learner.fit()
    second = learner.ask(10)
    waited = set(start.indices[12:]) | set(first.indices[4:])
    assert not set(second.indices) & (waited | set(first.indices))
    learner.tell(first.indices[4:], few_digits.labels[list(first.indices[4:])])  # late
    assert learner.n_labeled == 22
    by_cycle = learner.pool.by_cycle()
    assert by_cycle[0] == list(start.indices[:12])
    assert by_cycle[1] == list(first.indices)
    assert learner.cycle == 2


def test_paths_come_with_the_indices(few_digits):
    paths = tuple(f"img/{i}.png" for i in range(len(few_digits)))
    learner = ActiveLearner(replace(few_digits, paths=paths), **FAST)
    learner.label_initial(20)
    learner.fit()
    query = learner.ask(3)
    assert query.paths == tuple(f"img/{i}.png" for i in query.indices)


def test_data_without_labels_need_people(few_digits):
    unlabelled = replace(few_digits, labels=None)
    learner = ActiveLearner(unlabelled, **FAST)
    with pytest.raises(LabelError, match=r"ask\(\) and tell\(\)"):
        learner.label_initial(10)
    query = learner.ask_initial(10)
    learner.tell(query.indices, few_digits.labels[list(query.indices)].numpy())
    learner.fit()
    assert len(learner.ask(5)) == 5


def test_data_without_evaluation_split_still_train_and_query(few_digits):
    images = few_digits.images
    data = ImageDataset.from_arrays(images.numpy(), classes=10, layout="NHWC")
    learner = ActiveLearner(data, **FAST)
    learner.tell(range(20), few_digits.labels[:20])
    result = learner.fit()
    assert result.n == 0
    assert np.isnan(result.accuracy)
    assert len(learner.ask(4)) == 4


def test_recorded_pool_survives_the_process(few_digits, tmp_path):
    learner = ActiveLearner(few_digits, path=tmp_path, **FAST)
    learner.label_initial(20)
    learner.fit()
    query = learner.ask(10)
    learner.tell(query.indices[:5], few_digits.labels[list(query.indices[:5])])

    again = ActiveLearner(few_digits, path=tmp_path, **FAST)
    assert again.n_labeled == 25
    assert again.pool.labeled.tolist() == learner.pool.labeled.tolist()
    assert set(again.pool.pending) == set(query.indices[5:])
    assert again.cycle == 1
    assert again.label_initial(20).indices == tuple(learner.pool.by_cycle()[0])
    assert again.n_labeled == 25
    fewer = replace(few_digits, images=few_digits.images[:5], labels=few_digits.labels[:5])
    with pytest.warns(UserWarning, match="images that were labelled .* are not in the data set"):
        left = ActiveLearner(fewer, path=tmp_path, **FAST)
    assert left.pool.labeled.tolist() == [i for i in learner.pool.labeled.tolist() if i < 5]
    other = replace(few_digits, classes=tuple("abcdefghij"))
    with pytest.raises(LabelError, match="but the classes of the data set are a, b"):
        ActiveLearner(other, path=tmp_path, **FAST)


def test_label_errors_change_nothing(few_digits):
    learner = ActiveLearner(few_digits, **FAST)
    learner.label_initial(20)
    known = int(learner.pool.labeled[0])
    free = int(learner.pool.available[0])
    wrong = (int(few_digits.labels[known]) + 1) % 10
    for indices, labels, match in (
        ([free, 120], [0, 0], "Index 120 is out of range"),
        ([free, -1], [0, 0], "Index -1 is out of range"),
        ([free], [10], "Label 10 of index .* is out of range: the 10 classes are 0 to 9"),
        ([free], [-1], "Label -1"),
        ([free], [1.5], "Label is 1.5; expected an integer"),
        ([free], ["cat"], "Label 'cat' of index .* is not a class"),
        ([free, free], [1, 1], "given twice"),
        ([free], [1, 2], "1 indices came with 2 labels"),
        ([free, known], [1, wrong], "was labelled"),
    ):
        with pytest.raises(LabelError, match=match):
            learner.tell(indices, labels)
    assert learner.n_labeled == 20
    learner.tell([known], [int(few_digits.labels[known])])  # the same again is no error
    assert learner.n_labeled == 20


def test_exhausted_pool(few_digits):
    learner = ActiveLearner(few_digits, **FAST)
    with pytest.raises(LabelError, match=r"121 images were asked for; .* and 120 are"):
        learner.label_initial(121)
    learner.label_initial(110)
    learner.fit()
    with pytest.raises(LabelError, match=r"11 images.*and 10 are.*110 labelled"):
        learner.query(11)
    learner.query(10)
    assert learner.n_labeled == 120
    with pytest.raises(LabelError, match="and 0 are"):
        learner.query(1)
    with pytest.raises(LabelError, match="0 images were asked for"):
        learner.ask(0)


def test_strategy_that_needs_a_model_says_so(few_digits):
    learner = ActiveLearner(few_digits, strategy="entropy", **FAST)
    learner.label_initial(20)
    with pytest.raises(AlhpoError, match="fit"):
        learner.ask(5)
    untrained = ActiveLearner(few_digits, strategy="random", **FAST)
    untrained.label_initial(20)
    assert len(untrained.ask(5)) == 5


def test_own_strategy_gets_what_it_declares(few_digits):
    seen = {}

    def least_confident(pool: PoolOutputs, n: int, generator) -> Query:
        seen.update(features=pool.features, labeled=pool.labeled_features)
        confidence = pool.logits.softmax(1).amax(1)
        chosen = torch.argsort(confidence, stable=True)[:n]
        return Query(tuple(pool.indices[chosen].tolist()))

    least_confident.needs = frozenset({"logits"})
    learner = ActiveLearner(few_digits, strategy=least_confident, query_subset=30, **FAST)
    learner.label_initial(20)
    learner.fit()
    query = learner.ask(7)
    assert len(query) == 7
    assert seen == {"features": None, "labeled": None}


def spying(*needs):
    """A strategy that chooses the first candidates and keeps what it was given."""

    def spy(pool, n, generator):
        spy.seen.append(pool)
        return Query(tuple(pool.indices[:n].tolist()))

    spy.seen, spy.needs = [], frozenset(needs)
    return spy


MODEL_FREE = {"images", "labels", "labeled_indices", "labeled_images", "state", "true_labels"}
UNTRAINED = POOL_OUTPUTS - {
    *("predicted_losses", "labeled_scores", "classify", "retrain"),
    *("heldout_logits", "heldout_labels", "strategy_weights", "strategy_search"),
}


def test_every_output_that_is_needed_is_filled_in(few_digits):
    spy = spying(*UNTRAINED)
    learner = ActiveLearner(few_digits, strategy=spy, dropout=0.5, mc_passes=6, **FAST)
    learner.label_initial(20)
    learner.fit()
    learner.query(7)
    learner.fit()
    learner.query(5)
    pool = spy.seen[1]
    labeled = pool.labeled_indices
    assert labeled.tolist() == [*learner.pool.by_cycle()[0], *learner.pool.by_cycle()[1]]
    assert pool.indices.tolist() == sorted(set(range(120)) - set(labeled.tolist()))
    assert torch.equal(pool.labels, few_digits.labels[labeled])
    assert torch.equal(pool.true_labels, few_digits.labels[pool.indices])
    assert torch.equal(pool.images, few_digits.images[pool.indices])
    assert torch.equal(pool.labeled_images, few_digits.images[labeled])
    assert pool.state is None
    everything = learner.predict()
    for got, expected in (
        (pool.logits, everything.logits[pool.indices]),
        (pool.features, everything.features[pool.indices]),
        (pool.labeled_logits, everything.logits[labeled]),
        (pool.labeled_features, everything.features[labeled]),
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    head = learner.model.get_classifier()
    passes = pool.passes.logits(slice(None))
    assert passes.shape == (6, len(pool), 10)
    assert len({one.numpy().tobytes() for one in passes}) == 6
    everything_kept = DropoutPasses(pool.features, head, torch.ones(1, 8) > 0, 0)
    torch.testing.assert_close(
        everything_kept.logits(slice(None))[0], pool.logits, rtol=1e-4, atol=1e-5
    )
    first = spy.seen[0].passes.passes.keep
    assert not torch.equal(first, pool.passes.passes.keep)  # each query draws its own networks


@pytest.mark.parametrize("needed", sorted(UNTRAINED))
def test_only_what_is_needed_is_computed_and_once(few_digits, needed, monkeypatch):
    looked_at = []

    def counted(recipe, model, images, compute, **options):
        looked_at.append(len(images))
        return predict(recipe, model, images, compute, **options)

    spy = spying(needed)
    learner = ActiveLearner(few_digits, strategy=spy, dropout=0.5, mc_passes=3, **FAST)
    learner.label_initial(20)
    if needed not in MODEL_FREE:
        with pytest.raises(AlhpoError, match="fit"):
            learner.ask(5)
        learner.fit()
    monkeypatch.setattr("alhpo.outputs.pool_outputs.predict", counted)
    learner.ask(5)
    filled = {name for name in POOL_OUTPUTS if getattr(spy.seen[0], name) is not None}
    assert filled == {needed} - {"state"}
    expected = [20] if needed.startswith("labeled") else [100]
    assert looked_at == ([] if needed in MODEL_FREE else expected)


@pytest.mark.parametrize("validation, held_out", [("holdout:0.3", 9), ("weighted:kfold:3", 30)])
def test_held_out_logits_are_those_that_an_objective_judges(
    few_digits, tmp_path, validation, held_out
):
    spy = spying("heldout_logits", "heldout_labels")
    options = {"validation": validation, "hyperparameters": {"lr": 0.05}}
    learner = ActiveLearner(few_digits, strategy=spy, **FAST | {"max_epochs": 3}, **options)
    learner.label_initial(30)
    learner.fit()
    learner.ask(5)
    pool = spy.seen[0]
    logits, labels = pool.heldout_logits, pool.heldout_labels
    assert logits.shape == (held_out, 10)
    if held_out == 30:
        assert sorted(labels.tolist()) == sorted(learner.pool.labels.tolist())
    plain = learner.objective(validation=validation.removeprefix("weighted:"))
    configuration = {"lr": 0.05, "weight_decay": 5e-4}
    result = plain(configuration, 3, 0, tmp_path)[-1]
    nll = torch.nn.functional.cross_entropy(logits, labels)  # splits are of one size
    assert result["nll"] == pytest.approx(float(nll), rel=1e-5)
    assert result["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_too_few_labels_to_hold_some_out_leave_none(few_digits):
    spy = spying("heldout_logits", "heldout_labels")
    learner = ActiveLearner(few_digits, strategy=spy, validation="kfold:5", **FAST)
    learner.label_initial(3)
    learner.fit()
    learner.ask(5)
    assert spy.seen[0].heldout_logits.shape == (0, 10)
    assert len(spy.seen[0].heldout_labels) == 0


def test_candidates_and_labelled_images_are_run_through_the_model_once_each(
    few_digits, monkeypatch
):
    looked_at = []

    def counted(recipe, model, images, compute, **options):
        looked_at.append(len(images))
        return predict(recipe, model, images, compute, **options)

    monkeypatch.setattr("alhpo.outputs.pool_outputs.predict", counted)
    learner = ActiveLearner(few_digits, strategy=spying(*UNTRAINED), dropout=0.5, **FAST)
    learner.label_initial(20)
    learner.fit()
    learner.ask(5)
    assert looked_at == [100, 20]


#: What a run or a tuning does with the learner, and what is not of it: its data, its searches, the
#: place of its files. All other settings are arguments of the learner.
NOT_OF_THE_LEARNER = {
    *DataSettings.model_fields,
    *(
        "optimizer",
        "max_budget",
        "min_gain",
        "num_configurations",
        "parallel",
        "storage_dir",
        "optuna_storage",
        "output_dir",
    ),
    *("initial_size", "acquisition_size", "budget", "hpo", "measure_current", "transfer"),
    *("adopt", "total_budget", "extend"),
    *("validate_fixed", "pool", "labels", "measure_test", "evaluate_at"),
}


@pytest.mark.parametrize("schema", [RunConfig, TuneConfig])
def test_every_other_setting_of_a_run_or_tuning_is_given_to_the_learner(
    few_digits, monkeypatch, schema
):
    given = {}

    @functools.wraps(ActiveLearner.__init__)
    def record(self, dataset, **arguments):
        given.update(arguments)

    monkeypatch.setattr(ActiveLearner, "__init__", record)
    settings = schema.create({"pool": "run", "labels": 9} if schema is TuneConfig else {})
    ActiveLearner.of(settings, few_digits, path="here", seed=7)
    assert given.keys() - {"path"} == settings.model_fields.keys() - NOT_OF_THE_LEARNER
    assert given.keys() >= {*ModelSettings.model_fields, "device", "precision", "validation"}
    assert (given.pop("path"), given.pop("seed")) == ("here", 7)
    assert given == {name: getattr(settings, name) for name in given}


class Counts:
    """Remembers the number of its queries, and chooses by it."""

    needs = frozenset({"state"})

    def __call__(self, pool, n, generator):
        queries = (pool.state or {"queries": 0})["queries"] + 1
        chosen = pool.indices[queries : queries + n].tolist()
        return Query(tuple(chosen), state={"queries": queries, "latest": chosen})


def test_a_strategy_remembers_across_processes(few_digits, tmp_path):
    def learner(path):
        return ActiveLearner(few_digits, strategy=Counts(), path=path, **FAST)

    one = learner(tmp_path / "one")
    one.label_initial(20)
    whole = [one.query(4) for _ in range(3)]
    assert [query.state["queries"] for query in whole] == [1, 2, 3]
    first = learner(tmp_path / "many")
    first.label_initial(20)
    parts = [learner(tmp_path / "many").query(4) for _ in range(3)]
    assert parts == whole


def test_a_query_at_random_in_between_forgets_nothing(few_digits, tmp_path):
    learner = ActiveLearner(few_digits, strategy=Counts(), path=tmp_path, **FAST)
    learner.label_initial(20)
    learner.query(4)
    learner.query(4, strategy="random")
    assert learner.query(4).state["queries"] == 2


def test_passes_need_dropout_and_say_so_before_any_work(few_digits):
    with pytest.raises(ConfigurationError, match=r"'spying.*spy'.*dropout=0.*Set dropout=0\.5"):
        ActiveLearner(few_digits, strategy=spying("passes"), **FAST)
    learner = ActiveLearner(few_digits, strategy="random", **FAST)
    learner.label_initial(20)
    learner.fit()
    with pytest.raises(ConfigurationError, match=r"Set dropout=0\.5"):
        learner.ask(3, strategy=spying("passes"))


def test_dropout_is_trained_with_and_seeded(few_digits):
    def weights(**options):
        learner = ActiveLearner(few_digits, **FAST, **options)
        learner.label_initial(20)
        learner.fit()
        return weights_hash(learner.model)

    assert weights(dropout=0.5) == weights(dropout=0.5) != weights()
    assert weights(dropout=0.0) == weights()


def test_dropout_in_passes_only_trains_without(few_digits):
    def fitted(strategy="entropy", **options):
        learner = ActiveLearner(few_digits, strategy=strategy, **FAST, **options)
        learner.label_initial(20)
        learner.fit()
        return learner

    spy = spying("passes")
    learner = fitted(spy, dropout=0.5, train_dropout=False, mc_passes=5)
    assert weights_hash(learner.model) == weights_hash(fitted().model)
    assert weights_hash(learner.model) != weights_hash(fitted(dropout=0.5).model)
    learner.query(3)
    logits = spy.seen[0].passes.logits(slice(None))
    assert len(logits) == 5 and (logits[0] - logits[1]).abs().max() > 0.01
    with pytest.raises(ConfigurationError, match="Set dropout=0"):
        fitted("bald", train_dropout=False)


def test_dropout_is_part_of_what_a_checkpoint_is_of(few_digits, tmp_path):
    learners = [ActiveLearner(few_digits, dropout=p, **FAST) for p in (0.0, 0.5)]
    for number, learner in enumerate(learners):
        learner.label_initial(20)
        learner.fit(checkpoint_path=tmp_path / str(number))
        learner.restore(tmp_path / str(number))
    for number, learner in enumerate(reversed(learners)):
        with pytest.raises(CheckpointError, match="dropout"):
            learner.restore(tmp_path / str(number))


@given(st.integers(0, 2**31), st.sampled_from([None, 30, 60]))
@settings(max_examples=10, deadline=None)
def test_random_does_without_the_subset(seed, subset):
    data = ImageDataset.from_arrays(np.zeros((120, 8, 8), np.uint8), np.arange(120) % 3)

    def picks(query_subset):
        learner = ActiveLearner(
            data, strategy="random", seed=seed, query_subset=query_subset, **FAST
        )
        learner.label_initial(20)
        return [learner.query(10).indices for _ in range(3)]

    assert picks(subset) == picks(None)


def test_query_subset_is_of_the_candidates_alone_and_drawn_anew(few_digits):
    spy = spying("logits", "labels", "labeled_features", "labeled_indices")
    learner = ActiveLearner(few_digits, strategy=spy, query_subset=30, **FAST)
    learner.label_initial(20)
    learner.fit()
    for _ in range(2):
        learner.query(3)
    one, other = spy.seen
    assert len(one) == len(one.logits) == len(other) == 30
    assert len(one.labels) == len(one.labeled_features) == 20
    assert len(other.labels) == len(other.labeled_features) == 23
    assert one.indices.tolist() == sorted(one.indices.tolist())
    assert len(set(one.indices.tolist()) & set(other.indices.tolist())) < 25


def test_query_subset_limits_what_is_looked_at(few_digits):
    sizes = []

    def spy(pool, n, generator):
        sizes.append(len(pool))
        return Query(tuple(pool.indices[:n].tolist()))

    learner = ActiveLearner(few_digits, strategy=spy, query_subset=30, **FAST)
    learner.label_initial(20)
    learner.fit()
    learner.query(10)
    learner.query(40)  # more than the subset: it grows to what is needed
    assert sizes == [30, 40]


def test_fit_continues_an_interrupted_fit_exactly(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr("alhpo.training.final_fit.CHECKPOINT_SECONDS", 0.0)

    def learner():
        result = ActiveLearner(few_digits, model="alhpo_toy", max_epochs=6)
        result.label_initial(24)
        return result

    whole = learner()
    expected = whole.fit({"lr": 0.05})

    class Killed(BaseException):
        pass

    def kill(epoch):
        if epoch == 4:
            raise Killed

    with pytest.raises(Killed):
        learner().fit({"lr": 0.05}, checkpoint_path=tmp_path / "fit", callback=kill)
    epochs = []
    resumed = learner()
    got = resumed.fit({"lr": 0.05}, checkpoint_path=tmp_path / "fit", callback=epochs.append)
    assert epochs == [4, 5, 6]
    assert got == expected
    for (name, a), b in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    other = learner()
    other.restore(tmp_path / "fit")
    assert other.evaluate() == expected
    # another configuration is trained anew
    epochs.clear()
    resumed.fit({"lr": 0.01}, checkpoint_path=tmp_path / "fit", callback=epochs.append)
    assert epochs == [1, 2, 3, 4, 5, 6]


def test_restore_refuses_other_models(few_digits, tmp_path):
    learner = ActiveLearner(few_digits, **FAST)
    learner.label_initial(20)
    learner.fit(checkpoint_path=tmp_path / "fit")
    with pytest.raises(CheckpointError, match="resnet14t"):
        ActiveLearner(few_digits, model="resnet14t").restore(tmp_path / "fit")
    with pytest.raises(CheckpointError, match="missing"):
        learner.restore(tmp_path / "nothing")


def test_cold_start_repeats_and_warm_start_goes_on(few_digits):
    cold = ActiveLearner(few_digits, **FAST)
    cold.label_initial(20)
    assert cold.fit() == cold.fit()
    warm = ActiveLearner(few_digits, start="warm", **FAST)
    warm.label_initial(20)
    first = warm.fit()
    assert first == cold.evaluate()
    assert warm.fit() != first
    assert warm.objective().identity != cold.objective().identity


def test_diverged_fit_says_so(few_digits):
    learner = ActiveLearner(few_digits, **FAST)
    learner.label_initial(20)
    with pytest.raises(DivergedError, match="Lower lr"):
        learner.fit({"lr": 1e25}, max_epochs=3)


def test_pool_exchange_with_dal_toolbox(few_digits, tmp_path):
    learner = ActiveLearner(few_digits, **FAST)
    learner.label_initial(20)
    learner.fit()
    learner.query(10)
    file = tmp_path / "queried_indices.json"
    learner.pool.export(file)
    content = json.loads(file.read_text())
    assert list(content) == ["cycle0", "cycle1"]
    assert len(content["cycle0"]) == 20
    other = ActiveLearner(few_digits, **FAST)
    other.import_queried_indices(file)
    assert other.pool.by_cycle() == learner.pool.by_cycle()
    assert other.pool.labels.tolist() == learner.pool.labels.tolist()
    with pytest.raises(LabelError, match="labels already"):
        other.import_queried_indices(file)
    file.write_text('{"0": [1]}')
    with pytest.raises(LabelError, match="cycle0"):
        ActiveLearner(few_digits, **FAST).import_queried_indices(file)
    with pytest.raises(LabelError, match="cannot be read"):
        ActiveLearner(few_digits, **FAST).import_queried_indices(tmp_path / "none.json")
    file.write_text('{"cycle0": [1, 2], "cycle1": [], "cycle2": [0]}')
    other = ActiveLearner(few_digits, **FAST)
    other.import_queried_indices(file)
    assert other.pool.labeled.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model": "resnet81"}, "Unknown timm model 'resnet81'.*Did you mean"),
        ({"strategy": "bagde"}, "Unknown strategy 'bagde'"),
        ({"validation": "split"}, "holdout:F"),
        ({"space": "papr"}, "Did you mean 'paper'"),
        ({"hyperparameters": {"learning_rate": 1}}, "Unknown hyperparameter"),
        ({"hyperparameters": {"warmup_epochs": 5}, "max_epochs": 5}, "warmup_epochs is 5"),
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"start": "hot"}, "Legal: cold, warm"),
        ({"query_subset": 0}, "query_subset is 0"),
        ({"mc_passes": 0}, "mc_passes is 0"),
        ({"dropout": 1.0}, r"dropout is 1.0; expected a number in \[0, 1\)"),
        ({"device": "gpu"}, "Legal: auto, cpu"),
        ({"precision": "float8"}, "float8"),
        ({"model": "mobilenetv3_small_050", "cifar_stem": True}, "no conv1 and maxpool"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(few_digits, options, match):
    with pytest.raises(ConfigurationError, match=match):
        ActiveLearner(few_digits, **options)


def test_predictions_cover_the_pool(few_digits):
    learner = ActiveLearner(few_digits, **FAST)
    learner.label_initial(20)
    learner.fit()
    outputs = learner.predict()
    assert outputs.logits.shape == (120, 10)
    assert outputs.features.shape == (120, 8)
    some = learner.predict([5, 3])
    assert torch.allclose(some.logits, outputs.logits[[5, 3]], atol=1e-5)


def test_arrays_are_checked():
    with pytest.raises(DataError, match="uint8"):
        ImageDataset.from_arrays(np.zeros((4, 8, 8)), [0, 1, 0, 1])


@pytest.mark.parametrize(
    "content", [{"cycle0": [1, 2], "cycle1": [120]}, {"cycle0": [1, 2], "cycle1": [2]}]
)
def test_a_pool_that_cannot_be_imported_leaves_nothing(few_digits, tmp_path, content):
    (tmp_path / "pool.json").write_text(json.dumps(content))
    learner = ActiveLearner(few_digits, **FAST, path=tmp_path / "run")
    with pytest.raises(LabelError, match=r"pool\.json holds the index"):
        learner.import_queried_indices(tmp_path / "pool.json")
    assert learner.n_labeled == 0
    assert not (tmp_path / "run" / "labels.jsonl").exists()
