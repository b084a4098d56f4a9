"""Refine: what is left after its rounds, and the last choice."""

import numpy as np
import pytest
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies import get_strategy, run_strategy
from alhpo.strategies.refine import ARMS, Refine

SEEN: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []


def spy_first(pool, n, generator):
    """The lowest indices."""
    query = Query(tuple(pool.indices[:n].tolist()))
    SEEN.append(("first", tuple(pool.indices.tolist()), query.indices))
    return query


def spy_random(pool, n, generator):
    order = generator.permutation(len(pool))[:n]
    query = Query(tuple(pool.indices[np.sort(order)].tolist()))
    SEEN.append(("random", tuple(pool.indices.tolist()), query.indices))
    return query


@pytest.fixture(autouse=True)
def forget():
    SEEN.clear()


def pool_of(n, *, labeled=8, classes=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return PoolOutputs(
        torch.arange(n) * 2 + 5,
        logits=2 * torch.randn(n, classes, generator=draw),
        features=torch.randn(n, 6, generator=draw),
        labels=torch.randint(classes, (labeled,), generator=draw),
        labeled_features=torch.randn(labeled, 6, generator=draw),
        labeled_logits=torch.randn(labeled, classes, generator=draw),
        heldout_logits=torch.randn(labeled, classes, generator=draw),
        heldout_labels=torch.randint(classes, (labeled,), generator=draw),
        classify=lambda features: features[:, :classes],
    )


def query(strategy, pool, n, seed=0):
    return run_strategy(strategy, pool, n, np.random.default_rng(seed))


def test_without_rounds_it_is_uherding():
    pool = pool_of(50)
    assert query(Refine(["margin"], rounds=0), pool, 9) == query("uherding", pool, 9)


def test_one_batch_of_one_arm_is_that_arms_batch_in_the_order_of_uherding():
    pool = pool_of(60)
    batch = query("margin", pool, 9).indices
    found = query(Refine(["margin"], rounds=1, batches=1), pool, 9)
    assert sorted(found.indices) == sorted(batch)
    assert list(found.scores) == sorted(found.scores, reverse=True)


@pytest.mark.parametrize("n", [1, 4])
def test_every_round_keeps_what_the_arms_chose_and_no_more(n):
    pool = pool_of(80)
    refine = Refine([spy_first, spy_random], batches=6, rounds=4)
    found = query(refine, pool, n)
    left = set(pool.indices.tolist())
    at = 0
    for number in range(4):
        if len(left) <= n:
            break
        size = len(left) if number == 0 else max(n, int(0.4 * len(left)))
        round_ = [SEEN[at + k] for k in range(4 if number == 0 else 6)]
        at += len(round_)
        for _, offered, chosen in round_:
            assert set(offered) <= left
            assert len(offered) == size
            assert list(offered) == sorted(offered)
            assert len(chosen) == n
        # on all that is left, an arm that draws nothing is asked once
        assert sum(name == "first" for name, *_ in round_) == (1 if number == 0 else 3)
        left = set().union(*(chosen for *_, chosen in round_))
        assert len(left) <= 6 * n
        if number == 0:
            assert set(pool.indices[:n].tolist()) <= left
    assert at == len(SEEN)
    assert set(found.indices) <= left


def test_the_parameters_of_uherding_are_those_of_the_whole_pool():
    pool = pool_of(60)
    assert query("refine:margin,uherding", pool, 5).state == query("uherding", pool, 5).state


def test_the_seed_decides_and_an_arm_that_draws_changes_nothing_of_the_others():
    pool = pool_of(60)
    assert query("refine:badge,random", pool, 5, 1) == query("refine:badge,random", pool, 5, 1)
    query(Refine([spy_random, spy_first], batches=4, rounds=1), pool, 3, seed=2)
    one = [chosen for name, _, chosen in SEEN if name == "random"]
    SEEN.clear()
    query(Refine([spy_random, "typiclust"], batches=4, rounds=1), pool, 3, seed=2)
    assert [chosen for *_, chosen in SEEN] == one


def test_all_candidates_are_ordered_by_uherding():
    pool = pool_of(30)
    assert query("refine:margin", pool, 30).indices == query("uherding", pool, 30).indices


def test_the_nine_arms_of_the_paper():
    assert list(get_strategy("refine").arms) == list(ARMS)
    assert len(ARMS) == 9
    pool = pool_of(40)
    found = query("refine", pool, 3)
    assert len(set(found.indices)) == 3


@pytest.mark.parametrize(
    "name, match",
    [
        ("refine:", "arms none"),
        ("refine:margin,margin", "different"),
        ("refine:margin,albl", "'albl' cannot be an arm.*learns"),
        ("refine:margin,nothing", "nothing"),
    ],
)
def test_arms_that_cannot_be_used_are_refused(name, match):
    with pytest.raises(ConfigurationError, match=match):
        get_strategy(name)
