"""Stochastic batch acquisition against its definition, enumerated, and LURE's against the mean."""

from __future__ import annotations

import inspect
import itertools
import math
import pickle
from collections import Counter

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alhpo import run_experiment
from alhpo.base.errors import ConfigurationError
from alhpo.base.files import Journal
from alhpo.base.types import PoolOutputs
from alhpo.strategies import (
    Scores,
    check_dropout,
    get_strategy,
    register_score,
    registry,
    run_strategy,
    score_names,
    split_strategy_names,
    strategy_needs,
)
from alhpo.testing import check_strategy
from alhpo.validation.weights import lure_weights

FAMILIES = ("power", "softmax", "softrank")
ORACLES = {
    "entropy": lambda p: scipy.stats.entropy(p, axis=1),
    "least-confidence": lambda p: 1 - p.max(axis=1),
    "margin": lambda p: 1 - np.diff(np.sort(p, axis=1)[:, -2:], axis=1)[:, 0],
}


@pytest.fixture(scope="module", autouse=True)
def given_scores():
    """The scores "given", of any number, and "given-signed" are the only feature."""
    with registry.STRATEGIES.temporary():

        def feature(pool):
            return pool.features[:, 0]

        register_score("given", needs={"features"})(feature)
        register_score("given-signed", needs={"features"}, signed=True)(feature)
        yield


def rng(seed=0):
    return np.random.default_rng(seed)


def with_scores(scores):
    features = torch.tensor(scores, dtype=torch.float64)[:, None]
    return PoolOutputs(torch.arange(len(scores)) * 2 + 3, features=features)


def with_logits(n, classes=4, scale=1.0, seed=0):
    logits = torch.from_numpy(scale * rng(seed).normal(size=(n, classes))).float()
    return PoolOutputs(torch.arange(n) * 2 + 3, logits=logits)


def rows_of(query):
    return [(index - 3) // 2 for index in query.indices]


def weights_by_definition(family, scores, beta):
    """(N,) weights in 60 digits."""
    with mpmath.workdps(60):
        values = [mpmath.mpf(float(s)) for s in scores]
        if family == "power":
            return [v**beta if beta else mpmath.mpf(1) for v in values]
        if family == "softmax":
            return [mpmath.exp(beta * v) for v in values]
        higher = [sum(int(other > s) for other in scores) for s in scores]
        equal = [sum(int(other == s) for other in scores) for s in scores]
        ranks = [h + mpmath.mpf(e + 1) / 2 for h, e in zip(higher, equal, strict=True)]
        return [rank ** -mpmath.mpf(beta) for rank in ranks]


def probabilities_by_definition(weights, rows):
    """Of each row at its draw: its weight over the sum of those that are left."""
    with mpmath.workdps(60):
        left = dict(enumerate(weights))
        found = []
        for row in rows:
            found.append(float(left[row] / mpmath.fsum(left.values())))
            del left[row]
    return found


# --- the distribution ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("score", "beta"), [("entropy", 1), pytest.param("margin", 3, marks=pytest.mark.slow)]
)
def test_ordered_picks_are_distributed_as_plackett_and_luce_say(family, score, beta):
    pool, times = with_logits(5, scale=3), 1500
    scores = ORACLES[score](pool.logits.double().softmax(dim=1).numpy())
    name = f"{family}:{score}" if beta == 1 else f"{family}:{score}@{beta}"
    strategy, generator = get_strategy(name), rng(1)
    counts = Counter(tuple(rows_of(strategy(pool, 2, generator))) for _ in range(times))

    def p_value(weights):
        orders = list(itertools.permutations(range(5), 2))
        expected = [math.prod(probabilities_by_definition(weights, order)) for order in orders]
        assert sum(expected) == pytest.approx(1)
        found = [counts[order] for order in orders]
        return scipy.stats.chisquare(found, times * np.array(expected)).pvalue

    assert p_value(weights_by_definition(family, scores, beta)) > 0.01
    assert p_value(weights_by_definition(family, scores, beta * 1.7 + 0.6)) < 1e-6


score_lists = st.lists(
    st.floats(1e-6, 40) | st.sampled_from([0.25, 0.5, 1.0]), min_size=1, max_size=12
)


@settings(deadline=None)
@given(
    st.sampled_from(FAMILIES), score_lists, st.floats(0, 6), st.integers(0, 2**20), st.integers(1)
)
def test_told_probabilities_are_those_of_the_definition(family, scores, beta, seed, n):
    n = min(n, len(scores))
    query = run_strategy(f"{family}:given@{beta!r}", with_scores(scores), n, rng(seed))
    rows = rows_of(query)
    assert query.scores == tuple(scores[row] for row in rows)
    weights = weights_by_definition(family, scores, beta)
    assert query.probabilities is not None
    expected = probabilities_by_definition(weights, rows)
    np.testing.assert_allclose(query.probabilities, expected, rtol=1e-11)
    if n == len(scores):
        assert query.probabilities[-1] == 1


@settings(deadline=None)
@given(st.sampled_from(FAMILIES), score_lists, st.integers(0, 2**20))
def test_an_exponent_of_0_is_uniform(family, scores, seed):
    scores = [0.0, *scores]
    query = run_strategy(f"{family}:given@0", with_scores(scores), len(scores), rng(seed))
    np.testing.assert_allclose(query.probabilities, 1 / np.arange(len(scores), 0, -1), rtol=1e-12)


@settings(deadline=None)
@given(
    st.sampled_from(FAMILIES),
    st.lists(st.integers(0, 10**6), min_size=2, max_size=30, unique=True),
    st.sampled_from(["1e9", "1e200", "1e308"]),
    st.data(),
)
def test_a_large_exponent_takes_the_highest_scores(family, scores, beta, data):
    n = data.draw(st.integers(1, len(scores)))
    pool = with_scores(scores)
    query = run_strategy(f"{family}:given@{beta}", pool, n, rng(0))
    assert query.indices == run_strategy("given", pool, n, rng(0)).indices
    assert query.probabilities is None  # not all could be drawn


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_scores_are_drawn_alike(family):
    """Not in the order of their indices, however large the exponent is."""
    pool, times = with_scores([1.0, 5.0, 5.0, 5.0, 0.5]), 1500
    strategy, generator = get_strategy(f"{family}:given@1e12"), rng(1)
    first = Counter(rows_of(strategy(pool, 3, generator))[0] for _ in range(times))
    assert set(first) == {1, 2, 3}
    assert scipy.stats.chisquare(list(first.values())).pvalue > 0.01


# --- numbers that are large, small, or none ------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["power:entropy@2", "softmax:margin@20", "softrank:least-confidence"]
)
def test_a_thousand_of_fifty_thousand(name):
    pool = with_logits(50_000, scale=3, seed=1)
    family, _, rest = name.partition(":")
    score, _, beta = rest.partition("@")
    beta = float(beta or 1)
    query = run_strategy(name, pool, 1000, rng(2))
    scores = ORACLES[score](pool.logits.double().softmax(dim=1).numpy()).astype(np.longdouble)
    ranks = scipy.stats.rankdata(-scores).astype(np.longdouble)
    definitions = {
        "power": scores**beta,
        "softmax": np.exp(beta * scores),
        "softrank": ranks**-beta,
    }
    w = definitions[family]
    rows = rows_of(query)
    left = w.sum() - np.concatenate([[0], np.cumsum(w[rows])[:-1]])
    np.testing.assert_allclose(query.probabilities, (w[rows] / left).astype(float), rtol=1e-7)


def test_entropies_that_underflow_keep_their_proportions():
    gaps = np.array([800.0, 801.0, 803.0, 800.5, 810.0])
    logits = torch.zeros(len(gaps), 2)
    logits[:, 1] = torch.from_numpy(gaps)
    pool = PoolOutputs(torch.arange(len(gaps)) * 2 + 3, logits=logits)
    query = run_strategy("power:entropy", pool, 5, rng(0))
    assert query.scores == (0.0,) * 5
    with mpmath.workdps(500):
        weights = [mpmath.log1p(mpmath.exp(-g)) + g / (1 + mpmath.exp(g)) for g in gaps]
        expected = probabilities_by_definition(weights, rows_of(query))
    np.testing.assert_allclose(query.probabilities, expected, rtol=1e-5)  # exp(-800) is 0 in -log p


@pytest.mark.parametrize("family", ["power", "softmax"])
def test_no_probabilities_where_one_of_them_is_too_small_for_float64(family):
    """1e-5 to the power of 61 is a probability, and to the power of 62 none."""
    smallest = 1e-5 if family == "power" else math.log(1e-5)
    pool = with_scores([1.0 if family == "power" else 0.0, smallest])
    assert run_strategy(f"{family}:given@61", pool, 1, rng(0)).probabilities == pytest.approx((1,))
    query = run_strategy(f"{family}:given@61", pool, 2, rng(0))
    assert query.probabilities == pytest.approx((1, 1))
    for n in (1, 2):
        assert run_strategy(f"{family}:given@62", pool, n, rng(0)).probabilities is None


def test_powers_of_0_are_drawn_last_and_at_random():
    pool, last, generator = with_scores([0.0, 0.3, 0.0, 0.2, 0.0]), Counter(), rng(1)
    for _ in range(1200):
        query = get_strategy("power:given")(pool, 4, generator)
        rows = rows_of(query)
        assert set(rows[:2]) == {1, 3} and query.probabilities is None
        last[tuple(rows[2:])] += 1
    assert len(last) == 6 and scipy.stats.chisquare(list(last.values())).pvalue > 0.01
    uniform = run_strategy("power:given", with_scores([0.0] * 4), 3, rng(0))
    assert uniform.probabilities == pytest.approx((1 / 4, 1 / 3, 1 / 2))


@pytest.mark.parametrize("family", ["softmax", "softrank"])
def test_infinite_and_negative_scores(family):
    pool = with_scores([-2.0, math.inf, -1e300, math.inf, 3.0])
    query = get_strategy(f"{family}:given-signed")(pool, 5, rng(0))
    if family == "softmax":
        assert query.probabilities is None
        assert set(rows_of(query)[:2]) == {1, 3} and rows_of(query)[2:] == [4, 0, 2]
    else:
        weights = weights_by_definition("softrank", query.scores, 1)
        expected = probabilities_by_definition(weights, range(5))
        np.testing.assert_allclose(query.probabilities, expected)


# --- what the probabilities are for --------------------------------------------------------------


@pytest.mark.parametrize("name", ["power:given@2", "softmax:given@3", "softrank:given"])
def test_lure_makes_the_mean_unbiased_over_all_draws(name):
    """One random draw, then two by the strategy, of a pool of five: exactly, by enumeration."""
    scores, losses, size = np.array([0.4, 0.9, 0.6, 0.5, 0.8]), np.array([4.0, 0, 7, 1, 2]), 5
    expectation = plain = total = 0.0
    for first in range(size):
        others = np.delete(np.arange(size), first)
        told, generator = {}, rng(first)
        for _ in range(5000):
            query = get_strategy(name)(with_scores(scores[others]), 2, generator)
            told[tuple(others[rows_of(query)])] = query.probabilities
            if len(told) == 12:
                break
        for order, q in told.items():
            probability = 1 / size * math.prod(q)
            weights = lure_weights(np.arange(1, 4), np.array([1 / size, *q]), size)
            drawn = losses[[first, *order]]
            expectation += probability * np.mean(weights * drawn)
            plain += probability * drawn.mean()
            total += probability
    assert total == pytest.approx(1, rel=1e-12)
    assert expectation == pytest.approx(losses.mean(), rel=1e-12)
    assert abs(plain - losses.mean()) > 0.05


def test_weights_by_rank_stay_below_the_harmonic_number():
    pool = with_logits(2000)
    query = run_strategy("softrank:entropy", pool, 200, rng(0))
    weights = 1 / ((2000 - np.arange(200)) * np.array(query.probabilities))
    assert weights.max() <= 2000 / 1801 * np.sum(1 / np.arange(1, 2001))


def test_a_run_validates_by_the_probabilities_of_its_draws(few_digits, tmp_path):
    name = "softrank:entropy@1.5"
    settings = {
        "strategy": name,
        "validation": "acquisition:holdout:0.25",
        "hpo": "per-cycle",
        "optimizer": "random",
        "initial_size": 12,
        "acquisition_size": 12,
        "budget": 36,
        "max_epochs": 1,
        "max_budget": 1,
        "num_configurations": 1,
        "model": "alhpo_toy",
        "hyperparameters": {"batch_size": 16},
        "output_dir": str(tmp_path),
    }
    result = run_experiment(settings, dataset=few_digits)
    assert result.path.name.startswith("digits-softrank-entropy-1.5-per-cycle-seed0-")
    asked = [e for e in Journal(result.path / "labels.jsonl").read() if e["event"] == "ask"]
    q = np.array([p for entry in asked for p in entry["probabilities"]])
    v = lure_weights(np.arange(1, 37), q, 120)
    np.testing.assert_allclose(v[:12], 1)
    assert np.abs(v[12:] - 1).min() > 1e-6 and np.ptp(v[12:]) > 0.5
    journals = sorted(result.path.glob("hpo/*/*/journal.jsonl"))
    entries = [entry for path in journals for entry in Journal(path).read()]
    sizes = [entry["result"]["effective_size"] for entry in entries if entry.get("result")]
    assert len(sizes) == 3
    assert sizes[0] == pytest.approx(3)  # random labels are of weight 1
    assert sizes[1] < 6 - 1e-3 and sizes[2] < 9 - 1e-3


# --- names, needs and errors ---------------------------------------------------------------------


def test_the_scores_by_name_and_what_they_need():
    assert set(score_names()) - {"given", "given-signed"} == {
        *("bald", "ddu", "entropy", "least-confidence", "lpl", "margin", "mc-dropout"),
        *("mean-std", "vaal", "variation-ratio"),
    }
    for family, score in itertools.product(FAMILIES, score_names()):
        if family == "power" and score in ("ddu", "lpl", "given-signed"):
            with pytest.raises(ConfigurationError, match=f"Use 'softrank:{score}'"):
                get_strategy(f"power:{score}@2")
        else:
            assert strategy_needs(get_strategy(f"{family}:{score}@2")) == strategy_needs(
                get_strategy(score)
            )
    with pytest.raises(ConfigurationError, match="'power:bald@2' looks at passes"):
        check_dropout("power:bald@2", 0.0)
    assert get_strategy("softmax:softmax-response").needs == {"logits"}


@pytest.mark.parametrize("beta", ["x", "", "-1", "nan", "inf", "2@3@"])
def test_exponents_that_are_none(beta):
    with pytest.raises(ConfigurationError, match=r"exponent .* finite number from 0.*@2'"):
        get_strategy(f"softrank:entropy@{beta}")


@pytest.mark.parametrize(
    ("score", "match"),
    [
        ("entropi", "Unknown score 'entropi'. Did you mean 'entropy'"),
        ("", "Unknown score ''"),
        ("coreset", "'coreset' does not score each candidate by itself"),
        ("albl", "'albl' does not score"),
        ("random", "'random' does not score"),
        ("softrank:entropy", "'softrank:entropy' does not score"),
        ("entropy,margin", "Unknown score 'entropy,margin'"),
    ],
)
def test_scores_that_are_none_and_the_legal_ones_listed(score, match):
    for family in FAMILIES:
        with pytest.raises(ConfigurationError, match=rf"{match}.*Legal: bald, ddu, entropy,.*vaal"):
            get_strategy(f"{family}:{score}")


def test_names_are_separated_by_commas_and_can_be_arms():
    text = "power:entropy@2,softrank:bald, albl:power:margin,random"
    assert split_strategy_names(text) == [
        *("power:entropy@2", "softrank:bald", "albl:power:margin,random"),
    ]


@pytest.mark.parametrize(
    "name",
    ["power:mean-std", "power:vaal@3", "softmax:lpl", "softrank:variation-ratio@2", "softrank:lpl"],
)
def test_members_conform(name):
    check_strategy(name)


@pytest.mark.parametrize(
    ("returned", "match"),
    [
        (torch.zeros(3), r"Tensor of shape \(3,\); expected a tensor of shape \(4,\)"),
        (torch.zeros(4, 1), r"shape \(4, 1\); expected"),
        ([0.0] * 4, r"a list; expected a tensor of shape \(4,\)"),
        (torch.tensor([0.0, 1.0, torch.nan, 2.0]), "NaN"),
        (Scores(torch.zeros(4), order=torch.full((4,), torch.nan)), "NaN"),
        (Scores(torch.zeros(4), order=torch.zeros(3)), r"shape \(3,\); expected"),
        (Scores(torch.zeros(4), logs=torch.zeros(5)), r"shape \(5,\); expected"),
    ],
)
def test_scores_that_cannot_be_are_refused(returned, match):
    @register_score("broken", needs=())
    def broken(pool):
        return returned

    for name in ("broken", "softrank:broken"):
        with pytest.raises(ConfigurationError, match=f"The score 'broken' .*{match}"):
            run_strategy(name, with_scores([1.0] * 4), 2, rng(0))


def test_scores_are_functions_to_others():
    entropy = get_strategy("entropy")
    assert pickle.loads(pickle.dumps(entropy)) is entropy
    assert list(inspect.signature(entropy).parameters) == ["pool", "n", "generator"]
    assert "entropy" in (entropy.__doc__ or "")


def test_negative_scores_that_are_not_said_to_be_have_no_powers():
    with pytest.raises(ConfigurationError, match=r"score of -0.5 has no powers.*signed=True"):
        run_strategy("power:given", with_scores([1.0, -0.5]), 1, rng(0))


def test_a_score_of_a_user_is_a_strategy():
    @register_score("raised", needs={"logits"}, aliases=("ballots",))
    def raised(pool):
        """How many logits are positive."""
        return (pool.logits > 0).sum(dim=1)

    pool = with_logits(20)
    expected = (pool.logits > 0).sum(dim=1).numpy()
    query = run_strategy("ballots", pool, 20, rng(0))
    assert rows_of(query) == np.argsort(-expected, kind="stable").tolist()
    assert query.scores == tuple(np.sort(expected)[::-1])
    assert raised.__doc__ == "How many logits are positive." and "raised" in score_names()
    for name in ("raised", "power:raised", "softmax:ballots@2", "softrank:raised"):
        check_strategy(name)
    with pytest.raises(ConfigurationError, match="belongs to"):
        register_score("margin")(lambda pool: pool.logits[:, 0])
