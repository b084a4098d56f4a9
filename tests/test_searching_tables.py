"""What searching brought: paired differences of runs that differ in searching only."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml
from quick_figures import without_drawing
from scipy import stats
from test_study_tables import record

from alhpo.base.files import Journal, write_json
from alhpo.reports import load_findings, write_report
from alhpo.reports.figures import report_figures
from alhpo.reports.tables import report_tables
from alhpo.studies import StudyConfig, expand

STUDY = {
    "name": "starts",
    "settings": {
        "initial_size": 10,
        "acquisition_size": 10,
        "budget": 30,
        "max_epochs": 3,
        "validate_fixed": False,
        "strategy": "random",
    },
    "grid": {
        "hyperparameters": {"low": {"lr": 0.001}, "high": {"lr": 1.0}},
        "search": {
            "fixed": {"hpo": "fixed"},
            "every cycle": {"hpo": "per-cycle"},
            "at the end": {"hpo": "final"},
        },
        "seed": [0, 1, 2],
    },
}
SEARCHES = tuple(STUDY["grid"]["search"])


def accuracies(coordinates):
    """Of the three cycles, and of the retrained model."""
    seed = int(coordinates["seed"])
    level = {"low": 0.2, "high": 0.4}[coordinates["hyperparameters"]] + 0.01 * seed
    gain = (0.1 + 0.02 * seed**2) * (coordinates["search"] == "every cycle")
    return [level + gain + 0.1 * cycle for cycle in range(3)], level + 0.5


def write(folder, unfinished=()):
    folder.mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    for cell in expand(StudyConfig(**STUDY, output_dir=str(folder))):
        cycles, last = accuracies(cell.coordinates)
        journal = Journal(cell.path / "cycles.jsonl")
        searches = cell.coordinates["search"] == "every cycle"
        for cycle, accuracy in enumerate(cycles):
            entry = record("cycle", cycle, 10 * (cycle + 1), accuracy, hpo=20 * searches)
            journal.append(entry | {"tuned": searches})
        if cell.coordinates["search"] == "at the end":
            journal.append(record("final", 2, 30, last, hpo=60))
        if cell.index not in unfinished:
            write_json(cell.path / "run.json", {"cycles": 3})


def tables_of(folder):
    """Values by row and column, over the cycles and at the end; without a table, nothing."""
    tables = [one for one in report_tables(load_findings(folder)) if one.key.startswith("tuning-")]
    over_cycles, at_the_end = {}, {}
    for table in tables:
        names = [name for _, name in table.columns]
        for row, values in zip(table.rows, table.values, strict=True):
            over_cycles[row] = dict(zip(names[:5], values[:5], strict=True))
            at_the_end[row] = dict(zip(names[5:], values[5:], strict=True))
    return over_cycles, at_the_end


def test_gains_are_paired_over_seeds(tmp_path):
    write(tmp_path / "study")
    over_cycles, at_the_end = tables_of(tmp_path / "study")
    starts = ("low", "high")
    assert list(over_cycles) == [f"random, {s}, {m}" for s in starts for m in SEARCHES[1:]]
    gains = 100 * np.array([0.1, 0.12, 0.18])
    half = stats.sem(gains) * stats.t.ppf(0.975, 2)
    for start, level in zip(starts, (20, 40), strict=True):
        row = over_cycles[f"random, {start}, every cycle"]
        assert row["fixed"].value == pytest.approx(level + 1 + 10)
        assert row["searched"].value == pytest.approx(level + 1 + 10 + gains.mean())
        assert row["gain"].value == pytest.approx(gains.mean())
        assert row["95 % interval"].value == pytest.approx(2 * half)
        low, high = (f"{gains.mean() + side * half:+.1f}" for side in (-1, 1))
        assert row["95 % interval"].text == f"{low} to {high}".replace("-", "−")
        assert row["worst"].value == pytest.approx(gains.min())
        final = at_the_end[f"random, {start}, at the end"]
        assert final["gain"].value == pytest.approx(50 - 20)  # its retrained model
        assert over_cycles[f"random, {start}, at the end"]["gain"].value == pytest.approx(0)
        assert final["HPO epochs"].value == 60
        assert at_the_end[f"random, {start}, every cycle"]["HPO epochs"].value == 60


def test_runs_that_are_not_finished_are_not_compared(tmp_path):
    write(tmp_path / "one", unfinished=range(12))  # all but those of the last seed
    assert tables_of(tmp_path / "one") == ({}, {})
    write(tmp_path / "two", unfinished=range(6))
    over_cycles, _ = tables_of(tmp_path / "two")
    assert over_cycles["random, low, every cycle"]["gain"].n == 2


def test_each_way_of_searching_has_a_panel_with_a_line_per_start(tmp_path):
    write(tmp_path / "study")
    with without_drawing():
        (figure,) = [
            one for one in report_figures(load_findings(tmp_path / "study")) if one.key == "starts"
        ]
    axes = figure.figure.axes
    assert [one.get_title(loc="left") for one in axes] == list(SEARCHES)
    for one in axes:
        lines = {
            line.get_label(): line.get_ydata() for line in one.lines if len(line.get_xdata()) == 3
        }
        assert list(lines) == ["low", "high"]
        assert all(math.isfinite(value) for line in lines.values() for value in line)


def test_the_report_has_a_section_of_it(tmp_path):
    write(tmp_path / "study")
    with without_drawing():
        report = write_report(tmp_path / "study")
    text = report.markdown.read_text()
    assert "## What searching brought" in text and "starts.png" in text
