"""Importance weights of labelled images that were not drawn from the pool at random.

A mean of losses l over labelled images estimates the loss on images like the selected ones. The
weighted mean Σ w l / Σ w with w(x) = p_pool(x) / p_labelled(x) estimates the loss on the pool.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

#: Folds of the classifier: the weight of an image comes from a fit without that image.
FOLDS = 5
#: Inverse strengths of its L2 penalty; that with the least log-loss on the left-out folds is used.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
#: Pixels per side, and number of principal components, of ``pixel_features``.
SIDE, COMPONENTS = 16, 32


def lure_weights(draws: np.ndarray, probabilities: np.ndarray, pool_size: int) -> np.ndarray:
    """Weights that undo the selection, from the known probability of every draw.

    v_m = 1 + (N − M)/(N − m) (1/((N − m + 1) q_m) − 1), the weights of R_LURE (Farquhar, Gal,
    Rainforth: On Statistical Bias in Active Learning: How and When to Fix It, ICLR 2021, eq. 3):
    the expectation of 1/M Σ v_m l_m over the draws is the mean of l over the pool, whatever l is,
    if l does not depend on the draws and every image that is left can be drawn. Each weight is
    positive, and its expectation is 1.

    Args:
        draws: (M,) draw number m of each image, from 1; a permutation of 1 to M.
        probabilities: (M,) q_m, the probability of each at its draw, among the
            N − m + 1 images left, in (0, 1].
        pool_size: N, at least M.

    Returns:
        (M,) float64.
    """
    m, q = np.asarray(draws, dtype=float), np.asarray(probabilities, dtype=float)
    left = pool_size - m  # after the draw; 0 only if M = N, and then all weights are 1
    share = (pool_size - len(m)) / np.maximum(left, 1)
    return 1 + share * (1 / ((left + 1) * q) - 1)


def density_ratio_weights(
    labeled: np.ndarray, unlabeled: np.ndarray, pool_size: int, generator: np.random.Generator
) -> np.ndarray:
    """Weights w(x) = p_pool(x) / p_labelled(x) from a classifier of labelled against other images.

    The pool is a mixture of its labelled and unlabelled images, so that
    w(x) = L/N + (1 − L/N) p_unlabelled(x) / p_labelled(x). The last ratio is that of the
    probabilities of a logistic regression (Bickel, Brückner, Scheffer: Discriminative Learning for
    Differing Training and Test Distributions, ICML 2007) of standardised features, times the ratio
    of the numbers of images. It is cross-fitted, with the regularisation that predicts best; if
    the two groups do not differ, the weights stay near 1. The weights are divided by their mean and
    truncated (see ``truncated``).

    Args:
        labeled: (L, D) features of the labelled images.
        unlabeled: (U, D) features of the other images, or of a random subset of them.
        pool_size: N, the number of images of the pool.
        generator: draws the folds.

    Returns:
        (L,) float64 with mean 1; all 1 if L < 2 or U < 2.
    """
    n, other = len(labeled), len(unlabeled)
    folds = min(FOLDS, n, other)
    if folds < 2:
        return np.ones(n)
    values = np.concatenate([labeled, unlabeled]).astype(np.float64)
    scale = values.std(axis=0)
    values = (values - values.mean(axis=0)) / np.where(scale > 0, scale, 1)
    is_labeled = np.arange(n + other) < n
    fold = np.empty(n + other, dtype=int)
    fold[generator.permutation(n)] = np.arange(n) % folds
    fold[n + generator.permutation(other)] = np.arange(other) % folds
    logits = min(
        (_left_out_logits(values, is_labeled, fold, strength) for strength in STRENGTHS),
        key=lambda logits: np.logaddexp(0, np.where(is_labeled, -logits, logits)).sum(),
    )
    odds = np.exp(-np.clip(logits[:n], -500, 500))  # of unlabelled against labelled
    share = n / max(pool_size, n)
    return truncated(share + (1 - share) * n / other * odds)


def _left_out_logits(
    values: np.ndarray, is_labeled: np.ndarray, fold: np.ndarray, strength: float
) -> np.ndarray:
    """The logit of "labelled" of each row, from the classifier fitted to the other folds."""
    from sklearn.linear_model import LogisticRegression  # half a second of every process's start

    logits = np.empty(len(values))
    for left_out in range(fold.max() + 1):
        inside = fold != left_out
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(values[inside], is_labeled[inside])
        logits[~inside] = model.decision_function(values[~inside])
    return logits


def truncated(weights: np.ndarray) -> np.ndarray:
    """Weights with mean 1, after truncation at √n times the mean (Ionides: Truncated Importance
    Sampling, JCGS 2008), so that a single image cannot dominate. The bound grows with n."""
    bounded = np.minimum(weights, np.sqrt(len(weights)) * weights.mean())
    return bounded / bounded.mean()


def effective_size(weights: np.ndarray) -> float:
    """(Σ w)² / Σ w², the number of equally weighted images whose mean varies as much (Kish 1965);
    0 where all weights are 0."""
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def pixel_features(labeled: torch.Tensor, unlabeled: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Features of images without a trained model: principal components of pixels.

    The at most 32 components are those of the averaged pixels of the unlabelled images.

    Args:
        labeled: (L, H, W, C) uint8.
        unlabeled: (U, H, W, C) uint8.

    Returns:
        (L, D) and (U, D) float32.
    """
    flat = [averaged_pixels(images) for images in (labeled, unlabeled)]
    components = min(COMPONENTS, *flat[1].shape)
    if len(unlabeled) < 2:
        return flat[0], flat[1]
    from sklearn.decomposition import PCA

    pca = PCA(components, svd_solver="full").fit(flat[1])
    # scikit-learn may be configured to return other containers
    first, second = (np.asarray(pca.transform(part), dtype=np.float32) for part in flat)
    return first, second


def averaged_pixels(images: torch.Tensor) -> np.ndarray:
    """(B, P) float32 in [0, 1]: uint8 images averaged down to at most 16 pixels per side."""
    size = (min(images.shape[1], SIDE), min(images.shape[2], SIDE))
    blocks = [
        F.adaptive_avg_pool2d(block.permute(0, 3, 1, 2).float().div(255), size).flatten(1)
        for block in images.split(512)
    ]
    return torch.cat(blocks).numpy()
