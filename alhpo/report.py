"""What the runs of a folder found: read, averaged over seeds, as tables and a figure.

It only reads files: ``config.yaml``, ``cycles.jsonl`` and the presence of ``run.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table as ConsoleTable

from alhpo.figures import learning_curves
from alhpo.files import Journal, content_hash, write_text
from alhpo.types import DataError

# Runs that differ only in these are repetitions of each other.
REPETITION_KEYS = frozenset(
    {"seed", "output", "output_dir", "output_path", "output_folder", "storage_dir", "storage_path"}
)
REQUIRED_KEYS = ("dataset", "model", "strategy", "hpo", "seed")
SPENT = ["epochs_hpo", "epochs_fit", "seconds"]
MOST_LABEL_COLUMNS = 8


def load_runs(folder: str | Path) -> pd.DataFrame:
    """Read every run under ``folder``, itself included: one row per record of a run.

    Returns:
        ``run`` (path below ``folder``), ``finished``, ``seed``, ``group`` (identity of all settings
        but seed and output location), ``settings`` (those settings, flat), ``dataset``, ``model``,
        ``strategy``, ``hpo``, ``mode`` (HPO mode and optimizer), ``kind``, ``cycle``,
        ``n_labeled``, ``test_accuracy``, ``test_nll``, ``validation_accuracy``,
        ``validation_nll``, ``epochs_hpo``, ``epochs_fit``, ``seconds``, ``configuration``.

    Raises:
        DataError: no run with a complete cycle, or a run that cannot be read.
    """
    folder = Path(folder)
    runs = _run_folders(folder)
    rows = [row for run in runs for row in _read_run(run, _name(run, folder))]
    if not rows:
        raise DataError(
            f"No results under {folder}: {len(runs)} run folders (config.yaml and cycles.jsonl), "
            "none with a complete cycle. Give a run's folder, or one that holds runs."
        )
    return pd.DataFrame(rows)


def repeated_runs(runs: pd.DataFrame) -> list[str]:
    """Runs with the settings and the seed of another, such as copies; ``summarise`` skips them.

    Of each such set the run that is finished, else has most records, else comes first stays.
    """
    one_per_run = runs.groupby("run", sort=True).agg(
        group=("group", "first"),
        seed=("seed", "first"),
        finished=("finished", "first"),
        records=("kind", "size"),
    )
    ranked = one_per_run.sort_values(["finished", "records"], ascending=False, kind="stable")
    return sorted(ranked.index[ranked.duplicated(["group", "seed"])])


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds: one row per group of equal settings, kind and number of labels.

    Seeds that stopped early count where they have a record; ``seeds`` says how many did. Where
    groups share strategy and HPO mode, ``mode`` and ``label`` name the settings that tell them
    apart. Standard deviations have n − 1 in the denominator and are NaN for one seed; a value that
    is NaN for a seed makes the mean NaN.

    Args:
        runs: what ``load_runs`` returns.

    Returns:
        ``dataset``, ``model``, ``strategy``, ``mode``, ``label``, ``group``, ``kind``,
        ``n_labeled``, ``seeds``, ``accuracy_mean``, ``accuracy_std``, ``nll_mean``, ``nll_std``,
        the means of what was spent until then (``epochs_hpo``, ``epochs_fit``, ``seconds``),
        ``auc`` (area under the group's mean curve over its range of labels) and ``auc_std`` (over
        the seeds with the whole curve).
    """
    runs = runs[~runs["run"].isin(repeated_runs(runs))]
    runs = runs.assign(**{name: runs.groupby("run")[name].cumsum() for name in SPENT})
    modes = _distinguishing_modes(runs)
    rows: list[dict[str, Any]] = []
    for group, records in runs.groupby("group", sort=False):
        shared: dict[str, Any] = {
            name: records[name].iloc[0] for name in ("dataset", "model", "strategy")
        }
        shared["mode"] = modes[str(group)]
        shared |= {"label": f"{shared['strategy']}, {shared['mode']}", "group": group}
        auc, auc_std = _areas(records[records["kind"] == "cycle"])
        for (kind, n_labeled), seeds in records.groupby(["kind", "n_labeled"]):
            row = {**shared, "kind": kind, "n_labeled": n_labeled, "seeds": len(seeds)}
            for name in ("accuracy", "nll"):
                row[f"{name}_mean"] = seeds[f"test_{name}"].mean(skipna=False)
                row[f"{name}_std"] = seeds[f"test_{name}"].std(ddof=1, skipna=False)
            rows.append(row | {name: seeds[name].mean() for name in SPENT})
            rows[-1] |= {"auc": auc, "auc_std": auc_std}
    rows.sort(key=_reading_order)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; ``best`` holds the (row, column) of the cells to stress."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]
    note: str = ""

    def to_markdown(self) -> str:
        cells = [
            [f"**{cell}**" if (i, j) in self.best else cell for j, cell in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [
            "| " + " | ".join(text.replace("|", r"\|") for text in line) + " |"
            for line in [self.columns, rule, *cells]
        ]
        return "\n".join([f"### {self.title}", "", *lines, *(["", self.note] if self.note else [])])

    def to_console(self) -> ConsoleTable:
        table = ConsoleTable(title=escape(self.title), caption=escape(self.note) or None)
        for j, name in enumerate(self.columns):
            table.add_column(escape(name), justify="right" if j else "left")
        for i, row in enumerate(self.rows):
            texts = (escape(cell) for cell in row)
            table.add_row(
                *(f"[bold]{t}[/bold]" if (i, j) in self.best else t for j, t in enumerate(texts))
            )
        return table


@dataclass(frozen=True)
class Report:
    """The files of a report and what they say.

    Attributes:
        markdown: the tables.
        csv: the summary, one row per group, kind and number of labels.
        figure: the learning curves.
        summary: see ``summarise``.
        tables: accuracies and costs of each data set and model.
        remarks: runs that are unfinished, empty or repeated.
    """

    markdown: Path
    csv: Path
    figure: Path
    summary: pd.DataFrame
    tables: tuple[Table, ...]
    remarks: tuple[str, ...]

    def to_console(self, console: Console) -> None:
        """Print the tables, the remarks, and where the files are."""
        for table in self.tables:
            console.print(table.to_console())
        for line in (*self.remarks, *map(str, (self.markdown, self.csv, self.figure))):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_report(folder: str | Path, output: str | Path | None = None) -> Report:
    """Write ``report.md``, ``report.csv`` and ``learning_curves.png`` on the runs of a folder.

    Args:
        folder: a run, or a folder with runs at any depth.
        output: where to write, by default ``folder``.

    Raises:
        DataError: see ``load_runs``.
    """
    folder = Path(folder)
    output = folder if output is None else Path(output)
    runs = load_runs(folder)
    summary = summarise(runs)
    tables: list[Table] = []
    for (dataset, model), part in summary.groupby(["dataset", "model"], sort=False):
        tables.append(_accuracy_table(f"{dataset}, {model}: test accuracy (%)", part, runs))
        tables.append(_cost_table(f"{dataset}, {model}: area under the curve and cost", part, runs))
    report = Report(
        markdown=output / "report.md",
        csv=output / "report.csv",
        figure=output / "learning_curves.png",
        summary=summary,
        tables=tuple(tables),
        remarks=tuple(_remarks(folder, runs)),
    )
    learning_curves(summary, report.figure)
    write_text(report.csv, summary.to_csv(index=False, lineterminator="\n"))
    text = [
        "# Report",
        f"{runs['run'].nunique()} runs. Means ± standard deviations (n − 1) over seeds; cells of "
        "fewer seeds than their row's most say so, those of one seed have no deviation. Bold: the "
        "best mean of a column.",
        f"![Learning curves]({report.figure.name})",
        *(table.to_markdown() for table in tables),
        *(
            ["## Remarks\n\n" + "\n".join(f"- {line}" for line in report.remarks)]
            * bool(report.remarks)
        ),
    ]
    write_text(report.markdown, "\n\n".join(text) + "\n")
    return report


def _accuracy_table(title: str, part: pd.DataFrame, runs: pd.DataFrame) -> Table:
    counts = np.unique(part["n_labeled"])
    if len(counts) > MOST_LABEL_COLUMNS:
        counts = counts[np.linspace(0, len(counts) - 1, MOST_LABEL_COLUMNS).round().astype(int)]
    columns = [("cycle", n) for n in counts]
    columns += [("final", n) for n in np.unique(part["n_labeled"][part["kind"] == "final"])]
    rows: list[tuple[str, ...]] = []
    means = np.full((part["group"].nunique(), len(columns)), np.nan)
    for i, (_, group) in enumerate(part.groupby("group", sort=False)):
        records = {(row["kind"], row["n_labeled"]): row for row in group.to_dict("records")}
        cells = [group["label"].iloc[0]]
        for j, column in enumerate(columns):
            row = records.get(column)
            cells.append(_percent(row, "accuracy", group["seeds"].max()) if row else "–")
            means[i, j] = 100 * row["accuracy_mean"] if row else np.nan
        rows.append(tuple(cells))
    best = {(i, j + 1) for j in range(len(columns)) for i in _highest(means[:, j])}
    names = [f"{n}" if kind == "cycle" else f"{n}, retrained" for kind, n in columns]
    settings = [_settings(runs, group) for group in dict.fromkeys(part["group"])]
    varying = sorted(_varying(settings) - {"strategy", "hpo", "optimizer"})
    note = f"These rows differ also in: {', '.join(varying)}." if varying else ""
    return Table(title, ("strategy, HPO \\ labels", *names), tuple(rows), frozenset(best), note)


def _cost_table(title: str, part: pd.DataFrame, runs: pd.DataFrame) -> Table:
    rows: list[tuple[str, ...]] = []
    ranges: list[str] = []
    areas: list[float] = []
    for group, records in part.groupby("group", sort=False):
        last = records.to_dict("records")[-1]
        of_group = runs[(runs["group"] == group) & ~runs["run"].isin(repeated_runs(runs))]
        unfinished = of_group["run"][~of_group["finished"]].nunique()
        low, high = records["seeds"].min(), records["seeds"].max()
        seeds = f"{high}" if low == high else f"{low} to {high}"
        ranges.append(f"{records['n_labeled'].min()} to {records['n_labeled'].max()}")
        areas.append(100 * last["auc"])
        rows.append(
            (
                last["label"],
                _percent(last | {"auc_mean": last["auc"]}, "auc", last["seeds"]),
                ranges[-1],
                _number(last["nll_mean"], ".3f") + _number(last["nll_std"], ".3f", " ± "),
                *(f"{last[name]:,.0f}" for name in SPENT),
                seeds + (f" ({unfinished} unfinished)" if unfinished else ""),
            )
        )
    comparable = len(set(ranges)) == 1
    best = {(i, 1) for i in _highest(areas)} if comparable else set()
    names = ("AUC (%)", "over labels", "last NLL", "HPO epochs", "fit epochs", "seconds", "seeds")
    note = "" if comparable else "Areas over different ranges of labels do not compare."
    return Table(title, ("strategy, HPO", *names), tuple(rows), frozenset(best), note)


def _remarks(folder: Path, runs: pd.DataFrame) -> Iterable[str]:
    for run, records in runs[~runs["finished"]].groupby("run"):
        yield (
            f"{run} (seed {records['seed'].iloc[0]}) is unfinished: {len(records)} records, "
            f"{records['n_labeled'].max()} of {records['settings'].iloc[0].get('budget', '?')} "
            "labels."
        )
    for run in sorted({_name(run, folder) for run in _run_folders(folder)} - set(runs["run"])):
        yield f"{run} has no complete cycle yet and is in no table."
    for run in repeated_runs(runs):
        yield f"{run} has the settings and seed of another run and is in no table."


def _run_folders(folder: Path) -> list[Path]:
    journals = sorted(folder.rglob("cycles.jsonl"))
    return [path.parent for path in journals if (path.parent / "config.yaml").exists()]


def _name(run: Path, folder: Path) -> str:
    return folder.resolve().name if run == folder else run.relative_to(folder).as_posix()


def _read_run(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not YAML: {error}") from error
    missing = [key for key in REQUIRED_KEYS if not isinstance(config, dict) or key not in config]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; a run's configuration names them all.")
    settings = _flat({k: v for k, v in config.items() if k not in REPETITION_KEYS})
    hpo = str(config["hpo"])
    shared = {
        "run": name,
        "finished": (folder / "run.json").exists(),
        "seed": config["seed"],
        "group": content_hash(json.dumps(settings, sort_keys=True, default=str)),
        "settings": settings,
        **{key: str(config[key]) for key in ("dataset", "model", "strategy")},
        "hpo": hpo,
        "mode": hpo if hpo == "fixed" else f"{hpo} {config.get('optimizer', '')}".strip(),
    }
    return [
        shared | _read_record(record, folder / "cycles.jsonl", line)
        for line, record in enumerate(Journal(folder / "cycles.jsonl").read(), start=1)
    ]


def _read_record(record: Any, path: Path, line: int) -> dict[str, Any]:
    try:
        return {
            **{name: record[name] for name in ("kind", "cycle", "n_labeled", "configuration")},
            **{
                f"{split}_{name}": _float((record[split] or {}).get(name))
                for split in ("test", "validation")
                for name in ("accuracy", "nll")
            },
            **{f"epochs_{name}": int(record["epochs"].get(name, 0)) for name in ("hpo", "fit")},
            "seconds": float(sum(record["seconds"].values())),
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}, line {line} is no record of a cycle: {error!r}") from error


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; 1.0 and 1 are the same setting."""
    if isinstance(value, Mapping) and value:
        inner = ((f"{name}.{key}" if name else str(key), item) for key, item in value.items())
        return {key: leaf for path, item in inner for key, leaf in _flat(item, path).items()}
    return {name: int(value) if isinstance(value, float) and value.is_integer() else value}


def _varying(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of the settings that are not the same in all."""
    names = {name for one in settings for name in one}
    return {name for name in names if len({_text(one, name) for one in settings}) > 1}


def _text(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name, "unset")
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _settings(runs: pd.DataFrame, group: str) -> dict[str, Any]:
    return runs["settings"][runs["group"] == group].iloc[0]


def _distinguishing_modes(runs: pd.DataFrame) -> dict[str, str]:
    """The mode of each group, with the settings that tell it from others of the same name."""
    modes = {}
    for _, part in runs.groupby(["dataset", "model", "strategy", "mode"], sort=False):
        groups = {group: _settings(runs, group) for group in dict.fromkeys(part["group"])}
        varying = sorted(_varying(list(groups.values())))
        for group, settings in groups.items():
            extra = [f"{name}={_text(settings, name)}" for name in varying]
            modes[group] = ", ".join([part["mode"].iloc[0], *extra])
    return modes


def _areas(records: pd.DataFrame) -> tuple[float, float]:
    """Area under the mean curve over its range of labels, and its deviation over whole seeds."""
    curves = records.pivot_table(
        index="n_labeled", columns="run", values="test_accuracy", dropna=False
    ).sort_index()
    labels = curves.index.to_numpy(float)
    if len(labels) < 2:
        return np.nan, np.nan
    whole = [_area(labels, curves[run].to_numpy()) for run in curves if curves[run].notna().all()]
    return _area(labels, curves.mean(axis=1).to_numpy()), float(pd.Series(whole).std(ddof=1))


def _area(labels: np.ndarray, values: np.ndarray) -> float:
    return float(
        np.sum(np.diff(labels) * (values[1:] + values[:-1]) / 2) / (labels[-1] - labels[0])
    )


def _reading_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Baselines first: random before other strategies, fixed HPs before tuned ones."""
    strategy, mode = row["strategy"], row["mode"]
    baseline = (strategy != "random", strategy, not mode.startswith("fixed"), mode)
    return (row["dataset"], row["model"], *baseline, row["kind"], row["n_labeled"])


def _highest(values: Iterable[float]) -> list[int]:
    """Indices of the largest value as printed, where there are at least two to compare."""
    rounded = np.round(np.asarray(list(values), dtype=float), 2)
    if np.isfinite(rounded).sum() < 2:
        return []
    return [int(i) for i in np.flatnonzero(rounded == np.nanmax(rounded))]


def _percent(row: Mapping[str, Any], name: str, most_seeds: int) -> str:
    text = _number(100 * row[f"{name}_mean"], ".2f") + _number(
        100 * row[f"{name}_std"], ".2f", " ± "
    )
    return text if row["seeds"] == most_seeds else f"{text} (n={row['seeds']})"


def _number(value: float, form: str, before: str = "") -> str:
    if np.isfinite(value):
        return f"{before}{value:{form}}"
    return "" if before else "–"


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)
