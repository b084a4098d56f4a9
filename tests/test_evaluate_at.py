"""Runs that fit and evaluate at some numbers of labels only: the same labels, scores and resumption
as with every fit, what is refused, and what reports say of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from quick_figures import undrawn  # noqa: F401 - a fixture
from toy_models import TOY

from alhpo import RunConfig, run_experiment
from alhpo.base.errors import ConfigurationError, DataError
from alhpo.base.files import canonical_json
from alhpo.base.types import Query
from alhpo.cli import main
from alhpo.reports import load_findings, report_tables, write_report
from alhpo.runs.pool_tuning import tune_pool
from alhpo.runs.records import read_run
from alhpo.strategies import register_strategy
from alhpo.strategies.registry import STRATEGIES
from alhpo.studies import StudyConfig, expand

SIZES = [12, 20, 28]


class Killed(BaseException):
    """Ends the process as SIGKILL would: nothing catches it."""


@pytest.fixture
def brightest():
    """A strategy that looks at images and at no model."""
    with STRATEGIES.temporary():

        @register_strategy("brightest", needs=["images"])
        def choose(pool, n, generator):
            order = pool.images.float().mean((1, 2, 3)).argsort(descending=True, stable=True)
            return Query(tuple(pool.indices[order[:n]].tolist()))

        yield "brightest"


def settings(folder, **changes) -> RunConfig:
    return RunConfig.create(TOY, {"strategy": "random", "output_dir": str(folder)}, changes)


def comparable(records) -> list[dict]:
    return [replace(record, seconds={}).to_dict() for record in records]


def check_same_where_evaluated(some, every, evaluated) -> None:
    """The records of a run with ``evaluate_at`` against those of the run without it."""
    assert len(some) == len(every)
    for one, whole in zip(comparable(some), comparable(every), strict=True):
        if one["kind"] == "final":
            one["epochs"] = whole["epochs"] = None  # the current configuration may be measured here
            assert one == whole and one["fitted"]
        elif one["n_labeled"] in evaluated:
            assert one == whole and one["fitted"] and one["epochs"]["fit"] > 0
        else:
            left_out = {"test": None, "validation": None, "fitted": False}
            left_out |= {"epochs": {"hpo": 0, "fit": 0}, "diverged": False}
            assert one == whole | left_out


@pytest.mark.parametrize("strategy", ["random", "brightest"])
@pytest.mark.parametrize("hpo", ["fixed", "final"])
@pytest.mark.parametrize("validate", [True, False])
def test_labels_and_scores_are_those_of_the_run_with_every_fit(
    few_digits, tmp_path, brightest, strategy, hpo, validate
):
    same = {"strategy": strategy, "hpo": hpo, "validate_fixed": validate}
    every = run_experiment(settings(tmp_path, **same), dataset=few_digits).records
    for evaluated in ([20], [12, 28]):
        config = settings(tmp_path / str(evaluated), **same, evaluate_at=evaluated)
        result = run_experiment(config, dataset=few_digits)
        check_same_where_evaluated(result.records, every, evaluated)
        kept = {f"cycle_{SIZES.index(evaluated[-1]):03d}", *(["final"] if hpo == "final" else [])}
        assert {folder.name for folder in (result.path / "fit").iterdir()} == kept


def test_a_fit_that_diverges_changes_no_query_that_looks_at_no_model(
    few_digits, tmp_path, brightest
):
    same = {"strategy": brightest, "hyperparameters": {"batch_size": 8, "lr": 1e25}}
    every = run_experiment(settings(tmp_path, **same), dataset=few_digits).records
    assert all(record.diverged and not record.random_query for record in every)
    config = settings(tmp_path, **same, evaluate_at=[28])
    check_same_where_evaluated(run_experiment(config, dataset=few_digits).records, every, [28])


@hypothesis_settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_run_killed_after_any_records_ends_with_the_same(few_digits, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("killed")
    evaluated = data.draw(st.lists(st.sampled_from(SIZES), min_size=1, unique=True))
    hpo = data.draw(st.sampled_from(["fixed", "final"]))
    whole = run_experiment(
        settings(folder / "whole", evaluate_at=evaluated, hpo=hpo), dataset=few_digits
    )
    config = settings(folder / "killed", evaluate_at=evaluated, hpo=hpo)
    records = (folder / "killed" / config.name / "cycles.jsonl").resolve()

    class Stop:
        def started(self, *_): ...

        def loaded(self, *_): ...

        def progressed(self, *_):
            if data.draw(st.booleans()) and not records.parent.joinpath("stopped").exists():
                records.parent.joinpath("stopped").touch()
                raise Killed

        def recorded(self, record):
            raise Killed

    for _ in range(12):
        try:
            result = run_experiment(config, dataset=few_digits, observer=Stop())
            break
        except Killed:
            continue
    assert comparable(result.records) == comparable(whole.records)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate_at": [12, 21]}, r"'evaluate_at' is \[12, 21\]: No cycle has 21.*12, 20, 28"),
        ({"evaluate_at": [0]}, r"No cycle has 0 labels"),
        ({"evaluate_at": []}, r"evaluate_at' is \[\].* at least 1 item"),
        ({"evaluate_at": "12;20"}, r"evaluate_at.*'12;20'.*valid integer"),
        ({"evaluate_at": 20}, r"evaluate_at' is 20: .*valid list"),
        ({"hpo": "per-cycle"}, r"'per-cycle' searches in every cycle.*hpo fixed or final"),
        ({"hpo": "at:20"}, r"'at:20' searches at 20 labels"),
        ({"start": "warm"}, r"start=warm.*start=cold, or leave out evaluate_at"),
        ({"strategy": "entropy"}, r"'entropy' looks at a trained model.*logits.*Legal: random"),
        ({"strategy": "typiclust"}, r"'typiclust' looks at a trained model.*features"),
        ({"strategy": "albl:random,entropy"}, r"looks at a trained model"),
        (
            {"evaluate_at": [1], "budget": 108, "acquisition_size": 1},
            r"Legal: 12, 13, 14, 15, 16, …, 106, 107, 108",
        ),
    ],
)
def test_what_would_change_the_run_is_refused_with_the_reason(tmp_path, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        settings(tmp_path, **({"evaluate_at": [20]} | changes))
    assert not list(tmp_path.iterdir())


def test_the_same_numbers_in_any_form_are_the_same_run(tmp_path):
    names = {
        settings(tmp_path, evaluate_at=form).name for form in ("12,28", [28, 12], ["12", 28, 12])
    }
    assert len(names) == 1
    assert settings(tmp_path).name == settings(tmp_path, evaluate_at=None).name not in names


@pytest.mark.parametrize("damage", [{"fitted": True}, {"test": {"accuracy": 0.5}}, {"fitted": 0}])
def test_a_record_whose_scores_do_not_fit_is_damaged(few_digits, tmp_path, damage):
    result = run_experiment(settings(tmp_path, evaluate_at=[28]), dataset=few_digits)
    file = result.path / "cycles.jsonl"
    others = file.read_text().splitlines()[1:]
    changed = canonical_json(result.records[0].to_dict() | damage)
    file.write_text("\n".join([changed, *others]) + "\n")
    with pytest.raises(DataError, match="line 1 is not a record"):
        read_run(result.path)


def command(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("undrawn")
def test_the_command_says_what_it_left_out_and_tunes_its_pool(tmp_path):
    file = tmp_path / "run.yaml"
    small = {"pool_size": 60, "eval_size": 30, "max_epochs": 1, "output_dir": str(tmp_path / "r")}
    file.write_text(yaml.safe_dump(TOY | small | {"strategy": "random", "max_budget": 2}))
    output = command("run", "--config", str(file), "--evaluate-at", "28")
    assert output.count("not evaluated") == 2 and output.count("test 0.") == 1
    (folder,) = (tmp_path / "r").glob("*-fixed-*")
    assert yaml.safe_load((folder / "config.yaml").read_text())["evaluate_at"] == [28]
    output = command("tune", str(folder), "--labels", "20,28", "--max-epochs", "1")
    assert "test accuracy of the run  not measured" in output
    assert output.count("test accuracy of the run  0.") == 1
    assert "--evaluate-at" in command("run", "--help")
    report = write_report(tmp_path / "r")
    for text in (report.markdown.read_text(), report.html.read_text(), report.csv.read_text()):
        assert "nan" not in text.lower().replace("nanosecond", "")


def learning(folder):
    tables = report_tables(load_findings(folder))
    return next(one for one in tables if one.key.startswith("learning"))


@pytest.mark.usefixtures("undrawn")
def test_reports_use_measured_points_and_say_which(few_digits, tmp_path):
    def run(**changes) -> Path:
        return run_experiment(settings(tmp_path, **changes), dataset=few_digits).path

    for seed in (0, 1):
        run(seed=seed, evaluate_at=[12, 28])
    table = learning(tmp_path)
    assert [name for (name,) in table.columns] == ["12 labels", "28 labels", "area"]
    assert "through the accuracies at 12 and 28 labels" in table.note
    for seed in (0, 1):
        run(seed=seed, strategy="margin")
    table = learning(tmp_path)
    rows = dict(zip(table.rows, table.values, strict=True))
    assert [name for (name,) in table.columns] == ["12 labels", "20 labels", "28 labels", "area"]
    assert rows["random"][1].n == 0 and rows["random"][1].plain == rows["random"][1].text
    ends = [rows["random"][i].value for i in (0, 2)]
    assert rows["random"][3].value == pytest.approx(sum(ends) / 2)  # one trapezoid
    assert all(row[3].rank is None for row in rows.values())
    assert "12 and 28 (random); 12, 20 and 28 (margin)" in table.note
    findings = load_findings(tmp_path)
    assert findings.settings == ("",)  # which fits were made is no difference to compare
    assert not any("evaluate_at" in remark for remark in findings.grid.remarks)
    spent = findings.outcomes[findings.outcomes["strategy"] == "random"]
    assert spent[spent["n_labeled"] == 28]["epochs_fit"].tolist() == [4, 4]
    for text in (p.read_text().lower() for p in write_report(tmp_path).files[:4]):
        assert "nan" not in text


def test_of_runs_that_differ_in_evaluate_at_the_report_takes_the_one_that_measured_more(
    few_digits, tmp_path
):
    for numbers in ([28], None, [12, 28]):
        run_experiment(settings(tmp_path, evaluate_at=numbers), dataset=few_digits)
    findings = load_findings(tmp_path)
    assert findings.curves["n_labeled"].tolist() == SIZES
    assert len(findings.grid.left_out) == 2


def test_a_run_without_an_evaluated_cycle_yet_is_not_an_empty_run(few_digits, tmp_path):
    class Stop:
        def started(self, *_): ...

        def loaded(self, *_): ...

        def progressed(self, *_): ...

        def recorded(self, record):
            if record.cycle == 1:
                raise Killed

    config = settings(tmp_path, evaluate_at=[28])
    with pytest.raises(Killed):
        run_experiment(config, dataset=few_digits, observer=Stop())
    with pytest.raises(DataError, match=r"has an evaluated cycle yet.*: 2 of 3 cycles"):
        write_report(tmp_path)


def test_in_a_study_it_may_be_a_setting_and_an_axis(tmp_path):
    study = {"name": "s", "output_dir": str(tmp_path), "settings": TOY | {"strategy": "random"}}
    (cell,) = expand(
        StudyConfig(**study | {"settings": study["settings"] | {"evaluate_at": [12, 28]}})
    )
    assert cell.config.evaluate_at == [12, 28]
    cells = expand(StudyConfig(**study, grid={"evaluate_at": [None, [20], [12, 28]]}))
    assert [one.config.evaluate_at for one in cells] == [None, [20], [12, 28]]
    assert [one.title for one in cells] == ["None", "evaluate_at 20", "12,28"]
    mixed = StudyConfig(
        **study,
        grid={"strategy": ["random", "margin"], "evaluate_at": {"all": None, "few": [12, 28]}},
        exclude=[
            {"strategy": "margin", "evaluate_at": "few"},
            {"strategy": "random", "evaluate_at": "all"},
        ],
    )
    assert {one.config.strategy: one.config.evaluate_at for one in expand(mixed)} == {
        "random": [12, 28],
        "margin": None,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(mixed.model_dump()))
    assert load_findings(tmp_path).settings == ("",)


def test_a_pool_is_tuned_at_a_number_of_labels_without_a_fit(few_digits, tmp_path):
    folders = [
        run_experiment(settings(tmp_path, evaluate_at=numbers), dataset=few_digits).path
        for numbers in (None, [28])
    ]
    one, other = (
        tune_pool({"pool": str(folder), "labels": 20}, dataset=few_digits).record
        for folder in folders
    )
    assert comparable([one]) == comparable([other])
