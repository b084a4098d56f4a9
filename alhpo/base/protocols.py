"""The extension points: what a strategy, a validation scheme, an optimizer and an HPO mode must
offer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from alhpo.base.types import CycleRecord, PoolOutputs, Query, Selection

#: What a strategy may ask for in ``needs``.
POOL_OUTPUTS = frozenset(
    {
        *("logits", "features", "passes", "predicted_losses", "labeled_scores", "images"),
        *("labels", "labeled_indices", "labeled_logits", "labeled_features", "labeled_images"),
        *("state", "classify", "retrain"),
    }
)

#: What a validation scheme may ask for in ``needs``: the features of the labelled and of other
#: images, or the draws with their probabilities.
SELECTION_NEEDS = frozenset({"features", "probabilities"})


@runtime_checkable
class Strategy(Protocol):
    """Chooses which images to label next; a plain function with this signature will do.

    A function may carry an attribute ``needs``, the subset of ``POOL_OUTPUTS`` it looks at (all of
    them where it has none). The engine computes those, once, and nothing else.
    """

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        """Choose ``n`` of the candidates.

        Args:
            pool: the candidates; at least ``n`` of them.
            n: how many to choose, at least 1.
            generator: the only source of randomness. Ties go to the lowest pool index.
        """
        ...


@runtime_checkable
class ValidationScheme(Protocol):
    """Splits the labelled images into training and validation parts.

    A scheme may also weigh the images that a configuration is judged on: see ``WeightingScheme``.
    """

    @property
    def name(self) -> str:
        """Identity of the scheme with its settings, such as ``"kfold:5"``."""
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
    """A validation scheme by which some labelled images count more than others.

    Metrics are then weighted means, divided by the sum of the weights of a validation part.
    """

    @property
    def needs(self) -> Collection[str]:
        """What it looks at of the selection, out of ``SELECTION_NEEDS``; nothing else is there."""
        ...

    def weights(self, selection: Selection, generator: np.random.Generator) -> np.ndarray:
        """(L,) weights, finite, not negative, in the order of labelling.

        Args:
            selection: which images were labelled out of which.
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
        """Sample further configurations, different from all before; returns their numbers, fewer
        than asked for where the space holds no more."""
        ...

    def add(self, values: Mapping[str, Any]) -> int:
        """Number a configuration of the caller's own; returns the number that it has already
        where it is not new, and raises ``ConfigurationError`` where it is not of the space."""
        ...

    @property
    def space(self) -> Any:
        """The ``ConfigSpace.ConfigurationSpace``: to be read, never sampled from or changed."""
        ...

    def __len__(self) -> int: ...


@runtime_checkable
class Optimizer(Protocol):
    """Decides what is trained next; HPO4DL's ``suggest()``/``observe()``.

    An optimizer is made by a factory registered with ``alhpo.tuning.register_optimizer``. It must
    be deterministic given its seed and what it observed: a killed search is continued by replaying
    the record. It sees metrics that are to be **maximised**, whatever the user's sign.

    A suggestion may hold several configurations: their results are observed together, grouped by
    configuration in the order of the suggestion. An optimizer whose factory has the attribute
    ``takes_parallel = True`` can be used with ``Tuner(parallel=N)``: the factory then gets the
    keyword ``parallel`` too, where it is above 1, and suggestions should hold N configurations, or
    more, wherever so many can be chosen without knowing each other's results. The Tuner trains N of
    a suggestion at a time and all of it before it asks again.

    An optimizer whose factory has the attribute ``tells_gain = True`` also offers
    ``expected_gain() -> float | None``: what one more epoch or configuration is expected to add to
    the best metric, from 0, or None where it cannot tell. ``Tuner(min_gain=...)`` asks for it,
    and not always: asking must change nothing.
    """

    def suggest(self) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        """Numbers of configurations and the epoch each is to reach, or ``(None, None)`` when
        there is nothing left to do."""
        ...

    def observe(self, configuration_results: list[dict[str, Any]]) -> None:
        """Learn the results of the latest suggestion.

        Args:
            configuration_results: one dict per epoch with ``configuration_id``,
                ``configuration``, ``epoch``, ``metric`` (NaN where training diverged or failed:
                never suggest that configuration again) and ``time`` in seconds.
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
            num_configurations: how many configurations the search is to choose from; sampling
                them (``configurations.add_configurations``) is the optimizer's part.
            seed: of every random choice.
            device: where the optimizer's own model runs, or None for its default.
        """
        ...


@runtime_checkable
class HPOMode(Protocol):
    """Decides in which cycles a run searches hyperparameters.

    A cycle without a search uses the configuration of the cycle before it, the first cycle the
    fixed hyperparameters. A mode keeps nothing in itself: a killed run asks a new object.
    """

    @property
    def searches_ever(self) -> bool:
        """Whether its runs search at all. Where they do not, the settings of a search are no part
        of a run's identity."""
        ...

    @property
    def final_search(self) -> bool:
        """Whether a search on all labels and one more fit follow the last cycle, which then has no
        search of its own."""
        ...

    @property
    def when(self) -> str:
        """When it searches, in words for reports that follow "a search", such as ``"in every
        cycle"``."""
        ...

    def cycles(self, sizes: Sequence[int]) -> Collection[int]:
        """The cycles, from 0, that may search, for estimates of cost; the final search apart.

        Args:
            sizes: the number of labels in each cycle of the run, ascending.

        Raises:
            ConfigurationError: the mode cannot be used for such a run; asked before any work.
        """
        ...

    def searches(self, cycle: int, sizes: Sequence[int], records: Sequence[CycleRecord]) -> bool:
        """Whether a cycle searches: a function of its arguments; only cycles of ``cycles`` do.

        Args:
            cycle: its number, from 0.
            sizes: as in ``cycles``.
            records: of the cycles before it, oldest first.
        """
        ...


Splits = Sequence[tuple[np.ndarray, np.ndarray]]
Configuration = Mapping[str, Any]
