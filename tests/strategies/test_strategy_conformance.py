"""All registered strategies conform; the suite catches those that do not."""

import random

import numpy as np
import pytest
import torch
from strategy_examples import examples

from alhpo.base.errors import ConfigurationError
from alhpo.base.types import Query
from alhpo.strategies.boss import BestOfStrategies
from alhpo.strategies.refine import Refine
from alhpo.testing import check_strategy

#: Strategies of hundreds of queries: the same with one query of each arm in a round.
FEWER_QUERIES = {
    "boss": lambda: BestOfStrategies(batches=6),
    "boss:margin,typiclass": lambda: BestOfStrategies(["margin", "typiclass"], batches=4),
    "refine": lambda: Refine(batches=1),
    "refine:margin,random": lambda: Refine(["margin", "random"], batches=1),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("boss", "refine") else name
        for name in examples()
    ],
)
def test_registered_strategies_conform(name):
    check_strategy(FEWER_QUERIES[name]() if name in FEWER_QUERIES else name)


def test_a_plain_function_conforms():
    def least_confident(pool, n, generator):
        order = pool.logits.softmax(dim=1).amax(dim=1).argsort(stable=True)[:n]
        return Query(tuple(pool.indices[order].tolist()))

    check_strategy(least_confident)


def pick(pool, rows, scores=None):
    return Query(tuple(pool.indices[torch.as_tensor(rows)].tolist()), scores)


def repeats(pool, n, generator):
    return pick(pool, [0] * n)


def returns_one_too_few_of_many(pool, n, generator):
    return pick(pool, range(min(n, 20)))


def returns_row_numbers(pool, n, generator):
    return Query(tuple(range(n)))


def draws_from_numpys_global_generator(pool, n, generator):
    return pick(pool, np.random.permutation(len(pool))[:n])  # noqa: NPY002


def draws_from_torchs_global_generator(pool, n, generator):
    return pick(pool, torch.randperm(len(pool))[:n])


def hides_its_use_of_a_global_generator(pool, n, generator):
    state = random.getstate()
    rows = random.sample(range(len(pool)), n)
    random.setstate(state)
    return pick(pool, rows)


def seeds_the_global_generator(pool, n, generator):
    np.random.seed(0)  # noqa: NPY002
    return pick(pool, range(n))


def makes_its_own_generator(pool, n, generator):
    return pick(pool, np.random.default_rng().permutation(len(pool))[:n])


def changes_its_logits(pool, n, generator):
    pool.logits.sub_(pool.logits.amax(dim=1, keepdim=True))
    return pick(pool, range(n))


def changes_the_threads(pool, n, generator):
    torch.set_num_threads(torch.get_num_threads() % 2 + 1)
    return pick(pool, range(n))


def needs_more_than_it_says(pool, n, generator):
    return pick(pool, pool.features.norm(dim=1).argsort()[:n])


needs_more_than_it_says.needs = frozenset({"logits"})


def fails_without_labelled_images(pool, n, generator):
    distance = torch.cdist(pool.features, pool.labeled_features).amin(dim=1)
    return pick(pool, distance.argsort(stable=True)[:n])


def looks_at_the_numbers(pool, n, generator):
    order = (pool.indices % 4).argsort(stable=True)[:n]
    return pick(pool, order)


def looks_at_the_order(pool, n, generator):
    return pick(pool, range(n))


def draws_without_replacement_by_mass_and_fails_on_zero_mass(pool, n, generator):
    mass = pool.features.norm(dim=1).double().numpy()
    with np.errstate(invalid="ignore"):
        return pick(pool, generator.choice(len(pool), n, replace=False, p=mass / mass.sum()))


def needing(*needs):
    def give(strategy):
        strategy.needs = frozenset(needs)
        return strategy

    return give


@needing("logits")
def looks_at_the_order_after_a_draw(pool, n, generator):
    generator.random()
    return pick(pool, range(n))


@needing("logits")
def prefers_the_last_of_equals(pool, n, generator):
    confidence = pool.logits.softmax(dim=1).amax(dim=1).flip(0)
    return pick(pool, len(pool) - 1 - confidence.argsort(stable=True)[:n])


@needing("features")
def looks_at_the_memory(pool, n, generator):
    order = pool.features.sum(dim=1).argsort(stable=True)
    return pick(pool, order[:n] if pool.features.is_contiguous() else order.flip(0)[:n])


@needing("passes")
def sums_passes_up_in_place(pool, n, generator):
    logits = pool.passes.logits(slice(None))
    logits.sub_(logits.amax(dim=2, keepdim=True))
    return pick(pool, logits.sum(dim=(0, 2)).argsort(stable=True)[:n])


@needing("labels", "labeled_features", "features")
def needs_every_class_labelled(pool, n, generator):
    means = torch.stack([pool.labeled_features[pool.labels == c].mean(0) for c in range(3)])
    if means.isnan().any():
        raise ValueError("a class without labels")
    return pick(pool, torch.cdist(pool.features, means).amin(1).argsort(stable=True)[:n])


@needing("logits")
def leaves_a_state_that_it_never_gets(pool, n, generator):
    order = pool.logits.amax(dim=1).argsort(stable=True)[:n]
    return Query(tuple(pool.indices[order].tolist()), state={"n": n})


@needing("logits", "state")
def remembers_what_no_file_holds(pool, n, generator):
    order = pool.logits.amax(dim=1).argsort(stable=True)[:n]
    return Query(tuple(pool.indices[order].tolist()), state={"chosen": set(order.tolist())})


@needing("logits", "state")
def changes_its_state(pool, n, generator):
    order = pool.logits.amax(dim=1).argsort(stable=True)[:n]
    state = pool.state or {"rounds": []}
    state["rounds"].append(n)
    return Query(tuple(pool.indices[order].tolist()), state=state)


@needing("logits", "state")
def counts(pool, n, generator):
    """No fault: its choice depends on how often it was asked."""
    queries = 0 if pool.state is None else pool.state["queries"]
    order = pool.logits[:, queries % pool.logits.shape[1]].argsort(stable=True)[:n]
    return Query(tuple(pool.indices[order].tolist()), state={"queries": queries + 1})


def test_a_strategy_with_a_state_conforms():
    check_strategy(counts)


@pytest.mark.parametrize("field", ["predicted_losses", "labeled_scores"])
def test_strategies_of_trained_outputs_conform(field):
    def largest(pool, n, generator):
        scores, order = getattr(pool, field).sort(descending=True, stable=True)
        return pick(pool, order[:n], tuple(scores[:n].tolist()))

    check_strategy(needing(field)(largest))


class Remembers:
    calls = 0

    def __call__(self, pool, n, generator):
        self.calls += 1
        return pick(pool, [(i + self.calls) % len(pool) for i in range(n)])


@pytest.mark.parametrize(
    "strategy, complaint",
    [
        (repeats, "more than once"),
        (returns_one_too_few_of_many, "asked for 30 candidates and returned 20"),
        (returns_row_numbers, "not among the candidates"),
        (draws_from_numpys_global_generator, "NumPy's global generator"),
        (draws_from_torchs_global_generator, "torch's global generator"),
        (hides_its_use_of_a_global_generator, "the same generator state gave"),
        (seeds_the_global_generator, "NumPy's global generator"),
        (makes_its_own_generator, "the same generator state gave"),
        (changes_its_logits, "changed the outputs"),
        (changes_the_threads, "number of threads"),
        (needs_more_than_it_says, r"needs=\['logits'\]"),
        (fails_without_labelled_images, "no labelled images"),
        (looks_at_the_numbers, "numbers of the candidates"),
        (looks_at_the_order, "in another order"),
        (draws_without_replacement_by_mass_and_fails_on_zero_mass, "zero features"),
        (Remembers(), "the same generator state gave"),
        (looks_at_the_order_after_a_draw, "times after they were given in another order"),
        (prefers_the_last_of_equals, "before an equal candidate of a lower index"),
        (looks_at_the_memory, "order of the outputs in memory"),
        (sums_passes_up_in_place, "changed the outputs"),
        (needs_every_class_labelled, "raised ValueError"),
        (leaves_a_state_that_it_never_gets, "add 'state' to needs"),
        (remembers_what_no_file_holds, "cannot be recorded"),
        (changes_its_state, "changed the state it was given"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_strategies_are_caught(strategy, complaint):
    threads = torch.get_num_threads()
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        with pytest.raises(AssertionError, match=complaint):
            check_strategy(strategy)
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def test_unknown_strategies_are_no_conformance_failure():
    with pytest.raises(ConfigurationError, match="Legal"):
        check_strategy("nothing")
