"""Dropout passes of a classifier that is good enough for its uncertainties to mean something."""

from __future__ import annotations

import functools

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from alhpo.outputs.dropout_passes import DropoutPasses, keep_masks


@functools.cache
def digits_passes(passes: int, n: int | None = None) -> tuple[DropoutPasses, torch.Tensor]:
    """Passes with dropout 0.5 over ``n`` of scikit-learn's digits, by default all but the 300 that
    the classifier was fitted to; and the logits without dropout."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    fitted = LogisticRegression(max_iter=500, C=10).fit(images[:300], labels[:300])
    classifier = nn.Linear(64, 10)
    classifier.weight = nn.Parameter(torch.as_tensor(fitted.coef_, dtype=torch.float32))
    classifier.bias = nn.Parameter(torch.as_tensor(fitted.intercept_, dtype=torch.float32))
    keep = keep_masks(passes, 64, 0.5, torch.Generator().manual_seed(0))
    features = torch.as_tensor(images[300:][:n])
    with torch.no_grad():
        logits = classifier(features)
    return DropoutPasses(features, classifier, keep, 0.5), logits
