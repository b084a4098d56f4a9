"""The published tables of Huseljic et al. (2023), and a study beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from alhpo.base.files import Journal
from alhpo.base.schema import unknown_name
from alhpo.hyperparameters import Hyperparameters
from alhpo.reports import statistics
from alhpo.reports.formats import Table, Value, measured
from alhpo.reports.part import Part, joined, parts
from alhpo.reports.results import ACTIVE, StudyResults
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.studies.config import Cell, expand, load_study

FOLDER = resources.files("alhpo.reports") / "published"

#: Settings that change what is measured, in the order in which differences are told.
DATA = ["train_split", "val_split", "image_size"]
MODEL = ["model", "pretrained", "init", "cifar_stem", "input_size", "dropout"]
RUN = ["initial_size", "acquisition_size", "budget", "query_subset", "start", "max_epochs"]
TUNE = ["model", "max_epochs", "optimizer", "space", "validation", "metric"]
#: What the published settings vary.
VARIED = {"lr", "weight_decay"}


@dataclass(frozen=True)
class Comparison:
    """A study beside published tables.

    Attributes:
        source: where they were published.
        tables: one per data set, model, published table and its number of labels.
        differences: what differs from the published protocol, a sentence each.
    """

    source: str
    tables: tuple[Table, ...]
    differences: tuple[str, ...]


def published_names() -> list[str]:
    """What there are published tables of: cifar10, cifar100."""
    return list(_sources()["tables"])


def published_tables(which: str) -> pd.DataFrame:
    """All published numbers on a data set.

    Returns:
        One row per number: ``source`` ("paper" or "repository"), ``dataset``, ``labels``,
        ``strategy`` (as it is called here), ``setting``, ``lr``, ``weight_decay``, ``column`` ("AL"
        or "BO"), ``mean`` and ``std`` (per cent), ``n`` (repetitions; NaN where it is not said).

    Raises:
        ConfigurationError: there are none of this name.
    """
    if which not in published_names():
        raise unknown_name("published tables", which, published_names())
    frames = []
    for name in _sources()["tables"][which]:
        with (FOLDER / f"{name}.csv").open(encoding="utf-8") as file:
            frames.append(pd.read_csv(file))
    return pd.concat(frames, ignore_index=True)


def compare_published(results: StudyResults, which: str) -> Comparison:
    """A study's accuracies beside the published ones, and how the protocols differ.

    Numbers are matched by strategy, lr and weight_decay, whatever the settings are called, and by
    the number of labels, the nearest where it is not equal.

    Args:
        results: of the study; without a data set of that name in it, all of it is compared.
        which: one of ``published_names``.

    Raises:
        ConfigurationError: there are no published tables of this name.
    """
    rows: list[dict[str, Any]] = published_tables(which).to_dict("records")  # pyright: ignore[reportAssignmentType]
    every = parts(results)
    same = [part for part in every if _plain(part.dataset).endswith(which)]
    tables: list[Table] = []
    for part in same or every:
        for source in dict.fromkeys(row["source"] for row in rows):
            there = [row for row in rows if row["source"] == source]
            tables += _beside(part, source, there)
    links = {about["url"] for about in _sources()["sources"].values()}
    return Comparison(
        source=f"{_sources()['citation']}; {', '.join(sorted(links))}",
        tables=tuple(tables),
        differences=(
            *_differences(results, which, [part.dataset for part in same or every]),
            *_sources()["remarks"],
        ),
    )


@cache
def _sources() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "sources.yaml").read_text(encoding="utf-8"))


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _beside(part: Part, source: str, published: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table per number of labels that was published, unless another is nearer to what the
    study has."""
    active = {row["n_labeled"] for row in part.outcomes if row["column"] == ACTIVE}
    if not active:
        return []
    stages = sorted({row["labels"] for row in published if row["column"] == "BO"})
    ours: dict[int, int] = {}
    for stage in stages:
        nearest = _nearest(active, stage)
        if nearest not in ours or abs(nearest - stage) < abs(nearest - ours[nearest]):
            ours[nearest] = stage
    tables = [_stage(part, source, published, stage) for stage in sorted(ours.values())]
    return [table for table in tables if table is not None]


def _stage(
    part: Part, source: str, published: Sequence[Mapping[str, Any]], stage: int
) -> Table | None:
    """The table at one published number of labels, of which AL may be one cycle later."""
    labels: dict[str, tuple[int, int]] = {}
    for kind in dict.fromkeys(row["column"] for row in part.outcomes):
        theirs = min(
            (row["labels"] for row in published if row["column"] == _column(kind)),
            key=lambda n: abs(n - stage),
        )
        have = {row["n_labeled"] for row in part.outcomes if row["column"] == kind}
        n = _nearest(have, theirs)
        every = {row["labels"] for row in published if row["column"] == _column(kind)}
        if _nearest(every, n) == theirs:  # else it belongs beside another stage
            labels[kind] = n, theirs
    rows: list[str] = []
    values: list[tuple[Value, ...]] = []
    for strategy, setting, config in _fixed(part):
        hp = Hyperparameters.create(config.hyperparameters)
        found = {
            row["column"]: row
            for row in published
            if row["strategy"] == config.strategy
            and math.isclose(row["lr"], hp.lr)
            and math.isclose(row["weight_decay"], hp.weight_decay)
            and row["labels"] in [theirs for _, theirs in labels.values()]
        }
        if found:
            row: list[Value] = []
            for kind, (n, _) in labels.items():
                mine = part.values(strategy, (setting, kind), n, "accuracy")
                row += _compared([100 * x for x in mine.values()], found.get(_column(kind)))
            rows.append(joined((strategy, setting)))
            values.append(tuple(row))
    if not rows:
        return None
    other = [
        f"{kind} here has {n:,} labels, published {theirs:,}."
        for kind, (n, theirs) in labels.items()
        if n != theirs
    ]
    deviations = [v.value for row in values for v in row[3::4] if math.isfinite(v.value)]
    near = sum(abs(value) <= 2 for value in deviations)
    count = f"{near} of {len(deviations)} lie within 2." if deviations else ""
    about = _sources()["sources"][source]
    slug = "-".join([part.dataset.replace("/", "-"), part.model])
    names = ("here", "published", "difference", "in deviations")
    return Table(
        key=f"published-{source}-{slug}-{stage}",
        title=f"{part.title}: beside {about['title']} at {stage:,} labels, test accuracy (%)",
        corner="strategy, setting",
        columns=tuple((kind, name) for kind in labels for name in names),
        rows=tuple(rows),
        values=tuple(values),
        note=" ".join(
            [
                "Means ± standard deviations. Difference: here minus published, in percentage "
                "points, and divided by √(s² here + s² published), about ±1 for two single "
                "repetitions of one experiment; none without both deviations.",
                *filter(None, [count, *other, *about["remarks"]]),
            ]
        ),
    )


def _compared(ours: Sequence[float], theirs: Mapping[str, Any] | None) -> list[Value]:
    """Here, published, difference, difference in deviations."""
    one = statistics.summary(ours)
    here = measured(*one)
    if theirs is None:
        return [here, Value(), Value(), Value()]
    mean, std, n = float(theirs["mean"]), float(theirs["std"]), theirs["n"]
    scaled = statistics.difference_in_deviations(one.mean, one.std, mean, std)
    return [
        here,
        measured(mean, std, 0 if math.isnan(n) else int(n)),
        measured(one.mean - mean, n=one.n, sign="+"),
        measured(scaled, n=one.n, digits=1, sign="+"),
    ]


def _column(kind: str) -> str:
    return ACTIVE if kind == ACTIVE else "BO"


def _nearest(numbers: Iterable[int], target: int) -> int:
    return min(sorted(numbers), key=lambda n: abs(n - target))


def _fixed(part: Part) -> list[tuple[str, str, RunConfig]]:
    """Strategies and settings whose hyperparameters stay the same during active learning."""
    found: dict[tuple[str, str], RunConfig] = {}
    for row in part.expected:
        config = part.results.run_of(row["cell"])
        if not config.search_cycles:
            found.setdefault((row["strategy"], row["setting"]), config)
    return [(*place, config) for place, config in found.items()]


def _differences(results: StudyResults, which: str, datasets: Sequence[str]) -> list[str]:
    """How the study's settings differ from the published protocol, which ships as a study."""
    protocol = expand(load_study(f"paper-{which}"))
    here = {
        int(cell)
        for cell, name in zip(results.expected["cell"], results.expected["dataset"], strict=True)
        if name in datasets
    }
    cells = [one.cell for one in results.cells if one.cell.index in here]
    runs = [cell.config for cell in cells if isinstance(cell.config, RunConfig)]
    tunings = [cell.config for cell in cells if isinstance(cell.config, TuneConfig)]
    their_run = next(c.config for c in protocol if isinstance(c.config, RunConfig))
    their_tuning = next(c.config for c in protocol if isinstance(c.config, TuneConfig))
    lines = _data_differences(cells, their_run)
    for name in [*DATA, *MODEL, *RUN, "hpo"]:
        if name != "cifar_stem" or any(run.cifar_stem is False for run in runs):
            lines += _differs(name, [getattr(run, name) for run in runs], getattr(their_run, name))
    lines += _hyperparameter_differences(runs, their_run)
    published = published_tables(which)
    missing = set(published["strategy"]) - {run.strategy for run in runs}
    if missing:
        lines.append(f"Strategies that were published but are not here: {_list(sorted(missing))}.")
    seeds = {run.seed for run in runs}
    lines += _differs("repetitions", [len(seeds)], _sources()["data"]["repetitions"])
    lines += _tuning_differences(runs, tunings, their_tuning)
    precisions = {
        session.get("precision")
        for cell in cells
        for session in Journal(cell.path / "sessions.jsonl").read()
    }
    if "bfloat16" in precisions:
        lines.append("precision: bfloat16 at least in part; published with float32.")
    return lines


def _data_differences(cells: Sequence[Cell], theirs: RunConfig) -> list[str]:
    lines = []
    if others := sorted({cell.config.dataset for cell in cells} - {theirs.dataset}):
        files = [name for name in others if name[0] in "/~."]
        names = [Path(name).name if name in files else name for name in others]
        pixels = " Image files, above all JPEG, can hold other pixels than the original arrays."
        lines.append(
            f"Data: {_list(names)} here, {theirs.dataset} published.{pixels if files else ''}"
        )
    known = _sources()["data"]
    sizes: dict[str, list[Any]] = {"pool": [], "evaluation": [], "shape": []}
    for cell in cells:
        file = cell.path / "dataset.json"
        if file.exists():
            content = json.loads(file.read_text(encoding="utf-8"))
            sizes["pool"].append(content["images"][0])
            sizes["shape"].append(content["images"][1:])
            sizes["evaluation"].append(content["eval_images"][0])
    if not sizes["pool"]:
        sizes["pool"] = [cell.config.pool_size for cell in cells if cell.config.pool_size]
        sizes["evaluation"] = [cell.config.eval_size for cell in cells if cell.config.eval_size]
    titles = {"pool": "images in the pool", "evaluation": "evaluation images", "shape": "pixels"}
    for name, title in titles.items():
        lines += _differs(title, sizes[name], known[name]) if sizes[name] else []
    return lines


def _hyperparameter_differences(runs: Sequence[RunConfig], theirs: RunConfig) -> list[str]:
    published = Hyperparameters.create(theirs.hyperparameters).model_dump(exclude=VARIED)
    ours = [Hyperparameters.create(run.hyperparameters).model_dump() for run in runs]
    lines = []
    for name, value in published.items():
        lines += _differs(name, [one[name] for one in ours], value)
    return lines


def _tuning_differences(
    runs: Sequence[RunConfig], tunings: Sequence[TuneConfig], theirs: TuneConfig
) -> list[str]:
    if not tunings:
        return ["Labelled pools are not tuned here; published with a search on each."]
    lines = []
    for name in TUNE:
        ours = [getattr(tuning, name) for tuning in tunings]
        if name in ("model", "max_epochs") and set(ours) <= {getattr(run, name) for run in runs}:
            continue  # told of the runs
        lines += _differs(f"tuning, {name}", ours, getattr(theirs, name))
    trials = [tuning.max_budget / tuning.max_epochs for tuning in tunings]
    lines += _differs(
        "tuning, budget in full trainings",
        [round(number, 1) for number in trials],
        theirs.max_budget / theirs.max_epochs,
    )
    return lines


def _differs(name: str, ours: Sequence[Any], theirs: Any) -> list[str]:
    """A sentence where not all of ours are the same as theirs."""
    if not ours or all(value == theirs for value in ours):
        return []
    return [f"{name}: {_list(map(_text, ours))} here, {_text(theirs)} published."]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "×".join(map(str, value))
    if isinstance(value, int | float):
        return f"{value:,.10g}"
    return "unset" if value is None else str(value)


def _list(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
