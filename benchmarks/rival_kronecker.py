"""Freeze-thaw with BoTorch's ``LatentKroneckerGP`` as the surrogate of learning curves.

A search of this benchmark's own, in the manner of Swersky et al. (arXiv 1406.3896): BoTorch has
the model (Lin et al. 2024, arXiv 2410.09239), but no search with it. The configuration whose final
metric has the highest expected improvement over the best metric seen is trained to the next of
some ten epochs, each about 1.4 times the one before. Unseen configurations are candidates like any
other. The model sees the curves at these epochs alone, so that it stays small enough to be fitted
and conditioned exactly within seconds.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models.latent_kronecker_gp import LatentKroneckerGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.mlls import ExactMarginalLogLikelihood

#: The model's parameters are fitted anew once there are so many times the observations of the
#: last fit; in between it is conditioned on all that was seen.
REFIT_GROWTH = 1.2
#: How many epochs there are to train to, before those that are equal when rounded are one.
STOPS = 12
#: Candidates whose final metrics are predicted at a time.
PART = 250
#: Iterations of L-BFGS a fit.
FIT_STEPS = 50


def freeze_thaw(table: Any) -> None:
    """Search a ``rival_search.Table`` until its budget is spent or all is trained."""
    x = torch.tensor(table.x, dtype=torch.double)
    generator = torch.Generator().manual_seed(table.seed)
    stops = sorted({round(table.epochs ** (place / (STOPS - 1))) for place in range(STOPS)})
    for row in torch.randperm(len(x), generator=generator)[: x.shape[1]].tolist():
        table.train(row, 1)
    parameters: dict[str, torch.Tensor] | None = None
    fitted = 0.0
    while True:
        open_rows = [row for row in range(len(x)) if unfinished(table, row)]
        if not open_rows:
            return
        seen = sum(map(len, table.curves.values()))
        model, best = surrogate(table, x, stops)
        if parameters is None or seen >= fitted * REFIT_GROWTH:
            fit(model)
            parameters, fitted = dict(model.named_parameters()), seen
        else:
            for name, value in model.named_parameters():
                value.data.copy_(parameters[name])
        improvement = expected_improvement(model, x[open_rows], best)
        row = open_rows[int(improvement.argmax())]
        had = len(table.curves.get(row, ()))
        table.train(row, min(stop for stop in stops if stop > had))


def unfinished(table: Any, row: int) -> bool:
    curve = table.curves.get(row, ())
    return len(curve) < table.epochs and not any(map(math.isnan, curve))


def surrogate(table: Any, x: torch.Tensor, stops: list[int]) -> tuple[LatentKroneckerGP, float]:
    """The model of what was seen, and the best metric.

    Epochs lie on a log scale from 0 to 1. A training that diverged counts as the worst metric seen
    at the stop that it did not reach.
    """
    finite = [m for curve in table.curves.values() for m in curve if not math.isnan(m)] or [0.0]
    y = torch.full((len(table.curves), len(stops)), torch.nan, dtype=torch.double)
    for place, curve in enumerate(table.curves.values()):
        for column, stop in enumerate(stops):
            if stop <= len(curve) or math.isnan(curve[-1]):
                metric = curve[min(stop, len(curve)) - 1]
                y[place, column] = min(finite) if math.isnan(metric) else metric
            if stop >= len(curve):
                break
    longest = int(y.isfinite().any(dim=0).sum())
    times = torch.tensor(stops[:longest], dtype=torch.double).log() / math.log(table.epochs)
    kernel = get_covar_module_with_dim_scaled_prior(x.shape[1], use_rbf_kernel=False)
    seen = x[list(table.curves)]
    model = LatentKroneckerGP(seen, times[:, None], y[:, :longest], covar_module_X=kernel)
    return model, max(finite)


def fit(model: LatentKroneckerGP) -> None:
    """The parameters of highest posterior density; exact, for there are few observations."""
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    options = {"options": {"maxiter": FIT_STEPS}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the iterations are bounded
        fit_gpytorch_mll(likelihood, optimizer_kwargs=options)


@torch.no_grad()
def expected_improvement(model: LatentKroneckerGP, x: torch.Tensor, best: float) -> torch.Tensor:
    """(n,) of the final metrics over the best one."""
    model.eval()
    end = torch.ones(1, 1, dtype=torch.double)
    # a few at a time, because their covariance with one another is made, but not needed
    parts = [model.posterior(part, end) for part in x.split(PART)]
    mean = torch.cat([part.mean.flatten() for part in parts])
    variance = torch.cat([part.variance.flatten() for part in parts])
    deviation = variance.clamp_min(1e-12).sqrt()
    u = (mean - best) / deviation
    normal = torch.distributions.Normal(0.0, 1.0)
    return deviation * (normal.log_prob(u).exp() + u * normal.cdf(u))
