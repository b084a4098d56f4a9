"""The tree-structured Parzen estimator of Optuna, every configuration trained to the end.

Bergstra, Bardenet, Bengio and Kégl, "Algorithms for Hyper-Parameter Optimization", NIPS 2011. The
algorithm is Optuna's own (``optuna.samplers.TPESampler`` with ``SETTINGS``), driven through ask
and tell; the only module that knows optuna.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ConfigSpace import CategoricalHyperparameter, ConfigurationSpace, OrdinalHyperparameter
from ConfigSpace.hyperparameters import FloatHyperparameter, IntegerHyperparameter

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Configurations
from alhpo.hyperparameters.conditions import is_active, parents_first
from alhpo.hyperparameters.description import is_constant, plain_value, rank
from alhpo.tuning.history import EarlierSearch
from alhpo.tuning.optimizers.containment import Containment

#: After this many proposals in a row that were forbidden or trained before, a new random
#: configuration is given to Optuna to try.
TRIES = 20


#: The defaults of Optuna 4 (those of Optuna 5 differ): the sampler of Huseljic et al. (2023). With
#: ``parallel`` above 1, ``constant_liar`` is on.
SETTINGS: dict[str, Any] = {
    "n_startup_trials": 10,
    "n_ei_candidates": 24,
    "multivariate": False,
    "group": False,
    "constant_liar": False,
}


def require_optuna(optimizer: str) -> None:
    """Raise ConfigurationError unless optuna can be imported."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigurationError(
            f"Optimizer {optimizer!r} needs the package optuna. Install it with "
            "`pip install 'alhpo[tpe]'` or `pip install optuna`, or choose another optimizer, "
            "such as 'hyperband' or 'random'."
        )


class TPE:
    """Ask Optuna for one configuration after another, and tell it the metric of the last epoch.

    To Optuna, floats, integers and the ranks of ordinals are numbers, on a logarithmic scale if
    they have one in the space; a categorical is the number of its choice. Optuna knows only the
    bounds: not distributions other than uniform, nor the weights of choices. It is asked for a
    conditional hyperparameter only if that is active. A configuration that diverged or failed is a
    failed trial. So is one that is forbidden or was trained before; then Optuna is asked again. Its
    first trials are those of this same task that were trained to the end elsewhere, then the
    initial configurations. It does not learn from other tasks. The search ends after
    ``num_configurations``, when the space has no more, or when the budget is spent.

    With ``parallel`` above 1, Optuna is asked for that many configurations before it is told their
    metrics. The constant liar (Ginsbourger, Le Riche, Carraro 2010) assumes bad metrics for those
    that are still open, so that they are not near each other.

    Args:
        configurations: has the space; the suggested configurations are added to it.
        max_epochs: the epoch every configuration is trained to.
        num_configurations: the number of configurations after which the search ends.
        seed: of the sampler; taken modulo 2**32.
        history: earlier searches.
        parallel: the largest number of configurations in a suggestion, 1 by default.

    Raises:
        ConfigurationError: optuna is not installed, or the space has a hyperparameter without
            bounds or of an unknown type.
    """

    def __init__(
        self,
        configurations: Configurations,
        max_epochs: int,
        num_configurations: int,
        seed: int,
        history: Sequence[EarlierSearch] = (),
        parallel: int = 1,
    ) -> None:
        require_optuna("tpe")
        self._configurations = configurations
        self._space: ConfigurationSpace = configurations.space
        self._names = parents_first(self._space)
        check_space(self._space)
        self._max_epochs = max_epochs
        self._n = num_configurations
        self._parallel = parallel
        self._suggested: set[int] = set()
        #: Optuna's trials of the latest suggestion that are not observed yet, by their numbers.
        self._pending: dict[int, Any] = {}
        self._containment = Containment("optuna")
        with self._containment.active():
            import optuna

            self._failed = optuna.trial.TrialState.FAIL
            settings = SETTINGS | {"constant_liar": parallel > 1, "seed": seed % 2**32}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna 4 calls the constant liar experimental
                sampler = optuna.samplers.TPESampler(**settings)
            # Optuna logs every new study on stderr; this one belongs to the Tuner.
            verbosity = optuna.logging.get_verbosity()
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            try:
                self._study = optuna.create_study(direction="maximize", sampler=sampler)
            finally:
                optuna.logging.set_verbosity(verbosity)
            initial = range(min(num_configurations, len(configurations)))
            for configuration, epoch, metric in (
                row for s in history if not s.age for row in s.rows
            ):
                if epoch == max_epochs:
                    self._learn(configuration, metric)
            for number in initial:
                self._enqueue(number)

    def suggest(self) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        if not self._pending:
            with self._containment.active():
                while len(self._pending) < self._parallel and len(self._suggested) < self._n:
                    proposal = self._proposal()
                    if proposal is None:
                        break
                    number, trial = proposal
                    self._pending[number] = trial
                    self._suggested.add(number)
        if not self._pending:
            return None, None
        return [*self._pending], [self._max_epochs] * len(self._pending)

    def observe(self, configuration_results: list[dict[str, Any]]) -> None:
        latest = {result["configuration_id"]: result for result in configuration_results}
        with self._containment.active():
            for number, result in latest.items():
                if math.isnan(result["metric"]):
                    self._study.tell(self._pending.pop(number), state=self._failed)
                elif result["epoch"] == self._max_epochs:
                    self._study.tell(self._pending.pop(number), result["metric"])
                # else the budget ended before the training did

    def _proposal(self) -> tuple[int, Any] | None:
        """The number of a new, allowed configuration and its trial; None if there is no more."""
        for _ in range(TRIES):
            asked = self._asked()
            if asked is not None:
                return asked
        for number in self._configurations.add_configurations(1):
            self._enqueue(number)
            return self._asked()
        return None

    def _learn(self, configuration: Mapping[str, Any], metric: float) -> None:
        """Tell Optuna of a configuration that was trained to the end elsewhere."""
        known = self._configurations.add(configuration)
        self._enqueue(known)
        asked = self._asked()
        if asked is not None:
            self._study.tell(asked[1], metric)
            self._suggested.add(known)

    def _enqueue(self, number: int) -> None:
        """Make Optuna propose this configuration next."""
        values = self._configurations.get_configuration(number)
        self._study.enqueue_trial(
            {name: _encoded(self._space[name], value) for name, value in values.items()}
        )

    def _asked(self) -> tuple[int, Any] | None:
        """Optuna's next proposal and its trial, if it is allowed and new."""
        trial = self._study.ask()
        values: dict[str, Any] = {}
        for name in self._names:
            if is_active(self._space, name, values):
                values[name] = _value(trial, self._space[name])
        number = self._number(values)
        if number is None or number in self._suggested:
            self._study.tell(trial, state=self._failed)
            return None
        return number, trial

    def _number(self, values: Mapping[str, Any]) -> int | None:
        try:
            return self._configurations.add(values)
        except ConfigurationError:  # forbidden
            return None


def check_space(space: ConfigurationSpace) -> None:
    """Refuse a space that Optuna cannot search.

    Raises:
        ConfigurationError: a hyperparameter without bounds, or of an unknown type.
    """
    for name in space:
        _check(space[name])


def _check(hyperparameter: Any) -> None:
    if isinstance(hyperparameter, CategoricalHyperparameter | OrdinalHyperparameter):
        return
    if isinstance(hyperparameter, FloatHyperparameter | IntegerHyperparameter):
        if hyperparameter.lower is None or hyperparameter.upper is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise ConfigurationError(
                f"Hyperparameter {hyperparameter.name!r} has no bounds, which optimizer 'tpe' "
                "needs. Give it lower= and upper=."
            )
    elif not is_constant(hyperparameter):
        raise ConfigurationError(
            f"Hyperparameter {hyperparameter.name!r} is a {type(hyperparameter).__name__}, which "
            "optimizer 'tpe' does not know. Legal: floats, integers, ordinals, categoricals, "
            "constants."
        )


def _value(trial: Any, hyperparameter: Any) -> Any:
    """A value that Optuna suggests."""
    name = hyperparameter.name
    if isinstance(hyperparameter, CategoricalHyperparameter):
        choices = hyperparameter.choices
        value = choices[trial.suggest_categorical(name, range(len(choices)))]
    elif isinstance(hyperparameter, OrdinalHyperparameter):
        sequence = hyperparameter.sequence
        value = sequence[trial.suggest_int(name, 0, len(sequence) - 1)]
    elif is_constant(hyperparameter):
        value = hyperparameter.value
    else:
        value = _number_value(trial, hyperparameter)
    return plain_value(hyperparameter, value)


def _number_value(trial: Any, hyperparameter: Any) -> float | int:
    name, log = hyperparameter.name, hyperparameter.log
    lower, upper = hyperparameter.lower, hyperparameter.upper
    whole = isinstance(hyperparameter, IntegerHyperparameter)
    suggest = trial.suggest_int if whole else trial.suggest_float
    step = getattr(hyperparameter, "q", None)
    if step is None:
        return suggest(name, lower, upper, log=log)
    if not log:
        return suggest(name, lower, upper, step=step)
    # Optuna has no steps on a logarithmic scale
    return lower + round((suggest(name, lower, upper, log=True) - lower) / step) * step


def _encoded(hyperparameter: Any, value: Any) -> Any:
    """A value of the space as a value of Optuna's."""
    if isinstance(hyperparameter, CategoricalHyperparameter):
        return rank(hyperparameter.choices, value)
    if isinstance(hyperparameter, OrdinalHyperparameter):
        return rank(hyperparameter.sequence, value)
    return value


def tpe(
    configurations: Configurations,
    *,
    max_epochs: int,
    num_configurations: int,
    seed: int,
    history: Sequence[EarlierSearch] = (),
    parallel: int = 1,
    **_: Any,
) -> TPE:
    """The factory registered as ``"tpe"``."""
    return TPE(configurations, max_epochs, num_configurations, seed, history, parallel)


tpe.uses_history = True  # type: ignore[attr-defined]
#: The Tuner passes ``parallel`` to a factory with this trait.
tpe.takes_parallel = True  # type: ignore[attr-defined]
#: The Tuner calls this before any work.
tpe.check_space = check_space  # type: ignore[attr-defined]
tpe.packages = ("optuna",)  # type: ignore[attr-defined]
