"""Tables and figure of the races that ``hpo.py`` ran."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Epochs after which the regret is recorded.
MARKS = (25, 50, 100, 200, 400)
#: TPE is not among them: it proposes configurations of its own, which a table does not have.
OPTIMIZERS = ("dyhpo", "hpo4dl-dyhpo", "asha", "hyperband", "one-epoch", "random")


def read_cells(path: Path) -> list[dict]:
    """The longest race of each cell."""
    longest: dict[tuple, dict] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        one = json.loads(line)
        key = (one["task"], one["optimizer"], one["seed"])
        if key not in longest or one["budget"] >= longest[key]["budget"]:
            longest[key] = one
    return list(longest.values())


def is_digits(task: str) -> bool:
    return task.startswith("digits")


def families(cells: list[dict]) -> Iterator[tuple[str, list[dict]]]:
    yield "ResNet-18 on digits", [one for one in cells if is_digits(one["task"])]
    yield "TaskSet", [one for one in cells if not is_digits(one["task"])]


def report(cells: list[dict]) -> dict[str, Any]:
    """Print the tables of each family of tasks; the figures in them."""
    summary: dict[str, Any] = {}
    for family, some in families(cells):
        found = {one["optimizer"] for one in some}
        rivals = sorted(found.difference(OPTIMIZERS))
        regrets = {name: _regrets(some, name) for name in (*OPTIMIZERS, *rivals) if name in found}
        if not found:
            continue
        means = {name: _figures(values) for name, values in regrets.items()}
        print(f"\n{family}: mean normalised regret ± 95 % (races)\n")
        print("| optimizer | " + " | ".join(f"{mark} epochs" for mark in MARKS) + " | ms a step |")
        print("|---|" + "---|" * (len(MARKS) + 1))
        for name, figures in means.items():
            own = [one for one in some if one["optimizer"] == name]
            cost = sum(one["seconds"] for one in own) / sum(one["suggestions"] for one in own)
            print(f"| {name} | " + _row(figures, "") + f" | {1000 * cost:.1f} |")
        summary[family] = means
        if "dyhpo" in regrets:
            summary[f"{family}, differences"] = _differences(family, regrets)
    return summary


#: Regret by mark, task and seed.
Regrets = dict[int, dict[tuple[str, int], float]]


def _differences(family: str, regrets: dict[str, Regrets]) -> dict[str, Any]:
    """Print by how much the regret of others is above dyhpo's in the races that both ran."""
    print(f"\n{family}: regret minus that of dyhpo, mean ± 95 % (pairs of task and seed)\n")
    print("| optimizer | " + " | ".join(f"{mark} epochs" for mark in MARKS) + " |")
    print("|---|" + "---|" * len(MARKS))
    summary = {}
    own = regrets["dyhpo"]
    for name, values in regrets.items():
        if name == "dyhpo":
            continue
        pairs: Regrets = {
            mark: {key: by_race[key] - own[mark][key] for key in by_race if key in own[mark]}
            for mark, by_race in values.items()
        }
        summary[name] = _figures(pairs)
        print(f"| {name} | " + _row(summary[name], "+") + " |")
    return summary


def _regrets(cells: list[dict], optimizer: str) -> Regrets:
    return {
        mark: {
            (one["task"], one["seed"]): one["regret"][str(mark)]
            for one in cells
            if one["optimizer"] == optimizer and str(mark) in one["regret"]
        }
        for mark in MARKS
    }


def _figures(regrets: Regrets) -> dict[str, dict[str, float]]:
    return {str(mark): _figure(list(values.values())) for mark, values in regrets.items() if values}


def _figure(values: Sequence[float]) -> dict[str, float]:
    half = 1.96 * statistics.stdev(values) / len(values) ** 0.5 if values[1:] else 0.0
    return {"mean": statistics.mean(values), "half": half, "races": len(values)}


def _row(figures: dict[str, dict[str, float]], sign: str) -> str:
    return " | ".join(
        f"{one['mean']:{sign}.4f} ± {one['half']:.4f} ({one['races']})" if one else ""
        for one in (figures.get(str(mark)) for mark in MARKS)
    )


def draw(summary: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    means = {family: one for family, one in summary.items() if "differences" not in family}
    figure = Figure(figsize=(4.5 * len(means) + 2, 4), layout="constrained")
    axes = figure.subplots(1, len(means), squeeze=False)[0]
    for axis, (family, optimizers) in zip(axes, means.items(), strict=True):
        for place, (optimizer, marks) in enumerate(optimizers.items()):
            x = [int(mark) for mark in marks]
            mean = np.array([one["mean"] for one in marks.values()])
            half = np.array([one["half"] for one in marks.values()])
            own = optimizer == "dyhpo"
            color, width = ("black", 2.5) if own else (f"C{place - 1}", 1.2)
            axis.plot(x, mean, color=color, marker="o", markersize=3, lw=width, label=optimizer)
            lower = np.maximum(mean - half, 1e-3)
            axis.fill_between(x, lower, mean + half, color=color, alpha=0.15 if own else 0.05)
        axis.set(title=family, xlabel="epochs", ylabel="normalised regret", xscale="log")
        axis.set(yscale="log", ylim=(1e-3, 1))
        shown = sorted({int(mark) for marks in optimizers.values() for mark in marks})
        axis.set_xticks(shown, [str(mark) for mark in shown])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
