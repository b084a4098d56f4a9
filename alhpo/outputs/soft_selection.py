"""AutoAL's selection as a function with gradients, and its losses.

Wang et al., AutoAL: Automated Active Learning with Differentiable Query Strategy Search (ICML
2025), equations 3 to 9, as docs/autoal.md reads them.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ndtr

from alhpo.base.process_lock import PROCESS_LOCK

#: Width of the step from not selected to selected, in scores, which are in [0, 1].
TEMPERATURE = 0.05
#: Largest number of Gaussians in the mixture.
COMPONENTS = 5
#: Weight of the penalty on the number of selected images.
PENALTY = 1.0


def strategy_scores(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(B,) scores u = Σ_κ W_κ S_κ in [0, 1]: the weights of the arms that chose an image.

    Args:
        logits: (B, K) outputs of SearchNet; W is their softmax.
        chosen: (B, K) booleans S, whether an arm chose the image.
    """
    return (logits.softmax(dim=1) * chosen).sum(dim=1)


def soft_selection(
    scores: torch.Tensor, chosen: torch.Tensor, wanted: int, threshold: float | None = None
) -> torch.Tensor:
    """(B,) how much each image is selected, in [0, 1]: σ((u − ϑ) / 0.05), and 0 if no arm chose it.

    ϑ leaves ``wanted`` of the n images that an arm chose above it, under a mixture of Gaussians
    fitted to their scores (``mixture_quantile`` at 1 − wanted / n). It has no gradient.

    Args:
        scores: (B,) u, with gradients.
        chosen: (B, K) booleans.
        wanted: m, the number of images to select, at least 1.
        threshold: ϑ, or None to fit it.
    """
    union = chosen.any(dim=1)
    if threshold is None:
        values = scores.detach()[union].double().cpu().numpy()
        threshold = -math.inf if len(values) <= wanted else mixture_quantile(values, wanted)
    return torch.where(union, ((scores - threshold) / TEMPERATURE).sigmoid(), 0.0)


def mixture_quantile(values: np.ndarray, wanted: int) -> float:
    """The value that a share ``wanted`` / n of a mixture of up to five Gaussians exceeds.

    The mixture is fitted to the values by expectation maximisation, and its distribution function
    inverted exactly. It depends on the values, not on their order.

    Args:
        values: (n,) float64.
        wanted: below n, at least 1.
    """
    values = np.sort(values)
    count = len(np.unique(values))
    if count == 1:
        return float(values[0])
    weights, means, deviations = _mixture(values, min(COMPONENTS, count))
    target = 1 - wanted / len(values)

    def excess(value: float) -> float:
        return float(weights @ ndtr((value - means) / deviations)) - target

    low, high = float((means - 10 * deviations).min()), float((means + 10 * deviations).max())
    root: Any = brentq(excess, low, high, xtol=1e-12)
    return float(root)


def _mixture(values: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(k,) weights, means and standard deviations of a fitted mixture."""
    from sklearn.mixture import GaussianMixture  # takes a second to import

    mixture: Any = GaussianMixture(components, random_state=0)
    with PROCESS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 100 iterations are enough, converged or not
        mixture.fit(values[:, None])
    deviations = np.sqrt(mixture.covariances_[:, 0, 0])
    return mixture.weights_, mixture.means_[:, 0], deviations


def count_term(selected: torch.Tensor, wanted: int) -> torch.Tensor:
    """L_re = 1 / (1 + exp(|α − m| / (2 max(1, m)))) − 0.5 in (−0.5, 0], 0 if as many are selected
    as wanted.

    Args:
        selected: α, the sum of the selection.
        wanted: m. (The paper has |α − m| alone, of which the gradient vanishes for large batches.)
    """
    return (-0.5 * (selected - wanted).abs() / max(1, wanted)).sigmoid() - 0.5


def fit_loss(selection: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """L_F, FitNet's: the mean over the batch of S̄ · CE, without a gradient of S̄.

    Args:
        selection: (B,) S̄.
        losses: (B,) cross-entropies of FitNet, with gradients.
    """
    return (selection.detach() * losses).mean()


def search_loss(selection: torch.Tensor, losses: torch.Tensor, wanted: int) -> torch.Tensor:
    """L_S, SearchNet's: minus the mean of S̄ · CE, plus a penalty unless ``wanted`` are selected.

    Args:
        selection: (B,) S̄, with gradients.
        losses: (B,) cross-entropies of FitNet, of which gradients are not used.
        wanted: m.
    """
    gain = (selection * losses.detach()).mean()
    return -gain - PENALTY * count_term(selection.sum(), wanted)
