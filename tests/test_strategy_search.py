"""AutoAL in runs: what it trains and asks, killed and continued; and what is refused."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from quick_figures import undrawn  # noqa: F401 - a fixture
from toy_models import TOY, alhpo_toy, random_weights, toy_weights

from alhpo import ActiveLearner, run_experiment
from alhpo.base.errors import ConfigurationError, DivergedError
from alhpo.outputs import strategy_search
from alhpo.reports import write_report
from alhpo.runs.settings import RunConfig
from alhpo.strategies import register_strategy, run_strategy, strategy_names
from alhpo.strategies.autoal import AutoAL

NAME = "autoal:margin,kmeans,entropy"
SHORT = {"autoal_fit_epochs": 3, "autoal_search_epochs": 9}
CONFIG = TOY | SHORT | {"strategy": NAME, "validate_fixed": False}


@pytest.fixture
def learner(few_digits):
    made = ActiveLearner(few_digits, alhpo_toy.__name__, NAME, max_epochs=2, **SHORT)
    made.label_initial(41)
    made.fit()
    return made


def search_of(learner, n=10, **options):
    task = learner._strategy_search(learner.strategy, n, learner.pool.available)
    return strategy_search.replace(task, **options)


def test_weights_are_positive_and_sum_to_1_and_the_same_again(learner):
    task = search_of(learner)
    torch.manual_seed(1)
    weights, told = task.weights()
    assert weights.shape == (79, 3)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(79))
    assert told["wanted"] == 2  # of 21, as many as 10 of 120
    assert not told["diverged"]
    assert all(0 < number < 7 for number in told["selected"])
    assert np.isfinite([told["fit_loss"], told["search_loss"]]).all()
    torch.manual_seed(2)
    assert torch.equal(task.weights()[0], weights)
    longer = strategy_search.SearchLength(3, 9, 2)
    assert not torch.equal(search_of(learner, length=longer).weights()[0], weights)


def test_halves_are_disjoint_and_every_arm_chooses_as_many_of_the_second(learner):
    networks = strategy_search._Networks(search_of(learner, n=30))
    for _ in range(4):
        networks.advance()
    first, second = networks._first, networks._second
    assert len(first) == 20
    assert sorted([*first, *second]) == list(range(41))
    assert (np.diff(learner.pool.labeled[second]) > 0).all()
    assert networks._chosen.sum(dim=0).tolist() == [6, 6, 6]  # 30 of 120 is a quarter
    assert not networks._chosen[first].any()


def test_every_image_comes_with_its_own_label_and_choices(learner):
    """Batches hold the positions of their images, so pixels tell which row of all else is meant."""
    networks = strategy_search._Networks(search_of(learner))
    images = networks._on_device
    blocks = torch.cat([inputs for inputs, _ in images.blocks()])
    for augmented, plain, rows in networks._batches(networks._second, "key"):
        assert torch.equal(plain, blocks[rows])
        assert augmented.shape == plain.shape
        assert sorted(rows.tolist()) == sorted(networks._second.tolist())


@pytest.mark.parametrize(("step", "trained"), [(0, "fit"), (1, "search"), (2, "search")])
def test_a_pass_trains_one_network(learner, step, trained):
    networks = strategy_search._Networks(search_of(learner))
    for _ in range(3 + step):
        networks.advance()

    def states():
        return {
            name: [p.clone() for p in getattr(networks, name).parameters()]
            for name in ("fit", "search")
        }

    before = states()
    networks.advance()
    after = states()
    changed = {
        name
        for name in before
        if any(not torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True))
    }
    assert changed == {trained}


def test_arms_are_asked_once_in_the_simulation_and_once_for_the_pool(few_digits):
    asked: Counter[tuple[str, int]] = Counter()

    def counting(name):
        def arm(pool, n, generator):
            asked[name, len(pool)] += 1
            return run_strategy("margin", pool, n, generator)

        arm.needs = frozenset({"logits", "labels", "labeled_features"})
        return register_strategy(name, needs=arm.needs)(arm)

    for name in ("one", "two"):
        counting(name)
    learner = ActiveLearner(few_digits, alhpo_toy.__name__, "autoal:one,two", max_epochs=1, **SHORT)
    learner.label_initial(30)
    learner.fit()
    learner.query(8)
    assert asked == {(name, size): 1 for name in ("one", "two") for size in (15, 90)}


def test_the_simulation_sees_the_first_half_as_labelled(few_digits):
    seen = []

    @register_strategy("looking", needs={"logits", "labels", "labeled_indices", "passes"})
    def looking(pool, n, generator):
        seen.append(pool)
        return run_strategy("random", pool, n, generator)

    learner = ActiveLearner(
        few_digits, alhpo_toy.__name__, "autoal:looking,entropy", dropout=0.5, mc_passes=3, **SHORT
    )
    learner.label_initial(30)
    learner.fit(max_epochs=1)
    labels = dict(zip(learner.pool.labeled.tolist(), learner.pool.labels.tolist(), strict=True))
    learner.query(8)
    simulated, pool = seen
    assert (len(simulated), len(pool)) == (15, 90)
    assert set(simulated.indices.tolist()) | set(simulated.labeled_indices.tolist()) == set(labels)
    given = [labels[index] for index in simulated.labeled_indices.tolist()]
    assert given == simulated.labels.tolist()
    assert len(simulated.passes) == 3
    assert len(pool.labeled_indices) == 30


class Killed(BaseException):
    pass


def test_a_run_killed_in_either_training_makes_the_same_query(few_digits, tmp_path, monkeypatch):
    whole = run_experiment(CONFIG | {"output_dir": str(tmp_path / "whole")}, dataset=few_digits)
    assert not (whole.path / "query").exists()
    monkeypatch.setattr(strategy_search, "CHECKPOINT_SECONDS", 0.0)
    config = CONFIG | {"output_dir": str(tmp_path / "killed")}
    written, write = [], strategy_search.write_checkpoint

    def killing(folder, tensors, description):
        write(folder, tensors, description)
        written.append((folder.name, description["passes"]))
        if len(written) in (2, 3, 8, 17):
            raise Killed

    monkeypatch.setattr(strategy_search, "write_checkpoint", killing)
    for _ in range(4):
        with pytest.raises(Killed):
            run_experiment(config, dataset=few_digits)
    result = run_experiment(config, dataset=few_digits)
    expected = [(cycle, passes) for cycle in ("cycle_000", "cycle_001") for passes in range(1, 13)]
    assert written == expected
    assert not (result.path / "query").exists()
    assert [r.queried for r in result.records] == [r.queried for r in whole.records]
    assert [r.arms for r in result.records] == [r.arms for r in whole.records]
    lines = [(run.path / "labels.jsonl").read_text() for run in (result, whole)]
    assert lines[0] == lines[1]


def test_another_training_is_not_continued(learner, tmp_path, monkeypatch):
    monkeypatch.setattr(strategy_search, "CHECKPOINT_SECONDS", 0.0)
    length = strategy_search.SearchLength(2, 4, 2)

    def kill(passes):
        if passes == 7:  # at the beginning of the second time
            raise Killed

    with pytest.raises(Killed):
        search_of(learner, length=length).weights(tmp_path, kill)
    other, passes = search_of(learner, n=20, length=length), []
    assert torch.equal(other.weights(tmp_path, passes.append)[0], other.weights()[0])
    assert passes == list(range(1, 13))
    with pytest.raises(Killed):
        search_of(learner, length=length).weights(tmp_path, kill)
    passes.clear()
    same = search_of(learner, length=length)
    assert torch.equal(same.weights(tmp_path, passes.append)[0], same.weights()[0])
    assert passes == list(range(7, 13))  # the kill came before the checkpoint of pass 7


def test_divergence_gives_equal_weights_and_is_recorded(learner, monkeypatch):
    def diverged(self, cycle, epoch):
        raise DivergedError("not finite")

    monkeypatch.setattr(strategy_search._Networks, "_search_pass", diverged)
    weights, told = search_of(learner).weights()
    assert (weights == torch.full((79, 3), 1 / 3)).all()
    assert told["diverged"]
    query = learner.query(10)
    assert query.state["search"]["diverged"]
    weights = [arm["weight"] for arm in query.state["arms"].values()]
    assert weights == pytest.approx([1 / 3] * 3)


@pytest.mark.usefixtures("undrawn")
def test_a_run_records_what_its_arms_did_and_reports_show_it(few_digits, tmp_path):
    for strategy in (NAME, NAME.replace("autoal", "votes")):
        config = CONFIG | {"strategy": strategy, "output_dir": str(tmp_path)}
        result = run_experiment(config, dataset=few_digits)
        records = [json.loads(s) for s in (result.path / "cycles.jsonl").read_text().splitlines()]
        *queries, last = records
        assert last["arms"] is None
        for record in queries:
            assert not record["random_query"]
            assert sorted(record["arms"]) == ["entropy", "kmeans", "margin"]
            weights = [arm["weight"] for arm in record["arms"].values()]
            assert sum(weights) == pytest.approx(1)
            shares = [arm["share_of_picks"] for arm in record["arms"].values()]
            assert 1 <= sum(shares) <= 3
    report = write_report(tmp_path)
    (table,) = [table for table in report.tables if table.key.startswith("arms")]
    assert len(table.rows) == 6
    assert [column[0] for column in table.columns] == ["12 labels"] * 2 + ["20 labels"] * 2
    assert [row[0].text for row in table.values[3:]] == [table.values[3][0].text] * 3  # a third
    assert "arms" in report.figures
    assert "What the asked strategies did" in report.markdown.read_text()


def test_heads_on_frozen_features_have_networks_of_heads(few_digits, tmp_path):
    colours = strategy_search.replace(
        few_digits,
        images=few_digits.images.expand(-1, -1, -1, 3),
        eval_images=few_digits.eval_images.expand(-1, -1, -1, 3),
    )
    learner = ActiveLearner(
        colours,
        alhpo_toy.__name__,
        NAME,
        recipe="frozen",
        weights=toy_weights(tmp_path),
        max_epochs=3,
    )
    learner.label_initial(30)
    learner.fit({"hidden": 4})
    task = search_of(learner)
    assert task.length == strategy_search.SearchLength(3, 6)  # as long as the fit, and twice
    assert learner.query(5).state["search"]["diverged"] is False


def test_what_cannot_be_searched_is_refused_before_any_training(few_digits, tmp_path):
    with pytest.raises(ConfigurationError, match=r"passes with dropout.*entropy, margin, least"):
        ActiveLearner(few_digits, alhpo_toy.__name__, "autoal")
    with pytest.raises(ConfigurationError, match=r"none: entropy\."):
        RunConfig.create(CONFIG | {"strategy": "votes:entropy,bald"})
    for arm, reason in (("lpl", "trained for it"), ("vaal", "trained for it"), ("boss", "oracle")):
        with pytest.raises(ConfigurationError, match=f"'{arm}' cannot be an arm.*{reason}"):
            RunConfig.create(CONFIG | {"strategy": f"autoal:margin,{arm}"})
    for name in ("autoal_fit_epochs", "autoal_search_epochs", "autoal_cycles"):
        with pytest.raises(ConfigurationError, match=f"{name} is 0"):
            ActiveLearner(few_digits, alhpo_toy.__name__, NAME, **{name: 0})
    with pytest.raises(ConfigurationError, match=r"'initial_size' is 3.*at least 4"):
        RunConfig.create(CONFIG | {"initial_size": 3})
    with pytest.raises(ConfigurationError, match=r"predicts losses.*no stages"):
        ActiveLearner(few_digits, "alhpo_stages", NAME)
    weights = random_weights(tmp_path, "alhpo_stages")
    with pytest.raises(ConfigurationError, match="recipe 'finetune' does not offer"):
        ActiveLearner(few_digits, "alhpo_stages", NAME, recipe="finetune", weights=weights)
    few = ActiveLearner(few_digits, alhpo_toy.__name__, NAME, max_epochs=1)
    few.label_initial(3)
    few.fit()
    with pytest.raises(ConfigurationError, match="there are 3; expected at least 4"):
        few.ask(5)


def test_epochs_of_its_networks_count_for_the_name_of_its_runs_only():
    def name(**settings):
        return RunConfig.create(TOY | settings).name

    assert name(autoal_cycles=2, autoal_fit_epochs=3) == name()
    assert name(strategy=NAME, autoal_fit_epochs=3) != name(strategy=NAME)


def test_plain_names_are_those_of_the_paper(few_digits):
    assert {"autoal", "votes"} <= set(strategy_names())
    arms = ["entropy", "margin", "least-confidence", "kmeans", "bald"]
    learner = ActiveLearner(few_digits, alhpo_toy.__name__, "autoal", dropout=0.3, **SHORT)
    assert isinstance(learner.strategy, AutoAL)
    assert list(learner.strategy.arms) == [*arms, "variation-ratio", "mean-std"]


def test_digits_end_to_end(digits):
    learner = ActiveLearner(digits, "resnet10t", NAME, max_epochs=3, **SHORT)
    learner.label_initial(60)
    learner.fit({"lr": 0.05})
    query = learner.query(40)
    assert len(set(query.indices)) == 40
    assert query.scores[0] >= query.scores[-1] > 0
    assert learner.n_labeled == 100
