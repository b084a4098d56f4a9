"""scikit-activeml's pool strategies by name, such as ``"skactiveml:TypiClust"``.

They come with ``pip install 'alhpo[skactiveml]'``. See
https://scikit-activeml.github.io/latest/generated/strategy_overview.html for what each does.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import sklearn
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.process_lock import PROCESS_LOCK
from alhpo.base.schema import unknown_name
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies.registry import register_strategy_family

#: The input of each strategy besides features and labels: nothing, the network's predictions, a
#: committee (the passes with dropout), or its own model, fitted to the features.
SUPPORTED = {
    **dict.fromkeys(("CoreSet", "CostEmbeddingAL", "GreedySamplingX", "MaxHerding"), "nothing"),
    **dict.fromkeys(("ProbCover", "Quire", "RandomSampling", "TypiClust"), "nothing"),
    **dict.fromkeys(("Badge", "Clue", "ContrastiveAL", "Falcun"), "predictions"),
    **dict.fromkeys(("ProbabilisticAL", "UncertaintySampling"), "predictions"),
    **dict.fromkeys(("BatchBALD", "GreedyBALD", "QueryByCommittee"), "committee"),
    **dict.fromkeys(("DropQuery",), "logistic regression"),
    **dict.fromkeys(("DiscriminativeAL",), "discriminator"),
    **dict.fromkeys(("FourDs",), "mixture model"),
}
#: Settings in place of the package's defaults that do not work with a network.
SETTINGS: dict[str, dict[str, Any]] = {"ProbabilisticAL": {"metric": "rbf"}}
#: Rows of the pool whose passes are evaluated at a time.
BLOCK = 4096


class ScikitActiveML:
    """One of scikit-activeml's pool strategies, with its default settings.

    Its samples are the float64 penultimate features, labelled images first. Its random state is
    drawn from the generator. As a classifier it gets the network's predictions, looked up row by
    row (``fit_clf=False``); as an ensemble, the passes with dropout (T×N×C numbers in memory).
    DropQuery, DiscriminativeAL and FourDs fit their own model to the features. The package is made
    for small pools: the time or memory of most strategies is quadratic in the pool;
    ``query_subset`` bounds it. What a strategy does to the process (warnings, scikit-learn's
    settings, NumPy's global generator) is undone. If it chooses an image twice (as Badge does once
    all others are duplicates), the lowest remaining pool indices replace the repetitions.

    Args:
        name: the class in ``skactiveml.pool``.

    Raises:
        ConfigurationError: the package is not installed, or has no such strategy that works with
            features, labels and predictions.
    """

    def __init__(self, name: str) -> None:
        with _contained():
            self._factory = _find(name)
        self._name = name
        self._kind = SUPPORTED[name]
        needs = {"logits", "features", "labels", "labeled_logits", "labeled_features"}
        self.needs = frozenset(needs | {"passes"} if self._kind == "committee" else needs)

    def __call__(self, pool: PoolOutputs, n: int, generator: np.random.Generator) -> Query:
        """Choose ``n`` candidates, without scores.

        Raises:
            ConfigurationError: the package cannot query this pool; the message gives its reason.
        """
        assert pool.labels is not None
        seed = int(generator.integers(2**31))
        samples = _stacked(pool.labeled_features, pool.features)
        start = len(pool.labels)
        labels = np.full(len(samples), np.nan)
        labels[:start] = pool.labels.cpu().numpy()
        candidates = np.arange(start, len(samples))
        try:
            with _contained(seed):
                models = self._models(pool, samples, labels, seed)
                chosen = self._strategy(pool, seed).query(
                    X=samples, y=labels, candidates=candidates, batch_size=n, **models
                )
        except (ValueError, TypeError, ArithmeticError, IndexError) as error:
            raise ConfigurationError(
                f"scikit-activeml's {self._name} cannot choose {n} of {len(pool)} candidates with "
                f"{start} labelled images: {error}. Choose another strategy."
            ) from error
        rows = dict.fromkeys(int(position) - start for position in chosen)
        rows |= dict.fromkeys(row for row in range(len(pool)) if row not in rows)
        return Query(tuple(pool.indices[list(rows)[:n]].tolist()))

    def _strategy(self, pool: PoolOutputs, seed: int) -> Any:
        assert pool.logits is not None
        classes = pool.logits.shape[1]
        possible = {
            "classes": np.arange(classes),
            "n_classes": classes,
            "cluster_algo_dict": {"random_state": seed},
            "random_state": seed,
            "missing_label": np.nan,
        }
        accepted = inspect.signature(self._factory).parameters
        options = {key: value for key, value in possible.items() if key in accepted}
        return self._factory(**options, **SETTINGS.get(self._name, {}))

    def _models(
        self, pool: PoolOutputs, samples: np.ndarray, labels: np.ndarray, seed: int
    ) -> dict[str, Any]:
        """The models that ``query`` takes, by the names of its arguments."""
        from skactiveml.classifier import MixtureModelClassifier, SklearnClassifier
        from sklearn.linear_model import LogisticRegression

        from alhpo.strategies.prediction_lookup import PredictionLookup, row_positions

        assert pool.logits is not None
        classes = np.arange(pool.logits.shape[1])
        if self._kind == "nothing":
            return {}
        if self._kind == "discriminator":
            judge = SklearnClassifier(LogisticRegression(), classes=[0, 1], random_state=seed)
            return {"discriminator": judge}
        if self._kind == "logistic regression":
            linear = LogisticRegression(max_iter=1000)
            return {"clf": SklearnClassifier(linear, classes=classes, random_state=seed)}
        if self._kind == "mixture model":
            return {"clf": MixtureModelClassifier(classes=classes, random_state=seed)}
        positions = row_positions(samples)

        def lookup(logits: torch.Tensor) -> Any:
            probabilities = _stacked(pool.labeled_logits, logits, softmax=True)
            found = PredictionLookup(positions, probabilities, classes, random_state=seed)
            return found.fit(samples, labels)

        if self._kind == "committee":
            return {"ensemble": list(map(lookup, _passes(pool))), "fit_ensemble": False}
        asks_for = inspect.signature(self._factory.query).parameters
        argument = "clf" if "clf" in asks_for else "estimator"
        return {argument: lookup(pool.logits), f"fit_{argument}": False}


def _find(name: str) -> Any:
    try:
        import skactiveml.pool
    except ImportError as error:
        raise ConfigurationError(
            f"The strategy 'skactiveml:{name}' needs scikit-activeml ({error}). Install it with "
            "`pip install 'alhpo[skactiveml]'`."
        ) from error
    available = [known for known in SUPPORTED if hasattr(skactiveml.pool, known)]
    if name in available:
        return getattr(skactiveml.pool, name)
    if hasattr(skactiveml.pool, name):
        raise ConfigurationError(
            f"Strategy {name} of scikit-activeml cannot use a network's features and "
            "predictions: it is for regression, refits its classifier for every candidate, or "
            f"wraps another strategy. Legal: {', '.join(sorted(available))}."
        )
    raise unknown_name("strategy of scikit-activeml", name, sorted(available))


def _stacked(
    labeled: torch.Tensor | None, candidates: torch.Tensor | None, *, softmax: bool = False
) -> np.ndarray:
    """Labelled rows, then those of the candidates, as float64; probabilities if ``softmax``."""
    assert labeled is not None
    assert candidates is not None
    rows = torch.cat([labeled.double().cpu(), candidates.double().cpu()])
    return (rows.softmax(dim=1) if softmax else rows).numpy()


def _passes(pool: PoolOutputs) -> torch.Tensor:
    """(T, N, C) logits of all passes."""
    assert pool.passes is not None
    starts = range(0, len(pool), BLOCK)
    blocks = [pool.passes.logits(slice(start, start + BLOCK)).cpu() for start in starts]
    return torch.cat(blocks, dim=1)


@contextmanager
def _contained(seed: int = 0) -> Iterator[None]:
    """A block after which warning filters, NumPy's error handling, scikit-learn's settings and
    NumPy's global generator are as before. The generator is seeded for the block. Threads take
    turns."""
    with PROCESS_LOCK, warnings.catch_warnings(), np.errstate(), sklearn.config_context():
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


register_strategy_family("skactiveml", ScikitActiveML, "NAME")
