"""The figures of a study's report, drawn without touching matplotlib's global state."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from alhpo.figures import COLOURS, DASHES, MARKERS, MOST_MARKERS, bare, finish, plain, star
from alhpo.studies.report.rendering import StudyTable
from alhpo.studies.report.results import ACTIVE, StudyResults
from alhpo.studies.report.statistics import spearman, summary
from alhpo.studies.report.tables import FEWEST_TRIALS

#: A pandas frame; its stubs do not know that rows of a frame are one.
Frame = Any

WIDTH = 7.4  # inches
PANEL = 2.55
SMALL = 8.5  # points
LONGEST = 40  # letters of a name
MOST_UPRIGHT = 9  # letters of a name below a column of a heat map


@dataclass(frozen=True)
class StudyFigure:
    """A figure of a report.

    Attributes:
        key: what it shows and of what, unique in a report: letters, digits, hyphens.
        title: in words.
        caption: how to read it.
        figure: as matplotlib has it.
        png: as it is shown, 200 pixels an inch.
    """

    key: str
    title: str
    caption: str
    figure: Figure
    png: bytes

    @property
    def width(self) -> int:
        """Pixels of CSS that it is best shown at."""
        return round(120 * self.figure.get_figwidth())


def study_figures(results: StudyResults, tables: Sequence[StudyTable] = ()) -> list[StudyFigure]:
    """All figures that the results allow, in the order of the report.

    Args:
        results: the study.
        tables: its tables; those of rank correlations are drawn too.
    """
    frames = [results.curves, results.tuned]
    parts = dict.fromkeys(
        names
        for frame in frames
        if len(frame)
        for names in frame[["dataset", "model"]].itertuples(index=False, name=None)
    )
    figures: list[StudyFigure] = []
    for names in parts:
        part = _Part(results, *names, named=len(parts) > 1)
        figures += part.figures()
    return [*figures, *_heat_maps(tables)]


class _Part:
    """The results on one data set with one model."""

    def __init__(self, results: StudyResults, dataset: str, model: str, *, named: bool) -> None:
        def of(frame: Frame) -> Frame:
            if not len(frame):
                return frame
            return frame[(frame["dataset"] == dataset) & (frame["model"] == model)]

        self.curves, self.tuned, self.trials = map(
            of, (results.curves, results.tuned, results.trials)
        )
        present = [frame for frame in (self.curves, self.tuned) if len(frame)]

        def order(column: str, names: Sequence[str]) -> list[str]:
            here = {name for frame in present for name in frame[column]}
            return [name for name in names if name in here]

        self.settings = order("setting", results.settings)
        self.strategies = order("strategy", results.strategies)
        tunings = set(self.tuned["tuning"]) if len(self.tuned) else set()
        self.tunings = [name for name in results.tunings if name in tunings]
        self._suffix = f", {dataset}, {model}" if named else ""
        self._seeds = self.curves["seed"].nunique() if len(self.curves) else 0

    def figures(self) -> Iterator[StudyFigure]:
        band = (
            f"Means over {self._seeds} seeds; bands are ± one standard deviation; hollow markers "
            "are means over fewer seeds."
            if self._seeds > 1
            else "One seed."
        )
        if len(self.curves) and self.curves["accuracy"].notna().any():
            finals = " Stars: retrained with what the last search found."
            band_and_finals = band + finals * bool((self.curves["kind"] == "final").any())
            several = len(self.settings) > 1
            if several:
                yield self._figure(
                    "curves-by-strategy",
                    "Learning curves of the hyperparameter settings",
                    f"A panel per strategy, a line per setting. {band_and_finals}",
                    self._panels("strategy", "setting"),
                )
            yield self._figure(
                "curves-by-setting",
                "Learning curves of the strategies",
                ("A panel per setting of the hyperparameters, a line" if several else "A line")
                + f" per strategy. {band_and_finals}",
                self._panels("setting", "strategy"),
            )
        if len(self.tuned) and self.tuned["accuracy"].notna().any():
            yield self._figure(
                "tuned",
                "Active learning and tuning afterwards",
                "Hollow: the model at the end of active learning with that many labels. Filled: "
                "the same labels after the tuning of the hyperparameters. Means over seeds; bars "
                "are ± one standard deviation.",
                self._dumbbells(),
            )
        measures = [
            (name, title)
            for name, title in (("ece", "ECE (%)"), ("brier", "Brier score"))
            if len(self.curves) and self.curves[name].notna().any()
        ]
        if measures:
            yield self._figure(
                "calibration",
                "Calibration",
                "Expected calibration error and Brier score on the evaluation split; lower is "
                f"better. {band}",
                self._calibration(measures),
            )
        trials = self.trials
        if len(trials) and trials[["metric", "test_accuracy"]].notna().all(axis=1).any():
            yield self._figure(
                "validation-and-test",
                "Validation and test of the configurations that were tuned over",
                "Every configuration that a tuning trained to the end: what the search saw, and "
                "the accuracy on the evaluation split, which no choice depends on. Ringed: the "
                "configurations chosen. ρ is Spearman's rank correlation within a search, its "
                "mean ± standard deviation over the searches. The grey line, if any, is equality.",
                self._scatter(),
            )
        if len(self.curves) and self.curves["epochs_fit"].notna().any():
            yield self._figure(
                "cost",
                "What was spent",
                "Training epochs and wall-clock time of one repetition, mean over seeds.",
                self._cost(),
            )

    def _figure(self, key: str, title: str, caption: str, figure: Figure) -> StudyFigure:
        suffix = "".join(c if c.isalnum() else "-" for c in self._suffix.lower().lstrip(", "))
        key = "-".join(filter(None, [key, "-".join(filter(None, suffix.split("-")))]))
        return finished(key, title + self._suffix, caption, figure)

    def _styles(self, column: str) -> dict[str, dict[str, Any]]:
        """Colour, marker and dashes of each setting or strategy, the same in all figures."""
        names = self.settings if column == "setting" else self.strategies
        return {
            name: {
                "color": COLOURS[i % len(COLOURS)],
                "linestyle": DASHES[i // 4 % len(DASHES)],
                "marker": MARKERS[i % len(MARKERS)],
                "markersize": 4.5,
                "markeredgecolor": "white",
                "markeredgewidth": 0.5,
                "linewidth": 1.5,
                "zorder": 3 - i / 100,
            }
            for i, name in enumerate(names)
        }

    def _legend(self, figure: Figure, styles: dict[str, dict[str, Any]]) -> None:
        handles = [Line2D([], [], label=_name(n or "all"), **s) for n, s in styles.items()]
        if len(handles) > 1:
            legend(figure, handles)

    def _panels(self, panel: str, line: str) -> Figure:
        names = self.strategies if panel == "strategy" else self.settings
        styles = self._styles(line)
        figure, grid = _grid(len(names))
        for axes, name in zip(grid, names, strict=True):
            rows = self.curves[self.curves[panel] == name]
            for other, style in styles.items():
                part = rows[rows[line] == other]
                _curve(axes, part, "accuracy", 100.0, style, other, self._seeds)
            axes.set_title(_name(name), fontsize=9.5, loc="left", weight="bold")
            finish(axes, np.unique(self.curves["n_labeled"]))
            axes.label_outer()
        _within(grid[0], 0, 100)
        self._legend(figure, styles)
        return figure

    def _calibration(self, measures: Sequence[tuple[str, str]]) -> Figure:
        """A row per setting, a column per measure."""
        styles = self._styles("strategy")
        rows, columns = len(self.settings), len(measures)
        figure = _canvas(WIDTH, 0.5 + 2.1 * rows)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="col")
        for row, (line, setting) in enumerate(zip(grid, self.settings, strict=True), start=1):
            here = self.curves[self.curves["setting"] == setting]
            for axes, (name, title) in zip(line, measures, strict=True):
                for strategy, style in styles.items():
                    part = here[(here["strategy"] == strategy) & (here["kind"] == "cycle")]
                    if name == "ece":  # diverged training counts as the uniform prediction
                        part = part[~part["diverged"].astype(bool)]
                    scale = 100.0 if name == "ece" else 1.0
                    _curve(axes, part, name, scale, style, strategy, self._seeds)
                finish(axes, np.unique(self.curves["n_labeled"]), title)
                heading = ": ".join(filter(None, [setting, title]))
                axes.set_title(_name(heading), fontsize=9.5, loc="left", weight="bold")
                if row < rows:
                    axes.set_xlabel("")
        for axes in grid[0]:
            _within(axes, 0, None)
        self._legend(figure, styles)
        return figure

    def _dumbbells(self) -> Figure:
        budgets = sorted(self.tuned["n_labeled"].unique())
        colours = {name: s["color"] for name, s in self._styles("strategy").items()}
        slots: list[tuple[str, str | None]] = []
        for setting in self.settings:
            slots += [(setting, None)] * bool(setting)
            slots += [(setting, strategy) for strategy in self.strategies]
        columns = min(len(budgets), 2)
        rows = -(-len(budgets) // columns)
        figure = _canvas(WIDTH, rows * (0.9 + 0.19 * len(slots)) + 0.3)
        grid = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
        marks = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(self.tunings)}
        for axes, budget in zip(grid, budgets, strict=False):
            before = self.curves
            if len(before):
                before = before[(before["n_labeled"] == budget) & (before["kind"] == "cycle")]
            after = self.tuned[self.tuned["n_labeled"] == budget]
            for place, (setting, strategy) in enumerate(slots):
                if strategy is not None:
                    point = {"setting": setting, "strategy": strategy}
                    _dumbbell(axes, place, before, after, point, colours[strategy], marks)
            axes.set_title(f"{budget:,} labels", fontsize=9.5, loc="left", weight="bold")
            axes.set_xlabel("test accuracy (%)")
            bare(axes)
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
            axes.label_outer()
        for axes in grid[len(budgets) :]:
            axes.remove()
        names = [_name(setting if strategy is None else strategy) for setting, strategy in slots]
        grid[0].set_yticks(range(len(slots)), names)
        grid[0].set_ylim(len(slots) - 0.4, -0.6)
        for axes in grid[: len(budgets) : columns]:
            for (_, strategy), text in zip(slots, axes.get_yticklabels(), strict=True):
                text.set_fontweight("bold" if strategy is None else "normal")
        grey: dict[str, Any] = {"color": "0.35", "linestyle": "none"}
        handles = [Line2D([], [], **grey, marker="o", markerfacecolor="white", label=ACTIVE)]
        handles += [
            Line2D([], [], **grey, marker=mark, label=_name(name)) for name, mark in marks.items()
        ]
        legend(figure, handles)
        return figure

    def _scatter(self) -> Figure:
        trials = self.trials.dropna(subset=["test_accuracy"])
        groups = ["validation_scheme", "metric_name"]
        panels = list(trials.groupby(groups, sort=False))
        budgets = sorted(trials["n_labeled"].unique())
        figure, grid = _grid(len(panels), share=False, height=3.1)
        for axes, ((scheme, metric), rows) in zip(grid, panels, strict=True):
            for i, budget in enumerate(budgets):
                part = rows[rows["n_labeled"] == budget]
                chosen = part[part["selected"].astype(bool)]
                x, y = 100 * part["metric"], 100 * part["test_accuracy"]
                look: dict[str, Any] = {"s": 16, "color": COLOURS[1 + i % 6], "linewidth": 0}
                axes.scatter(x, y, **look, marker=MARKERS[i % len(MARKERS)], alpha=0.55)
                ring: dict[str, Any] = {"s": 42, "facecolor": "none", "linewidth": 0.8}
                x, y = 100 * chosen["metric"], 100 * chosen["test_accuracy"]
                axes.scatter(x, y, **ring, edgecolor="black", zorder=4)
            if metric == "accuracy":
                both = rows[["metric", "test_accuracy"]]
                low, high = 100 * both.min().max(), 100 * both.max().min()
                axes.plot([low, high], [low, high], color="0.6", linewidth=0.8, zorder=1)
            within = [
                spearman(search["metric"], search["test_accuracy"])
                for _, search in rows.groupby("cell", sort=False)
                if len(search) >= FEWEST_TRIALS
            ]
            rho = summary(within)
            spread = f" ± {rho.std:.2f}" if np.isfinite(rho.std) else ""
            agreement = f"ρ = {rho.mean:.2f}{spread}, " if rho.n else ""
            title = f"{scheme}\n{agreement}{len(rows):,} trials"
            axes.set_title(plain(title), fontsize=9, loc="left", weight="bold")
            axes.set_xlabel(f"validation {metric} (%)")
            axes.set_ylabel("test accuracy (%)")
            bare(axes)
        handles = [
            Line2D([], [], color=COLOURS[1 + i % 6], marker=MARKERS[i % len(MARKERS)],
                   linestyle="none", label=f"{budget:,} labels")
            for i, budget in enumerate(budgets)
        ]  # fmt: skip
        ring = {"marker": "o", "markerfacecolor": "none", "linestyle": "none"}
        legend(figure, [*handles, Line2D([], [], color="black", label="chosen", **ring)])
        return figure

    def _cost(self) -> Figure:
        """Stacked bars: active learning, then the tuning at each number of labels."""
        runs = self.curves.groupby("cell", sort=False).last()
        slots = list(itertools.product(self.settings, self.strategies))
        parts: list[tuple[str, Frame]] = [("active learning", runs)]
        if len(self.tuned):
            parts += [
                (f"{tuning} at {labels:,} labels", rows)
                for (labels, tuning), rows in sorted(
                    self.tuned.groupby(["n_labeled", "tuning"]),
                    key=lambda part: (part[0][0], self.tunings.index(part[0][1])),
                )
            ]
        figure = _canvas(WIDTH, 1.1 + 0.19 * len(slots))
        left, right = figure.subplots(1, 2, sharey=True)
        long = max(float(rows["seconds"].max()) for _, rows in parts) > 2 * 3600
        unit, seconds = ("hours", 3600) if long else ("minutes", 60)
        for axes, quantity in ((left, "training epochs"), (right, unit)):
            start = np.zeros(len(slots))
            for i, (_, rows) in enumerate(parts):
                if axes is left:
                    spent = rows["epochs_hpo"].fillna(0) + rows["epochs_fit"]
                else:
                    spent = rows["seconds"] / seconds
                means = spent.groupby([rows["setting"], rows["strategy"]]).mean()
                width = np.array([np.nan_to_num(means.get(slot, 0.0)) for slot in slots], float)
                colour = ("#7A7A7A", *COLOURS[1:])[i % len(COLOURS)]
                axes.barh(range(len(slots)), width, 0.72, left=start, color=colour)
                start += width
            axes.set_xlabel(quantity)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            bare(axes)
            axes.grid(visible=False, axis="y")
        left.xaxis.set_major_formatter("{x:,.0f}")
        names = [_name(", ".join(filter(None, slot))) for slot in slots]
        left.set_yticks(range(len(slots)), names)
        left.set_ylim(len(slots) - 0.4, -0.6)
        colours = itertools.cycle(("#7A7A7A", *COLOURS[1:]))
        legend(figure, [Patch(color=c, label=_name(n)) for (n, _), c in zip(parts, colours)])  # noqa: B905
        return figure


def finished(key: str, title: str, caption: str, figure: Figure) -> StudyFigure:
    """The figure with its pixels."""
    buffer = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    canvas.print_figure(buffer, format="png", dpi=200, metadata={"Software": None})
    return StudyFigure(key, title, caption, figure, buffer.getvalue())


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Below the panels."""
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), 4, 96 // (longest + 8)))
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=columns,
        fontsize=SMALL,
        frameon=False,
        handlelength=2.6,
    )


def _canvas(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _grid(n: int, *, share: bool = True, height: float = PANEL) -> tuple[Figure, list[Axes]]:
    """``n`` panels, two or three to a row."""
    columns = n if n < 3 else 2 if n == 4 else 3
    rows = -(-n // columns)
    width = WIDTH if columns > 1 else 0.7 * WIDTH
    figure = _canvas(width, 0.5 + height * rows * (1 if columns > 1 else 1.25))
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flat)
    for axes in panels[n:]:
        axes.remove()
    return figure, panels[:n]


def _curve(
    axes: Axes,
    rows: Frame,
    column: str,
    scale: float,
    style: dict[str, Any],
    name: str,
    seeds: int,
) -> None:
    """Mean and band over seeds of a column, over labels; hollow where fewer than ``seeds``."""
    rows = rows.dropna(subset=[column])
    cycles = rows[rows["kind"] == "cycle"].groupby("n_labeled")[column]
    points = [(labels, summary(scale * values)) for labels, values in cycles]
    if points:
        x = np.array([labels for labels, _ in points])
        mean = np.array([point.mean for _, point in points])
        std = np.array([point.std for _, point in points])
        counts = np.array([point.n for _, point in points])
        shown = np.linspace(0, len(x) - 1, min(len(x), MOST_MARKERS)).round().astype(int)
        axes.plot(x, mean, **style, markevery=shown.tolist(), label=_name(name))
        axes.fill_between(x, mean - std, mean + std, color=style["color"], alpha=0.13, linewidth=0)
        fewer = [i for i in shown if counts[i] < seeds]
        if fewer:
            hollow = style | {
                "linestyle": "none",
                "markerfacecolor": "white",
                "markeredgecolor": style["color"],
                "markeredgewidth": 1,
            }
            axes.plot(x[fewer], mean[fewer], **hollow)
    finals = rows[rows["kind"] == "final"].groupby("n_labeled")[column]
    for labels, values in finals:
        axes.plot([labels], [scale * values.mean()], **star(style["color"]), zorder=5)


def _dumbbell(
    axes: Axes,
    place: int,
    before: Frame,
    after: Frame,
    point: dict[str, str],
    colour: str,
    marks: dict[str, str],
) -> None:
    def of(rows: Frame) -> Frame:
        for column, value in point.items():
            rows = rows[rows[column] == value]
        return 100 * rows["accuracy"].astype(float)

    start = summary(of(before)) if len(before) else summary([])
    ends = [(mark, summary(of(after[after["tuning"] == name]))) for name, mark in marks.items()]
    drawn = [one.mean for _, one in [("o", start), *ends] if one.n]
    if drawn:
        axes.plot([min(drawn), max(drawn)], [place, place], color=colour, alpha=0.35, linewidth=2.5)
    points = [("o", start, "white"), *((m, one, colour) for m, one in ends)]
    for k, (mark, one, face) in enumerate(points):
        if one.n:
            error = one.std if np.isfinite(one.std) else 0.0
            axes.errorbar(
                one.mean,
                place + 0.4 * (k / max(len(points) - 1, 1) - 0.5),  # none hides another
                xerr=error,
                color=colour,
                marker=mark,
                markerfacecolor=face,
                markersize=5.5,
                elinewidth=0.8,
                zorder=3,
            )


def _heat_maps(tables: Iterable[StudyTable]) -> Iterator[StudyFigure]:
    """Tables of rank correlations as colours."""
    for table in tables:
        if not table.key.startswith("order-"):
            continue
        values = np.array([[one.value for one in row] for row in table.values], float)
        np.fill_diagonal(values, np.nan)
        rows, columns = values.shape
        figure = _canvas(min(WIDTH, 2.4 + 0.72 * columns), 1.3 + 0.42 * rows)
        axes = figure.subplots()
        picture = axes.imshow(values, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        names = ["\n".join(filter(None, levels)) for levels in table.columns]
        axes.set_xticks(range(columns), [_name(name) for name in names])
        if max(len(line) for name in names for line in name.split("\n")) > MOST_UPRIGHT:
            axes.tick_params(axis="x", rotation=90)
        axes.set_yticks(range(rows), [_name(name) for name in table.rows])
        axes.tick_params(length=0, labelsize=SMALL)
        for (i, j), value in np.ndenumerate(values):
            text = f"{value:.2f}" if np.isfinite(value) else "–"
            colour = "white" if np.isfinite(value) and abs(value) > 0.5 else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=SMALL, color=colour)
        for spine in axes.spines.values():
            spine.set_visible(False)
        figure.colorbar(picture, ax=axes, label="rank correlation", shrink=0.9)
        caption = (
            "Kendall's τ above the diagonal, Spearman's ρ below it: 1 is the same order of the "
            "strategies by mean accuracy, −1 the reverse one."
        )
        yield finished(table.key.replace("order", "agreement", 1), table.title, caption, figure)


def _name(text: str) -> str:
    """A name as it fits beside an axis, in which matplotlib sees no formula."""
    return plain(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def _within(axes: Axes, low: float | None, high: float | None) -> None:
    """No band makes the axis leave the possible values."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(
        bottom if low is None else max(low, bottom), top if high is None else min(high, top)
    )
