"""BoSS: the best of the arms' batches by what they lead to, and its arms that see true labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alhpo import ActiveLearner
from alhpo.base.errors import ConfigurationError
from alhpo.base.types import Evaluation, PoolOutputs, Query
from alhpo.strategies import get_strategy, run_strategy
from alhpo.strategies.boss import ARMS, BestOfStrategies

N = 40


class Retrained:
    """Accuracy is the worth of the batch; keeps what it was asked."""

    def __init__(self, worth):
        self.worth, self.asked = worth, []

    def __call__(self, batches, max_epochs):
        self.asked += map(tuple, batches)
        self.max_epochs = max_epochs
        return [replace(Evaluation.uniform(3), accuracy=self.worth(batch)) for batch in batches]


def pool_of(n=N, worth=lambda indices: sum(indices) / 1e4, seed=0, **changes):
    draw = torch.Generator().manual_seed(seed)
    outputs = {
        "logits": torch.randn(n, 3, generator=draw),
        "features": torch.randn(n, 5, generator=draw),
        "labels": torch.tensor([0, 0, 1]),
        "labeled_features": torch.randn(3, 5, generator=draw),
        "labeled_logits": torch.randn(3, 3, generator=draw),
        "true_labels": torch.randint(3, (n,), generator=draw),
        "classify": lambda features: features[:, :3],
    }
    return PoolOutputs(torch.arange(n) + 7, **outputs | changes, retrain=Retrained(worth))


def query(strategy, pool, n, seed=0):
    return run_strategy(strategy, pool, n, np.random.default_rng(seed))


def offering(log):
    def spy(pool, n, generator):
        log.append(tuple(pool.indices.tolist()))
        return Query(tuple(pool.indices[:n].tolist()))

    spy.needs = frozenset({"features"})
    return spy


def test_the_batch_with_the_highest_accuracy_wins():
    pool = pool_of()
    found = query("boss", pool, 3)
    accuracies = [sum(batch) / 1e4 for batch in pool.retrain.asked]
    assert found.indices == pool.retrain.asked[int(np.argmax(accuracies))]
    assert 1 < len(accuracies) <= 100
    assert len({frozenset(batch) for batch in pool.retrain.asked}) == len(accuracies)
    assert found.scores is None
    assert pool.retrain.max_epochs == 50


def test_the_first_of_equals_wins():
    pool = pool_of(worth=lambda indices: 0.5)
    assert query("boss", pool, 3).indices == pool.retrain.asked[0]


@pytest.mark.parametrize("n, least", [(2, 8), (15, 40), (40, 40)])
def test_arms_see_random_parts_of_at_least_four_candidates_a_choice(n, least):
    log = []
    pool = pool_of()
    query(BestOfStrategies([offering(log)], batches=50), pool, n)
    assert len(log) == 50
    assert all(least <= len(seen) <= N and list(seen) == sorted(seen) for seen in log)
    if least < N:
        assert len({len(seen) for seen in log}) > 5


def test_one_arm_that_draws_nothing_on_everything_is_that_arm():
    pool = pool_of(12)
    found = query(BestOfStrategies(["margin"], batches=3), pool, 3)
    assert found.indices == query("margin", pool, 3).indices
    assert len(pool.retrain.asked) == 1


def test_the_seed_decides():
    assert query("boss", pool_of(), 4, 1) == query("boss", pool_of(), 4, 1)
    assert query("boss", pool_of(), 4, 1) != query("boss", pool_of(), 4, 2)


def typical_by_hand(features, truth, counts, n):
    left, chosen = list(range(len(features))), []
    while len(chosen) < n:
        wanted = min({int(truth[i]) for i in left}, key=lambda c: (counts[c], c))
        members = [i for i in left if truth[i] == wanted]
        sums = {
            i: sum(float(((features[i] - features[j]) ** 2).sum()) for j in members)
            for i in members
        }
        best = min(members, key=lambda i: (np.float32(sums[i]), i))
        chosen.append(best)
        left.remove(best)
        counts[wanted] += 1
    return chosen


@pytest.mark.parametrize("n", [1, 6, N])
def test_typiclass_takes_typical_images_of_the_classes_with_the_fewest_labels(n):
    pool = pool_of()
    arm = get_strategy("boss").arms["typiclass"]
    found = [index - 7 for index in query(arm, pool, n).indices]
    truth = pool.true_labels.tolist()
    assert found == typical_by_hand(pool.features.double().numpy(), truth, [2, 1, 0], n)
    if n == 6:  # classes 0, 1 and 2 have two, one and no labels: then three each
        assert sorted(truth[i] for i in found) == [0, 1, 1, 2, 2, 2]


def test_dropqueryclass_chooses_among_what_dropout_changes_first():
    pool = pool_of(60)
    arm = get_strategy("boss").arms["dropqueryclass"]
    chosen = query(arm, pool, 10).indices
    assert len(set(chosen)) == 10
    everything = query(arm, pool, 60).indices
    assert sorted(everything) == pool.indices.tolist()
    sure = pool_of(60, classify=lambda features: torch.zeros(len(features), 3))
    unit = torch.nn.functional.normalize(sure.features.double()).numpy()
    found = [index - 7 for index in query(arm, sure, 6).indices]  # nothing changes: all are others
    assert found == typical_by_hand(unit, sure.true_labels.tolist(), [2, 1, 0], 6)


def test_the_ten_arms_of_the_paper():
    assert tuple(get_strategy("boss").arms) == ARMS
    assert len(ARMS) == 10


def test_a_learner_trains_for_it_and_refuses_it_without_truth(few_digits):
    options = {"model": "alhpo_toy", "max_epochs": 1, "strategy": "boss:random,typiclass"}
    learner = ActiveLearner(few_digits, **options)
    learner.label_initial(10)
    learner.fit()
    best = BestOfStrategies(["random", "typiclass"], batches=3)
    query = learner.ask(3, strategy=best)
    assert len(query) == 3
    unlabelled = replace(few_digits, labels=None)
    with pytest.raises(ConfigurationError, match=r"oracle.*lacks labels"):
        ActiveLearner(unlabelled, **options)
    with pytest.raises(
        ConfigurationError, match=r"boss.*cannot choose the initial labels.*retrain"
    ):
        ActiveLearner(few_digits, **options | {"initial": "boss"})


@pytest.mark.parametrize(
    "name, match",
    [
        ("boss:", "arms none"),
        ("boss:margin,margin", "different"),
        ("boss:margin,albl", "'albl' cannot be an arm.*learns"),
        ("boss:margin,boss", "'boss' cannot be an arm.*oracle"),
        ("refine:margin,boss", "'boss' cannot be an arm of refine.*oracle"),
    ],
)
def test_arms_that_cannot_be_used_are_refused(name, match):
    with pytest.raises(ConfigurationError, match=match):
        get_strategy(name)
