"""AutoAL's differentiable selection: its quantile, its losses, and what they learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn

from alhpo.outputs import soft_selection as module
from alhpo.outputs.soft_selection import (
    count_term,
    fit_loss,
    mixture_quantile,
    search_loss,
    soft_selection,
    strategy_scores,
)
from alhpo.testing.process_state import process_left_alone


def top(values, k):
    """(B,) booleans: the ``k`` largest."""
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[values.argsort(descending=True, stable=True)[:k]] = True
    return chosen


def random_choices(n, k, arms, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.stack([top(torch.rand(n, generator=draw), k) for _ in range(arms)], dim=1)


def selection_of(logits, chosen, wanted):
    return soft_selection(strategy_scores(logits, chosen), chosen, wanted)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 10**6), st.data())
def test_the_selection_is_in_the_unit_interval_and_0_where_no_arm_chose(n, arms, seed, data):
    k, wanted = data.draw(st.integers(1, n)), data.draw(st.integers(1, n))
    chosen = random_choices(n, k, arms, seed)
    logits = 3 * torch.randn(n, arms, generator=torch.Generator().manual_seed(seed))
    scores = strategy_scores(logits, chosen)
    assert ((scores >= 0) & (scores <= 1 + 1e-6)).all()
    with process_left_alone("the selection"):
        selection = soft_selection(scores, chosen, wanted)
    assert ((selection >= 0) & (selection <= 1)).all()
    assert (selection[~chosen.any(dim=1)] == 0).all()
    assert selection.sum() > 0


@pytest.mark.parametrize("arms", [1, 3])
def test_equal_arms_select_what_they_chose(arms):
    chosen = random_choices(50, 8, 1, 0).expand(50, arms)
    logits = torch.randn(50, arms, requires_grad=True)
    selection = selection_of(logits, chosen, 8)
    assert torch.equal(selection, chosen[:, 0].float())
    search_loss(selection, torch.rand(50), 8).backward()
    assert (logits.grad == 0).all()


def test_the_quantile_of_one_gaussian_is_the_normal_one(monkeypatch):
    monkeypatch.setattr(module, "COMPONENTS", 1)
    values = np.random.default_rng(0).normal(0.4, 0.1, 200)
    expected = norm.ppf(1 - 20 / 200, values.mean(), np.sqrt(values.var() + 1e-6))
    assert mixture_quantile(values, 20) == pytest.approx(expected, abs=1e-9)


def test_the_quantile_is_that_of_a_large_sample_from_the_mixture():
    draw = np.random.default_rng(1)
    values = np.concatenate([draw.normal(0.2, 0.02, 60), draw.normal(0.7, 0.1, 40)])
    weights, means, deviations = module._mixture(np.sort(values), 5)
    part = draw.choice(len(weights), 400_000, p=weights / weights.sum())
    sample = draw.normal(means[part], deviations[part])
    for wanted in (5, 30, 60, 99):
        found = mixture_quantile(values, wanted)
        assert (sample > found).mean() == pytest.approx(wanted / 100, abs=0.004)


def test_the_quantile_does_not_depend_on_the_order_and_takes_few_or_equal_values():
    values = np.random.default_rng(2).random(30)
    assert mixture_quantile(values, 7) == mixture_quantile(values[::-1].copy(), 7)
    assert mixture_quantile(np.full(9, 0.25), 4) == 0.25
    few = np.array([0.0] * 20 + [0.9, 1.0])
    assert 0 < mixture_quantile(few, 1) <= 1.1
    assert mixture_quantile(np.array([0.2, 0.8]), 1) == pytest.approx(0.5, abs=0.3)


@given(st.floats(0, 500), st.integers(0, 100))
def test_the_count_term_punishes_either_side_alike(distance, wanted):
    def term(selected):
        return float(count_term(torch.tensor(selected, dtype=torch.float64), wanted))

    assert term(float(wanted)) == 0
    assert term(wanted + distance) == pytest.approx(term(wanted - distance), abs=1e-12)
    assert term(wanted + distance + 1) <= term(wanted + distance) <= 0
    assert term(wanted + distance) >= -0.5


def test_gradients_of_the_search_loss_are_those_of_finite_differences():
    draw = torch.Generator().manual_seed(0)
    chosen = random_choices(12, 4, 3, 0)
    losses = torch.rand(12, generator=draw, dtype=torch.float64)
    logits = torch.randn(12, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    threshold = float(strategy_scores(logits, chosen).detach().median())

    def loss(values):
        scores = strategy_scores(values, chosen)
        return search_loss(soft_selection(scores, chosen, 3, threshold), losses, 3)

    assert torch.autograd.gradcheck(loss, [logits])


def test_each_loss_trains_one_network_and_rows_that_are_not_selected_do_not_count():
    chosen = random_choices(20, 4, 2, 1)
    search, fit = nn.Linear(5, 2), nn.Linear(5, 3)
    images, labels = torch.randn(20, 5), torch.randint(3, (20,))

    def both():
        logits = fit(images)
        logits.retain_grad()
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        return selection_of(search(images), chosen, 4), losses, logits

    selection, losses, logits = both()
    fit_loss(selection, losses).backward()
    assert search.weight.grad is None
    assert (logits.grad[~chosen.any(dim=1)] == 0).all()
    assert (logits.grad[chosen.any(dim=1)] != 0).any()
    fit.zero_grad()
    selection, losses, _ = both()
    search_loss(selection, losses, 4).backward()
    assert fit.weight.grad is None
    assert search.weight.grad.norm() > 0


def test_images_and_arms_in_another_order_give_the_same():
    chosen, logits = random_choices(60, 9, 3, 2), torch.randn(60, 3)
    expected = selection_of(logits, chosen, 9)
    order, arms = torch.randperm(60), torch.tensor([2, 0, 1])
    torch.testing.assert_close(selection_of(logits[order], chosen[order], 9), expected[order])
    torch.testing.assert_close(selection_of(logits[:, arms], chosen[:, arms], 9), expected)


def learnt_weights(losses, images, chosen, seed, steps=133):
    """(K,) mean weights of the union before and after SearchNet's steps on one batch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, chosen.shape[1]))
    optimizer = torch.optim.SGD(net.parameters(), 0.005, momentum=0.9, weight_decay=5e-4)
    wanted, union = int(chosen[:, 0].sum()), chosen.any(dim=1)
    before = net(images).softmax(dim=1)[union].mean(dim=0).detach()
    for _ in range(steps):
        loss = search_loss(selection_of(net(images), chosen, wanted), losses, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, net(images).softmax(dim=1)[union].mean(dim=0).detach()


@pytest.fixture
def planted():
    draw = torch.Generator().manual_seed(3)
    images = torch.randn(400, 8, generator=draw)
    losses = -torch.rand(400, generator=draw).log()
    noise = torch.randn(7, 400, generator=draw)
    return images, losses, noise


def test_the_arm_that_finds_what_is_hard_gets_the_weight(planted):
    images, losses, noise = planted
    arms = [top(noise[0], 20), top(losses, 20), top(-losses, 20)]
    chosen = torch.stack(arms, dim=1)
    before, after = learnt_weights(losses, images, chosen, 0)
    assert before.sub(1 / 3).abs().max() < 0.12
    assert after[1] > 0.5
    assert after.argmax() == 1
    swapped = learnt_weights(losses, images, chosen[:, [1, 2, 0]], 0)[1]
    assert swapped.argmax() == 0


def test_one_of_seven_arms_that_is_right_gets_the_most_weight(planted):
    images, losses, noise = planted
    easy = [top(-losses + 0.1 * one, 20) for one in noise[:5]]
    chosen = torch.stack([*easy, top(losses + 0.3 * noise[5], 20), top(noise[6], 20)], dim=1)
    assert learnt_weights(losses, images, chosen, 1)[1].argmax() == 5


def test_where_all_images_are_as_hard_no_arm_takes_over(planted):
    images, losses, noise = planted
    chosen = torch.stack([top(one, 20) for one in noise[:3]], dim=1)
    assert learnt_weights(torch.ones_like(losses), images, chosen, 2, steps=60)[1].max() < 0.5
