"""Study tables: records written by hand come out as their closed-form statistics, in every form."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
from html.parser import HTMLParser

import ConfigSpace as CS
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic_study import STUDY, write_study

from alhpo import Tuner
from alhpo.base.errors import ConfigurationError
from alhpo.base.files import Journal, write_json
from alhpo.base.types import CycleRecord
from alhpo.reports import statistics
from alhpo.reports.comparison import compare_published
from alhpo.reports.formats import Table, Value, measured, to_csv, to_html, to_latex, to_markdown
from alhpo.reports.formats.latex import latex_text
from alhpo.reports.load import load_findings
from alhpo.reports.published import published_names, published_tables
from alhpo.reports.tables import report_tables
from alhpo.runs.settings import RunConfig
from alhpo.studies import expand, load_study

python_markdown = pytest.importorskip("markdown")  # comes with mkdocs

HP = {
    "HP 1": {"lr": 0.001, "weight_decay": 0.05},
    "HP 2": {"lr": 0.01, "weight_decay": 0.0005},
}


def study(**changes):
    base = {
        "name": "small",
        "settings": {
            "initial_size": 10,
            "acquisition_size": 10,
            "budget": 20,
            "max_epochs": 3,
            "validate_fixed": False,
        },
        "grid": {"strategy": ["random", "badge"], "hyperparameters": HP, "seed": [0, 1, 2]},
        "tune": {"labels": [20], "settings": {"max_budget": 30, "validation": "holdout:0.2"}},
    }
    return base | changes


def record(kind, cycle, labels, accuracy, *, hpo=0, fit=3, **more):
    test = {"accuracy": accuracy, "nll": 1 - accuracy, "brier": 0.5, "ece": 0.1}
    return CycleRecord(
        kind=kind,
        cycle=cycle,
        n_labeled=labels,
        configuration=more.pop("configuration", {"lr": 0.1}),
        tuned=kind != "cycle",
        validation=None,
        test=test if math.isfinite(accuracy) else {"accuracy": None, "nll": None},
        epochs={"hpo": hpo, "fit": fit},
        seconds={"fit": 2.0, "hpo": 0.5},
        **more,
    ).to_dict()


def write(folder, accuracy, settings=None, tuned=None):
    """A study's folder in which ``accuracy(coordinates, labels)`` was recorded; None for nothing.

    ``tuned(coordinates)`` is that of tunings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(settings or study(), sort_keys=False))
    for cell in expand(load_study(folder, output_dir=str(folder))):
        if isinstance(cell.config, RunConfig):
            journal = Journal(cell.path / "cycles.jsonl")
            sizes = range(cell.config.initial_size, cell.config.budget + 1, 10)
            values = [accuracy(cell.coordinates, n) for n in sizes]
            for cycle, (n, value) in enumerate(zip(sizes, values, strict=True)):
                if value is not None:
                    journal.append(record("cycle", cycle, n, value))
            if cell.config.hpo == "final" and values[-1] is not None:
                journal.append(record("final", cycle, n, values[-1] + 0.05, hpo=9))
            if None not in values:
                write_json(cell.path / "run.json", {})
        elif tuned is not None and tuned(cell.coordinates) is not None:
            entry = record("tuned", 1, cell.config.labels, tuned(cell.coordinates), hpo=30)
            write_json(cell.path / "tune.json", entry)
    return folder


def table(tables, start):
    return next(one for one in tables if one.key.startswith(start))


def cell(one, row, *column):
    return one.values[one.rows.index(row)][one.columns.index(column)]


LEVEL = {"random": 0.5, "badge": 0.6}
NOISE = {"0": -0.02, "1": 0.0, "2": 0.02}


def accuracy(coordinates, labels):
    strategy, seed = coordinates["strategy"], coordinates["seed"]
    return LEVEL[strategy] + NOISE[seed] * (1 if strategy == "random" else 2) + labels / 1000


# --- statistics ----------------------------------------------------------------------------------


def test_statistics_of_hand_examples():
    assert statistics.summary([1.0, 2.0, 6.0, math.nan]) == statistics.Summary(3.0, 7**0.5, 3)
    one = statistics.summary([4.0])
    assert (one.mean, one.n) == (4.0, 1) and math.isnan(one.std)
    nothing = statistics.summary([])
    assert math.isnan(nothing.mean) and nothing.n == 0
    # Holm's step-down: 0.01·4, 0.02·3, max(0.06, 0.03·2), max(0.06, 0.5·1)
    assert statistics.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    corrected = statistics.holm([math.nan, 0.03, 0.6, math.nan, 0.7])
    assert corrected[1:3] == pytest.approx([0.09, 1.0])
    assert math.isnan(corrected[0]) and math.isnan(corrected[3]) and corrected[4] == 1.0
    assert statistics.selection_regret([0.1, 0.9, math.nan], [0.8, 0.7, 0.95]) == pytest.approx(
        0.25
    )
    assert statistics.selection_regret([0.5, 0.5], [0.7, math.nan]) == 0
    assert math.isnan(statistics.selection_regret([math.nan], [0.5]))
    assert statistics.difference_in_deviations(80.0, 3.0, 75.0, 4.0) == pytest.approx(1.0)
    assert math.isnan(statistics.difference_in_deviations(80.0, math.nan, 75.0, 4.0))


numbers = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8))
def test_paired_test_and_correlations_equal_scipys(pairs):
    a, b = np.array(pairs).T
    if np.ptp(a - b) > 1e-3:
        assert statistics.paired_p(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=1e-9)
    for ours, theirs in (
        (statistics.kendall, stats.kendalltau),
        (statistics.spearman, stats.spearmanr),
    ):
        if np.ptp(a) and np.ptp(b):
            assert ours(a, b) == pytest.approx(theirs(a, b)[0])
            with_nan = ours([*a, math.nan, 1.0], [*b, 1.0, math.nan])
            assert with_nan == pytest.approx(ours(a, b))
        else:
            assert math.isnan(ours(a, b))


def test_a_test_needs_pairs_and_differences_that_differ():
    assert math.isnan(statistics.paired_p([1.0], [2.0]))
    assert math.isnan(statistics.paired_p([1.0, math.nan], [2.0, 3.0]))
    assert statistics.paired_p([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert math.isnan(statistics.paired_p([1.5, 2.5], [1.0, 2.0]))


@settings(deadline=None)
@given(st.lists(st.one_of(numbers, st.just(math.nan)), max_size=8), st.booleans())
def test_ranks_follow_the_printed_numbers(means, highest):
    ranks = statistics.ranks(means, 1, highest=highest)
    printed = [round(x, 1) for x in np.round(means, 1)]
    there = [x for x in printed if not math.isnan(x)]
    assert all(rank is None for x, rank in zip(printed, ranks, strict=True) if math.isnan(x))
    if len(set(there)) < 2:
        assert set(ranks) <= {None}
        return
    best, worst = (max, min) if highest else (min, max)
    for x, rank in zip(printed, ranks, strict=True):
        if not math.isnan(x):
            better = sum(y > x if highest else y < x for y in there)
            if x == best(there):
                assert rank == "best"
            elif x == worst(there):
                assert rank == "worst"
            else:
                assert rank == {1: "second", 2: "third"}.get(better)


# --- forms ---------------------------------------------------------------------------------------


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.classes, self._open = [], [], False

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._open = True
            if tag == "td":
                self.classes.append(dict(attrs).get("class"))

    def handle_endtag(self, tag):
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data):
        if self._open:
            self.rows[-1][-1] += data


names = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1)
names = names.map(lambda text: " ".join(text.split())).filter(bool)


@settings(deadline=None)
@given(names, names, names, names)
def test_any_name_survives_html_csv_and_markdown(row, outer, inner, text):
    one = Table("key", outer, inner, ((outer, inner),), (row,), ((Value(text, 1.5),),), row)
    parser = Cells()
    parser.feed(to_html(one))
    assert parser.rows == [[inner, outer], [inner], [row, text]]
    line = list(csv.DictReader(io.StringIO(to_csv([one]))))
    if text != "–":
        expected = {"row": row, "column_1": outer, "column_2": inner, "text": text, "value": "1.5"}
        assert expected.items() <= line[0].items()
    parser = Cells()
    parser.feed(python_markdown.markdown(to_markdown(one), extensions=["tables"]))
    assert [[" ".join(c.split()) for c in r] for r in parser.rows] == [
        [inner, f"{outer}, {inner}"],
        [row, text],
    ]


@settings(deadline=None)
@given(names)
def test_latex_leaves_no_active_character(text):
    one = Table("key", text, text, ((text,),), (text,), ((Value(text),),), text)
    latex = to_latex(one)
    for command in ("\\&", "\\%", "\\#", "\\$", "\\_", "\\{", "\\}", "\\textbackslash{}"):
        latex = latex.replace(command, "")
    assert not set("#$") & set(latex)
    assert latex.count("{") == latex.count("}")
    body = [line for line in latex.splitlines() if line.endswith(r" \\")]
    assert [line.count("&") for line in body] == [1, 1]
    assert not any(line.startswith("[") for line in body)


def test_latex_of_a_table_without_rows():
    assert "corner & a & b" in to_latex(Table("key", "title", "corner", (("a",), ("b",)), (), ()))


def test_wide_tables_go_on_below_and_long_ones_in_another():
    columns = tuple((f"HP {i}", kind) for i in range(6) for kind in ("AL", "BO"))
    rows = tuple(f"strategy {i}" for i in range(60))
    values = tuple(tuple(Value(f"{i}.{j} ± 1.00") for j in range(12)) for i in range(60))
    latex = to_latex(Table("key", "title", "strategy", columns, rows, values, "Note."))
    environments = latex.split("\n\n")
    assert len(environments) > 1
    assert [r"\label{tab:key}" in one for one in environments] == [True] + [False] * (
        len(environments) - 1
    )
    assert all("(continued)" in one for one in environments[1:])
    shown = []
    for one in environments:
        lines = one.splitlines()
        assert len(lines) < 70
        assert max(line.count("&") for line in lines) < 8  # of 12 columns
        (spec,) = re.findall(r"\\begin\{tabular\}\{l(r+)\}", one)
        cells = [line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r" \\")]
        assert max(map(len, cells)) == 1 + len(spec)
        assert one.count(r"\multicolumn{2}{c}") == 6  # none is torn
        shown += [cell for line in cells if line[0].startswith("strategy ") for cell in line[1:]]
    expected = [value.text.replace("±", r"\ensuremath{\pm}") for row in values for value in row]
    assert sorted(shown) == sorted(expected)


def test_a_level_without_names_is_not_shown():
    one = Table("key", "title", "strategy", (("", "AL"), ("", "BO")), ("r",), ((Value(),) * 2,))
    parser = Cells()
    parser.feed(to_html(one))
    assert parser.rows == [["strategy", "AL", "BO"], ["r", "–", "–"]]
    assert "strategy & AL & BO" in to_latex(one) and r"\cmidrule" not in to_latex(one)


def test_latex_letters():
    pieces = {
        "a_b & 50% #1 {x}": r"a\_b \& 50\% \#1 \{x\}",
        "β ± √²": r"\ensuremath{\beta} \ensuremath{\pm} \ensuremath{\surd}\ensuremath{^2}",
        "albl:entropy,margin--x": "albl:entropy,margin-{}-x",
        "e\u0301": "é",
        "~^\\": r"\textasciitilde{}\textasciicircum{}\textbackslash{}",
    }
    for text, latex in pieces.items():
        assert latex_text(text) == latex


def test_a_table_upright_has_the_same_values():
    one = Table("key", "t", "c", (("a", "b"), ("a", "c")), ("r",), ((Value("1"), Value("2")),))
    upright = one.upright()
    assert upright.columns == (("r",),) and upright.rows == ("a, b", "a, c")
    assert [[value.text for value in row] for row in upright.values] == [["1"], ["2"]]
    assert upright.upright().values == one.values


@pytest.mark.parametrize(
    ("arguments", "text", "note"),
    [
        ({"mean": 1.005, "std": 0.5, "n": 3, "expected": 3}, "1.00 ± 0.50", ""),
        ({"mean": -2.5, "n": 2, "expected": 3, "digits": 1}, "−2.5", "n=2"),
        ({"mean": 2.5, "sign": "+"}, "+2.50", ""),
        ({"mean": math.nan, "std": 1.0, "n": 2}, "–", ""),
    ],
)
def test_measured_values(arguments, text, note):
    one = measured(**arguments)
    assert (one.text, one.note) == (text, note)


def test_ranks_and_marks_in_every_form():
    values = (
        (Value("70.00", 70, rank="best", mark="*"), Value("1.00", 1, rank="worst")),
        (Value("60.00", 60, rank="second", note="n=2"), Value()),
    )
    columns = (("HP 1", "AL"), ("HP 1", "BO"))
    one = Table("key", "title", "strategy", columns, ("a_b", "b"), values, "Note.")
    text = to_markdown(one)
    assert "| a\\_b | **70.00**\\* | 1.00 ▼ |" in text and "| b | *60.00* (n=2) | – |" in text
    assert "Note. Bold" in text
    latex = to_latex(one)
    assert r"\multicolumn{2}{c}{HP 1}" in latex and r"\cmidrule(lr){2-3}" in latex
    assert r"\textbf{70.00}\textsuperscript{*}" in latex and r"a\_b &" in latex
    page = to_html(one)
    assert '<td class="best">70.00<sup>*</sup></td><td class="worst">1.00</td>' in page
    assert 'colspan="2">HP 1</th>' in page and 'rowspan="2">strategy</th>' in page
    rows = list(csv.DictReader(io.StringIO(to_csv([one]))))
    assert [(r["row"], r["column_2"], r["rank"]) for r in rows] == [
        ("a_b", "AL", "best"),
        ("a_b", "BO", "worst"),
        ("b", "AL", "second"),
    ]


def test_a_table_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        Table("key", "title", "", (("a",),), ("row",), ((Value(), Value()),))


# --- results -------------------------------------------------------------------------------------


def test_results_are_read_wherever_the_study_lies(tmp_path):
    write(tmp_path / "a", accuracy, tuned=lambda c: 0.7)
    shutil.copytree(tmp_path / "a", tmp_path / "moved" / "b")
    shutil.rmtree(tmp_path / "a")
    results = load_findings(tmp_path / "moved" / "b")
    assert results.finished == len(results.cells) == 24
    assert (results.settings, results.tunings) == (("HP 1", "HP 2"), ("BO",))
    assert results.strategies == ("random", "badge")
    curves = results.curves
    assert len(curves) == 24 and set(curves["n_labeled"]) == {10, 20}
    last = curves[curves["n_labeled"] == 20]
    assert set(last["epochs_fit"]) == {6} and set(last["seconds"]) == {5.0}
    assert set(last["images"]) == {3 * 10 + 3 * 20}
    assert set(results.tuned["images"]) == {30 * 16 + 3 * 20}  # a hold-out of a fifth leaves 16


def test_states_of_cells(tmp_path):
    def seed_zero(c, n):
        return 0.5 if c["seed"] == "0" else 0.5 if n == 10 and c["seed"] == "1" else None

    write(tmp_path, seed_zero)
    cells = load_findings(tmp_path).cells
    broken = next(one.cell for one in cells if one.cell.coordinates["seed"] == "2")
    broken.path.mkdir(parents=True)
    (broken.path / "failed.txt").write_text("Traceback\n  line\nValueError: no such thing\n")
    results = load_findings(tmp_path)
    found = {(one.cell.coordinates["seed"], one.state) for one in results.cells[:12]}
    assert found == {("0", "finished"), ("1", "unfinished"), ("2", "missing"), ("2", "failed")}
    failed = [one for one in results.cells if one.state == "failed"]
    assert [one.failure for one in failed] == ["ValueError: no such thing"]
    assert {one.records for one in results.cells[:12]} == {0, 1, 2}
    assert all(one.state == "missing" for one in results.cells[12:])


def test_a_study_that_has_not_begun_has_no_tables(tmp_path):
    write(tmp_path, lambda c, n: None)
    results = load_findings(tmp_path)
    assert report_tables(results) == [] and results.outcomes.empty
    assert compare_published(results, "cifar10").tables == ()


def test_damaged_records_are_named(tmp_path):
    write(tmp_path, accuracy)
    path = load_findings(tmp_path).cells[0].cell.path
    Journal(path / "cycles.jsonl").append({"kind": "cycle"})
    cell = load_findings(tmp_path).cells[0]
    assert cell.state == "damaged" and "cycles.jsonl, line 3" in cell.failure


def test_trials_come_from_the_journal_of_the_search(tmp_path):
    settings = study(grid={"strategy": ["random"]})
    write(tmp_path, lambda c, n: 0.5, settings)
    path = load_findings(tmp_path).cells[1].cell.path
    space = CS.ConfigurationSpace({"lr": (0.0, 1.0)})

    def objective(configuration, epoch, previous_epoch, checkpoint_path):
        value = configuration["lr"]
        result = {"epoch": epoch, "metric": value, "accuracy": value, "nll": 1 - value}
        if epoch == 3:
            result |= {"test_accuracy": -value, "test_nll": 1.0}
        return [result]

    best = Tuner(objective, space, 3, 30, path / "hpo", "random", seed=1, progress=False).run()
    chosen = dict(best["configuration"])
    write_json(path / "tune.json", record("tuned", 1, 20, 0.8, configuration=chosen | {"x": 1}))
    results = load_findings(tmp_path)
    trials = results.trials
    assert len(trials) == 10 and set(trials["epoch"]) == {3}
    assert [c["lr"] for c in trials["configuration"]] == trials["metric"].tolist()
    assert trials[trials["selected"]]["metric"].tolist() == [trials["metric"].max()]
    tables = report_tables(results)
    name = "holdout:0.2: accuracy"
    reversed_order = cell(table(tables, "validation"), name, "20 labels", "random")
    assert reversed_order.value == pytest.approx(-1)
    lost = 100 * (trials["metric"].max() - trials["metric"].min())
    regret = table(tables, "regret").values[0][0].value
    assert regret == pytest.approx(lost)
    assert cell(table(tables, "found"), "random, BO", "lr").value == chosen["lr"]


def test_unweighted_estimates_stand_beside_weighted_ones(tmp_path):
    write_study(tmp_path, STUDY | {"grid": {"strategy": ["random"], "seed": [0, 1]}})
    for file in tmp_path.glob("cells/*/tune/*/hpo/*/journal.jsonl"):
        entries = Journal(file).read()
        file.unlink()
        for entry in entries:
            if entry["kind"] == "epoch":
                test = entry["result"]["test_accuracy"]
                more = {"accuracy_unweighted": test, "nll_unweighted": test}
                entry["result"] |= more
                entry["keys"] += list(more)
            Journal(file).append(entry)
    validation = table(report_tables(load_findings(tmp_path)), "validation")
    assert validation.rows == tuple(
        f"random:0.1x3: {name}"
        for name in ("accuracy", "likelihood", "accuracy, unweighted", "likelihood, unweighted")
    )
    assert cell(validation, validation.rows[2], "300 labels", "random").text == "1.00 ± 0.00"
    assert cell(validation, validation.rows[3], "300 labels", "random").value == pytest.approx(-1)


# --- tables --------------------------------------------------------------------------------------


def test_accuracy_table_in_closed_form(tmp_path):
    results = load_findings(write(tmp_path, accuracy, tuned=lambda c: 0.7))
    one = table(report_tables(results), "accuracy-digits-resnet18-20")
    assert one.columns == (("HP 1", "AL"), ("HP 1", "BO"), ("HP 2", "AL"), ("HP 2", "BO"))
    random, badge = (cell(one, name, "HP 1", "AL") for name in ("random", "badge"))
    assert (random.text, badge.text) == ("52.00 ± 2.00", "62.00 ± 4.00")
    assert (random.rank, badge.rank) == ("worst", "best")
    # differences 8, 10, 12: t = 10 / (2 / √3), 2 degrees of freedom: p = 0.013
    assert (random.mark, badge.mark) == ("†", "*")
    tuned = cell(one, "badge", "HP 1", "BO")
    assert (tuned.text, tuned.rank, tuned.mark) == ("70.00 ± 0.00", None, "")
    gap = table(report_tables(results), "gap")
    value = cell(gap, "badge", "HP 1", "AL")
    p = stats.ttest_rel([0.56, 0.6, 0.64], [0.48, 0.5, 0.52]).pvalue
    assert (value.text, value.note, value.mark) == ("+10.00 ± 2.00", f"p={p:.3f}", "*")
    assert cell(gap, "badge", "all settings", "AL").text == "+10.00 ± 0.00"
    assert gap.rows == ("badge",)


def test_seeds_that_are_not_there_yet_are_counted(tmp_path):
    def partly(c, n):
        missing = c["strategy"] == "badge" and c["seed"] == "2" and n == 20
        return None if missing else accuracy(c, n)

    tables = report_tables(load_findings(write(tmp_path, partly)))
    one = table(tables, "accuracy")
    value = cell(one, "badge", "HP 1", "AL")
    assert (value.note, value.n) == ("n=2", 2)
    assert cell(one, "random", "HP 1", "AL").note == ""
    assert cell(one, "badge", "HP 1", "BO").n == 0


def test_order_of_strategies_across_settings(tmp_path):
    means = {
        "HP 1": {"random": 0.1, "entropy": 0.2, "badge": 0.3, "coreset": 0.4},
        "HP 2": {"random": 0.4, "entropy": 0.3, "badge": 0.2, "coreset": 0.1},
    }
    grid = {"strategy": [*means["HP 1"]], "hyperparameters": HP}
    results = load_findings(
        write(
            tmp_path,
            lambda c, n: means[c["hyperparameters"]][c["strategy"]],
            study(grid=grid),
            tuned=lambda c: {"random": 0.1, "entropy": 0.2, "badge": 0.4, "coreset": 0.3}[
                c["strategy"]
            ],
        )
    )
    one = table(report_tables(results), "order")
    assert cell(one, "HP 1, AL", "HP 2", "AL").value == pytest.approx(-1)
    assert cell(one, "HP 1, AL", "HP 1", "BO").value == pytest.approx(4 / 6)  # τ: one swap of six
    assert cell(one, "HP 1, BO", "HP 1", "AL").value == pytest.approx(0.8)  # ρ: 1 − 6·2/60
    assert cell(one, "HP 1, BO", "HP 2", "BO").value == pytest.approx(1)
    assert "AL −1.00, BO 1.00" in one.note
    accuracy = table(report_tables(results), "accuracy")
    ranks = [row[0].rank for row in accuracy.values]
    assert ranks == ["worst", "third", "second", "best"]
    assert "no test" in accuracy.note and all(not v.mark for row in accuracy.values for v in row)


def test_one_strategy_one_seed_one_cycle(tmp_path):
    settings = study(grid={"strategy": ["badge"]}, tune=None)
    settings["settings"] = settings["settings"] | {"budget": 10}
    tables = report_tables(load_findings(write(tmp_path, lambda c, n: 0.25, settings)))
    one = table(tables, "accuracy")
    assert one.columns == (("", "AL"),) and one.values[0][0].text == "25.00"
    assert not any(one.key.startswith(("order", "gap", "validation", "found")) for one in tables)
    for each in tables:
        text = to_markdown(each) + to_html(each) + to_latex(each)
        assert "nan" not in text.lower()


@pytest.mark.parametrize("seeds", [1, 2])
def test_notes_tell_of_deviations_and_tests_where_there_are_some(tmp_path, seeds):
    write_study(tmp_path, STUDY | {"grid": STUDY["grid"] | {"seed": list(range(seeds))}})
    tables = report_tables(load_findings(tmp_path))
    told = {
        "accuracy": "Means ± standard deviations",
        "gap": "Means ± standard deviations of the differences",
        "learning": "Means ± standard deviations",
        "found": "Median over repetitions",
    }
    for start, text in told.items():
        note = table(tables, start).note
        assert (text in note) == (seeds > 1), note
        assert ("t-test" in note) == (seeds > 1 and start in ("accuracy", "gap")), note
        assert note.startswith("One ") == (seeds == 1), note


def test_missing_scores_and_diverged_fits(tmp_path):
    def some(c, n):
        return math.nan if c["strategy"] == "badge" else 0.5

    results = load_findings(write(tmp_path, some))
    one = table(report_tables(results), "accuracy")
    assert cell(one, "badge", "HP 1", "AL").n == 0
    assert cell(one, "random", "HP 1", "AL").rank is None
    assert math.isnan(results.curves["brier"].min()) is False
    journal = Journal(results.cells[0].cell.path / "cycles.jsonl")
    journal.path.unlink()
    journal.append(record("cycle", 0, 10, 0.1, diverged=True))
    assert load_findings(tmp_path).curves["diverged"].sum() == 1


def test_final_retraining_is_a_column_of_its_own(tmp_path):
    grid = {"strategy": ["random", "badge"], "hpo": ["fixed", "final"], "seed": [0, 1]}
    settings = study(
        grid=grid, tune={"labels": [20], "grid": {"validation": ["kfold:2", "kfold:3"]}}
    )
    results = load_findings(write(tmp_path, accuracy, settings, tuned=lambda c: 0.7))
    assert results.tunings == ("BO kfold:2", "BO kfold:3")
    one = table(report_tables(results), "accuracy")
    assert one.columns == (
        ("fixed", "AL"),
        ("fixed", "BO kfold:2"),
        ("fixed", "BO kfold:3"),
        ("final", "AL"),
        ("final", "BO in the run"),
        ("final", "BO kfold:2"),
        ("final", "BO kfold:3"),
    )
    value = cell(one, "random", "final", "BO in the run")
    assert value.value == pytest.approx(cell(one, "random", "final", "AL").value + 5)


def test_other_data_sets_and_models_have_tables_of_their_own(tmp_path):
    grid = {"strategy": ["random", "badge"], "model": ["resnet18", "resnet34"], "seed": [0]}
    settings = study(grid=grid, tune=None)
    tables = report_tables(load_findings(write(tmp_path, accuracy, settings)))
    keys = [one.key for one in tables if one.key.startswith("accuracy")]
    assert keys == [f"accuracy-digits-resnet{n}-{labels}" for n in (18, 34) for labels in (10, 20)]
    assert len({one.key for one in tables}) == len(tables)


def test_costs_add_up(tmp_path):
    results = load_findings(write(tmp_path, accuracy, tuned=lambda c: 0.7))
    one = table(report_tables(results), "cost")
    assert cell(one, "badge, HP 2", "AL", "fit epochs").value == 6
    assert cell(one, "badge, HP 2", "BO", "HPO epochs").value == 30
    epochs = 12 * 6 + 12 * (30 + 3)
    assert f"{epochs:,} epochs" in one.note


# --- published -----------------------------------------------------------------------------------


def test_published_numbers():
    assert published_names() == ["cifar10", "cifar100"]
    cifar10, cifar100 = (published_tables(name) for name in published_names())
    assert (len(cifar10), len(cifar100)) == (128, 64)
    totals = cifar10.groupby("source")[["mean", "std"]].sum().round(2)
    assert totals.loc["paper"].tolist() == [4760.76, 105.67]
    assert totals.loc["repository"].tolist() == [4782.86, 149.11]
    assert cifar100[["mean", "std"]].sum().round(2).tolist() == [1991.88, 72.23]
    paper = cifar10[cifar10["source"] == "paper"]
    best = paper[(paper["column"] == "BO") & (paper["strategy"] == "badge")]
    rivals = paper[paper["column"] == "BO"].groupby(["labels", "setting"])["mean"].max()
    wins = (best.set_index(["labels", "setting"])["mean"] == rivals).sum()
    assert wins == 8  # 7 in the paper's text, which counts the tie of 84.02 as none
    active = cifar10[(cifar10["column"] == "AL") & (cifar10["source"] == "repository")]
    assert set(active["labels"]) == {2100, 4000}
    with pytest.raises(ConfigurationError, match="cifar10"):
        published_tables("cifar")


def test_a_study_that_repeats_the_published_numbers_differs_in_nothing(tmp_path):
    published = published_tables("cifar10")
    paper = published[published["source"] == "paper"]
    lookup = {
        (r.strategy, r.setting, r.column, r.labels): (r.mean, r.std) for r in paper.itertuples()
    }

    def of(c, column, labels):
        hp = c["hyperparameters"].removeprefix("setting ")
        mean, std = lookup[c["strategy"], f"HP {hp}", column, labels]
        return (mean + std * (int(c["seed"]) - 1)) / 100

    settings = yaml.safe_load(yaml.safe_dump(load_study("paper-cifar10").model_dump()))
    named = settings["grid"]["hyperparameters"]
    settings["grid"]["hyperparameters"] = {
        name.replace("HP", "setting"): value for name, value in named.items()
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    for one in expand(load_study(tmp_path, output_dir=str(tmp_path))):
        if one.kind == "run":
            journal = Journal(one.path / "cycles.jsonl")
            for cycle, labels in enumerate((2000, 4000)):
                journal.append(record("cycle", cycle, labels, of(one.coordinates, "AL", labels)))
        else:
            labels = int(one.coordinates["labels"])
            entry = record("tuned", 0, labels, of(one.coordinates, "BO", labels))
            write_json(one.path / "tune.json", entry)
    compared = compare_published(load_findings(tmp_path), "cifar10")
    ours = [one for one in compared.tables if one.key.startswith("published-paper")]
    assert [one.key[-4:] for one in ours] == ["2000", "4000"]
    for one in ours:
        assert len(one.rows) == 16
        for row in one.values:
            for here, there, difference, scaled in (row[:4], row[4:]):
                assert here.value == pytest.approx(there.value)
                assert here.std == pytest.approx(there.std)
                assert abs(difference.value) < 1e-9 and abs(scaled.value) < 1e-9
        assert "32 of 32 lie within 2" in one.note
    other = next(one for one in compared.tables if "repository" in one.key)
    assert "AL here has 2,000 labels, published 2,100." in other.note
    deviations, augmented = compared.differences  # remarks on all published tables
    assert "divide by n" in deviations and "augment" in augmented


def test_what_differs_from_the_published_protocol_is_told(tmp_path):
    write(tmp_path, accuracy)
    for path in tmp_path.glob("cells/*"):
        write_json(
            path / "dataset.json", {"images": [1000, 8, 8, 1], "eval_images": [500, 8, 8, 1]}
        )
    Journal(path / "sessions.jsonl").append({"precision": "bfloat16"})
    compared = compare_published(load_findings(tmp_path), "cifar10")
    text = "\n".join(compared.differences)
    for line in (
        "Data: digits here, torch/cifar10 published.",
        "images in the pool: 1,000 here, 45,000 published.",
        "evaluation images: 500 here, 10,000 published.",
        "pixels: 8×8×1 here, 32×32×3 published.",
        "max_epochs: 3 here, 200 published.",
        "budget: 20 here, 4,000 published.",
        "warmup_epochs: 0 here, 10 published.",
        "lr_steps: step here, epoch published.",
        "Strategies that were published but are not here: coreset, entropy.",
        "tuning, optimizer: dyhpo here, tpe published.",
        "tuning, validation: holdout:0.2 here, random:0.1x3 published.",
        "tuning, budget in full trainings: 10 here, 50 published.",
        "precision: bfloat16",
    ):
        assert line in text, line
    assert "repetitions: " not in text and "\nlr:" not in text
    paper = next(one for one in compared.tables if one.key.startswith("published-paper"))
    assert paper.rows == ("random, HP 1", "random, HP 2", "badge, HP 1", "badge, HP 2")
    assert "AL here has 20 labels, published 2,000." in paper.note
    assert len(compared.tables) == 2  # 4,000 labels are farther from 20 than 2,000


def test_rounding_noise_makes_no_order():
    assert 0.1 + 0.2 != 0.3
    assert math.isnan(statistics.kendall([0.1 + 0.2, 0.3], [1, 2]))
    assert statistics.selection_regret([0.3, 0.1 + 0.2], [0.5, 0.7]) == pytest.approx(0.2)
