"""One query of another package's strategy, in an environment of its own.

``benchmarks/strategies.py --peer NAME=PYTHON`` runs this file with that Python, which needs torch,
NumPy and the package, but not alhpo. To make the environments:

    python -m venv dal && dal/bin/pip install git+https://github.com/dhuseljic/dal-toolbox
    python -m venv main && main/bin/pip install torch \\
        git+https://github.com/scikit-activeml/scikit-activeml
    python benchmarks/strategies.py \\
        --peer dal-toolbox=dal/bin/python scikit-activeml=main/bin/python

The packages get the arrays that alhpo's strategies get: features and logits of candidates and of
labelled images, and a linear classifier. Passes of a model are in no figure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch
from memory import bound_memory, with_memory
from timing import beside_products

#: Seconds after which no further round begins.
ENOUGH = 30

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("peer", choices=["dal-toolbox", "scikit-activeml"])
parser.add_argument("--about", action="store_true", help="tell its version and strategies")
parser.add_argument("--strategy", help="by alhpo's name")
parser.add_argument("--folder", type=Path, help="with the arrays of the pool")
parser.add_argument("--warm", type=Path, help="with those of a small one, to load libraries")
parser.add_argument("--labeled", type=int, help="how many of the rows are labelled, the last ones")
parser.add_argument("--classes", type=int)
parser.add_argument("--picks", type=int)
parser.add_argument("--rounds", type=int)
parser.add_argument("--memory", type=float, help="GB it may add")
parser.add_argument("--threads", type=int)


class Arrays:
    """The pool: float32 features and logits, labels, and the weights of the linear classifier."""

    def __init__(self, folder: Path, classes: int, labeled: int) -> None:
        names = ("features", "labels", "weight")
        features, labels, self.weight = (
            torch.from_numpy(np.load(folder / f"{name}-{classes}.npy")) for name in names
        )
        n = len(features) - labeled
        self.features, self.labeled_features = features[:n], features[n:]
        self.labeled_labels = labels[n:]
        self.logits = self.features @ self.weight.T
        self.labeled_logits = self.labeled_features @ self.weight.T


class DalModel:
    """What dal-toolbox takes for a model and for a data module, both with outputs at hand."""

    def __init__(self, arrays: Arrays) -> None:
        self.outputs = {
            "unlabeled": {"features": arrays.features, "logits": arrays.logits},
            "labeled": {
                "features": arrays.labeled_features,
                "logits": arrays.labeled_logits,
                "labels": arrays.labeled_labels,
            },
        }
        self.weight = arrays.weight

    @property
    def model(self) -> DalModel:
        return self

    def to(self, device: str) -> DalModel:
        return self

    def unlabeled_dataloader(self, subset_size: int | None = None) -> tuple[str, list[int]]:
        return "unlabeled", list(range(len(self.outputs["unlabeled"]["features"])))

    def labeled_dataloader(self) -> tuple[str, list[int]]:
        return "labeled", list(range(len(self.outputs["labeled"]["features"])))

    def get_model_outputs(
        self, dataloader: str, output_types: list[str], device: str = "cpu"
    ) -> dict[str, torch.Tensor]:
        return {name: self.outputs[dataloader][name].clone() for name in output_types}

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.weight.T


def dal_toolbox(strategy: str, arrays: Arrays, n: int) -> list[int]:
    package = import_module("dal_toolbox.active_learning.strategies")
    name, options = DAL[strategy]
    torch.manual_seed(0)
    chosen = getattr(package, name)(**options)
    chosen.rng = np.random.default_rng(0)
    model = DalModel(arrays)
    return list(map(int, chosen.query(model=model, al_datamodule=model, acq_size=n)))


def scikit_activeml(strategy: str, arrays: Arrays, n: int) -> list[int]:
    from skactiveml import pool
    from skactiveml.base import SkactivemlClassifier

    class Given(SkactivemlClassifier):
        """A classifier that knows the probabilities of the candidates, or computes them."""

        def fit(self, X, y, sample_weight=None):
            self.classes_ = np.arange(arrays.logits.shape[1])
            return self

        def predict_proba(self, X):
            own = takes == "linear"
            logits = torch.from_numpy(X).float() @ arrays.weight.T if own else arrays.logits
            return logits.double().softmax(dim=1).numpy()

        def predict(self, X):
            return self.predict_proba(X).argmax(axis=1)

    name, options, takes = SCIKIT_ACTIVEML[strategy]
    samples = torch.cat([arrays.labeled_features, arrays.features]).double().numpy()
    labels = np.full(len(samples), np.nan)
    labels[: len(arrays.labeled_labels)] = arrays.labeled_labels.numpy()
    given = {"clf": Given().fit(samples, labels), "fit_clf": False} if takes else {}
    if "n_classes" in options:
        options = options | {"n_classes": arrays.logits.shape[1]}
    chosen = getattr(pool, name)(random_state=0, **options)
    found = chosen.query(X=samples, y=labels, batch_size=n, **given)
    return [int(row) - len(arrays.labeled_labels) for row in found]


#: The class of a strategy and its arguments. BAIT in its binary form, as ours by default.
DAL: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "alfamix": ("AlfaMix", {}),
    "badge": ("Badge", {}),
    "bait": ("BaitSampling", {"grad_likelihood": "binary_cross_entropy"}),
    "coreset": ("CoreSet", {}),
    "dropquery": ("DropQuery", {}),
    "entropy": ("EntropySampling", {}),
    "least-confidence": ("LeastConfidentSampling", {}),
    "margin": ("MarginSampling", {}),
    "maxherding": ("MaxHerding", {}),
    "typiclust": ("TypiClust", {}),
}
#: The same, and what classifier it takes: one that knows what it says of the candidates, or the
#: linear one. MaxHerding with the kernel of ours; by default its σ² is D.
SCIKIT_ACTIVEML: Mapping[str, tuple[str, Mapping[str, object], str | None]] = {
    "badge": ("Badge", {}, "known"),
    "coreset": ("CoreSet", {}, None),
    "dropquery": ("DropQuery", {"n_dropout_samples": 3}, "linear"),
    "entropy": ("UncertaintySampling", {"method": "entropy"}, "known"),
    "least-confidence": ("UncertaintySampling", {"method": "least_confident"}, "known"),
    "margin": ("UncertaintySampling", {"method": "margin_sampling"}, "known"),
    "maxherding": ("MaxHerding", {"metric_dict": {"gamma": 1.0}}, None),
    "probcover": ("ProbCover", {"n_classes": None}, None),
    "typiclust": ("TypiClust", {}, None),
}
PEERS: Mapping[str, tuple[str, Callable[[str, Arrays, int], list[int]], Mapping[str, object]]] = {
    "dal-toolbox": ("dal_toolbox", dal_toolbox, DAL),
    "scikit-activeml": ("skactiveml", scikit_activeml, SCIKIT_ACTIVEML),
}


def commit(peer: str) -> str | None:
    """The commit of the package, if pip installed it from a repository or it is a checkout."""
    try:
        origin = json.loads(distribution(peer).read_text("direct_url.json") or "{}")
        if "vcs_info" in origin:
            return origin["vcs_info"]["commit_id"]
    except PackageNotFoundError:
        pass
    folder = Path(str(import_module(PEERS[peer][0]).__file__)).parents[1]
    if not (folder / ".git").exists():
        return None
    asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def release(peer: str) -> str | None:
    try:
        return distribution(peer).version
    except PackageNotFoundError:
        return None


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Seconds, memory and picks of a query, with as many bare products in turn."""
    _, query, _ = PEERS[args.peer]
    query(args.strategy, Arrays(args.warm, args.classes, args.labeled), 3)
    arrays = Arrays(args.folder, args.classes, args.labeled)
    bound_memory(args.memory)
    vector = arrays.features[0].clone()
    seconds: list[float] = []
    busy: list[float] = []
    bare: list[float] = []
    indices: object = None
    extra = 0.0
    while not seconds or (len(seconds) < args.rounds and sum(seconds) < ENOUGH):
        start = time.process_time()
        for _ in range(args.picks):
            torch.mv(arrays.features, vector)
        bare.append(time.process_time() - start)
        start = time.process_time()
        found, took, taken = with_memory(lambda: query(args.strategy, arrays, args.picks))
        busy.append(time.process_time() - start)
        if not seconds:
            indices, extra = found, taken
        seconds.append(took)
    return beside_products(seconds, busy, bare, extra, indices)


def main(args: argparse.Namespace) -> None:
    if args.about:
        about = {
            "release": release(args.peer),
            "commit": commit(args.peer),
            "strategies": sorted(PEERS[args.peer][2]),
        }
        print(json.dumps(about))
        return
    torch.set_num_threads(args.threads)
    try:
        result = measure(args)
    except MemoryError as error:
        result = {"skipped": f"needs more than {args.memory} GB ({error})"}
    except (RuntimeError, ValueError) as error:
        result = {"skipped": str(error).splitlines()[0]}
    print(json.dumps(result))


if __name__ == "__main__":
    main(parser.parse_args())
