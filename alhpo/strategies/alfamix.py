"""ALFA-Mix: diverse images whose prediction changes when mixed with labelled features.

Parvaneh, Abbasnejad, Teney, Haffari, van den Hengel, Shi: Active Learning by Feature Mixing (CVPR
2022), with the closed form of the mixing ratios.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.registry import register_strategy
from alhpo.strategies.representatives import representatives_among
from alhpo.strategies.rows import as_float64, row_blocks

_CAPS = (0.2, 0.4, 0.6, 0.8, 1.0)
#: The largest error of logits relative to ‖x‖‖w‖ + |β| that is taken for rounding.
_ROUNDING = 1e-4

Classify = Callable[[torch.Tensor], torch.Tensor]


@register_strategy("alfamix", needs={"features", "labels", "labeled_features", "classify"})
def alfamix(pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
    """One image of each of ``n`` clusters of those whose prediction mixing changes.

    Anchors z* are the mean features of each class's labelled images. Mixing moves the features z of
    an image by r = cap·‖z* − z‖/√D along ĝ, the direction in which the loss of its predicted class
    grows most: this is z + α∘(z* − z) for the α of the paper's closed form. The image is a
    candidate if that changes the predicted class for any anchor. The cap is the first of 0.2, 0.4,
    0.6, 0.8 and 1 with more than ``n`` candidates, or 1. Of each of ``n`` k-means clusters of the
    candidates' features, scaled to length 1, the image nearest to the centre is chosen, as by
    ``centroids``. If there are fewer than ``n``, all are chosen, and others are drawn uniformly.
    Without labelled images there are no anchors, and with one class no changes: all are drawn.

    Scores are 1/(1 + t) for the smallest cap t at which an image is a candidate, and 0 for those
    drawn. If the classifier is linear in the features, t is exact, and time is O(N·C·(D + C)). If
    not, t is one of the caps above, and each cap takes a backward pass of the classifier over the
    images that are not candidates yet, and a forward pass for each anchor. To this comes O(n·N·D)
    for each iteration of k-means. ``generator`` draws its seeds, then the others. Memory: a copy of
    the clustered features, those of ``kmeans``, and blocks.
    """
    assert pool.features is not None
    assert pool.labels is not None
    assert pool.labeled_features is not None
    assert pool.classify is not None
    smallest = np.full(len(pool), np.inf)
    if len(pool.labels):
        anchors = _class_means(pool.labeled_features, pool.labels).to(pool.features.device)
        weights, bias = _as_linear(pool.classify, pool.features)
        found = _smallest_caps(pool.classify, pool.features, weights, bias, anchors)
        smallest = _stepwise(pool.classify, pool.features, anchors, n) if found is None else found
    cap = next((cap for cap in _CAPS if np.count_nonzero(smallest <= cap) > n), _CAPS[-1])
    candidates = np.flatnonzero(smallest <= cap)
    positions = representatives_among(pool.features, candidates, n, generator)
    scores = np.where(smallest <= cap, 1 / (1 + smallest), 0)[positions]
    return Query(tuple(pool.indices[positions].tolist()), tuple(scores.tolist()))


def _class_means(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(A, D) float64 means of the rows of each class that has any."""
    rows = as_float64(features)
    labels = labels.to(rows.device)
    return torch.stack([rows[labels == label].mean(dim=0) for label in labels.unique()])


def _as_linear(classify: Classify, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(C, D) weights and (C,) biases, float64, of the linear function that equals ``classify`` near
    the origin."""
    classes = classify(features[:1].detach()).shape[1]
    origin = features.new_zeros(classes, features.shape[1])
    bias = as_float64(classify(origin[:1])[0])
    return as_float64(_gradients(classify, origin, torch.Tensor.diagonal)), bias


def _gradients(
    classify: Classify,
    rows: torch.Tensor,
    values: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """(B, D) gradient at each row of the value, one of (B,), that is a function of its logits."""
    with torch.inference_mode(False), torch.enable_grad():
        rows = rows.detach().clone().requires_grad_()
        return torch.autograd.grad(values(classify(rows)).sum(), rows)[0]


def _smallest_caps(
    classify: Classify,
    features: torch.Tensor,
    weights: torch.Tensor,
    bias: torch.Tensor,
    anchors: torch.Tensor,
) -> np.ndarray | None:
    """(N,) smallest cap at which each row is a candidate; None if the classifier is not linear.

    Along ĝ, the lead of the predicted class y over the best other class is concave and at first not
    negative. So a prediction that has changed stays changed, and the farthest anchor decides. With
    weights w and logits f, class c overtakes y after (f_y − f_c)/δ_c, for δ_c = (w_c − w_y)·ĝ > 0.
    """
    norms = torch.linalg.vector_norm(weights, dim=1)
    centred = weights - weights.mean(dim=0)  # equal weights are exactly 0
    inner = centred @ centred.T
    rounding = 1e-12 * inner.diagonal().max()
    result = np.empty(len(features))
    for part in row_blocks(len(features), max(features.shape[1], len(weights))):
        block = features[part].detach()
        exact = as_float64(block)
        logits = exact @ weights.T + bias
        scale = torch.linalg.vector_norm(exact, dim=1, keepdim=True) * norms + bias.abs()
        error = (as_float64(classify(block)) - logits).abs()
        if not bool((error <= _ROUNDING * scale).all()):
            return None
        predicted = logits.argmax(dim=1, keepdim=True)
        others = logits.scatter(1, predicted, -torch.inf).softmax(dim=1).nan_to_num_()
        along = others @ inner - inner[predicted[:, 0]]  # w_c·g for g = Σ_c q_c w_c − w_y
        gains = along - along.gather(1, predicted)
        square = (others * gains).sum(dim=1, keepdim=True)  # ‖g‖²
        lead = logits.gather(1, predicted) - logits
        overtakes = (gains > rounding) & (square > rounding)
        steps = torch.where(overtakes, lead * square.sqrt() / gains, torch.inf)
        farthest = _farthest_distances(exact, anchors.to(exact.device))
        caps = steps.amin(dim=1) * features.shape[1] ** 0.5 / farthest
        caps = torch.where(farthest > 0, caps, torch.inf)
        result[part] = caps.float().cpu().numpy()  # equal up to rounding is equal
    return result


def _farthest_distances(rows: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """(B,) distance of each row to the farthest anchor.

    No digits are lost in the squares seen from the first anchor: both are at most twice the result.
    """
    rows, anchors = rows - anchors[0], anchors - anchors[0]
    squares = torch.addmm(anchors.square().sum(dim=1), rows, anchors.T, alpha=-2)
    return squares.amax(dim=1).add_(rows.square().sum(dim=1)).clamp_(min=0).sqrt_()


def _stepwise(
    classify: Classify, features: torch.Tensor, anchors: torch.Tensor, n: int
) -> np.ndarray:
    """(N,) first of the caps at which each row is a candidate, infinite if none is; caps are tried
    until more than ``n`` rows are."""
    result = np.full(len(features), np.inf)
    for cap in _CAPS:
        left = np.flatnonzero(np.isinf(result))
        for part in row_blocks(len(left), features.shape[1] * len(anchors)):
            some = left[part]
            block = features[torch.from_numpy(some).to(features.device)].detach()
            result[some[_changed(classify, block, anchors, cap)]] = cap
        if np.count_nonzero(np.isfinite(result)) > n:
            break
    return result


def _changed(
    classify: Classify, block: torch.Tensor, anchors: torch.Tensor, cap: float
) -> np.ndarray:
    """(B,) whether the predicted class of each row changes by mixing with any anchor."""
    gradient = _gradients(classify, block, _loss)
    exact = as_float64(gradient)
    length = torch.linalg.vector_norm(exact, dim=1, keepdim=True)
    direction = torch.where(length > 0, exact / length, 0)
    rows = as_float64(block)
    distances = torch.linalg.vector_norm(rows[:, None] - anchors.to(rows.device), dim=2)
    steps = cap * distances / block.shape[1] ** 0.5
    mixed = (rows[:, None] + steps[:, :, None] * direction[:, None]).to(block)
    predicted = classify(block).argmax(dim=1, keepdim=True)
    after = classify(mixed.flatten(0, 1)).argmax(dim=1).view(len(block), -1)
    return (after != predicted).any(dim=1).cpu().numpy()


def _loss(logits: torch.Tensor) -> torch.Tensor:
    """(B,) log-odds of not being in the predicted class. Its gradient has the direction of that of
    the cross-entropy, and does not vanish where the probability of the class rounds to 1."""
    predicted = logits.argmax(dim=1, keepdim=True)
    if logits.shape[1] == 1:
        return 0 * logits[:, 0]
    others = logits.scatter(1, predicted, -torch.inf)
    return others.logsumexp(dim=1) - logits.gather(1, predicted)[:, 0]
