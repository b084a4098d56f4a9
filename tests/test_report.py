"""Reports of folders of runs: a grid read off settings, statistics, what is left out."""

from __future__ import annotations

import copy
import io
import json
import statistics

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from quick_figures import undrawn  # noqa: F401 - a fixture
from rich.console import Console
from synthetic_study import STUDY, write_study

from alhpo.base.errors import ConfigurationError, DataError
from alhpo.base.files import Journal, canonical_json, write_text
from alhpo.base.types import CycleRecord
from alhpo.cli import main
from alhpo.reports import load_findings, report_tables, write_report

CONFIG = {
    "dataset": "digits",
    "model": "resnet18",
    "strategy": "badge",
    "hpo": "per-cycle",
    "optimizer": "dyhpo",
    "initial_size": 100,
    "acquisition_size": 100,
    "budget": 300,
    "max_epochs": 27,
    "hyperparameters": {"lr": 0.1, "momentum": 0.9},
}


def write_run(folder, accuracies, *, seed=0, finished=True, final=None, nll=None, **settings):
    config = CONFIG | {"seed": seed, "output_dir": str(folder)} | settings
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = []
    entries = [("cycle", cycle, accuracy) for cycle, accuracy in enumerate(accuracies)]
    if final is not None:
        entries.append(("final", len(accuracies) - 1, final))
    for kind, cycle, accuracy in entries:
        labels = config["initial_size"] + cycle * config["acquisition_size"]
        record = made_record(kind, cycle, labels, accuracy, config, seed)
        if nll is not None:
            record.test["nll"] = nll[cycle]
        lines.append(canonical_json(record.to_dict()) + "\n")
    (folder / "cycles.jsonl").write_text("".join(lines))
    if finished:
        (folder / "run.json").write_text("{}")
    return folder


def made_record(kind, cycle, labels, accuracy, config, seed=0):
    return CycleRecord(
        kind=kind,
        cycle=cycle,
        n_labeled=labels,
        configuration={"lr": 0.1},
        tuned=config.get("hpo") != "fixed",
        validation={"accuracy": 0.5, "nll": 1.0, "epoch": 3} if cycle else None,
        test={"accuracy": accuracy, "nll": 1 - accuracy},
        epochs={"hpo": 10, "fit": 2 + cycle},
        queried=[1, 2],
        seconds={"fit": 1.5, "hpo": 2.5 + seed},
    )


def test_searches_are_told_with_what_they_gained(tmp_path):
    """Two searches, the first on test too; then one that measured no current configuration."""
    run = write_run(tmp_path / "a", (0.3, 0.4, 0.5), hpo="per-cycle", metric="macro-f1")
    lines = [json.loads(line) for line in (run / "cycles.jsonl").read_text().splitlines()]
    gained = [
        (0.5, 0.6, 0.6, True, 0.05, 0.02, 0.4, 0.38),
        (0.5, 0.55, 0.5, False, 0.01, 0.03, 0.45, None),
    ]
    names = (
        *("current", "found", "adopted", "replaced", "paired_gain", "paired_error"),
        *("current_test", "adopted_test"),
    )
    for line, values in zip(lines, gained, strict=False):
        line["search"] = dict(zip(names, values, strict=True))
    del lines[2]["search"]  # a record of an older version
    for line, lr in zip(lines, (0.1, 0.01, 0.001), strict=True):
        line["configuration"] = {"lr": lr, "batch_size": 8}
    (run / "cycles.jsonl").write_text("".join(canonical_json(line) + "\n" for line in lines))
    for number, kind in enumerate(("Constant", "UniformFloatHyperparameter")):
        file = run / "hpo" / "cycle_000" / f"experiment_{number}" / "configuration_space.json"
        file.parent.mkdir(parents=True)
        log = None if kind == "Constant" else True
        file.write_text(json.dumps([{"name": "lr", "type": kind, "log": log}]))
    report = write_report(run)
    searches = report.findings.searches
    assert searches["epochs"].tolist() == [10, 10, 10]
    assert searches["metric_name"].unique().tolist() == ["macro-f1"]
    (table,) = [one for one in report.tables if one.key.startswith("gain-")]
    shown = {
        row: [v.plain for v in line] for row, line in zip(table.rows, table.values, strict=True)
    }
    (name,) = {row.split(":")[0] for row in table.rows}
    unknown = "not measured"
    assert shown == {
        f"{name}: 100 labels": ["1", "10", "1", "+5.00", "2.00", "+10.00", "−2.00"],
        f"{name}: 200 labels": ["1", "10", "0", "+1.00", "3.00", "+0.00", unknown],
        f"{name}: 300 labels": ["1", "10", *[unknown] * 5],
        f"{name}: all": [*("3", "10", "1", "+3.00", "2.50", "+5.00 ± 7.07 (n=2)", "−2.00 (n=1)")],
    }
    text = report.markdown.read_text()
    assert "3 searches in runs gained +5.0 ± 7.1 points of validation macro-f1" in text
    assert "(2 of 3 measured; 1 kept it), at 10 epochs each" in text
    assert "on the test split −2.0 points over the 1 of 3 that were measured there" in text
    spaces = report.findings.hyperparameters
    assert spaces["hyperparameter"].unique().tolist() == ["lr"] and spaces["log"].all()
    assert spaces["value"].tolist() == [0.1, 0.01, 0.001]
    (drawn,) = [one for one in report.document.figures if one.key == "hyperparameters"]
    (axes,) = drawn.figure.axes
    assert axes.get_yscale() == "log" and axes.lines[0].get_ydata().tolist() == [0.1, 0.01, 0.001]
    (drawn,) = [one for one in report.document.figures if one.key == "gain"]
    lines = [axes.lines[1].get_ydata() for axes in drawn.figure.axes]
    assert lines[0].tolist() == pytest.approx([10, 0]) and lines[1].tolist() == pytest.approx([-2])


def test_runs_that_search_nothing_and_those_without_records_of_it_have_no_figures_of_searches(
    tmp_path,
):
    write_run(tmp_path / "fixed", (0.3, 0.4), hpo="fixed")
    report = write_report(tmp_path / "fixed")
    assert report.findings.searches.empty and not {"gain", "hyperparameters"} & set(report.figures)
    write_run(tmp_path / "old", (0.3, 0.4), hpo="per-cycle")
    report = write_report(tmp_path / "old")
    assert not {"gain", "hyperparameters"} & set(report.figures)
    assert "was not measured or not recorded" in report.markdown.read_text()


def write_tuning(run, name, accuracy, **settings):
    """A finished tuning of the pool that a run left, in its folder."""
    folder = run / "tune" / name
    folder.mkdir(parents=True)
    own = yaml.safe_load((run / "config.yaml").read_text())
    shared = {k: own[k] for k in ("dataset", "model", "seed", "max_epochs", "hyperparameters")}
    config = shared | {"pool": str(run), "labels": 300, "optimizer": "tpe"} | settings
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    record = made_record("tuned", 2, config["labels"], accuracy, config)
    (folder / "tune.json").write_text(json.dumps(record.to_dict()))
    return folder


def learning(folder):
    """The table of accuracies over labels, as values by row and column."""
    (table,) = (t for t in report_tables(load_findings(folder)) if t.key.startswith("learning"))
    names = table.joined_columns
    return {
        row: dict(zip(names, values, strict=True))
        for row, values in zip(table.rows, table.values, strict=True)
    }


def texts(row):
    return {name: value.plain for name, value in row.items()}


# --- statistics ----------------------------------------------------------------------------------


def test_mean_deviation_area_and_cost_in_closed_form(tmp_path):
    values = {0: (0.2, 0.5, 0.6), 1: (0.3, 0.4, 0.8), 2: (0.1, 0.6, 0.7)}
    for seed, accuracies in values.items():
        write_run(tmp_path / f"s{seed}", accuracies, seed=seed)
    (row,) = learning(tmp_path).values()
    assert list(row) == ["100 labels", "200 labels", "300 labels", "area"]
    for cycle, value in enumerate(list(row.values())[:3]):
        column = [100 * accuracies[cycle] for accuracies in values.values()]
        assert (value.value, value.n) == (pytest.approx(statistics.mean(column)), 3)
        assert value.std == pytest.approx(statistics.stdev(column))
    areas = [100 * (a / 2 + b + c / 2) / 2 for a, b, c in values.values()]
    assert row["area"].value == pytest.approx(statistics.mean(areas))
    assert row["area"].std == pytest.approx(statistics.stdev(areas))
    findings = load_findings(tmp_path)
    last = findings.curves[findings.curves["n_labeled"] == 300]
    assert last["epochs_hpo"].tolist() == [30, 30, 30]
    assert last["epochs_fit"].tolist() == [9, 9, 9]
    assert last["seconds"].tolist() == pytest.approx([12, 15, 18])


def test_area_weights_by_the_distance_between_labels(tmp_path):
    write_run(tmp_path, (0.0, 1.0), initial_size=50, acquisition_size=10)
    lines = (tmp_path / "cycles.jsonl").read_text()
    write_text(
        tmp_path / "cycles.jsonl",
        lines + lines.splitlines()[1].replace('"n_labeled":60', '"n_labeled":100') + "\n",
    )
    (row,) = learning(tmp_path).values()
    assert row["area"].value == pytest.approx(100 * (10 * 0.5 + 40 * 1.0) / 50)


@pytest.mark.usefixtures("undrawn")
def test_one_seed_and_one_cycle_have_no_deviation_and_no_area(tmp_path):
    write_run(tmp_path, [0.4], budget=100)
    assert texts(learning(tmp_path)["badge"]) == {"100 labels": "40.00"}
    assert "nan" not in write_report(tmp_path).markdown.read_text().lower()


@pytest.mark.usefixtures("undrawn")
def test_a_seed_that_stopped_early_counts_where_it_has_records(tmp_path):
    write_run(tmp_path / "a", (0.2, 0.4, 0.6), seed=0)
    write_run(tmp_path / "b", (0.4,), seed=1, finished=False)
    report = write_report(tmp_path)
    assert texts(learning(tmp_path)["badge"]) == {
        "100 labels": "30.00 ± 14.14",
        "200 labels": "40.00 (n=1)",
        "300 labels": "60.00 (n=1)",
        "area": "40.00 (n=1)",
    }
    text = report.markdown.read_text()
    assert "1 of 2 runs finished, 1 of 2 runs unfinished." in text
    assert "- unfinished: b (badge, seed 1): 1 of 3 cycles" in text
    stream = io.StringIO()
    report.to_console(Console(file=stream, width=150))
    assert "unfinished: b (badge, seed 1): 1 of 3 cycles" in stream.getvalue()
    assert str(report.html) in stream.getvalue()


def test_areas_over_other_ranges_are_not_ranked(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.3), strategy="random")
    write_run(tmp_path / "b", (0.1, 0.2))
    assert [row["area"].rank for row in learning(tmp_path).values()] == ["best", "worst"]
    write_run(tmp_path / "c", (0.1, 0.2, 0.9), strategy="entropy")
    assert [row["area"].rank for row in learning(tmp_path).values()] == [None] * 3


def test_a_missing_value_is_no_score(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.2), seed=0, budget=200)
    write_run(tmp_path / "b", (0.3, 0.4), seed=1, budget=200, nll=[1.0, None])
    tables = {table.key: table for table in report_tables(load_findings(tmp_path))}
    assert tables["nll-digits-resnet18-200"].values[0][0].plain == "0.800 (n=1)"


def test_many_cycles_show_eight_columns_with_both_ends(tmp_path):
    write_run(tmp_path, np.linspace(0.1, 0.9, 40), budget=4000)
    columns = [name for name in learning(tmp_path)["badge"] if name != "area"]
    assert len(columns) == 8
    assert (columns[0], columns[-1]) == ("100 labels", "4,000 labels")


@pytest.mark.usefixtures("undrawn")
def test_final_is_a_column_and_a_star_beside_the_curve(tmp_path):
    for seed in (0, 1):
        path = tmp_path / f"s{seed}"
        write_run(path, (0.2, 0.4), seed=seed, hpo="final", final=0.7 + seed / 10, budget=200)
    write_run(tmp_path / "x", (0.2, 0.4), seed=2, hpo="final", finished=False, budget=200)
    row = learning(tmp_path)["badge"]
    assert list(row) == ["100 labels", "200 labels", "200, retrained", "area"]
    assert row["200, retrained"].plain == "75.00 ± 7.07 (n=2)"
    report = write_report(tmp_path)
    (figure,) = (f.figure for f in report.document.figures if f.key == "curves-by-setting")
    assert [line.get_marker() for line in figure.axes[0].lines].count("*") == 1


# --- the grid ------------------------------------------------------------------------------------


def seeds_by_setting(folder):
    expected = load_findings(folder).expected
    groups = expected.groupby(["strategy", "setting"], sort=False)["seed"]
    return {name: sorted(seeds) for name, seeds in groups}


def test_settings_that_differ_are_the_axes_of_the_grid(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.2), seed=0)
    write_run(tmp_path / "b", (0.3, 0.4), seed=1, max_epochs=9)
    write_run(tmp_path / "c", (0.5, 0.6), seed=1, hyperparameters={"lr": 0.01, "momentum": 0.9})
    write_run(tmp_path / "d", (0.7, 0.8), strategy="random", hpo="fixed")
    write_run(tmp_path / "e", (0.7, 0.8), strategy="random", hpo="fixed", seed=5, max_epochs=27.0)
    assert seeds_by_setting(tmp_path) == {
        ("random", "max_epochs 27, lr 0.1"): [0, 5],
        ("badge", "max_epochs 9, lr 0.1"): [1],
        ("badge", "max_epochs 27, lr 0.01"): [1],
        ("badge", "max_epochs 27, lr 0.1"): [0],
    }
    remark = "The compared strategies also differ in other settings: hpo."
    assert load_findings(tmp_path).grid.remarks == (remark,)


def test_modes_are_told_by_their_names_and_optimizers_where_several_are_used(tmp_path):
    write_run(tmp_path / "a", (0.1,), hpo="every:10")
    write_run(tmp_path / "b", (0.1,), hpo="every:2")
    write_run(tmp_path / "c", (0.1,), hpo="fixed", optimizer="random")
    assert list(seeds_by_setting(tmp_path)) == [
        ("badge", "fixed"),
        ("badge", "every:2"),
        ("badge", "every:10"),
    ]
    write_run(tmp_path / "d", (0.1,), hpo="every:2", optimizer="tpe")
    assert {setting for _, setting in seeds_by_setting(tmp_path)} == {
        "fixed", "every:2, dyhpo", "every:2, tpe", "every:10, dyhpo",
    }  # fmt: skip


def test_a_setting_that_only_some_runs_know_separates_them(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.2), seed=0)
    write_run(tmp_path / "b", (0.3, 0.4), seed=1, of_a_later_version=3)
    assert {setting for _, setting in seeds_by_setting(tmp_path)} == {
        "of_a_later_version unset", "of_a_later_version 3",
    }  # fmt: skip


def test_settings_without_effect_do_not_separate(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.2), seed=0, hpo="fixed", space="hpo4dl", device="cpu")
    write_run(tmp_path / "b", (0.3, 0.4), seed=1, hpo="fixed", optimizer="tpe", device="cuda")
    write_run(tmp_path / "c", (0.3, 0.4), seed=2, hpo="fixed", transfer=True)  # the default
    assert seeds_by_setting(tmp_path) == {("badge", ""): [0, 1, 2]}


@pytest.mark.usefixtures("undrawn")
def test_names_of_plug_ins_that_are_not_installed_are_no_obstacle(tmp_path):
    odd = {"strategy": "theirs", "model": "theirs", "optimizer": "theirs", "validation": "theirs"}
    write_run(tmp_path, (0.1, 0.2, 0.3), **odd)
    text = write_report(tmp_path).markdown.read_text()
    assert "| theirs | 10.00 | 20.00 | 30.00 | 20.00 |" in text
    assert "nan" not in text


def test_data_sets_of_the_same_name_are_told_apart(tmp_path):
    for place in ("one", "two"):
        write_run(tmp_path / place, (0.1,), dataset=f"/data/{place}/photos")
    assert set(load_findings(tmp_path).curves["dataset"]) == {
        "/data/one/photos", "/data/two/photos",
    }  # fmt: skip


def test_a_copy_is_no_second_seed(tmp_path):
    write_run(tmp_path / "a", (0.1,), seed=0, finished=False)
    write_run(tmp_path / "copy", (0.1, 0.2), seed=0)
    write_run(tmp_path / "z", (0.1, 0.2), seed=1)
    findings = load_findings(tmp_path)
    assert findings.grid.left_out == ("a: left out, another run has its settings and seed",)
    assert [one.state for one in findings.cells] == ["finished"] * 2


def test_the_folder_may_be_a_run_and_runs_may_be_deep(tmp_path):
    run = write_run(tmp_path / "x" / "y" / "z", (0.1, 0.2))
    assert load_findings(tmp_path).grid.names == ("x/y/z (badge, seed 0)",)
    assert load_findings(run).grid.names == ("z (badge, seed 0)",)


def test_tunings_in_a_runs_folder_are_cells_of_the_grid(tmp_path):
    for seed in (0, 1):
        run = write_run(tmp_path / f"s{seed}", (0.1, 0.2, 0.3), hpo="fixed", seed=seed)
        write_tuning(run, "a", 0.6 + seed / 10)
        write_tuning(run, "b", 0.5, validation="kfold:5")
    (tmp_path / "s1" / "tune" / "b" / "tune.json").write_text("[]")
    findings = load_findings(tmp_path)
    assert findings.tunings == ("BO holdout:0.2", "BO kfold:5")
    assert findings.grid.noun == "runs and tunings"
    assert [one.state for one in findings.cells] == ["finished"] * 5 + ["damaged"]
    (table,) = (t for t in report_tables(findings) if t.key == "accuracy-digits-resnet18-300")
    values = dict(zip(table.joined_columns, table.values[0], strict=True))
    assert values["AL"].plain == "30.00 ± 0.00"
    assert values["BO holdout:0.2"].text == "65.00 ± 7.07"
    assert values["BO kfold:5"].plain == "50.00 (n=1)"


def study_of_runs(folder):
    for dataset in ("digits", "cifar10"):
        for strategy, height in (("random", 0.6), ("entropy", 0.65), ("badge", 0.7)):
            for hpo in ("fixed", "per-cycle"):
                for seed in range(2):
                    noise = np.random.default_rng(seed).normal(0, 0.01, 3)
                    curve = np.array([0.3, 0.5, height]) + noise + 0.05 * (hpo != "fixed")
                    path = folder / f"{dataset}-{strategy}-{hpo}-{seed}"
                    write_run(path, curve, seed=seed, dataset=dataset, strategy=strategy, hpo=hpo)


@pytest.mark.usefixtures("undrawn")
def test_runs_have_what_a_study_has_and_a_second_report_is_the_same_to_the_byte(tmp_path):
    study_of_runs(tmp_path / "runs")
    first = write_report(tmp_path / "runs")
    apart = write_report(tmp_path / "runs", tmp_path / "apart")
    for one, other in zip(first.files, apart.files, strict=True):
        assert one.read_bytes() == other.read_bytes()
    keys = {table.key for table in first.tables}
    for dataset in ("digits", "cifar10"):
        for what in ("accuracy-{}-300", "gap-{}-300", "order-{}-300", "learning-{}", "cost-{}"):
            assert what.format(f"{dataset}-resnet18") in keys
        assert f"curves-by-strategy-{dataset}-resnet18" in first.figures
        assert f"curves-by-setting-{dataset}-resnet18" in first.figures
    assert "a search in every cycle (dyhpo" in first.markdown.read_text()
    assert len(first.findings.curves) == 2 * 3 * 2 * 2 * 3


def test_text_of_settings_cannot_break_the_table_figure_or_console(tmp_path):
    for name in ("x|y", "$x_y$", "[red]x"):
        write_run(tmp_path / f"{len(name)}{name[0]}", (0.1, 0.2), strategy=name)
    report = write_report(tmp_path)
    assert r"| x\|y |" in report.markdown.read_text()
    stream = io.StringIO()
    report.to_console(Console(file=stream, width=200))
    assert "[red]x" in stream.getvalue()


# --- what a folder holds -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", r"There is no folder .*runs\. Give the folder of a study"),
        (
            "empty",
            r"Nothing to report in .*runs: it is not a study .*holds no run .*Give the folder",
        ),
        ("a tuning", r"holds no run .* It holds 1 tunings .*, which are reported with their run"),
        ("no records", r"none of the 1 runs in .* has a complete record yet.* 0 of 3 cycles"),
    ],
)
def test_no_results_is_an_error_that_says_where_and_what(tmp_path, case, message):
    folder = tmp_path / "runs"
    if case != "missing":
        folder.mkdir()
    if case == "no records":
        write_run(folder / "a", (), finished=False)
    if case == "a tuning":
        (folder / "tune.json").write_text("{}")
    with pytest.raises(DataError, match=message):
        write_report(folder)
    assert not (folder / "report.md").exists()


def test_a_study_that_holds_other_runs_names_them(tmp_path):
    write_study(tmp_path)
    write_run(tmp_path / "more" / "mine", (0.1, 0.2))
    (remark,) = load_findings(tmp_path).grid.remarks
    assert remark.startswith("1 run is in the folder but not in the study's grid")
    assert "more/mine" in remark


def test_runs_of_a_study_below_the_folder_are_reported_with_a_pointer_to_it(tmp_path):
    write_study(tmp_path / "small", {**copy.deepcopy(STUDY), "tune": None})
    write_run(tmp_path / "mine", (0.1, 0.2), strategy="coreset")
    grid = load_findings(tmp_path).grid
    assert len(grid.cells) == 9
    assert "8 runs are cells of the study in small. For the study" in grid.remarks[-1]


def test_a_partial_last_line_and_a_run_without_cycles_are_tolerated(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.2), finished=False)
    with (tmp_path / "a" / "cycles.jsonl").open("a") as file:
        file.write('{"kind": "cyc')
    write_run(tmp_path / "b", (), seed=1, finished=False)
    cells = load_findings(tmp_path).cells
    assert [one.told for one in cells] == [
        "a (badge, seed 0): 2 of 3 cycles",
        "b (badge, seed 1): 0 of 3 cycles",
    ]


@pytest.mark.usefixtures("undrawn")
def test_published_tables_stand_beside_runs(tmp_path):
    for seed in range(2):
        hyperparameters = {"lr": 0.001, "weight_decay": 0.05}
        write_run(
            tmp_path / "runs" / f"s{seed}", (0.5, 0.6, 0.7 + seed / 100), seed=seed, hpo="fixed",
            strategy="random", dataset="torch/cifar10", hyperparameters=hyperparameters,
            initial_size=1000, acquisition_size=500, budget=2000,
        )  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"Name them: --compare cifar10 or cifar100\."):
        write_report(tmp_path / "runs", compare="published")
    arguments = ["report", str(tmp_path / "runs"), "--compare", "cifar10"]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    text = (tmp_path / "runs" / "report.md").read_text()
    assert "## Beside the published numbers" in text
    assert "70.50 ± 0.71 |" in text


# --- damage --------------------------------------------------------------------------------------


def append_no_record(run):
    Journal(run / "cycles.jsonl").append({"kind": "cycle"})


def change_score(run):
    path = run / "cycles.jsonl"
    path.write_text(path.read_text().replace('"accuracy":0.1', '"accuracy":"much"'))


def change_setting(run):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("max_epochs: 27", "max_epochs: many"))


def cut(run):
    (run / "run.json").write_text('{"cycles": 3, "records": 3}')


def drop_first_cycle(run):
    write_run(run, (0.1,), final=0.2)
    path = run / "cycles.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[1])


DAMAGES = [
    (append_no_record, "cycles.jsonl, line 2 is not a record"),
    (change_score, "cycles.jsonl, line 1 is not a record"),
    (lambda run: (run / "cycles.jsonl").write_bytes(b"\0\0\n"), "cycles.jsonl, line 1 is not JSON"),
    (
        lambda run: (run / "cycles.jsonl").write_bytes(b"[1]\n"),
        "cycles.jsonl, line 1 is not a record",
    ),
    (cut, "cycles.jsonl holds 1 records, but the run was finished with 3"),
    (lambda run: (cut(run), (run / "cycles.jsonl").unlink()), "cycles.jsonl holds 0 records"),
    (drop_first_cycle, "cycles.jsonl does not begin with a cycle"),
    (change_setting, "config.yaml: Setting 'max_epochs' is 'many'"),
    (lambda run: (run / "config.yaml").unlink(), "config.yaml"),
    (lambda run: (run / "config.yaml").write_text(""), "config.yaml lacks dataset, model"),
    (
        lambda run: (run / "config.yaml").write_text("dataset: digits\nseed: 1\n"),
        "config.yaml lacks model, strategy, hpo",
    ),
    (lambda run: (run / "config.yaml").write_text("a: ["), "config.yaml is not YAML"),
    (lambda run: (run / "config.yaml").write_text("a: 2026-13-45"), "config.yaml is not YAML"),
    (lambda run: (run / "config.yaml").write_bytes(b"\0" * 99), "config.yaml is not YAML"),
    (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe"), "config.yaml is not YAML"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_damaged_run_is_named_and_the_others_are_reported(tmp_path, damage, reason):
    write_run(tmp_path / "a", (0.3,), seed=1)
    write_run(tmp_path / "z", (0.5,), seed=2)
    expected = learning(tmp_path)
    for name in ("b", "c"):  # two, which are not taken for copies of each other
        damage(write_run(tmp_path / name, (0.1,)))
    findings = load_findings(tmp_path)
    assert [one.cell.path.name for one in findings.cells] == ["a", "z"]
    for name, line in zip("bc", findings.grid.left_out, strict=True):
        assert line.startswith(f"{name}: left out, damaged: ")
        assert reason in line and "\n" not in line
    assert {k: texts(v) for k, v in learning(tmp_path).items()} == {
        k: texts(v) for k, v in expected.items()
    }


@pytest.mark.usefixtures("undrawn")
def test_what_is_left_out_is_in_the_files_and_on_the_console(tmp_path):
    write_run(tmp_path / "a", (0.3,), seed=1)
    cut(write_run(tmp_path / "b", (0.1,)))
    report = write_report(tmp_path)
    stream = io.StringIO()
    report.to_console(Console(file=stream, width=200))
    for text in (report.markdown.read_text(), report.html.read_text(), stream.getvalue()):
        assert "b: left out, damaged: " in text
    assert "1 of 1 runs finished" in report.markdown.read_text()


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_nothing_but_damaged_runs_is_an_error(tmp_path, damage, reason):
    damage(write_run(tmp_path / "a", (0.1,)))
    with pytest.raises(DataError, match=r"Nothing to report in .* a: damaged: ") as caught:
        write_report(tmp_path)
    assert reason in str(caught.value)
    assert not list(tmp_path.glob("report*"))
