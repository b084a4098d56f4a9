"""Small real data, and training settings that take a second."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
from dataclasses import replace

import pytest
import torch
import toy_models  # noqa: F401 - its networks are timm's from here on

from alhpo import ImageDataset, load_dataset
from alhpo.data.sources.registry import SOURCES
from alhpo.runs.modes import MODES
from alhpo.strategies.registry import STRATEGIES
from alhpo.studies.launch.registry import LAUNCHERS
from alhpo.training.recipes import RECIPES
from alhpo.tuning.optimizers.registry import OPTIMIZERS
from alhpo.validation.registry import SCHEMES

NUMBERS = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: one of a minute at the end would leave the other processes idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("hpo4dl") and importlib.util.find_spec("hpo4dl") is None:
        pytest.skip('needs HPO4DL: pip install "alhpo[hpo4dl]"')


@pytest.fixture(autouse=True)
def _names_of_its_own():
    """What a test registers is forgotten after it."""
    with contextlib.ExitStack() as stack:
        for registry in (STRATEGIES, OPTIMIZERS, SCHEMES, SOURCES, LAUNCHERS, RECIPES, MODES):
            stack.enter_context(registry.temporary())
        yield


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory):
    """A cache for the fixtures of modules and sessions; the folder of the tests' own caches."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALHPO_CACHE", str(folder / "shared"))
        yield folder


@pytest.fixture(autouse=True)
def _cache_of_its_own(_caches):
    """What one test decoded is no other test's, also in the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALHPO_CACHE", str(_caches / str(next(NUMBERS))))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk():
    """What is on disk after a power cut cannot be tested here, and the waits add up to a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread_per_process():
    """Bitwise comparisons across processes need one number of threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> ImageDataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def few_digits(digits: ImageDataset) -> ImageDataset:
    """120 pool and 60 evaluation images."""
    assert digits.labels is not None
    return replace(
        digits,
        images=digits.images[:120],
        labels=digits.labels[:120],
        eval_images=digits.eval_images[:60],
        eval_labels=digits.eval_labels[:60],
    )
