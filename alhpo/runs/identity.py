"""Which settings tell one run from another, and the hash that names a folder."""

from __future__ import annotations

from typing import Any

from alhpo.hyperparameters import SPACES, load_space
from alhpo.runs.setting_groups import SearchSettings

#: Settings without effect on results: runs that differ only in these are the same run.
INCIDENTAL_KEYS = frozenset(
    {"output_dir", "storage_dir", "optuna_storage", "download", "device", "verify"}
)
#: Runs that differ only in these are repetitions of each other.
REPETITION_KEYS = INCIDENTAL_KEYS | {"seed"}
#: Settings without effect where nothing is searched.
SEARCH_KEYS = frozenset(
    {
        "optimizer",
        "max_budget",
        "measure_current",
        "adopt",
        "total_budget",
        "measure_test",
        "min_gain",
        "transfer",
        "num_configurations",
        "parallel",
        "space",
    }
)


def defining_settings(settings: SearchSettings) -> dict[str, Any]:
    """The settings that define a run or a tuning, for the hash in its folder's name.

    A space and weights from a file count by their content, not by the path. Settings that came
    later are left out at their defaults, so that folders keep the names they had before.
    """
    values = settings.model_dump(exclude=set(INCIDENTAL_KEYS))
    if settings.space not in SPACES:
        from alhpo.hyperparameters.description import space_identity

        values["space"] = space_identity(load_space(settings.space, settings.hyperparameter_class))
    if values["weights"] is not None:
        from alhpo.models.weights import weights_identity

        values["weights"] = weights_identity(values["weights"], values["model"])
    defaults = {
        "init": "timm",
        "parallel": 1,
        "recipe": "network",
        "on_error": "raise",
        "weights": None,
        "train_dropout": True,
    }
    for name, default in defaults.items():
        if values[name] == default:
            del values[name]
    return values
