"""Freeze-thaw with BoTorch's ``LatentKroneckerGP`` as the surrogate of learning curves.

A search of this benchmark's own, in the manner of Swersky et al. (arXiv 1406.3896): BoTorch has
the model (Lin et al. 2024, arXiv 2410.09239), but no search with it. The configuration whose final
metric has the highest expected improvement over the best metric seen gets half as many epochs
again as it has had, at least one. Unseen configurations are candidates like any other.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import LatentKroneckerGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.mlls import ExactMarginalLogLikelihood

#: The model's parameters are fitted anew once there are so many times the observations of the
#: last fit; in between it is conditioned on all that was seen.
REFIT_GROWTH = 1.2
#: Iterations of L-BFGS a fit.
FIT_STEPS = 50


def freeze_thaw(table: Any) -> None:
    """Search a ``rival_search.Table`` until its budget is spent or all is trained."""
    x = torch.tensor(table.x, dtype=torch.double)
    generator = torch.Generator().manual_seed(table.seed)
    for row in torch.randperm(len(x), generator=generator)[: x.shape[1]].tolist():
        table.train(row, 1)
    parameters: dict[str, Any] | None = None
    fitted = 0.0
    while True:
        open_rows = [row for row in range(len(x)) if unfinished(table, row)]
        if not open_rows:
            return
        seen = sum(map(len, table.curves.values()))
        model, best = surrogate(table, x)
        if parameters is None or seen >= fitted * REFIT_GROWTH:
            fit(model)
            parameters, fitted = model.state_dict(), seen
        else:
            taken = {k: v for k, v in parameters.items() if not k.startswith("outcome_transform")}
            model.load_state_dict(taken, strict=False)
        improvement = expected_improvement(model, x[open_rows], time(table.epochs, table), best)
        row = open_rows[int(improvement.argmax())]
        had = len(table.curves.get(row, ()))
        table.train(row, min(table.epochs, max(had + 1, math.ceil(1.5 * had))))


def unfinished(table: Any, row: int) -> bool:
    curve = table.curves.get(row, ())
    return len(curve) < table.epochs and not any(map(math.isnan, curve))


def time(epoch: int, table: Any) -> float:
    """0 after the first epoch, 1 after the last, on a log scale, as in the paper of the model."""
    return math.log(epoch) / math.log(table.epochs)


def surrogate(table: Any, x: torch.Tensor) -> tuple[LatentKroneckerGP, float]:
    """The model of all that was seen, and the best metric.

    Diverged trainings count as the worst metric seen in the epoch in which they diverged.
    """
    finite = [metric for curve in table.curves.values() for metric in curve if metric == metric]
    longest = max(map(len, table.curves.values()))
    y = torch.full((len(table.curves), longest), torch.nan, dtype=torch.double)
    for place, curve in enumerate(table.curves.values()):
        y[place, : len(curve)] = torch.tensor(curve, dtype=torch.double).nan_to_num(min(finite))
    times = [[time(epoch, table)] for epoch in range(1, longest + 1)]
    model = LatentKroneckerGP(
        x[list(table.curves)],
        torch.tensor(times, dtype=torch.double),
        y,
        covar_module_X=get_covar_module_with_dim_scaled_prior(x.shape[1], use_rbf_kernel=False),
    )
    return model, max(finite)


def fit(model: LatentKroneckerGP) -> None:
    """The parameters of highest posterior density; exact, for there are few observations."""
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    options = {"options": {"maxiter": FIT_STEPS}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the iterations are bounded
        fit_gpytorch_mll(likelihood, optimizer_kwargs=options)


@torch.no_grad()
def expected_improvement(
    model: LatentKroneckerGP, x: torch.Tensor, end: float, best: float
) -> torch.Tensor:
    """(n,) of the final metrics over the best one."""
    model.eval()
    posterior = model.posterior(x, torch.tensor([[end]], dtype=torch.double))
    mean = posterior.mean.flatten()
    deviation = posterior.variance.flatten().clamp_min(1e-12).sqrt()
    u = (mean - best) / deviation
    normal = torch.distributions.Normal(0.0, 1.0)
    return deviation * (normal.log_prob(u).exp() + u * normal.cdf(u))
