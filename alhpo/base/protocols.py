"""The extension points: the protocols of strategies, validation schemes, optimizers, HPO modes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from alhpo.base.types import CycleRecord, PoolOutputs, Query, Selection

#: The legal ``needs`` of a strategy.
POOL_OUTPUTS = frozenset(
    {
        *("logits", "features", "passes", "predicted_losses", "labeled_scores", "images"),
        *("labels", "labeled_indices", "labeled_logits", "labeled_features", "labeled_images"),
        *("heldout_logits", "heldout_labels", "state", "classify", "retrain", "true_labels"),
        *("strategy_weights", "strategy_search"),
    }
)

#: Those of a fitted model; the others need none.
MODEL_OUTPUTS = frozenset(
    {
        *("logits", "features", "passes", "predicted_losses", "labeled_logits"),
        *("labeled_features", "heldout_logits", "heldout_labels", "classify", "retrain"),
        *("strategy_weights", "strategy_search"),
    }
)

#: The legal ``needs`` of a validation scheme: the features of the labelled and of other images, or
#: the draws with their probabilities.
SELECTION_NEEDS = frozenset({"features", "probabilities"})


@runtime_checkable
class Strategy(Protocol):
    """Chooses the images to label next. A plain function with this signature is a strategy.

    The attribute ``needs`` names the outputs in ``POOL_OUTPUTS`` that it uses; without it, those of
    one pass of the model (``alhpo.strategies.registry.DEFAULT_NEEDS``). The engine computes these
    once, and no others. A strategy that needs ``strategy_weights`` has the attribute ``arms``: the
    strategies that are weighed, by name.
    """

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        """Choose ``n`` of the candidates.

        Args:
            pool: the candidates; at least ``n`` of them.
            n: the number to choose, at least 1.
            generator: the only source of randomness. Ties go to the lowest pool index.

        Returns:
            ``n`` different values of ``pool.indices``, most wanted first.
        """
        ...


@runtime_checkable
class ValidationScheme(Protocol):
    """Splits the labelled images into training and validation parts.

    A scheme may also weigh the validation images: see ``WeightingScheme``.
    """

    @property
    def name(self) -> str:
        """The name of the scheme with its settings, such as ``"kfold:5"``; part of identities."""
        ...

    def splits(
        self, labels: np.ndarray, generator: np.random.Generator
    ) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Pairs of (training positions, validation positions) into ``labels``.

        Args:
            labels: (L,) class of each labelled image, in the order of labelling.
            generator: the only source of randomness.
        """
        ...


@runtime_checkable
class WeightingScheme(ValidationScheme, Protocol):
    """A validation scheme with a weight for each labelled image.

    A metric is then the weighted mean over a validation part.
    """

    @property
    def needs(self) -> Collection[str]:
        """The fields of the selection that it uses, out of ``SELECTION_NEEDS``; others are None."""
        ...

    def weights(self, selection: Selection, generator: np.random.Generator) -> np.ndarray:
        """(L,) finite weights of at least 0, not all 0, in the order of labelling.

        Args:
            selection: the labelled images and the pool that they come from.
            generator: the only source of randomness.
        """
        ...


@runtime_checkable
class Configurations(Protocol):
    """The numbered configurations that an optimizer chooses from (HPO4DL's manager)."""

    def get_configuration(self, configuration_id: int) -> dict[str, Any]:
        """The configuration with this number: hyperparameter names and plain Python values."""
        ...

    def add_configurations(self, num_configurations: int) -> list[int]:
        """Sample further configurations, different from all before.

        Returns:
            Their numbers; fewer than ``num_configurations`` if the space has no more.
        """
        ...

    def add(self, values: Mapping[str, Any]) -> int:
        """Add a configuration of the caller's own.

        Returns:
            Its number: a new one, or the number that it already has.

        Raises:
            ConfigurationError: it is not in the space.
        """
        ...

    @property
    def space(self) -> Any:
        """The ``ConfigSpace.ConfigurationSpace``. Only read it: do not sample from it."""
        ...

    def __len__(self) -> int: ...


@runtime_checkable
class Optimizer(Protocol):
    """Decides what is trained next, by HPO4DL's ``suggest()`` and ``observe()``.

    An optimizer is made by a factory registered with ``alhpo.tuning.register_optimizer``. It must
    be a deterministic function of its seed and its observations: a killed search is continued by
    replaying the record. It sees metrics to **maximise**: the Tuner negates those to minimise.

    A suggestion may hold several configurations. Their results are observed together, grouped by
    configuration in the order of the suggestion. An optimizer whose factory has the attribute
    ``takes_parallel = True`` can be used with ``Tuner(parallel=N)``: for N above
    1 the factory then gets the keyword ``parallel``. Suggestions should then hold at least N
    configurations whenever that many can be chosen before their results are known. The Tuner trains
    N of a suggestion at a time, and all of it before it asks for the next.

    An optimizer whose choices depend on ``max_budget`` also offers ``extend(max_budget)``: the
    search goes on with another budget (None: no limit). It is called before the results of the
    latest suggestion are observed. Without it, a search that goes on counts as one search of the
    whole budget.

    An optimizer whose factory has the attribute ``tells_gain = True`` also offers
    ``expected_gain() -> float | None``: the expected improvement of the best metric by one more
    epoch or configuration, at least 0, or None if not known. ``Tuner(min_gain=...)`` asks for it,
    but not always, so asking must not change the state.
    """

    def suggest(self) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        """Numbers of configurations and, for each, the epoch to train it to; or ``(None, None)``
        when nothing is left to train."""
        ...

    def observe(self, configuration_results: list[dict[str, Any]]) -> None:
        """Learn the results of the latest suggestion.

        Args:
            configuration_results: one dict per epoch with ``configuration_id``,
                ``configuration``, ``epoch``, ``metric`` and ``time`` in seconds. The metric is NaN
                if training diverged or failed; never suggest that configuration again.
        """
        ...


class OptimizerFactory(Protocol):
    """Makes an optimizer for one search."""

    def __call__(
        self,
        configurations: Any,
        *,
        max_epochs: int,
        max_budget: int | None,
        num_configurations: int,
        seed: int,
        device: str | None,
    ) -> Optimizer:
        """
        Args:
            configurations: the ``Configurations`` to choose from.
            max_epochs: the epoch at which a configuration is fully trained.
            max_budget: epochs the whole search may spend, or None for no limit.
            num_configurations: the number of configurations to choose from. The optimizer samples
                them, by ``configurations.add_configurations``.
            seed: of every random choice.
            device: the device of the optimizer's own model, or None for its default.
        """
        ...


@runtime_checkable
class HPOMode(Protocol):
    """Decides in which cycles a run searches hyperparameters.

    A cycle without a search uses the configuration of the cycle before it, or the fixed
    hyperparameters if there was no search yet. A mode must not keep state: a killed run continues
    with a new object.
    """

    @property
    def searches_ever(self) -> bool:
        """Whether its runs search at all. If not, the settings of the search are not part of a
        run's identity."""
        ...

    @property
    def final_search(self) -> bool:
        """Whether the last cycle is followed by a search on all labels and one more fit. The last
        cycle then has no search of its own."""
        ...

    @property
    def when(self) -> str:
        """When it searches, in words that follow "a search" in reports: ``"in every cycle"``."""
        ...

    def cycles(self, sizes: Sequence[int]) -> Collection[int]:
        """The cycles that may search, from 0, without the final search; for estimates of cost.

        Args:
            sizes: the number of labels in each cycle of the run, ascending.

        Raises:
            ConfigurationError: the mode cannot be used for such a run. This is called before any
                work.
        """
        ...

    def searches(self, cycle: int, sizes: Sequence[int], records: Sequence[CycleRecord]) -> bool:
        """Whether a cycle searches: only a function of the arguments, and only for ``cycles``.

        Args:
            cycle: number of the cycle, from 0.
            sizes: the number of labels in each cycle of the run, ascending.
            records: the records of the cycles before it, oldest first.
        """
        ...


Splits = Sequence[tuple[np.ndarray, np.ndarray]]
Configuration = Mapping[str, Any]
