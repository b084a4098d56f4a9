"""Reports of studies: their files hold what was found, show it, and need nothing else."""

from __future__ import annotations

import base64
import copy
import io
import itertools
import re
import shutil
import string
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from quick_figures import undrawn, without_drawing  # noqa: F401 - a fixture
from synthetic_study import STUDY, pictures, records, write_study

from alhpo.base.errors import ConfigurationError, DataError
from alhpo.base.files import Journal
from alhpo.cli import main
from alhpo.reports import load_findings, write_report
from alhpo.reports.formats import LATEX_PACKAGES

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = {
    "curves-by-strategy",
    "curves-by-setting",
    "tuned",
    "calibration",
    "validation-and-test",
    "cost",
    "agreement-digits-resnet18-300",
    "agreement-digits-resnet18-500",
}


class Page(HTMLParser):
    """The images, tables, links and visible text of a page; fails where tags do not match."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict] = []
        self.tables: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.tags: set[str] = set()
        self.headings: list[int] = []
        self.unnamed: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        self.addresses += [values[name] for name in ("src", "href", "srcset") if name in values]
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "img":
            self.images.append(values)
        if tag == "table":
            self.tables.append(values.get("id", ""))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "th" and "scope" not in values:
            self.unnamed.append(tag)
        if tag == "table" and "id" in values and not values.get("aria-label"):
            self.unnamed.append(tag)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text += data


def picture(address: str) -> np.ndarray:
    head, data = address.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return folder


@pytest.fixture
def study_copy(study, tmp_path):
    """The same study in a folder that a test may change."""
    return shutil.copytree(study, tmp_path / "study")


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    return write_report(study, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def compared(study, tmp_path_factory):
    """A report beside published tables."""
    with without_drawing():
        return write_report(study, tmp_path_factory.mktemp("compared"), compare="cifar10")


def changed(**values):
    study = copy.deepcopy(STUDY)
    return study | values


def test_files_are_there_and_parse(report):
    assert set(report.figures) == FIGURES
    for file in report.files:
        assert file.stat().st_size > 100
        assert not re.search(r"\s", file.name)
    for file in report.figures.values():
        pixels = np.asarray(Image.open(file).convert("L"))
        assert pixels.shape[1] > 500
        assert pixels.std() > 10
    frame = pd.read_csv(report.csv)
    assert set(frame["table"]) == {table.key for table in report.tables}
    accuracy = frame[frame["table"] == "accuracy-digits-resnet18-500"]
    every = records(report.findings.grid.path)
    last = [r["test"]["accuracy"] for r in every if r["n_labeled"] == 500]
    means = accuracy[accuracy["column_2"] == "AL"]["value"]
    assert means.mean() == pytest.approx(100 * np.mean(last))


def test_markdown_shows_every_table_and_figure(report):
    text = report.markdown.read_text()
    for table in report.tables:
        assert f"### {table.title}".replace("_", r"\_") in text
    shown = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert shown == [report.figures[figure.key].name for figure in report.document.figures]
    assert "12 of 12" not in text
    assert "24 of 24 cells finished" in text
    assert "torch 2.5.0" in text and "hpo4dl" not in text.split("```")[0]


def test_page_holds_everything_and_needs_nothing(report):
    page = Page(report.html.read_text())
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "embed"})
    assert [key for key in page.tables if key] == [table.key for table in report.tables]
    assert set(page.ids) >= FIGURES
    assert len(page.ids) == len(set(page.ids))
    for image in page.images:
        assert image["alt"]
        assert picture(image["src"]).size
    outside = [a for a in page.addresses if not a.startswith(("data:image/png;base64,", "#"))]
    assert outside == []
    assert "url(" not in report.html.read_text() and "@import" not in report.html.read_text()
    for anchor in (a[1:] for a in page.addresses if a.startswith("#")):
        assert anchor in page.ids


def test_page_can_be_read_aloud(report):
    """Levels of headings are not skipped, header cells say what they head, tables have names."""
    page = Page(report.html.read_text())
    assert page.headings.count(1) == 1 and page.headings[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(page.headings))
    assert page.unnamed == []


def test_gallery_shows_what_was_picked(study, report):
    page = Page(report.html.read_text())
    tiles = page.images[len(FIGURES) :]
    assert len(tiles) == 4 * 16  # two strategies, two settings, one seed
    dataset = pictures()
    first = [r for r in report.findings.cells if r.cell.config.seed == 0 and r.cell.kind == "run"]
    queried = {
        (c.cell.coordinates["hyperparameters"], c.cell.coordinates["strategy"]): Journal(
            c.cell.path / "cycles.jsonl"
        ).read()[0]["queried"][:16]
        for c in first
    }
    order = [(hp, strategy) for hp in ("HP 1", "HP 2") for strategy in ("random", "badge")]
    for tile, index in zip(tiles, (i for key in order for i in queried[key]), strict=True):
        assert (picture(tile["src"]) == dataset.images[index].numpy()).all()
        assert tile["alt"] == dataset.classes[int(dataset.labels[index])]


def test_same_results_give_the_same_files_where_the_study_lies_now(report, study_copy):
    other = write_report(study_copy)
    assert other.html.parent == study_copy
    for file, copy_ in zip(report.files, other.files, strict=True):
        assert file.read_bytes() == copy_.read_bytes()


def test_curves_are_means_over_seeds(report):
    figures = {figure.key: figure.figure for figure in report.document.figures}
    curves = report.findings.curves
    for key, panel, line in (
        ("curves-by-strategy", "strategy", "setting"),
        ("curves-by-setting", "setting", "strategy"),
    ):
        drawn = {
            (axes.get_title(loc="left"), one.get_label()): one
            for axes in figures[key].axes
            for one in axes.get_lines()
        }
        for names, rows in curves.groupby([panel, line]):
            means = 100 * rows.groupby("n_labeled")["accuracy"].mean()
            assert drawn[names].get_xdata().tolist() == means.index.tolist()
            assert drawn[names].get_ydata() == pytest.approx(means.to_numpy())


@pytest.mark.usefixtures("undrawn")
def test_partial_study(tmp_path):
    def skip(cell):
        return cell.kind == "tune" or cell.coordinates == {
            "strategy": "badge", "hyperparameters": "HP 2", "seed": "1",
        }  # fmt: skip

    write_study(tmp_path, skip=skip)
    results = load_findings(tmp_path)
    failed = next(one.cell for one in results.cells if one.state == "missing")
    failed.path.mkdir(parents=True, exist_ok=True)
    (failed.path / "failed.txt").write_text("Traceback\nValueError: <b>bad</b> & worse\n")
    cut = results.cells[0].cell.path
    (cut / "run.json").unlink()
    lines = (cut / "cycles.jsonl").read_text().splitlines(keepends=True)
    (cut / "cycles.jsonl").write_text("".join(lines[:2]))
    (cut / "first_query.png").write_bytes(b"\x89PNG")
    report = write_report(tmp_path)
    assert {"tuned", "validation-and-test"}.isdisjoint(report.figures)
    assert "curves-by-strategy" in report.figures
    page = Page(report.html.read_text())
    assert "ValueError: <b>bad</b> & worse" in page.text
    assert "b" not in page.tags
    assert "6 of 24 cells finished" in page.text
    assert "1 of 24 cells failed" in page.text
    assert "1 of 24 cells unfinished" in page.text
    assert "16 of 24 cells missing" in page.text
    assert "failed: cell" in report.markdown.read_text()


def zero(path):
    path.write_bytes(b"\0" * path.stat().st_size + b"\n")


JOURNAL = "hpo/experiment_000/journal.jsonl"
#: Kind of cell, file of it, what happens to the file, and what is then told.
DAMAGE = [
    ("run", "cycles.jsonl", zero, "cycles.jsonl, line 1 is not JSON"),
    ("run", "cycles.jsonl", lambda path: path.unlink(), "the run was finished with 5"),
    ("run", "cycles.jsonl", lambda path: path.write_text('{"kind": 1}\n'), "is not a record"),
    ("tune", "tune.json", zero, "tune.json is not JSON"),
    ("tune", "tune.json", lambda path: path.write_text("[]"), "tune.json is not a record"),
    ("tune", JOURNAL, zero, "journal.jsonl, line 1 is not JSON"),
    (
        "tune",
        JOURNAL,
        lambda path: path.write_text(path.read_text().replace("_ids", "_id", 1)),
        "journal.jsonl, line 2 is not an entry of a search",
    ),
]


@pytest.mark.usefixtures("undrawn")
def test_damaged_cells_are_named_and_the_others_are_reported(study_copy, report):
    cells = [one.cell for one in load_findings(study_copy).cells]
    left = {kind: iter([cell for cell in cells if cell.kind == kind]) for kind in ("run", "tune")}
    reasons = {}
    for kind, file, damage, reason in DAMAGE:
        cell = next(left[kind])
        damage(cell.path / file)
        reasons[cell.index] = reason
    result = command(study_copy)
    assert result.exit_code == 0, result.output
    findings = load_findings(study_copy)
    damaged = {one.cell.index: one for one in findings.cells if one.state == "damaged"}
    assert damaged.keys() == reasons.keys()
    page = Page((study_copy / "report.html").read_text()).text
    for index, reason in reasons.items():
        (told,) = (
            line for line in result.output.splitlines() if f"damaged: cell {index}, " in line
        )
        assert f"{cells[index].title}: " in told and reason in told
        assert reason in damaged[index].failure
        assert reason in page
    for name in ("curves", "tuned", "trials"):
        rows = getattr(report.findings, name)
        expected = rows[~rows["cell"].isin(reasons)].reset_index(drop=True)
        assert len(expected) < len(rows)
        pd.testing.assert_frame_equal(getattr(findings, name), expected)
    assert "7 of 24 cells damaged" in (study_copy / "report.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_study_keeps_what_it_has_and_says_what_is_missing(study_copy):
    """One cell finished, one in work, one with its first cycle under way, one failed."""
    before = [one.cell for one in load_findings(study_copy).cells]
    cells = [cell for cell in before if cell.kind == "run"]
    done, working, begun, failed, *others = cells
    for cell in (working, failed):
        (cell.path / "run.json").unlink()
        file = cell.path / "cycles.jsonl"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    (failed.path / "failed.txt").write_text("Traceback\nOSError: no space\n")
    for name in ("run.json", "cycles.jsonl"):
        (begun.path / name).unlink()
    for cell in others:
        shutil.rmtree(cell.path)
    for cell in (cell for cell in before if cell.kind == "tune"):
        shutil.rmtree(cell.path, ignore_errors=True)
    result = command(study_copy)
    assert result.exit_code == 0, result.output
    findings = load_findings(study_copy)
    rows = findings.curves.groupby("cell").size().to_dict()
    assert rows == {done.index: 5, working.index: 2, failed.index: 2}
    lines = [
        "1 of 24 cells finished, 1 of 24 cells failed, 2 of 24 cells unfinished, "
        "20 of 24 cells missing",
        f"failed: cell {failed.index}, {failed.title}: 2 of 5 cycles; OSError: no space",
        f"unfinished: cell {working.index}, {working.title}: 2 of 5 cycles",
        f"unfinished: cell {begun.index}, {begun.title}: 0 of 5 cycles",
        f"missing: cells {', '.join(map(str, range(4, 24)))}",
    ]
    text = (study_copy / "report.md").read_text()
    page = Page((study_copy / "report.html").read_text()).text
    for line in lines:
        assert line in result.output
        assert line in text.replace("\\", "")
    for line in lines[1:4]:
        assert line.partition(": ")[2] in page
    assert "nan" not in text.lower()


def test_a_study_of_damaged_cells_only_is_an_error_that_names_them(tmp_path):
    write_study(tmp_path, skip=lambda cell: cell.index > 0)
    zero(next(tmp_path.rglob("cycles.jsonl")))
    with pytest.raises(DataError, match=r"has a complete record.*damaged: cell 0, .*is not JSON"):
        write_report(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_file_of_starts_hides_no_results(study_copy, report):
    zero(load_findings(study_copy).cells[3].cell.path / "sessions.jsonl")
    damaged = write_report(study_copy)
    assert damaged.csv.read_bytes() == report.csv.read_bytes()
    text = damaged.markdown.read_text()
    assert "23 of cells, from" in text
    assert "not known: those of cell 3, " in text


def test_single_run_without_axes(tmp_path):
    """Drawing leaves the user's matplotlib alone."""
    write_study(tmp_path, changed(grid={}, tune=None))
    before = (dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False))
    report = write_report(tmp_path)
    assert (dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)) == before
    assert set(report.figures) == {"curves-by-setting", "calibration", "cost"}
    Page(report.html.read_text())


@pytest.mark.usefixtures("undrawn")
def test_two_data_sets_have_figures_of_their_own(tmp_path):
    grid = {"dataset": {"a b": "digits", "c/d": "torch/cifar10"}, "strategy": ["random", "badge"]}
    write_study(tmp_path, changed(grid=grid))
    report = write_report(tmp_path)
    assert {"curves-by-setting-a-b-resnet18", "curves-by-setting-c-d-resnet18"} <= set(
        report.figures
    )
    assert all(file.exists() for file in report.files)
    page = Page(report.html.read_text())
    assert "a b, resnet18" in page.text


ODD = "<script>alert(1)</script> $x_1$ & 50% #{~}\\|`日本"


@pytest.mark.filterwarnings("ignore:Glyph")  # the pictures' font has no Japanese
def test_odd_names_stay_text(tmp_path):
    grid = {
        "strategy": {ODD: "random", "badge": "badge"},
        "hyperparameters": {ODD + "1": {"lr": 0.1}, "**b** [x](http://example.org)": {"lr": 0.01}},
    }
    names = tuple(f"<i>{i}</i> &amp; ü" for i in range(10))
    study = changed(description=ODD, grid=grid)
    write_study(tmp_path, study, dataset=pictures(names))
    report = write_report(tmp_path)
    page = Page(report.html.read_text())
    assert page.tags.isdisjoint({"script", "i", "a b"})
    assert page.text.count(ODD) > 5
    assert "<i>3</i> &amp; ü" in page.text
    assert "http://example.org" not in page.addresses
    text = report.markdown.read_text().split("```")[0]
    assert "<script>" not in re.sub(r"\\<script\\>", "", text)
    check_latex(report.latex.read_text(), tmp_path)


def test_latex(report, tmp_path):
    check_latex(report.latex.read_text(), tmp_path)
    assert LATEX_PACKAGES in (DOCS / "studies.md").read_text(encoding="utf-8")
    labels = re.findall(r"\\label\{tab:(.*?)\}", report.latex.read_text())
    assert labels == [table.key for table in report.tables]


def test_latex_of_the_published_comparison(compared, tmp_path):
    check_latex(compared.latex.read_text(), tmp_path)


def check_latex(text, folder):
    """Braces and environments match; where there is pdflatex, a paper can input the file."""
    bare = re.sub(r"\\[\\{}%]", "", text)
    depth = np.cumsum([{"{": 1, "}": -1}.get(c, 0) for c in bare])
    assert depth.min() >= 0 and depth[-1] == 0
    opened: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    comments, tables = re.match(r"((?:%.*\n)*)(.*)", text, re.DOTALL).groups()
    assert LATEX_PACKAGES in comments
    for line in tables.splitlines():
        assert not re.search(r"(?<!\\)[#$]", line)
    assert set(tables) <= set(string.printable) | set("ü日本")
    if shutil.which("pdflatex"):
        (folder / "report.tex").write_text(text.replace("日本", ""))
        (folder / "paper.tex").write_text(
            rf"\documentclass{{article}}{LATEX_PACKAGES}\begin{{document}}\input{{report}}"
            r"\end{document}"
        )
        command = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "paper.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        log = (folder / "paper.log").read_text(errors="replace")
        assert done.returncode == 0, log[-2000:]
        assert "Overfull" not in log and "Float too large" not in log


def test_nothing_to_report(tmp_path):
    write_study(tmp_path, skip=lambda cell: True)
    with pytest.raises(DataError, match="none of the 24 cells"):
        write_report(tmp_path)
    assert not list(tmp_path.glob("report.*"))


def command(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)], catch_exceptions=True)


@pytest.mark.usefixtures("undrawn")
def test_command_reports_a_study(study, report, tmp_path):
    result = command(study, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    flat = result.output.replace("\n", "")
    assert "test accuracy (%) with 500 labels" in " ".join(result.output.split())
    words = " ".join(result.output.split())
    (table,) = (t for t in report.tables if t.key == "accuracy-digits-resnet18-500")
    for row in table.values:
        for value in row:
            assert value.plain in words
    for name in ("report.md", "report.csv", "report.tex", "report.html"):
        assert str(tmp_path / name) in flat


def test_published_tables_stand_beside_those_of_the_study(compared):
    assert compared.comparison is not None
    page = Page(compared.html.read_text())
    assert {table.key for table in compared.comparison.tables} <= set(page.tables)
    assert all(line in page.text for line in compared.comparison.differences)
    assert "section-published" in page.ids


@pytest.mark.parametrize("name", ["published", "cifar11"])
def test_published_tables_that_nobody_named(study, tmp_path, name):
    result = command(study, "--output", tmp_path, "--compare", name)
    assert isinstance(result.exception, ConfigurationError)
    assert "cifar10" in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("undrawn")
def test_published_tables_that_the_study_names(tmp_path):
    write_study(tmp_path, changed(published="cifar100", grid={"strategy": ["random"]}, tune=None))
    assert write_report(tmp_path, compare="published").comparison is not None
    assert write_report(tmp_path).comparison is None


def chromium(page, folder, *arguments):
    always = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command = ["chromium", *always, *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_nothing_shines_in_the_dark(report, tmp_path):
    """Drawings, which are on white, have the page's background where dark is preferred."""
    share = []
    for scheme in (0, 1):
        file = tmp_path / f"{scheme}.png"
        setting = f"--blink-settings=preferredColorScheme={scheme}"
        chromium(report.html, tmp_path, "--window-size=1000,9000", setting, f"--screenshot={file}")
        with Image.open(file) as picture_:
            share.append(float((np.asarray(picture_.convert("L")) > 128).mean()))
    dark, light = share
    assert dark < 0.1 and light > 0.8


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
@pytest.mark.parametrize("width", [500, 1400])  # a window of chromium has 500 pixels at least
def test_page_fits_the_window_of_a_browser(report, tmp_path, width):
    """Nothing is wider than the page, and every image has pixels."""
    script = (
        "<script>addEventListener('load', () => { document.title = JSON.stringify({"
        "scroll: document.documentElement.scrollWidth, window: innerWidth, "
        "empty: [...document.images].filter(i => !i.naturalWidth).length, "
        "images: document.images.length}) })</script>"
    )
    page = tmp_path / "page.html"
    page.write_text(report.html.read_text().replace("</body>", script + "</body>"))
    dom = chromium(page, tmp_path, f"--window-size={width},900", "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", dom.stdout)
    assert title, dom.stderr
    found = yaml.safe_load(title[1])
    assert found["window"] == width
    assert found["scroll"] <= width
    assert found["images"] == len(FIGURES) + 64
    assert found["empty"] == 0


# --- what tuning within the runs cost ------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_a_sentence_says_what_searching_brought_and_cost(tmp_path, capsys):
    modes = ["fixed", "per-cycle", "every:2"]
    study = {**STUDY, "grid": {"strategy": ["random", "badge"], "hpo": modes, "seed": [0, 1, 2]}}
    del study["tune"]
    write_study(tmp_path / "study", study)
    text = write_report(tmp_path / "study").markdown.read_text()
    cost = text.partition("## Cost")[2]
    found = re.findall(
        r"digits, resnet18, (\w+): ([\d.]+) ± ([\d.]+) % with 500 labels and a search (in .*?) "
        r"\(dyhpo, 100 epochs each\), ([\d.]+) ± ([\d.]+) % .*? spent ([\d,]+) epochs on searching "
        r"beside the 100 of its fits, ([\d.]+) times",
        cost,
    )
    assert [(row[0], row[3]) for row in found] == [
        *[("random", "in every cycle"), ("random", "in every 2 cycles")],
        *[("badge", "in every cycle"), ("badge", "in every 2 cycles")],
    ]
    runs = {}
    for config in (tmp_path / "study").glob("cells/*/config.yaml"):
        settings = yaml.safe_load(config.read_text())
        lines = Journal(config.parent / "cycles.jsonl").read()
        runs.setdefault((settings["strategy"], settings["hpo"]), []).append(lines)
    for strategy, tuned, tuned_std, mode, fixed, fixed_std, epochs, times in found:
        hpo = "per-cycle" if mode == "in every cycle" else "every:2"
        for name, mean, std in (("fixed", fixed, fixed_std), (hpo, tuned, tuned_std)):
            last = [100 * lines[-1]["test"]["accuracy"] for lines in runs[strategy, name]]
            assert (mean, std) == (f"{np.mean(last):.1f}", f"{np.std(last, ddof=1):.1f}")
        spent = {
            name: np.mean(
                [sum(one["epochs"]["hpo"] for one in run) for run in runs[strategy, name]]
            )
            for name in ("fixed", hpo)
        }
        assert (spent["fixed"], f"{spent[hpo]:,.0f}") == (0, epochs)
        seconds = {
            name: sum(sum(one["seconds"].values()) for run in runs[strategy, name] for one in run)
            for name in ("fixed", hpo)
        }
        assert times == f"{seconds[hpo] / seconds['fixed']:.1f}"


def test_without_a_search_there_is_no_such_sentence(report):
    assert "on searching" not in report.markdown.read_text()
