"""HPO4DL's DyHPO and Hyperband as optimizers of this package; the only module that knows hpo4dl.

The algorithms are HPO4DL's own, unmodified. What they do to the process is undone after every call
(``containment``). A configuration that diverged or failed is never suggested again. A space with
fewer configurations than they ask for ends the search instead of crashing it. Only the Tuner
counts the budget.
"""

from __future__ import annotations

import importlib.util
import math
import tempfile
import warnings
from functools import cache
from typing import Any, cast

import numpy as np

from alhpo.base.errors import ConfigurationError
from alhpo.tuning.configurations import fill_up
from alhpo.tuning.optimizers.containment import Containment

Suggestion = tuple[list[int] | None, list[int] | None]


def require_hpo4dl(optimizer: str) -> None:
    """Raise ConfigurationError unless hpo4dl is installed, with packages that it works with."""
    if importlib.util.find_spec("hpo4dl") is None or not hasattr(np, "NINF"):  # gone in NumPy 2
        raise ConfigurationError(
            f"Optimizer {optimizer!r} is HPO4DL's own, which needs the packages it was made for. "
            'Install them with `pip install "alhpo[hpo4dl]"`, in an environment of Python '
            "3.11, or choose another optimizer, such as 'dyhpo'."
        )


def _hpo4dl(module: str) -> Any:
    """A module of hpo4dl's optimizers."""
    with warnings.catch_warnings():
        # gpytorch uses torch.jit, of which newer torch warns
        warnings.simplefilter("ignore", FutureWarning)
        return importlib.import_module(f"hpo4dl.optimizers.{module}")


class _Contained:
    """``suggest``/``observe`` of an hpo4dl optimizer, with their side effects undone.

    An observation is passed on only when the next suggestion is asked for, so that the surrogate is
    not fitted after the last epoch.

    Attributes:
        upstream: HPO4DL's optimizer.
    """

    def __init__(self) -> None:
        self._containment = Containment("dyhpo")
        self.upstream: Any = None
        self._pending: list[dict[str, Any]] = []

    def suggest(self) -> Suggestion:
        with self._containment.active():
            if self._pending:
                results, self._pending = self._pending, []
                self.upstream.observe(results)
            return self.upstream.suggest()

    def observe(self, configuration_results: list[dict[str, Any]]) -> None:
        self._pending = [*self._pending, *configuration_results]


class UpstreamDyHPO(_Contained):
    """HPO4DL's DyHPO; initial configurations are trained for one epoch first, in their order."""

    def __init__(
        self, configurations: Any, *, max_epochs: int, seed: int, device: str | None
    ) -> None:
        super().__init__()
        # for its log and the checkpoints of its surrogate; deleted with the optimizer
        self._folder = tempfile.TemporaryDirectory(prefix="alhpo-dyhpo-")
        with self._containment.active():
            self.upstream = _dyhpo_class()(
                configuration_manager=configurations,
                seed=seed % 2**32,
                max_epochs=max_epochs,
                minimization=False,
                total_budget=math.inf,
                device=device,
                output_path=self._folder.name,
                verbose=False,
                num_configurations=len(configurations),
            )
        num_initial = getattr(configurations, "num_initial", 0)
        if num_initial:
            self.upstream.init_conf_indices = list(range(num_initial))
            self.upstream.init_budgets = [1] * num_initial


class UpstreamHyperband(_Contained):
    """HPO4DL's Hyperband (eta 3)."""

    def __init__(
        self, configurations: Any, *, max_epochs: int, seed: int, device: str | None
    ) -> None:
        super().__init__()
        with self._containment.active():
            self.upstream = _hyperband_class()(
                max_budget=max_epochs,
                configuration_manager=_AtLeast(configurations),
                seed=seed % 2**32,
                minimize=False,
                device=device,
            )


class _AtLeast:
    """Configurations of which more are sampled only if there are too few."""

    def __init__(self, configurations: Any) -> None:
        self.configurations = configurations

    def __len__(self) -> int:
        return len(self.configurations)

    def add_configurations(self, num_configurations: int) -> None:
        if len(self) < num_configurations:
            self.configurations.add_configurations(num_configurations)


@cache
def _dyhpo_class() -> Any:
    upstream: Any = _hpo4dl("dyhpo.dyhpo_optimizer").DyHPOOptimizer

    class Exhausted(Exception):
        """No candidate is left."""

    class DyHPO(upstream):
        def suggest(self) -> Suggestion:
            try:
                waiting = self.initial_random_index < len(self.init_conf_indices)
                if self.model is None and not waiting:
                    return self._random_suggestion()
                return super().suggest()
            except Exhausted:
                return None, None

        def _random_suggestion(self) -> Suggestion:
            """A random candidate: there is no surrogate until a trial has succeeded."""
            _, candidates, epochs, _ = self.generate_candidate_configurations()
            untried = [place for place, epoch in enumerate(epochs) if epoch == 1]
            place = int(np.random.choice(untried or len(candidates)))  # noqa: NPY002
            return [candidates[place]], [epochs[place]]

        def generate_candidate_configurations(self) -> tuple[list, list, list, list]:
            """Leave out what diverged; upstream records it and still suggests it."""
            candidates = zip(*super().generate_candidate_configurations(), strict=True)
            kept = [one for one in candidates if one[1] not in self.diverged_configs]
            if not kept:
                raise Exhausted
            configurations, ids, epochs, curves = (list(part) for part in zip(*kept, strict=True))
            return configurations, ids, epochs, curves

        def update_info_dict(self, *args: Any, **kwargs: Any) -> None:
            """Do nothing; upstream writes its whole history to a file after every step."""

    return DyHPO


@cache
def _hyperband_class() -> Any:
    upstream: Any = _hpo4dl("hyperband.hyperband").HyperBand

    class Hyperband(upstream):
        def suggest(self) -> Suggestion:
            while self.current_bracket_level < len(self.bracket_num_configs):
                exist = len(cast(Any, self.configuration_manager))
                self.bracket_configuration_ids = [
                    number for number in self.bracket_configuration_ids if number < exist
                ]
                if self.bracket_configuration_ids:
                    break
                self.set_next_iteration()
            return super().suggest()

        def observe(self, configuration_results: list[dict[str, Any]]) -> None:
            if self.current_bracket_level >= len(self.bracket_num_configs):
                return
            failed = {
                result["configuration_id"]
                for result in configuration_results
                if math.isnan(result["metric"])
            }
            left = [one for one in configuration_results if one["configuration_id"] not in failed]
            if left:
                history: Any = self.bracket_history
                if len(history):
                    self.bracket_history = history[~history["configuration_id"].isin(failed)]
                super().observe(left)
            else:
                self.bracket_configuration_ids = []
                self.set_next_iteration()

    return Hyperband


def dyhpo(
    configurations: Any,
    *,
    max_epochs: int,
    max_budget: int | None,
    num_configurations: int,
    seed: int,
    device: str | None,
) -> UpstreamDyHPO:
    """The factory registered as ``"hpo4dl-dyhpo"``."""
    require_hpo4dl("hpo4dl-dyhpo")
    if max_budget is None:
        raise ConfigurationError(
            "Argument max_budget is None, but optimizer 'hpo4dl-dyhpo' does not end by itself. "
            "Give a number of epochs."
        )
    fill_up(configurations, num_configurations)
    return UpstreamDyHPO(configurations, max_epochs=max_epochs, seed=seed, device=device)


#: The Tuner refuses ``max_budget=None`` for a factory with this trait.
dyhpo.requires_budget = True  # type: ignore[attr-defined]


def hyperband(
    configurations: Any,
    *,
    max_epochs: int,
    num_configurations: int,
    seed: int,
    device: str | None,
    **_: Any,
) -> UpstreamHyperband:
    """The factory registered as ``"hpo4dl-hyperband"``; it ends by itself and needs no budget."""
    require_hpo4dl("hpo4dl-hyperband")
    fill_up(configurations, num_configurations)
    return UpstreamHyperband(configurations, max_epochs=max_epochs, seed=seed, device=device)
