"""HPO4DL's own tuner, as its users call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def best_of_hpo4dl(objective: Any, max_epochs: int, max_budget: int, folder: Path) -> dict:
    """The best row that its Hyperband finds."""
    from hpo4dl.tuner import Tuner

    return Tuner(
        objective_function=objective,
        configuration_space=objective.configuration_space,
        max_epochs=max_epochs,
        max_budget=max_budget,
        output_path=str(folder),
        optimizer="hyperband",
        minimize=False,
        seed=0,
    ).run()
