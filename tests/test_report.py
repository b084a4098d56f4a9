"""Reports: closed-form statistics of runs written by hand, and files that say what they hold."""

from __future__ import annotations

import inspect
import io
import math
import statistics

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from alhpo.reports.figures.learning_curves import learning_curves
from alhpo.reports.runs import write_report
from alhpo.runs.results import load_runs, repeated_runs, summarise, to_frame
from matplotlib.image import imread
from rich.console import Console

from alhpo.base.errors import DataError
from alhpo.base.files import Journal, canonical_json, write_text
from alhpo.base.types import CycleRecord
from alhpo.reports.figures import learning_curves as drawing
from alhpo.reports.formats import to_markdown

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
        record = CycleRecord(
            kind=kind,
            cycle=cycle,
            n_labeled=config["initial_size"] + cycle * config["acquisition_size"],
            configuration={"lr": 0.1},
            tuned=config["hpo"] != "fixed",
            validation={"accuracy": 0.5, "nll": 1.0, "epoch": 3} if cycle else None,
            test={"accuracy": accuracy, "nll": 1 - accuracy if nll is None else nll[cycle]},
            epochs={"hpo": 10, "fit": 2 + cycle},
            queried=[1, 2],
            seconds={"fit": 1.5, "hpo": 2.5 + seed},
        )
        lines.append(canonical_json(record.to_dict()) + "\n")
    (folder / "cycles.jsonl").write_text("".join(lines))
    if finished:
        (folder / "run.json").write_text("{}")
    return folder


def by_label(folder):
    return {group.label: group for group in summarise(load_runs(folder))}


def test_mean_std_area_and_cost_in_closed_form(tmp_path):
    values = {0: (0.2, 0.5, 0.6), 1: (0.3, 0.4, 0.8), 2: (0.1, 0.6, 0.7)}
    for seed, accuracies in values.items():
        write_run(tmp_path / f"s{seed}", accuracies, seed=seed)
    (group,) = summarise(load_runs(tmp_path))
    assert group.label == "badge, per-cycle dyhpo"
    assert [point.n_labeled for point in group.curve] == [100, 200, 300]
    for cycle, point in enumerate(group.curve):
        column = [accuracies[cycle] for accuracies in values.values()]
        assert point.seeds == 3
        assert point.accuracy_mean == pytest.approx(statistics.mean(column))
        assert point.accuracy_std == pytest.approx(statistics.stdev(column))
        assert point.nll_mean == pytest.approx(1 - statistics.mean(column))
        assert point.nll_std == pytest.approx(statistics.stdev(column))
        assert point.epochs_hpo == 10 * (cycle + 1)
        assert point.epochs_fit == sum(2 + c for c in range(cycle + 1))
        assert point.seconds == pytest.approx(5.0 * (cycle + 1))
    areas = [(a / 2 + b + c / 2) / 2 for a, b, c in values.values()]
    assert group.auc == pytest.approx(statistics.mean(areas))
    assert group.auc_std == pytest.approx(statistics.stdev(areas))
    assert group.final is None and group.unfinished == 0


def test_area_weights_by_the_distance_between_labels(tmp_path):
    write_run(tmp_path, (0.0, 1.0), initial_size=50, acquisition_size=10)
    lines = (tmp_path / "cycles.jsonl").read_text()
    write_text(
        tmp_path / "cycles.jsonl",
        lines + lines.splitlines()[1].replace('"n_labeled":60', '"n_labeled":100') + "\n",
    )
    (group,) = summarise(load_runs(tmp_path))
    assert group.auc == pytest.approx((10 * 0.5 + 40 * 1.0) / 50)


def test_one_seed_and_one_cycle_have_no_deviation_and_no_area(tmp_path):
    write_run(tmp_path, [0.4])
    (group,) = summarise(load_runs(tmp_path))
    assert group.curve[0].accuracy_mean == pytest.approx(0.4)
    assert math.isnan(group.curve[0].accuracy_std)
    assert math.isnan(group.auc) and math.isnan(group.auc_std)
    text = write_report(tmp_path).markdown.read_text()
    assert "| badge, per-cycle dyhpo | 40.00 |" in text
    assert "nan" not in text.lower()


def test_a_seed_that_stopped_early_counts_where_it_has_records(tmp_path):
    write_run(tmp_path / "a", (0.2, 0.4, 0.6), seed=0)
    write_run(tmp_path / "b", (0.4,), seed=1, finished=False)
    (group,) = summarise(load_runs(tmp_path))
    assert [point.seeds for point in group.curve] == [2, 1, 1]
    assert [p.accuracy_mean for p in group.curve] == pytest.approx([0.3, 0.4, 0.6])
    assert group.curve[2].seconds == pytest.approx(3 * 4.0)
    assert (group.seeds, group.unfinished) == (2, 1)
    assert math.isnan(group.auc_std)
    report = write_report(tmp_path)
    text = report.markdown.read_text()
    assert "30.00 ± 14.14 | 40.00 (n=1) | 60.00 (n=1) |" in text
    assert "2 (1 unfinished)" in text
    expected = "b (badge, per-cycle dyhpo, seed 1): unfinished at 100 of 300 labels."
    assert report.remarks == (expected,)
    assert f"- {expected}" in text


def test_other_settings_are_never_averaged_but_named(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.2), seed=0)
    write_run(tmp_path / "b", (0.3, 0.4), seed=1, max_epochs=9)
    write_run(tmp_path / "c", (0.5, 0.6), seed=1, hyperparameters={"lr": 0.01, "momentum": 0.9})
    write_run(tmp_path / "d", (0.7, 0.8), strategy="random", hpo="fixed")
    write_run(tmp_path / "e", (0.7, 0.8), strategy="random", hpo="fixed", seed=5, max_epochs=27.0)
    groups = by_label(tmp_path)
    assert {label: group.seeds for label, group in groups.items()} == {
        "random, fixed": 2,
        "badge, per-cycle dyhpo, hyperparameters.lr=0.1, max_epochs=27": 1,
        "badge, per-cycle dyhpo, hyperparameters.lr=0.1, max_epochs=9": 1,
        "badge, per-cycle dyhpo, hyperparameters.lr=0.01, max_epochs=27": 1,
    }
    assert next(iter(groups)) == "random, fixed"
    text = write_report(tmp_path).markdown.read_text()
    assert r"Rows differ also in: hyperparameters.lr, max\_epochs." in text


def test_a_setting_only_some_runs_have_separates_them(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.2), seed=0)
    write_run(tmp_path / "b", (0.3, 0.4), seed=1, transfer=None)
    labels = set(by_label(tmp_path))
    assert labels == {f"badge, per-cycle dyhpo, transfer={v}" for v in ("unset", "null")}


def test_settings_without_effect_do_not_separate(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.2), seed=0, hpo="fixed", space={"lr": [0, 1]}, device="cpu")
    write_run(tmp_path / "b", (0.3, 0.4), seed=1, hpo="fixed", optimizer="tpe", device="cuda")
    assert {label: group.seeds for label, group in by_label(tmp_path).items()} == {
        "badge, fixed": 2
    }


def test_a_copy_is_no_second_seed(tmp_path):
    write_run(tmp_path / "a", (0.1,), seed=0, finished=False)
    write_run(tmp_path / "copy", (0.1, 0.2), seed=0)
    write_run(tmp_path / "z", (0.1, 0.2), seed=1)
    runs = load_runs(tmp_path)
    assert [run.name for run in repeated_runs(runs)] == ["a"]
    (group,) = summarise(runs)
    assert (group.seeds, group.unfinished) == (2, 0)
    assert "a: left out" in write_report(tmp_path).markdown.read_text()


def test_final_is_a_column_and_a_star_beside_the_curve(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"s{seed}", (0.2, 0.4), seed=seed, hpo="final", final=0.7 + seed / 10)
    write_run(tmp_path / "unfinished", (0.2, 0.4), seed=2, hpo="final", finished=False)
    (group,) = summarise(load_runs(tmp_path))
    assert len(group.curve) == 2 and group.final is not None
    assert (group.final.n_labeled, group.final.seeds) == (200, 2)
    assert group.final.accuracy_mean == pytest.approx(0.75)
    assert group.final.epochs_hpo == 30
    assert group.auc == pytest.approx(0.3)
    report = write_report(tmp_path)
    assert report.tables[0].joined_columns == ("100", "200", "200, retrained")
    assert report.tables[0].values[0][-1].plain == "75.00 ± 7.07 (n=2)"
    assert list(report.summary["kind"]) == ["cycle", "cycle", "final"]
    figure = learning_curves([group], tmp_path / "curves.png")
    assert [line.get_marker() for line in figure.axes[0].lines].count("*") == 1


def test_a_partial_last_line_and_a_run_without_cycles_are_tolerated(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.2), finished=False)
    with (tmp_path / "a" / "cycles.jsonl").open("a") as file:
        file.write('{"kind": "cyc')
    write_run(tmp_path / "b", (), seed=1, finished=False)
    assert [len(run.records) for run in load_runs(tmp_path)] == [2, 0]
    report = write_report(tmp_path)
    assert report.remarks[0].startswith("a (badge")
    assert report.remarks[1] == "b: left out, no complete cycle yet."


@pytest.mark.parametrize("case", ["missing", "empty", "no records"])
def test_no_results_is_an_error_that_says_where_and_what(tmp_path, case):
    folder = tmp_path / "runs"
    if case == "empty":
        folder.mkdir()
    elif case == "no records":
        write_run(folder / "a", ())
    message = r"No results under .*runs: \d run folders"
    if case == "missing":
        message = r"There is no folder .*runs\."
    with pytest.raises(DataError, match=message):
        write_report(folder)
    assert not (folder / "report.md").exists()


def append_no_record(run):
    Journal(run / "cycles.jsonl").append({"kind": "cycle"})


def change_score(run):
    path = run / "cycles.jsonl"
    path.write_text(path.read_text().replace('"accuracy":0.1', '"accuracy":"much"'))


def cut(run):
    (run / "run.json").write_text('{"cycles": 3, "records": 3}')


def drop_first_cycle(run):
    write_run(run, (0.1,), final=0.2)
    path = run / "cycles.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[1])


DAMAGES = [
    (append_no_record, "cycles.jsonl, line 2 is no record"),
    (change_score, "cycles.jsonl, line 1 is no record"),
    (lambda run: (run / "cycles.jsonl").write_bytes(b"\0\0\n"), "cycles.jsonl, line 1 is not JSON"),
    (lambda run: (run / "cycles.jsonl").write_bytes(b"[1]\n"), "cycles.jsonl, line 1 is no record"),
    (cut, "cycles.jsonl holds 1 records, but the run was finished with 3"),
    (lambda run: (cut(run), (run / "cycles.jsonl").unlink()), "cycles.jsonl holds 0 records"),
    (drop_first_cycle, "cycles.jsonl does not begin with a cycle"),
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
    expected = summarise(load_runs(tmp_path))
    for name in ("b", "c"):  # two, which are not taken for copies of each other
        damage(write_run(tmp_path / name, (0.1,)))
    runs = load_runs(tmp_path)
    assert [run.name for run in runs] == ["a", "b", "c", "z"]
    assert [reason in run.fault for run in runs] == [False, True, True, False]
    assert not any("\n" in run.fault for run in runs)
    assert repr(summarise(runs)) == repr(expected)  # in which NaN equals NaN
    report = write_report(tmp_path)
    assert len(report.remarks) == 2
    for name, remark in zip("bc", report.remarks, strict=True):
        assert remark.startswith(f"{name}: left out, it cannot be read: ")
        assert reason in remark
    text = report.markdown.read_text()
    assert text.startswith("# Report on 2 runs") and "- b: left out" in text
    stream = io.StringIO()
    report.to_console(Console(file=stream, width=200))
    assert report.remarks[1] in stream.getvalue()


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_nothing_but_damaged_runs_is_an_error(tmp_path, damage, reason):
    damage(write_run(tmp_path / "a", (0.1,)))
    with pytest.raises(DataError, match=r"No results under .* a cannot be read: ") as caught:
        write_report(tmp_path)
    assert reason in str(caught.value)
    assert not list(tmp_path.glob("report*"))


def test_a_run_that_was_just_begun_is_named(tmp_path):
    write_run(tmp_path / "a", (0.3,))
    write_run(tmp_path / "b", (), seed=1, finished=False)
    (tmp_path / "b" / "cycles.jsonl").unlink()  # not even that: only settings and labels
    (tmp_path / "tuning").mkdir()
    (tmp_path / "tuning" / "config.yaml").write_text("labels: 3")
    assert write_report(tmp_path).remarks == ()
    (tmp_path / "b" / "cycles.jsonl").touch()
    assert write_report(tmp_path).remarks == ("b: left out, no complete cycle yet.",)


def test_a_missing_value_is_not_averaged_away(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.2), seed=0)
    write_run(tmp_path / "b", (0.3, 0.4), seed=1, nll=[None, 2.0])
    (group,) = summarise(load_runs(tmp_path))
    assert math.isnan(group.curve[0].nll_mean)
    assert group.curve[1].nll_mean == pytest.approx((0.8 + 2.0) / 2)


def test_the_folder_may_be_a_run_and_runs_may_be_deep(tmp_path):
    run = write_run(tmp_path / "x" / "y" / "z", (0.1, 0.2))
    assert load_runs(tmp_path)[0].name == "x/y/z"
    assert load_runs(run)[0].name == "z"


def test_bold_is_the_best_of_each_column_to_the_printed_digits(tmp_path):
    write_run(tmp_path / "a", (0.10001, 0.9), strategy="random", hpo="fixed")
    write_run(tmp_path / "b", (0.10002, 0.8), hpo="fixed")
    accuracy, cost = write_report(tmp_path).tables
    ranks = [[value.rank for value in row] for row in accuracy.values]
    assert ranks == [["best", "best"], ["best", None]]
    assert [row[0].rank for row in cost.values] == ["best", None]
    assert "| random, fixed | **10.00** | **90.00** |" in to_markdown(accuracy)
    write_run(tmp_path / "c", (0.99,), hpo="fixed", budget=100)
    assert not write_report(tmp_path).tables[1].ranks


def test_many_cycles_show_eight_columns_with_both_ends(tmp_path):
    write_run(tmp_path, np.linspace(0.1, 0.9, 40))
    columns = write_report(tmp_path).tables[0].joined_columns
    assert len(columns) == 8
    assert (columns[0], columns[-1]) == ("100", "4000")


def test_text_of_settings_cannot_break_the_table_figure_or_console(tmp_path):
    for name in ("x|y", "$x_y$", "[red]x"):
        write_run(tmp_path / f"{len(name)}{name[0]}", (0.1, 0.2), strategy=name)
    report = write_report(tmp_path)
    assert r"| x\|y, per-cycle dyhpo |" in report.markdown.read_text()
    stream = io.StringIO()
    report.to_console(Console(file=stream, width=200))
    assert "[red]x, per-cycle dyhpo" in stream.getvalue()


def study(folder):
    for dataset in ("digits", "cifar10"):
        for strategy, height in (("random", 0.6), ("entropy", 0.65), ("badge", 0.7)):
            for hpo in ("fixed", "per-cycle"):
                for seed in range(2):
                    noise = np.random.default_rng(seed).normal(0, 0.01, 3)
                    curve = np.array([0.3, 0.5, height]) + noise + 0.05 * (hpo != "fixed")
                    path = folder / f"{dataset}-{strategy}-{hpo}-{seed}"
                    write_run(path, curve, seed=seed, dataset=dataset, strategy=strategy, hpo=hpo)


def test_the_figure_has_a_panel_per_data_set_and_a_line_per_group(tmp_path):
    study(tmp_path)
    summary = summarise(load_runs(tmp_path))
    figure = learning_curves(summary, tmp_path / "curves.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "cifar10, resnet18",
        "digits, resnet18",
    ]
    for axes in figure.axes:
        assert len(axes.lines) == 6
        assert len({line.get_label() for line in axes.lines}) == 6
        assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 6
        assert len({line.get_linestyle() for line in axes.lines}) == 2
    drawn = [line for axes in figure.axes for line in axes.lines]
    for line, group in zip(drawn, summary, strict=True):
        assert list(line.get_xdata()) == [point.n_labeled for point in group.curve]
        expected = [100 * point.accuracy_mean for point in group.curve]
        assert list(line.get_ydata()) == pytest.approx(expected)
    pixels = imread(tmp_path / "curves.png")
    assert pixels.shape[0] > 600 and pixels.shape[1] > 1500
    assert len({tuple(pixel) for pixel in pixels[::4, ::4].reshape(-1, pixels.shape[2])}) > 50


def test_matplotlibs_global_state_is_left_alone(tmp_path):
    study(tmp_path)
    before = dict(matplotlib.rcParams)
    write_report(tmp_path)
    assert dict(matplotlib.rcParams) == before
    assert "pyplot" not in inspect.getsource(drawing)


def test_a_second_report_is_the_same_to_the_byte(tmp_path):
    study(tmp_path / "runs")
    first = write_report(tmp_path / "runs")
    second = write_report(tmp_path / "runs")
    apart = write_report(tmp_path / "runs", tmp_path / "apart")
    names = ("markdown", "csv", "figure")
    for name in names:
        content = getattr(first, name).read_bytes()
        assert content == getattr(second, name).read_bytes() == getattr(apart, name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "apart").iterdir()) == [
        "learning_curves.png",
        "report.csv",
        "report.md",
    ]


def test_the_csv_is_the_summary(tmp_path):
    study(tmp_path)
    report = write_report(tmp_path)
    frame = pd.read_csv(report.csv)
    assert len(frame) == 2 * 6 * 3
    assert list(frame.columns) == list(report.summary.columns)
    np.testing.assert_allclose(frame["accuracy_mean"], report.summary["accuracy_mean"])
    assert frame["label"].nunique() == 6
    first = to_frame(summarise(load_runs(tmp_path))).iloc[0]
    assert first["dataset"] == "cifar10" and first["n_labeled"] == 100


def test_the_console_shows_the_tables_and_where_the_files_are(tmp_path):
    write_run(tmp_path, (0.1, 0.2), finished=False)
    report = write_report(tmp_path)
    stream = io.StringIO()
    report.to_console(Console(file=stream, width=150))
    text = stream.getvalue()
    for part in ("badge, per-cycle dyhpo", "20.00", "unfinished", str(report.figure)):
        assert part in text
