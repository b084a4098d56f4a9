"""A new tuning uses what an earlier one trained that differs from it in its budget only.

The measurement of the pool's own hyperparameters is that of the earlier one. With ``extend``, its
search goes on. Both are copied to ``earlier_hpo``, from where the searches take them; the earlier
tuning stays as it is.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from alhpo.base.errors import AlhpoError
from alhpo.base.files import exclusive
from alhpo.base.formats import check_format
from alhpo.data.dataset import ImageDataset
from alhpo.runs.config_files import read_config_file
from alhpo.runs.data import check_dataset
from alhpo.runs.provenance import Sessions
from alhpo.runs.search import epochs_in
from alhpo.runs.settings import TuneConfig
from alhpo.training.compute import Compute

logger = logging.getLogger("alhpo.runs")

#: Settings in which the earlier tuning may differ.
DIFFERENT = ("max_budget", "extend")
SEARCHES = "earlier_hpo"
_TAKING = ".taking"
#: A tuning that trained something has all of these.
_OF_BEGUN = ("dataset.json", "sessions.jsonl", "config.yaml", "hpo")


def take_searches(config: TuneConfig, dataset: ImageDataset, compute: Compute) -> None:
    """Copy the searches of the earlier tuning that trained most, within the budget if there is one.

    Args:
        config: settings of the new tuning, which has not begun.
        dataset: its data.
        compute: its device and precision.
    """
    found: list[tuple[int, Path]] = []
    for other in sorted(config.path.parent.glob(f"{config.name.rpartition('-')[0]}-*")):
        if other == config.path or not all((other / name).exists() for name in _OF_BEGUN):
            continue
        try:
            _check_same(config, other, dataset, compute)
        except AlhpoError as error:
            logger.info("Nothing is taken over from %s: %s", other, error)
        else:
            found.append((epochs_in(other / "hpo"), other))
    for _, other in sorted(found, key=lambda one: (one[0] > config.max_budget, -one[0])):
        try:
            with exclusive(other):
                _copy(other / "hpo", config.path)
        except AlhpoError as error:
            logger.info("Nothing is taken over from %s: %s", other, error)
            continue
        return


def _check_same(config: TuneConfig, other: Path, dataset: ImageDataset, compute: Compute) -> None:
    """Refuse a tuning that is another one, or of other data, or was computed otherwise."""
    check_format(other)
    ours = {name: getattr(config, name) for name in (*DIFFERENT, "pool", "output_dir")}
    theirs = TuneConfig.create(read_config_file(other / "config.yaml"), ours)
    if theirs.name != config.name:
        raise AlhpoError("it has other settings")
    Sessions(other / "sessions.jsonl", config.search_packages).check(
        compute, image_size_known=False
    )
    check_dataset(other / "dataset.json", dataset)


def _copy(searches: Path, path: Path) -> None:
    staged = path / _TAKING
    shutil.rmtree(staged, ignore_errors=True)
    shutil.rmtree(path / SEARCHES, ignore_errors=True)  # of a start that was killed
    checkpoints = shutil.ignore_patterns("trials", ".*")
    shutil.copytree(searches, staged, ignore=checkpoints)
    staged.rename(path / SEARCHES)
