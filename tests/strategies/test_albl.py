"""ALBL against the equations of its papers, written down once more and plainly."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alhpo import ActiveLearner
from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs
from alhpo.strategies import get_strategy, run_strategy, strategy_name, strategy_needs
from alhpo.strategies.albl import arm_probabilities
from alhpo.testing import check_strategy

ARMS = ("entropy", "margin", "coreset", "random")
NAME = f"albl:{','.join(ARMS)}"


class World:
    """A pool with true labels, and a model that changes from query to query."""

    def __init__(self, seed=0, n=40, labeled=4):
        self.draw = np.random.default_rng(seed)
        self.truth = self.draw.integers(0, 3, n)
        self.features = self.draw.normal(size=(n, 4)).astype(np.float32)
        self.labeled = list(range(labeled))
        self.retrain()

    def retrain(self):
        self.logits = self.draw.normal(size=(len(self.truth), 3)).astype(np.float32)
        self.logits[np.arange(len(self.truth)), self.truth] += 0.8

    def outputs(self, state=None):
        free = np.setdiff1d(np.arange(len(self.truth)), self.labeled)
        logits, features = torch.from_numpy(self.logits), torch.from_numpy(self.features)
        return PoolOutputs(
            torch.from_numpy(free),
            logits=logits[free],
            features=features[free],
            labels=torch.from_numpy(self.truth[self.labeled]),
            labeled_indices=torch.tensor(self.labeled),
            labeled_logits=logits[self.labeled],
            labeled_features=features[self.labeled],
            state=state,
        )


def picks_of(arm, pool, n):
    """Positions among the candidates that a deterministic arm chooses."""
    chosen = run_strategy(arm, pool, n, np.random.default_rng(0)).indices
    return [pool.indices.tolist().index(i) for i in chosen]


@pytest.mark.parametrize("n", [1, 5])
def test_queries_follow_the_equations_of_the_paper(n):
    world, generator = World(), np.random.default_rng(1)
    K, T, delta = len(ARMS), 100, 0.1
    p_min = math.sqrt(math.log(K) / (K * T))
    w = np.ones(K)
    history = []  # (image, W, candidates at its draw)
    state, before = None, None
    for _ in range(6):
        pool = world.outputs(state)
        N = len(pool)
        if before is not None:
            p, psi, drawn = before
            predicted = world.logits.argmax(1)
            r = np.mean([W / m * (predicted[x] == world.truth[x]) for x, W, m in history])
            for k in range(K):
                r_hat = r * np.mean([psi[k][x] * W for x, W in drawn])
                v_hat = 1 / p[k]
                bonus = v_hat * math.sqrt(math.log(K / delta) / (K * T))
                w[k] *= math.exp(p_min / 2 * (r_hat + bonus))
        p = [(1 - K * p_min) * w[k] / w.sum() + p_min for k in range(K)]
        psi = []
        for arm in ARMS:
            vector = np.zeros(len(world.truth))
            if arm == "random":
                vector[pool.indices.numpy()] = 1 / N
            else:
                vector[pool.indices.numpy()[picks_of(arm, pool, n)]] = 1 / n
            psi.append(vector)
        q = sum(p[k] * psi[k] for k in range(K))
        query = run_strategy(NAME, pool, n, generator)
        state = json.loads(json.dumps(query.state))
        np.testing.assert_allclose(query.scores, q[list(query.indices)])
        np.testing.assert_allclose(state["probabilities"], p)
        left, drawn = q.copy(), []
        for t, image in enumerate(query.indices):
            W = left.sum() / left[image]
            drawn.append((image, W))
            history.append((image, W, N - t))
            left[image] = 0
        np.testing.assert_allclose(state["ratios"], [W / m for _, W, m in history])
        before = p, psi, drawn
        world.labeled += query.indices
        world.retrain()
    assert state["drawn"] == [x for x, _, _ in history]
    assert max(p) - min(p) > 1e-4  # something was learned


def test_images_are_drawn_from_the_mixture():
    pool = World(seed=3, n=12).outputs()
    times, counts, q = 700, Counter(), {}
    for seed in range(times):
        query = get_strategy(NAME)(pool, 1, np.random.default_rng(seed))
        counts[query.indices[0]] += 1
        q |= dict(zip(query.indices, query.scores, strict=True))
    assert set(q) == set(pool.indices.tolist())  # random reaches all of them
    assert sum(q.values()) == pytest.approx(1)
    for index, probability in q.items():
        error = math.sqrt(probability * (1 - probability) / times)
        assert abs(counts[index] / times - probability) < 5 * error


@pytest.mark.parametrize("n", [1, 4])
def test_the_weights_make_accuracy_unbiased(n):
    """1/q(x), not one over the arm's probability: the mean over many queries is the accuracy."""
    world = World(seed=5, n=20, labeled=0)
    world.labeled = [0]
    pool = world.outputs()
    right = world.logits.argmax(1) == world.truth
    estimates = []
    for seed in range(700):
        state = run_strategy("albl:margin,random", pool, n, np.random.default_rng(seed)).state
        estimates.append(state["ratios"][0] * right[state["drawn"][0]])
    expected = right[pool.indices.numpy()].mean()
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert 0.2 < expected < 0.9
    assert abs(np.mean(estimates) - expected) < 4 * error


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=8))
def test_probabilities_keep_their_floor(log_weights):
    p = arm_probabilities(np.array(log_weights))
    floor = math.sqrt(math.log(len(p)) / (len(p) * 100))
    assert p.sum() == pytest.approx(1)
    assert p.min() >= floor * (1 - 1e-9)
    order = np.argsort(log_weights, kind="stable")
    assert (np.diff(p[order]) >= -1e-12).all()


def test_the_arm_whose_choices_pay_gains():
    """The model is right after it got what entropy wants, and wrong otherwise."""
    world, generator, state = World(seed=7, n=200), np.random.default_rng(2), None
    for _ in range(60):
        pool = world.outputs(state)
        (wanted,) = run_strategy("entropy", pool, 1, generator).indices
        query = run_strategy("albl:entropy,random", pool, 1, generator)
        state = query.state
        world.labeled += query.indices
        world.retrain()
        answers = world.truth if query.indices[0] == wanted else (world.truth + 1) % 3
        world.logits[world.labeled] = np.eye(3, dtype=np.float32)[answers[world.labeled]]
    probabilities = dict(zip(state["arms"], state["probabilities"], strict=True))
    assert probabilities["entropy"] > 0.65


def test_late_labels_wait_for_their_reward():
    world = World()
    first = run_strategy(NAME, world.outputs(), 5, np.random.default_rng(0))
    world.retrain()
    nothing = run_strategy(NAME, world.outputs(first.state), 3, np.random.default_rng(0))
    assert nothing.state["log_weights"] == [0.0] * 4
    world.labeled += first.indices[:2]
    rewarded = run_strategy(NAME, world.outputs(first.state), 3, np.random.default_rng(0))
    assert min(rewarded.state["log_weights"]) > 0
    assert rewarded.state["drawn"][:5] == list(first.indices)


def test_arms_keep_states_of_their_own():
    world = World()
    generator = np.random.default_rng(0)
    first = run_strategy("albl:albl,random", world.outputs(), 3, generator)
    inner = first.state["states"]["albl"]
    assert inner["arms"] == ["margin", "coreset", "badge", "random"]
    assert len(inner["drawn"]) == 3
    world.labeled += first.indices
    second = run_strategy("albl:albl,random", world.outputs(first.state), 3, generator)
    assert second.state["states"]["albl"]["drawn"][:3] == inner["drawn"]


def test_it_needs_what_its_arms_need():
    own = {"labels", "labeled_indices", "labeled_logits", "state"}
    assert strategy_needs(get_strategy("albl:entropy,random")) == own | {"logits"}
    assert strategy_needs(get_strategy("albl:lpl,vaal")) == own | {
        "predicted_losses",
        "labeled_scores",
    }
    assert strategy_needs(get_strategy("albl")) >= own | {"logits", "features", "labeled_features"}
    assert strategy_name(get_strategy("albl: entropy, random")).startswith("albl:")


@pytest.mark.parametrize("arguments", ["", "entropy", "entropy,entropy", ","])
def test_fewer_than_two_arms_are_refused(arguments):
    with pytest.raises(ConfigurationError, match="at least two different strategies"):
        get_strategy(f"albl:{arguments}")


def test_wrong_arms_and_states_are_refused():
    with pytest.raises(ConfigurationError, match=r"Unknown strategy 'entrpy'.*Did you mean"):
        get_strategy("albl:entrpy,random")
    world = World()
    state = run_strategy("albl", world.outputs(), 3, np.random.default_rng(0)).state
    with pytest.raises(ConfigurationError, match="with the arms"):
        run_strategy(NAME, world.outputs(state), 3, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["albl", "albl:entropy,random", "albl:entropy,margin"])
def test_it_conforms(name):
    check_strategy(name)


def test_a_run_that_was_interrupted_goes_on_with_its_state(few_digits, tmp_path):
    def run(path, cycles):
        options = {"model": "alhpo_toy", "max_epochs": 1, "path": path}
        learner = ActiveLearner(few_digits, strategy=NAME, **options)
        learner.label_initial(20)
        queries = []
        for _ in range(cycles):
            learner.fit()
            queries.append(learner.query(6))
        return queries

    whole = run(tmp_path / "whole", 3)
    parts = run(tmp_path / "parts", 1) + run(tmp_path / "parts", 2)
    assert parts == whole
    assert len(whole[-1].state["drawn"]) == 18
    assert whole[-1].state["log_weights"] != whole[0].state["log_weights"]


def test_late_pools_are_emptied():
    world = World(n=12)
    pool = replace(world.outputs(), state=None)
    query = run_strategy(NAME, pool, len(pool), np.random.default_rng(0))
    assert sorted(query.indices) == pool.indices.tolist()
