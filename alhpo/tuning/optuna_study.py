"""A search as a study of Optuna, in a journal file that Optuna and its dashboard open.

The search's own journal is the truth. Whatever the study lacks is added to it, however often and
wherever the search was killed; a study that contradicts the journal is deleted and written anew.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alhpo.base.errors import ConfigurationError
from alhpo.base.files import Journal
from alhpo.hyperparameters.description import rank
from alhpo.tuning.evaluation import Outcome
from alhpo.tuning.optimizers.containment import Containment
from alhpo.tuning.record import Record, SearchJournal
from alhpo.tuning.training import Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import JournalStorage
    from optuna.trial import TrialState

#: What a journal of a search says of it, as user attributes of the study.
_SETTINGS = ("optimizer", "max_epochs", "max_budget", "num_configurations", "seed")


def require_optuna() -> None:
    """Raise ConfigurationError unless optuna can be imported."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigurationError(
            "Showing a search as a study of Optuna needs the package optuna. Install it with "
            "`pip install 'alhpo[dashboard]'`, or leave out optuna_storage."
        )


def check_space(described: Mapping[str, Any]) -> None:
    """Refuse a space that Optuna has no distributions for.

    Args:
        described: the ``space_identity`` of the space.

    Raises:
        ConfigurationError: optuna is not installed, or a hyperparameter without bounds.
    """
    require_optuna()
    for hyperparameter in described["hyperparameters"]:
        if _values(hyperparameter) is None and not {"lower", "upper"} <= hyperparameter.keys():
            raise ConfigurationError(
                f"Hyperparameter {hyperparameter['name']!r} ({hyperparameter['type']}) has no "
                "bounds, which a distribution of Optuna needs. Give it lower= and upper=, or leave "
                "out optuna_storage."
            )


@dataclass
class _History:
    """What the journal says of a trial: its outcomes, and its seconds in the search."""

    configuration: Mapping[str, Any]
    outcomes: list[Outcome] = field(default_factory=list)
    begun: float = 0.0
    left: float = 0.0

    @property
    def values(self) -> dict[int, float]:
        return {one.epoch: one.metric for one in self.outcomes if one.metric is not None}


@dataclass
class _Written:
    """A trial of the study: its id in the storage, and what it holds."""

    id: int
    epochs: set[int] = field(default_factory=set)
    finished: bool = False


class OptunaStudy:
    """The study of one search.

    A trial of the study is a trial of the search, in the order in which they were begun. It has
    the metric of each epoch as an intermediate value. It is complete once it is fully trained, with
    the metric of its last epoch as its value; failed if it diverged or failed; and running until
    the search has ended, because the search may return to any trial. Those that it left at a lower
    epoch are pruned then. User attributes of a trial are ``configuration_id`` and, once it is
    finished, ``seconds`` and whatever else the objective returned with its last epoch; those of the
    study are settings, the best row so far, and at the end the reason why it ended.

    Times of what is added afterwards are reckoned back from the last entry of the journal.

    Args:
        storage: the file of ``optuna.storages.journal.JournalFileBackend``; made if missing. It may
            hold other studies.
        name: of the study. If another search has it, ``/`` and this search's folder are appended.
        experiment: the folder of the search.

    Raises:
        ConfigurationError: optuna is not installed; a file that cannot be used; or a folder without
            a search.
    """

    def __init__(self, storage: Path, name: str, experiment: Path) -> None:
        require_optuna()
        self._experiment = experiment
        start = self._record().start
        if start is None:
            raise ConfigurationError(
                f"{experiment} has no search. Give the experiment_path of a Tuner."
            )
        check_space(start["space"])
        self._start = start
        self._parameters = start["space"]["hyperparameters"]
        self._distributions = {one["name"]: _distribution(one) for one in self._parameters}
        self._trials: dict[int, _Written] = {}
        self._best: float | None = None
        self._lost = False
        self._containment = Containment("optuna")  # it logs every new study
        with self._containment.active():
            self._storage = _open(storage)
            self.name = self._free_name(name)

    def catch_up(self) -> None:
        """Bring the study to the state of the journal."""
        record = self._record()
        with self._containment.active():
            self._written(lambda: self._catch_up(record))

    def begun(self, trials: Sequence[Trial]) -> None:
        """Trials are about to be trained for one more epoch."""
        for trial in trials:
            if trial.number not in self._trials:
                new = _History(trial.configuration)
                self._written(lambda n=trial.number, new=new: self._add(n, new, ended=False))

    def trained(self, trial: Trial, outcome: Outcome) -> None:
        """An epoch of a trial is in the journal."""
        history = _History(trial.configuration, [*trial.known, outcome])
        self._written(lambda: self._update(trial.number, history, ended=False))
        self._written(lambda: self._note_best([outcome]))

    def _record(self) -> Record:
        return SearchJournal(Journal(self._experiment / "journal.jsonl")).read()

    def _written(self, write: Callable[[], None]) -> None:
        """Write to the storage; a failure is no reason to stop a search."""
        if self._lost:
            return
        try:
            write()
        except (OSError, RuntimeError, KeyError) as error:
            self._lost = True
            warnings.warn(
                f"The study {self.name!r} of Optuna is not brought up to date any further: "
                f"{error!r}. It is when the search is started again.",
                stacklevel=2,
            )

    # ------------------------------------------------------------------------------ the whole

    def _catch_up(self, record: Record) -> None:
        histories = _histories(record)
        study = self._study()
        if study is None:
            study = self._new_study()
        elif not self._continues(study, histories, ended=record.ended):
            self._storage.delete_study(study)
            study = self._new_study()
        self._set("experiment", self._experiment.name)
        self._trials = {
            trial.user_attrs["configuration_id"]: _Written(
                self._storage.get_trial_id_from_study_id_trial_number(study, trial.number),
                set(trial.intermediate_values),
                trial.state.is_finished(),
            )
            for trial in self._storage.get_all_trials(study, deepcopy=False)
        }
        for number, history in histories.items():
            if number in self._trials:
                self._update(number, history, ended=record.ended)
            else:
                self._add(number, history, ended=record.ended)
        self._best = None
        self._note_best(record.outcomes)
        attributes = {name: self._start.get(name) for name in _SETTINGS}
        if record.ended:
            attributes["stop_reason"] = record.stop_reason
        for name, value in attributes.items():
            self._set(name, value)

    def _continues(self, study: int, histories: Mapping[int, _History], *, ended: bool) -> bool:
        """Whether all that the study says is in the journal, and can be added to."""
        seen: set[int] = set()
        for trial in self._storage.get_all_trials(study, deepcopy=False):
            number = trial.user_attrs.get("configuration_id")
            if not isinstance(number, int) or number in seen:
                return False
            seen.add(number)
            history = histories.get(number)
            if history is None:  # killed in its first epoch
                if trial.state.is_finished() or trial.intermediate_values:
                    return False
                continue
            told = trial.intermediate_values.items()
            if trial.params != self._params(history.configuration) or not (
                told <= history.values.items()
            ):
                return False
            if trial.state.is_finished() and (trial.state, dict(told)) != (
                self._state(history.outcomes, ended=ended),
                history.values,
            ):
                return False
        return True

    def _free_name(self, name: str) -> str:
        own = self._experiment.name
        for study in self._storage.get_all_studies():
            if study.study_name == name and study.user_attrs.get("experiment") != own:
                known = self._storage.get_study_id_from_name(name)
                if study.user_attrs or self._storage.get_n_trials(known):
                    return f"{name}/{own}"  # else we were killed right after making it
        return name

    def _study(self) -> int | None:
        try:
            return self._storage.get_study_id_from_name(self.name)
        except KeyError:
            return None

    def _new_study(self) -> int:
        from optuna.study import StudyDirection

        minimize = self._start["minimize"]
        direction = StudyDirection.MINIMIZE if minimize else StudyDirection.MAXIMIZE
        return self._storage.create_new_study([direction], self.name)

    def _note_best(self, outcomes: Iterable[Outcome]) -> None:
        sign = -1 if self._start["minimize"] else 1
        best = None
        for one in outcomes:
            better = self._best is None or sign * (one.metric or 0.0) > sign * self._best
            if one.metric is not None and better:
                self._best, best = one.metric, one
        if best is not None:
            keys = ("configuration_id", "epoch", "metric")
            self._set("best", {key: getattr(best, key) for key in keys})

    def _set(self, name: str, value: Any) -> None:
        study = self._storage.get_study_id_from_name(self.name)
        if self._storage.get_study_user_attrs(study).get(name) != value:
            self._storage.set_study_user_attr(study, name, value)

    # ------------------------------------------------------------------------------ one trial

    def _add(self, number: int, history: _History, *, ended: bool) -> None:
        """Add a trial with all that is known of it, in one entry."""
        from optuna.trial import create_trial

        state = self._state(history.outcomes, ended=ended)
        params = self._params(history.configuration)
        attributes = self._attributes(history.outcomes) if state.is_finished() else {}
        trial = create_trial(
            state=state,
            value=self._value(history.outcomes, state),
            params=params,
            distributions={name: self._distributions[name] for name in params},
            intermediate_values=history.values,
            user_attrs={"configuration_id": number, **attributes},
        )
        if history.outcomes:
            last = self._last_entry()
            trial.datetime_start = last - timedelta(seconds=history.begun)
            if state.is_finished():
                trial.datetime_complete = last - timedelta(seconds=history.left)
        study = self._storage.get_study_id_from_name(self.name)
        known = self._storage.create_new_trial(study, trial)
        self._trials[number] = _Written(known, set(history.values), state.is_finished())

    def _update(self, number: int, history: _History, *, ended: bool) -> None:
        """Add to a trial what it lacks."""
        known = self._trials[number]
        if known.finished:
            return
        for epoch, metric in history.values.items():
            if epoch not in known.epochs:
                self._storage.set_trial_intermediate_value(known.id, epoch, metric)
                known.epochs.add(epoch)
        state = self._state(history.outcomes, ended=ended)
        if state.is_finished():
            for name, value in self._attributes(history.outcomes).items():
                self._storage.set_trial_user_attr(known.id, name, value)
            value = self._value(history.outcomes, state)
            values = None if value is None else [value]
            self._storage.set_trial_state_values(known.id, state, values)
            known.finished = True

    def _state(self, outcomes: Sequence[Outcome], *, ended: bool) -> TrialState:
        from optuna.trial import TrialState

        if outcomes and outcomes[-1].status != "ok":
            return TrialState.FAIL
        if outcomes and outcomes[-1].epoch == self._start["max_epochs"]:
            return TrialState.COMPLETE
        return TrialState.PRUNED if ended else TrialState.RUNNING

    @staticmethod
    def _value(outcomes: Sequence[Outcome], state: TrialState) -> float | None:
        """Optuna's value: of a pruned trial, too, that of the last epoch."""
        return outcomes[-1].metric if outcomes and state.is_finished() else None

    @staticmethod
    def _attributes(outcomes: Sequence[Outcome]) -> dict[str, Any]:
        if not outcomes:
            return {}
        last = outcomes[-1]
        returned = {
            name: json.loads(json.dumps(value), parse_constant=str)  # NaN is no JSON
            for name, value in last.result.items()
            if name not in ("epoch", "metric") and not name.startswith("_")
        }
        seconds = {"seconds": sum(one.time for one in outcomes)}
        failure = {} if last.status == "ok" else {"status": last.status}
        if last.error is not None:
            failure["error"] = last.error
        return returned | seconds | failure

    def _params(self, configuration: Mapping[str, Any]) -> dict[str, Any]:
        """The active hyperparameters as values of their distributions."""
        return {
            one["name"]: _told(one, configuration[one["name"]])
            for one in self._parameters
            if one["name"] in configuration
        }

    def _last_entry(self) -> datetime:
        written = (self._experiment / "journal.jsonl").stat().st_mtime
        return datetime.fromtimestamp(written, UTC)


def _histories(record: Record) -> dict[int, _History]:
    """The trials that have outcomes, by number, in the order in which they were begun.

    Their times are seconds before the end of the record.
    """
    histories: dict[int, _History] = {}
    seconds = 0.0
    for suggestion in record.suggestions:
        known = zip(suggestion.configuration_ids, suggestion.configurations, strict=True)
        configurations = dict(known)
        for one in suggestion.outcomes:
            number, begun = one.configuration_id, seconds
            seconds += one.time + suggestion.overhead(len(suggestion.outcomes))
            new = _History(configurations[number], begun=begun)
            history = histories.setdefault(number, new)
            history.outcomes.append(one)
            history.left = seconds
    for history in histories.values():
        history.begun, history.left = seconds - history.begun, seconds - history.left
    return histories


def _values(described: Mapping[str, Any]) -> list[Any] | None:
    """The values of a categorical, an ordinal or a constant; None for a number."""
    for key in ("choices", "sequence"):
        if key in described:
            return list(described[key])
    return [described["value"]] if "value" in described else None


def _labels(values: Sequence[Any]) -> list[Any]:
    """The values as Optuna's choices. Where it could not tell them apart, or could not store them,
    their text stands for them."""
    plain = all(one is None or isinstance(one, bool | int | float | str) for one in values)
    if plain and len(set(values)) == len(values):
        return list(values)
    return [repr(one) for one in values]


def _told(described: Mapping[str, Any], value: Any) -> Any:
    values = _values(described)
    return value if values is None else _labels(values)[rank(values, value)]


def _distribution(described: Mapping[str, Any]) -> BaseDistribution:
    """Optuna's distribution of a hyperparameter, which has no weights and no other density than
    uniform and log-uniform."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    values = _values(described)
    if values is not None:
        return CategoricalDistribution(_labels(values))
    low, high, log = described["lower"], described["upper"], described.get("log", False)
    if "Integer" in described["type"]:
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _open(path: Path) -> JournalStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    path = path.expanduser().absolute()
    lock = JournalFileSymlinkLock(str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_partial_line(path, lock)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise ConfigurationError(
            f"optuna_storage {str(path)!r} cannot be made or written ({error.strerror}). Choose "
            "another file, or make it writable."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ConfigurationError(
            f"optuna_storage {str(path)!r} is not a journal of Optuna ({error!r}). Choose another "
            "file, or remove it: the study is then written anew."
        ) from error


def _drop_partial_line(path: Path, lock: Any) -> None:
    """Cut off what a crash left of an entry, which would make the next one unreadable."""
    if not path.exists() or path.read_bytes()[-1:] in (b"", b"\n"):
        return
    lock.acquire()  # perhaps it is an entry that is being written
    try:
        content = path.read_bytes()
        with path.open("rb+") as file:
            file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()
