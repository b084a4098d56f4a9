"""Seconds and memory of one query of each strategy at pool scale, beside other implementations.

    python benchmarks/strategies.py --output benchmarks/results/strategies-cpu.json
    python benchmarks/strategies.py --quick                  # a small pool, to see that all runs
    python benchmarks/strategies.py --strategies badge coreset --picks 1000 --no-peers
    python benchmarks/strategies.py --peer dal-toolbox=PYTHON scikit-activeml=PYTHON

Each contestant runs in a process of its own, on the same features: clusters behind a ReLU, seeded,
and the logits of a linear layer on them. Memory is the highest resident size during the first query
less that before it (Linux). ``ratio`` compares the seconds of processor time with those of as many
products of the (N, D) float32 features and a vector as there are picks, made in turn with the
queries in the same process: the median over the rounds. ``passes`` compares with one product of all
pairs of features, N²/2 in square tiles, for strategies that make them. Strategies that score each
candidate by itself run for the first number of picks only.

Peers run once each and are given up after ``--limit`` seconds or ``--memory`` GB; one whose time
for fewer picks foretells more is left out, and the table says so. ``explicit`` is what one would
write down from the definition with NumPy, SciPy and scikit-learn; scikit-activeml runs through
alhpo's adapter, which hands it the same features and predictions. ``--peer`` adds dal-toolbox, or
another version of scikit-activeml, each in an environment of its own
(``benchmarks/strategy_peers.py`` tells how to make it); their time is the median of as many rounds
as begin in 30 seconds. ``same`` tells whether a peer of the same definition made the same picks in
the same order.

No training is in the figures: not of the models behind held-out logits, nor those of ``boss``.

With ``--output`` the figures are written after each contestant, and a later call adds what is
missing, unless ``--again``.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from memory import bound_memory, with_memory
from threadpoolctl import threadpool_limits
from timing import beside_products

from alhpo.base.errors import AlhpoError
from alhpo.base.types import Evaluation, PoolOutputs
from alhpo.outputs.dropout_passes import DropoutPasses
from alhpo.strategies import get_strategy, run_strategy, strategy_families, strategy_names
from alhpo.strategies import strategy_needs as needs_of

#: Strategies whose later choices depend on the earlier ones, so that picks cost time.
SEQUENTIAL = (
    *("alfamix", "badge", "bait", "batchbald", "centroids", "coreset", "dropquery", "kmeans"),
    *("maxherding", "probcover", "refine", "tcm", "typiclust", "uherding"),
)
#: Strategies that look at all pairs of candidates.
QUADRATIC = ("maxherding", "probcover", "uherding")
EXPLICIT = ("badge", "coreset", "entropy", "kmeans", "least-confidence", "margin")
#: scikit-activeml's name of a strategy, and whether its definition is ours.
SCIKIT_ACTIVEML = {
    "badge": ("Badge", False),  # keeps a centre at the origin
    "bald": ("GreedyBALD", True),
    "coreset": ("CoreSet", True),
    "least-confidence": ("UncertaintySampling", True),
    "probcover": ("ProbCover", False),  # other radii, random ties
    "typiclust": ("TypiClust", False),  # other k-means, typicality without labelled images
}

#: Strategies that dal-toolbox defines as we do, without a draw; and those of scikit-activeml.
DAL_TOOLBOX = ("coreset", "entropy", "least-confidence", "margin")
SAME = ["entropy", "margin", *(name for name, (_, same) in SCIKIT_ACTIVEML.items() if same)]

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--pool", type=int, default=50_000, help="N, the number of candidates")
parser.add_argument("--width", type=int, default=512, help="D, the number of features")
parser.add_argument("--labeled", type=int, default=100, help="L, the number of labelled images")
parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
parser.add_argument("--picks", type=int, nargs="+", default=[100, 1000])
parser.add_argument("--passes", type=int, default=100, help="with dropout, where they are needed")
parser.add_argument("--strategies", nargs="+", help="default: all that have a name")
parser.add_argument("--no-peers", action="store_true", help="only alhpo's own strategies")
parser.add_argument(
    "--peer", nargs="+", default=[], metavar="NAME=PYTHON", help="dal-toolbox, scikit-activeml"
)
parser.add_argument("--rounds", type=int, default=3, help="of alhpo's strategies")
parser.add_argument("--limit", type=float, default=60, help="seconds a contestant may take")
parser.add_argument("--memory", type=float, default=8, help="GB a contestant may add")
parser.add_argument("--threads", type=int, help="of torch; default: torch's own")
parser.add_argument("--quick", action="store_true", help="600 × 16, 5 classes, 20 picks, 1 round")
parser.add_argument(
    "--output", type=Path, help="write the figures as JSON, go on with what is there"
)
parser.add_argument("--again", action="store_true", help="measure again what --output holds")


def write_inputs(folder: Path, n: int, width: int, classes: int, labeled: int) -> None:
    """Clustered non-negative features with one direction a class, and a linear layer on them."""
    draw = np.random.default_rng((n, width, classes))
    centres = draw.standard_normal((classes, width), np.float32)
    labels = draw.integers(classes, size=n + labeled)
    features = draw.standard_normal((n + labeled, width), np.float32)
    features += 0.7 * centres[labels]
    np.maximum(features, 0, out=features)
    weight = (0.6 * centres + draw.standard_normal((classes, width), np.float32)) / width**0.5
    np.save(folder / f"features-{classes}.npy", features)
    np.save(folder / f"labels-{classes}.npy", labels)
    np.save(folder / f"weight-{classes}.npy", weight)


def read_pool(
    folder: Path, classes: int, labeled: int, needs: frozenset[str], passes: int
) -> PoolOutputs:
    features, labels, weight = (
        torch.from_numpy(np.load(folder / f"{name}-{classes}.npy"))
        for name in ("features", "labels", "weight")
    )
    n = len(features) - labeled
    draw = torch.Generator().manual_seed(0)
    known = {
        "logits": lambda: features[:n] @ weight.T,
        "features": lambda: features[:n],
        "passes": lambda: dropout_passes(features[:n], weight, passes, draw),
        "predicted_losses": lambda: torch.rand(n, generator=draw),
        "labeled_scores": lambda: torch.rand(n, generator=draw),
        "labels": lambda: labels[n:],
        "labeled_indices": lambda: torch.arange(n, n + labeled),
        "labeled_logits": lambda: features[n:] @ weight.T,
        "labeled_features": lambda: features[n:],
        "state": lambda: None,
        "classify": lambda: lambda rows: rows @ weight.T,
        "heldout_logits": lambda: features[n:] @ weight.T,
        "heldout_labels": lambda: labels[n:],
        "true_labels": lambda: labels[:n],
        "retrain": lambda: lambda batches, _: [Evaluation.uniform(classes) for _ in batches],
    }
    if unknown := needs - known.keys():
        raise ValueError(f"needs {', '.join(sorted(unknown))}, which this benchmark does not make")
    return PoolOutputs(torch.arange(n), **{need: known[need]() for need in needs | {"features"}})


def dropout_passes(
    features: torch.Tensor, weight: torch.Tensor, passes: int, draw: torch.Generator
) -> DropoutPasses:
    classifier = torch.nn.Linear(weight.shape[1], len(weight), bias=False)
    classifier.weight.data = weight
    keep = torch.rand(passes, weight.shape[1], generator=draw) >= 0.5
    return DropoutPasses(features, classifier, keep, 0.5)


def explicit_badge(pool: PoolOutputs, n: int, generator: np.random.Generator) -> list[int]:
    """k-means++ over all gradients, N × (C·D) float64."""
    logits, features = pool.logits.double(), pool.features
    q = logits.softmax(dim=1).numpy()
    q[np.arange(len(q)), logits.argmax(dim=1).numpy()] -= 1
    gradients = (q[:, :, None] * features.numpy()[:, None, :]).reshape(len(q), -1)
    squares = np.einsum("ij,ij->i", gradients, gradients)
    chosen, nearest = [int(squares.argmax())], np.full(len(q), np.inf)
    while len(chosen) < n:
        products = gradients @ gradients[chosen[-1]]
        nearest = np.minimum(nearest, squares + squares[chosen[-1]] - 2 * products)
        nearest = np.maximum(nearest, 0)
        nearest[chosen] = 0
        total = nearest.cumsum()
        chosen.append(int(np.searchsorted(total, generator.random() * total[-1], side="right")))
    return chosen


def explicit_coreset(pool: PoolOutputs, n: int, generator: np.random.Generator) -> list[int]:
    from scipy.spatial.distance import cdist

    features = pool.features.double().numpy()
    nearest = cdist(features, pool.labeled_features.double().numpy()).min(axis=1)
    chosen = []
    while len(chosen) < n:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, cdist(features, features[chosen[-1:]])[:, 0])
        nearest[chosen] = -1
    return chosen


def explicit_kmeans(pool: PoolOutputs, n: int, generator: np.random.Generator) -> list[int]:
    from sklearn.cluster import KMeans

    distances = KMeans(n, n_init=1, random_state=0).fit_transform(pool.features.numpy())
    return np.unique(distances.argmin(axis=0)).tolist()


def explicit_entropy(pool: PoolOutputs, n: int, generator: np.random.Generator) -> list[int]:
    from scipy.special import softmax
    from scipy.stats import entropy

    return np.argsort(-entropy(softmax(pool.logits.double().numpy(), axis=1), axis=1))[:n].tolist()


def explicit_margin(pool: PoolOutputs, n: int, generator: np.random.Generator) -> list[int]:
    p = np.sort(pool.logits.double().softmax(dim=1).numpy(), axis=1)
    return np.argsort(p[:, -1] - p[:, -2])[:n].tolist()


def explicit_least_confidence(
    pool: PoolOutputs, n: int, generator: np.random.Generator
) -> list[int]:
    return np.argsort(pool.logits.double().softmax(dim=1).numpy().max(axis=1))[:n].tolist()


def run_cell(cell: dict) -> dict:
    """One contestant, in this process."""
    strategy, contestant, picks = cell["strategy"], cell["contestant"], cell["picks"]
    name = strategy
    if contestant == "scikit-activeml":
        name = f"skactiveml:{SCIKIT_ACTIVEML[strategy][0]}"
    needs = needs_of(get_strategy(name))
    size = cell["classes"], cell["labeled"]
    pool = read_pool(Path(cell["folder"]), *size, needs, cell["passes"])
    vector = pool.features[0].clone()

    def query(of: PoolOutputs, n: int) -> list[int]:
        generator = np.random.default_rng(0)
        if contestant == "explicit":
            return globals()[f"explicit_{strategy.replace('-', '_')}"](of, n, generator)
        return list(run_strategy(name, of, n, generator).indices)

    query(read_pool(Path(cell["warm"]), *size, needs, 2), 3)  # first calls load libraries
    bound_memory(cell["memory"])
    products = min(picks, 100)
    seconds, busy, bare, passes = [], [], [], []
    for turn in range(cell["rounds"]):
        start = time.process_time()
        for _ in range(products):
            torch.mv(pool.features, vector)
        bare.append((time.process_time() - start) * picks / products)
        if strategy in QUADRATIC:
            passes.append(seconds_of_all_pairs(pool.features))
        start = time.process_time()
        found, took, more = with_memory(lambda: query(pool, picks))
        busy.append(time.process_time() - start)
        seconds.append(took)
        if turn == 0:
            chosen, extra = found, more
    return beside_products(seconds, busy, bare, extra, chosen, passes)


def seconds_of_all_pairs(features: torch.Tensor, tile: int = 1024, tiles: int = 32) -> float:
    """Seconds of processor time of the products of all pairs of rows, by those of some tiles."""
    rows = features[:tile].contiguous()
    out = features.new_empty(len(rows), len(rows))
    start = time.process_time()
    for _ in range(tiles):
        torch.mm(rows, rows.T, out=out)
    return (time.process_time() - start) / tiles * (len(features) / len(rows)) ** 2 / 2


def in_own_process(cell: dict, limit: float) -> dict:
    """The figures of a contestant, or why there are none under ``"skipped"``."""
    # A fork has the libraries loaded; nothing before it has started threads that it would miss.
    forks = "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if forks else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(cell, sender))
    process.start()
    sender.close()
    allowed = limit * (cell["rounds"] + 1)
    try:
        if receiver.poll(allowed):
            return receiver.recv()
        return {"skipped": f"took more than {allowed:.0f} s"}
    except EOFError:
        return {"skipped": "the process died"}
    finally:
        process.kill()
        process.join()


def answer(cell: dict, sender: Connection) -> None:
    """Run a contestant and send its figures, or the reason why there are none."""
    try:
        with threadpool_limits(cell["threads"]):
            if cell["threads"]:
                torch.set_num_threads(cell["threads"])
            sender.send(run_cell(cell))
    except MemoryError as error:
        sender.send({"skipped": f"needs more than {cell['memory']} GB ({error})"})
    except (AlhpoError, RuntimeError, ValueError) as error:
        sender.send({"skipped": str(error).splitlines()[0]})


def in_own_environment(cell: dict, peer: dict, limit: float) -> dict:
    """As ``in_own_process``, for a peer of ``--peer``."""
    options = ("strategy", "folder", "warm", "labeled", "classes", "picks", "rounds", "memory")
    threads = cell["threads"] or torch.get_num_threads()
    command = [*peer["command"], f"--threads={threads}"]
    command += [f"--{name}={cell[name]}" for name in options]
    # some packages ask the machine for its cores, and not torch for its threads
    alone = {"OMP_NUM_THREADS": str(threads)} if cell["threads"] else {}
    allowed = limit * (cell["rounds"] + 1)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=allowed, env={**os.environ, **alone}
        )
    except subprocess.TimeoutExpired:
        return {"skipped": f"took more than {allowed:.0f} s"}
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        return {"skipped": f"the process ended with {done.returncode}: {''.join(last)}"}
    return json.loads(done.stdout.splitlines()[-1])


def peers_of(given: list[str]) -> dict[str, dict]:
    """The peers of ``--peer`` by name and version, and how each is asked."""
    found = {}
    for one in given:
        name, _, python = one.partition("=")
        command = [python, str(Path(__file__).with_name("strategy_peers.py")), name]
        try:
            done = subprocess.run([*command, "--about"], capture_output=True, text=True)
        except OSError as error:
            sys.exit(f"--peer {one} cannot run: {error}. Give NAME=PYTHON.")
        if done.returncode:
            sys.exit(f"--peer {one} cannot be asked:\n{done.stderr}")
        about = json.loads(done.stdout.splitlines()[-1])
        version = (about["commit"] or "")[:8] or about["release"]
        found[f"{name} {version}"] = about | {"command": command}
    return found


def contestants(strategy: str, peers: bool, external: dict[str, dict]) -> list[str]:
    found = ["alhpo"]
    if peers and strategy in EXPLICIT:
        found.append("explicit")
    if peers and strategy in SCIKIT_ACTIVEML and find_spec("skactiveml"):
        found.append("scikit-activeml")
    return found + [name for name, one in external.items() if strategy in one["strategies"]]


def foretold(cell: dict, figures: dict, limit: float) -> str | None:
    """Why a peer is not worth starting, by its size and its figures for fewer picks."""
    explicit = (cell["strategy"], cell["contestant"]) == ("badge", "explicit")
    size = 8e-9 * cell["pool"] * cell["classes"] * cell["width"] * explicit
    if size > cell["memory"]:
        return f"N × (C·D) are {size:.0f} GB"
    if cell["strategy"] not in SEQUENTIAL or cell["contestant"] == "alhpo":
        return None
    for other in figures.values():
        alike = all(other[key] == cell[key] for key in ("strategy", "contestant", "classes"))
        if alike and other["picks"] < cell["picks"]:
            if "skipped" in other:
                return f"with {other['picks']} picks: {other['skipped']}"
            expected = other["seconds"] * cell["picks"] / other["picks"]
            if expected > limit:
                return f"some {expected:.0f} s by its time for {other['picks']} picks"
    return None


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def versions() -> dict[str, str]:
    result = {}
    for name in ("torch", "numpy", "scipy", "scikit-learn", "scikit-activeml"):
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            continue
    return result


def show(row: dict) -> None:
    where = f"{row['strategy']:<17}{row['contestant']:<26}{row['classes']:>4}{row['picks']:>6}"
    if "skipped" in row:
        print(f"{where}  left out: {row['skipped']}", flush=True)
        return
    same = {True: "yes", False: "no", None: "-"}[row["same"]]
    ratios = f"{row['ratio']:>8.2f}{row.get('passes', math.nan):>8.2f}"
    print(f"{where}{row['seconds']:>10.3f}{row['extra_mb']:>9.0f}{ratios}{same:>6}", flush=True)


def main(args: argparse.Namespace) -> None:
    if args.quick:
        args.pool, args.width, args.classes, args.picks = 600, 16, [5], [20]
        args.rounds, args.passes = 1, 5
    forms = strategy_families()
    external = peers_of(args.peer)
    strategies = args.strategies or [name for name in strategy_names() if name not in forms]
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": args.threads or torch.get_num_threads(),
        "python": platform.python_version(),
        **versions(),
        "pool": args.pool,
        "width": args.width,
        "labeled": args.labeled,
        "passes": args.passes,
    }
    figures: dict[str, dict] = {}
    if args.output and args.output.exists():
        recorded = json.loads(args.output.read_text())
        if recorded["machine"] != machine:
            sys.exit(f"{args.output} was measured with other settings; give another --output.")
        figures = {key_of(row): row for row in recorded["figures"]}
    print(json.dumps(machine))
    print(f"{'strategy':<17}{'contestant':<26}{'C':>4}{'b':>6}{'seconds':>10}{'MB':>9}"
          f"{'ratio':>8}{'passes':>8}{'same':>6}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder, "warm")
        warm.mkdir()
        for classes in args.classes:
            write_inputs(Path(folder), args.pool, args.width, classes, args.labeled)
            write_inputs(warm, 200, args.width, classes, args.labeled)
        for strategy in strategies:
            for classes in args.classes:
                for picks in args.picks if strategy in SEQUENTIAL else args.picks[:1]:
                    ours = None
                    for contestant in contestants(strategy, not args.no_peers, external):
                        cell = {
                            "strategy": strategy,
                            "contestant": contestant,
                            "classes": classes,
                            "picks": picks,
                        }
                        key = key_of(cell)
                        if key not in figures or args.again:
                            peer = external.get(contestant)
                            measured = measure(cell, args, folder, figures, peer)
                            figures[key] = cell | measured
                        row = figures[key]
                        indices = row.pop("indices", None)
                        if contestant == "alhpo":
                            ours = indices
                        if "skipped" not in row:
                            row.setdefault("same", agreement(row, ours, indices))
                        show(row)
                        if args.output:
                            write(args.output, machine, figures)


def key_of(cell: dict) -> str:
    return json.dumps([cell[key] for key in ("strategy", "contestant", "classes", "picks")])


def measure(
    cell: dict, args: argparse.Namespace, folder: str, figures: dict, peer: dict | None
) -> dict:
    task = cell | {
        "folder": folder,
        "warm": f"{folder}/warm",
        "pool": args.pool,
        "width": args.width,
        "labeled": args.labeled,
        "passes": args.passes,
        "memory": args.memory,
        "threads": args.threads,
        "rounds": args.rounds if peer or cell["contestant"] == "alhpo" else 1,
    }
    if reason := foretold(task, figures, args.limit):
        return {"skipped": reason}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    if peer:
        return {"load_before": load} | in_own_environment(task, peer, args.limit)
    return {"load_before": load} | in_own_process(task, args.limit)


def agreement(row: dict, ours: list[int] | None, theirs: list[int] | None) -> bool | None:
    """Whether a peer of the same definition made the same picks; None where there is none."""
    strategy, contestant = row["strategy"], row["contestant"]
    package = contestant.partition(" ")[0]
    other = package == "scikit-activeml" and strategy not in SAME
    other = other or (package == "dal-toolbox" and strategy not in DAL_TOOLBOX)
    if contestant == "alhpo" or ours is None or other or strategy == "kmeans":
        return None
    return ours == theirs


def write(path: Path, machine: dict, figures: dict[str, dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "figures": list(figures.values())}
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main(parser.parse_args())
