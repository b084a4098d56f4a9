"""The settings of a run and of the tuning of a labelled pool: one schema for Python, YAML files and
command-line flags.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field

from alhpo.base.acquisition import canonical_acquisition, sizes_of_cycles
from alhpo.base.errors import ConfigurationError
from alhpo.base.files import content_hash, sha256
from alhpo.runs.identity import SEARCH_KEYS, defining_settings
from alhpo.runs.setting_groups import (
    ComputeSettings,
    CycleSettings,
    DataSettings,
    ModelSettings,
    SearchSettings,
    naming,
)


class RunConfig(CycleSettings, DataSettings):
    """Everything that defines an active-learning run."""

    initial_size: int = Field(100, ge=2, description="Number of initial labels.")
    acquisition_size: int | str = Field(
        100,
        description="Number of images queried per cycle, or a schedule such as 2000,5000@10000: "
        "2000, and 5000 from 10000 labels on.",
    )
    budget: int = Field(
        500, ge=2, description="Number of labels at the end, including the initial ones."
    )

    total_budget: int | None = Field(
        None,
        ge=1,
        description="Budget of all searches of the run together in epochs, in place of max_budget "
        "for each: divided evenly among the searches of the HPO mode, the first ones get the rest.",
    )

    evaluate_at: list[int] | None = Field(
        None,
        min_length=1,
        description="Numbers of labels, such as 2000,4000, at which a model is trained and "
        "evaluated; by default in every cycle. The other cycles only query. For hpo fixed or "
        "final, cold start, and a strategy that looks at no trained model, such as random.",
    )

    start: Literal["cold", "warm"] = Field(
        "cold",
        description="Trainings start from the same initial weights (cold) or the last fit (warm).",
    )
    extend: bool = Field(
        False,
        description="Go on with the searches of an earlier run that differs in its budgets only, "
        "where this one has more epochs for them. The optimizers dyhpo and one-epoch plan with "
        "their budget: with them, results may differ from those of a run that began anew.",
    )
    output_dir: str = Field("runs", description="Folder for the folders of runs.")

    @pydantic.field_validator("acquisition_size", mode="before")
    @classmethod
    def _canonical(cls, value: Any) -> int | str:
        return canonical_acquisition(value)

    @pydantic.field_validator("evaluate_at", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """A flag gives the numbers as text."""
        return value.split(",") if isinstance(value, str) else value

    @pydantic.field_validator("evaluate_at")
    @classmethod
    def _ascending(cls, value: list[int] | None) -> list[int] | None:
        return None if value is None else sorted(set(value))

    @pydantic.model_validator(mode="after")
    def _usable(self) -> RunConfig:
        self.hyperparameter_class.check_start(self.start)
        if self.budget < self.initial_size:
            raise ConfigurationError(
                f"budget is {self.budget} labels, below initial_size={self.initial_size}. The "
                "budget includes the initial labels. Raise it."
            )
        with naming("hpo", self.hpo):
            in_the_last = len(self.sizes) - 1 in self.search_cycles  # refuses what does not fit
            if in_the_last and self.mode.final_search:
                raise ConfigurationError(
                    "The mode searches in the last cycle and again after it, on the same labels. "
                    "Leave out one of the two."
                )
            self._check_budget()
        self.check_search_budget(min(self.search_budgets, default=self.max_budget))
        self._check_halves()
        if self.evaluate_at is not None:
            with naming("evaluate_at", self.evaluate_at):
                self._check_left_out(self.evaluate_at)
        return self

    def _check_halves(self) -> None:
        """Refuse too few initial labels for a strategy that splits them into halves."""
        from alhpo.strategies import get_strategy, strategy_needs

        if self.initial_size < 4 and "strategy_weights" in strategy_needs(
            get_strategy(self.strategy)
        ):
            raise ConfigurationError(
                f"Setting 'initial_size' is {self.initial_size}, but strategy {self.strategy!r} "
                "splits the labels into halves; expected at least 4. Raise it."
            )

    def _check_budget(self) -> None:
        """Refuse a total budget that cannot be divided, or a second budget."""
        budgets = self.search_budgets
        if not budgets:
            return
        usual = self.hyperparameter_class.run_defaults["max_budget"]
        if self.max_budget != usual:
            raise ConfigurationError(
                f"total_budget is {self.total_budget} epochs and max_budget {self.max_budget}. "
                "Give one of them: a budget of all searches together, or of each."
            )
        if min(budgets) < 1:
            raise ConfigurationError(
                f"total_budget is {self.total_budget} epochs for {len(budgets)} searches; expected "
                "at least one epoch for each. Raise it."
            )

    def search_budget(self, cycle: int, *, final: bool = False) -> int:
        """Epochs that a search may spend: ``max_budget``, or its share of ``total_budget``.

        Args:
            cycle: a cycle that may search.
            final: whether it is the search after the last cycle.
        """
        if self.total_budget is None:
            return self.max_budget
        place = -1 if final else sorted(self.search_cycles).index(cycle)
        return self.search_budgets[place]

    @property
    def search_budgets(self) -> list[int]:
        """The shares of ``total_budget`` of the searches in their order, the final one last; empty
        without such a budget or without searches."""
        if self.total_budget is None or not self.searches:
            return []
        share, rest = divmod(self.total_budget, self.searches)
        return [share + (place < rest) for place in range(self.searches)]

    @property
    def searches(self) -> int:
        """The number of searches, the one after the last cycle included."""
        return len(self.search_cycles) + self.mode.final_search

    def _check_left_out(self, evaluated: list[int]) -> None:
        """Refuse to leave out fits that something else depends on."""
        from alhpo.strategies import check_without_model

        if strange := [n for n in evaluated if n not in self.sizes]:
            raise ConfigurationError(
                f"No cycle has {' or '.join(map(str, strange))} labels. Legal: "
                f"{_abbreviated(self.sizes)}."
            )
        if self.search_cycles:
            raise ConfigurationError(
                f"Mode {self.hpo!r} searches {self.mode.when}, and a search is judged by the fit "
                "after it. Use hpo fixed or final, or leave out evaluate_at."
            )
        if self.start == "warm":
            raise ConfigurationError(
                "With start=warm every fit begins with the model of the cycle before, so none can "
                "be left out. Use start=cold, or leave out evaluate_at."
            )
        check_without_model(self.strategy)

    @property
    def sizes(self) -> list[int]:
        """The number of labels in each cycle."""
        return sizes_of_cycles(self.initial_size, self.acquisition_size, self.budget)

    @property
    def evaluated_sizes(self) -> list[int]:
        """The number of labels in each cycle that fits and evaluates a model."""
        return self.sizes if self.evaluate_at is None else self.evaluate_at

    @property
    def search_cycles(self) -> Collection[int]:
        """Cycles that may search, without the final search."""
        return self.mode.cycles(self.sizes)

    @property
    def measures_once(self) -> bool:
        """Whether the last cycle already measured what the final search would measure first: the
        same configuration on the same labels from the same weights."""
        measured = self.validate_fixed and self.measure_current and self.start == "cold"
        measured = (
            measured and self.evaluated_sizes[-1] == self.budget and not self.starts_from_current
        )
        if not (self.mode.final_search and measured):
            return False
        return self.search_budget(len(self.sizes) - 1, final=True) > self.max_epochs

    @property
    def name(self) -> str:
        """Name of the run's folder: data set, strategy, mode, seed and a hash of the settings."""
        from alhpo.strategies import get_strategy, strategy_needs

        values = defining_settings(self)
        if not self.mode.searches_ever:
            values = {key: value for key, value in values.items() if key not in SEARCH_KEYS}
        # settings that came later: names stay as they were
        late = {
            "dropout": 0.0,
            "measure_test": False,
            "initial": "random",
            "evaluate_at": None,
            "adopt": "better",
            "total_budget": None,
            "autoal_fit_epochs": None,
            "autoal_search_epochs": None,
            "autoal_cycles": 1,
            "extend": False,
        }
        for name, default in late.items():
            if values.get(name, ...) == default:
                del values[name]
        needs = strategy_needs(get_strategy(self.strategy))
        if "strategy_weights" not in needs:
            values = {key: one for key, one in values.items() if not key.startswith("autoal_")}
        if not needs:
            del values["query_subset"]
        if "passes" not in needs:
            del values["mc_passes"]
        if "labeled_scores" not in needs:
            del values["vaal_epochs"]
        data = Path(self.dataset).name
        strategy = re.sub(r"[^\w.+-]+", "-", self.strategy)[:40].rstrip("-.")
        mode = re.sub(r"[^\w.+-]+", "-", self.hpo)
        return f"{data}-{strategy}-{mode}-seed{self.seed}-{content_hash(values, 8)}"


def _abbreviated(numbers: list[int]) -> str:
    """Ascending numbers; of many, the first and the last."""
    shown = list(map(str, numbers))
    return ", ".join(shown if len(shown) <= 12 else [*shown[:5], "…", *shown[-3:]])


class TuneConfig(ComputeSettings, SearchSettings, ModelSettings, DataSettings):
    """Everything that defines the tuning of hyperparameters on a labelled pool."""

    pool: str = Field(description="Folder of a run, or a queried_indices.json of dal-toolbox.")
    labels: int = Field(ge=2, description="Use the first N labels of the pool.")
    measure_test: bool = Field(
        True,
        description="Also measure every fully trained configuration on the evaluation split. The "
        "report shows how well validation predicts it; no choice depends on it.",
    )
    extend: bool = Field(
        False,
        description="Go on with the search of an earlier tuning that differs in its budget only "
        "and had less. The optimizers dyhpo and one-epoch plan with their budget: with them, "
        "results may differ from those of a tuning that began anew.",
    )
    output_dir: str | None = Field(
        None, description="Folder for the folders of tunings; by default tune/ beside the labels."
    )

    @pydantic.model_validator(mode="after")
    def _usable(self) -> TuneConfig:
        self.check_search()
        if self.starts_from_current:
            raise ConfigurationError(
                f"Optimizer {self.optimizer!r} takes small steps from cycle to cycle of a run, and "
                "a tuning is one search. Use another, such as dyhpo."
            )
        self.hyperparameter_class.create(self.hyperparameters).check_epochs(self.max_epochs)
        if self.max_budget <= self.max_epochs:
            raise ConfigurationError(
                f"max_budget is {self.max_budget} epochs; expected more than max_epochs="
                f"{self.max_epochs}, which training the pool's own hyperparameters takes. Raise "
                "max_budget."
            )
        return self

    @classmethod
    def of_run(cls, run: RunConfig, folder: str | Path, **settings: Any) -> TuneConfig:
        """Settings to tune the labelled pool of a run.

        Args:
            run: settings of the run; they hold unless ``settings`` replaces them.
            folder: the run's folder.
            settings: settings of the tuning, with ``labels``.

        Raises:
            ConfigurationError: settings that cannot be used.
        """
        shared = set(cls.model_fields) & set(RunConfig.model_fields) - {
            "output_dir",
            "measure_test",
            "extend",
        }
        return cls.create(run.model_dump(include=shared), {"pool": str(folder)}, settings)

    @property
    def path(self) -> Path:
        """The tuning's folder."""
        pool = Path(self.pool).expanduser()
        beside = pool.parent if pool.suffix == ".json" else pool
        output = beside / "tune" if self.output_dir is None else Path(self.output_dir).expanduser()
        return output / self.name

    @property
    def name(self) -> str:
        """Name of the tuning's folder: labels, model, optimizer, seed and a hash of the settings.

        If the tuning lies in the run's folder, the hash holds the name of that folder only, so that
        the run can be moved.
        """
        values = defining_settings(self)
        if not self.extend:  # it came later: names stay as they were
            del values["extend"]
        pool = Path(self.pool).expanduser()
        values["pool"] = pool.name
        if pool.is_file():
            values["pool"] = sha256(pool.read_bytes())
        elif self.output_dir is not None:  # elsewhere, names of pools need not be unique
            values["pool"] = str(pool.resolve())
        what = f"{self.labels}labels-{self.model}-{self.optimizer}-seed{self.seed}"
        return f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', what)}-{content_hash(values, 8)}"
