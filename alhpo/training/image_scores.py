"""Two configurations compared image by image, on the images that validation holds out."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from alhpo.base.metrics import Metric
from alhpo.training.evaluation import ImageScores

#: Key of the packed scores in a row. Result files leave out keys that begin with an underscore.
KEY = "_image_scores"


@dataclass(frozen=True)
class Gain:
    """By how much one configuration predicts the validation images better than another.

    Attributes:
        mean: the mean paired difference over the images, by models that did not train on them: of
            log-likelihoods in nats if the search maximises the likelihood, else of correct (1) and
            wrong (0) predictions.
        error: its standard error; infinite for fewer than two images.
    """

    mean: float
    error: float

    @property
    def sure(self) -> bool:
        """Whether the mean is larger than one standard error."""
        return self.mean > self.error


def packed_scores(splits: Sequence[ImageScores], metric: Metric) -> str:
    """The score of every held-out image, split by split, as text for a row.

    Args:
        splits: the scores of each validation split's images.
        metric: "likelihood" gives log-likelihoods, the others 1 for correct and 0 for wrong.
    """
    parts = [
        -split.nll if metric == "likelihood" else split.predictions == split.labels
        for split in splits
    ]
    values = torch.cat(parts).float().cpu().numpy().astype("<f4")
    return base64.b64encode(values.tobytes()).decode("ascii")


def unpacked_scores(text: str) -> np.ndarray:
    """The scores in the text of ``packed_scores``, float32."""
    return np.frombuffer(base64.b64decode(text), "<f4")


def gain_between(
    ours: np.ndarray, theirs: np.ndarray, images: np.ndarray, weights: np.ndarray
) -> Gain:
    """The gain of one configuration over another.

    Args:
        ours, theirs: (M,) scores of held-out images, in the same order; an image that several
            splits hold out is there several times.
        images: (M,) int64, which image each is of.
        weights: (M,) positive or 0 weights of them, with a positive sum.
    """
    _, place = np.unique(images, return_inverse=True)
    shares = np.bincount(place, weights)
    sums = np.bincount(place, weights * (ours.astype(float) - theirs))
    counted = shares > 0
    shares, of_images = shares[counted] / shares.sum(), sums[counted] / shares[counted]
    mean, n = float(shares @ of_images), len(shares)
    if n < 2:
        return Gain(mean, math.inf)
    # with equal weights the usual s / √n
    variance = np.sum(shares**2 * (of_images - mean) ** 2) * n / (n - 1)
    return Gain(mean, math.sqrt(variance))
