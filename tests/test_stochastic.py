"""Passes with dropout against torch's own dropout, layer by layer and in distribution."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from alhpo.base.errors import ConfigurationError
from alhpo.outputs.dropout_passes import DropoutPasses, TensorPasses, keep_masks

PIXELS = torch.tensor(load_digits().data[:60] / 16, dtype=torch.float32)  # (60, 64)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(classes=10, bias=True):
    layer = nn.Linear(64, classes, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw(1)))
    return layer


def passes(classifier=None, t=7, p=0.5, features=PIXELS):
    return DropoutPasses(features, classifier or linear(), keep_masks(t, 64, p, draw()), p)


@given(
    p=st.floats(0, 0.9),
    t=st.integers(1, 6),
    classes=st.integers(1, 5),
    bias=st.booleans(),
    start=st.integers(0, 50),
    stop=st.integers(51, 60),
)
def test_every_pass_is_the_classifier_on_the_masked_features(p, t, classes, bias, start, stop):
    layer = linear(classes, bias)
    made = passes(layer, t, p)
    assert len(made) == t
    expected = torch.stack([layer(PIXELS * keep / (1 - p)) for keep in made.keep])
    for rows in (slice(start, stop), torch.arange(start, stop).flip(0)):
        got = made.logits(rows)
        assert got.dtype == torch.float32 and not got.requires_grad
        torch.testing.assert_close(got, expected[:, rows].detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_a_mask_is_torchs_dropout(p):
    """F.dropout of ones gives the mask; a pass is the network with that dropout."""
    layer = linear()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        dropped = F.dropout(torch.ones(1, 64), p)
    made = DropoutPasses(PIXELS, layer, dropped > 0, p)
    expected = layer(PIXELS * dropped).detach()
    torch.testing.assert_close(made.logits(slice(None))[0], expected, rtol=1e-5, atol=1e-5)


def test_masks_of_ones_without_scale_are_the_network_itself():
    layer = linear()
    made = DropoutPasses(PIXELS, layer, torch.ones(3, 64, dtype=torch.bool), 0.0)
    for one in made.logits(slice(0, 60)):
        torch.testing.assert_close(one, layer(PIXELS).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_masks_keep_the_mean_of_the_features(p):
    keep = keep_masks(40_000, 64, p, draw())
    scaled = keep.double() / (1 - p)
    error = (p / (1 - p) / 40_000) ** 0.5  # standard error of a mean of scaled masks
    assert (scaled.mean(0) - 1).abs().max() < 5 * error
    joint = (keep[:, 0] & keep[:, 1]).double().mean()
    assert abs(joint - (1 - p) ** 2) < 0.02  # features are dropped one by one


def test_masks_come_from_the_generator_alone():
    torch.manual_seed(1)
    one = keep_masks(5, 9, 0.5, draw(4))
    torch.manual_seed(2)
    assert torch.equal(one, keep_masks(5, 9, 0.5, draw(4)))
    assert not torch.equal(one, keep_masks(5, 9, 0.5, draw(5)))


def test_all_candidates_share_the_mask_of_a_pass():
    twice = passes(features=PIXELS[[4, 4, 9, 4]])
    logits = twice.logits(slice(None))
    torch.testing.assert_close(logits[:, 0], logits[:, 3], rtol=0, atol=1e-5)
    assert (logits[0, 0] - logits[1, 0]).abs().max() > 0.1  # passes differ


def test_the_same_rows_always_get_the_same_logits():
    made = passes()
    assert torch.equal(made.logits(slice(5, 30)), made.logits(slice(5, 30)))
    parts = torch.cat([made.logits(slice(i, i + 13)) for i in range(0, 60, 13)], dim=1)
    torch.testing.assert_close(parts, made.logits(slice(None)), rtol=1e-5, atol=1e-5)


def test_a_classifier_that_is_not_linear():
    head = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    made = passes(head, t=4)
    expected = torch.stack([head(PIXELS * keep * 2) for keep in made.keep]).detach()
    torch.testing.assert_close(made.logits(slice(None)), expected)
    assert not made.logits(slice(0, 2)).requires_grad


def test_groups_of_passes_change_nothing(monkeypatch):
    whole = passes(t=9).logits(slice(None))
    monkeypatch.setattr("alhpo.outputs.dropout_passes.BLOCK", 64 * 10 * 2)  # two passes at a time
    torch.testing.assert_close(passes(t=9).logits(slice(None)), whole, rtol=1e-5, atol=1e-5)


def test_given_logits_are_given_back():
    values = np.random.default_rng(0).normal(size=(4, 6, 3))
    made = TensorPasses(torch.tensor(values))
    assert len(made) == 4
    rows = torch.tensor([5, 0])
    assert torch.equal(made.logits(rows), torch.tensor(values, dtype=torch.float32)[:, rows])


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda: TensorPasses(torch.zeros(3, 4)), r"\(3, 4\).*\(T, N, C\)"),
        (lambda: TensorPasses(torch.zeros(0, 4, 2)), "at least 1"),
        (
            lambda: DropoutPasses(PIXELS, linear(), torch.ones(2, 63).bool(), 0.5),
            r"\(60, 64\) and masks \(2, 63\)",
        ),
        (lambda: DropoutPasses(PIXELS, linear(), torch.ones(2, 64), 0.5), r"torch\.bool"),
        (lambda: DropoutPasses(PIXELS, linear(), torch.ones(0, 64).bool(), 0.5), "at least 1"),
        (lambda: DropoutPasses(PIXELS, linear(), torch.ones(2, 64).bool(), 1.0), r"\[0, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        make()
