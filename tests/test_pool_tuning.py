"""Tuning on a labelled pool: its protocol, its pools, kill and continue, the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from alhpo import ActiveLearner, Objective, TuneConfig, run_experiment, tune_pool
from alhpo.base.errors import ConfigurationError, DataError, LabelError, RunLockedError
from alhpo.base.files import exclusive
from alhpo.cli import main

RUN = {
    "model": "alhpo_toy",
    "strategy": "random",
    "initial_size": 12,
    "acquisition_size": 10,
    "budget": 32,
    "max_epochs": 2,
    "max_budget": 5,
    "num_configurations": 9,
    "optimizer": "random",
    "hyperparameters": {"batch_size": 8},
    "precision": "float32",
}
OWN_LR = 0.05  # the default, within the paper's space


@pytest.fixture(scope="module")
def run(few_digits, tmp_path_factory):
    """A finished run with 12, 22 and 32 labels."""
    folder = tmp_path_factory.mktemp("runs")
    return run_experiment({**RUN, "hpo": "fixed", "output_dir": str(folder)}, dataset=few_digits)


def tune(run, tmp_path, data, **settings):
    pool = getattr(run, "path", run)
    settings = {"labels": 22, "max_budget": 6, "output_dir": str(tmp_path), **settings}
    return tune_pool({"pool": str(pool), **settings}, dataset=data)


def rows(result) -> list[dict]:
    """What the journals of a tuning hold of every epoch: the measurement, then the search."""
    found = []
    for journal in sorted(result.path.glob("hpo/*/journal.jsonl")):
        entries = [json.loads(line) for line in journal.read_text().splitlines()]
        configurations: dict[int, dict] = {}
        epochs = []
        for entry in entries:
            if "configurations" in entry:
                ids = entry["configuration_ids"]
                configurations |= dict(zip(ids, entry["configurations"], strict=True))
            if entry.get("result"):
                one = configurations[entry["configuration_id"]]
                epochs.append({**entry["result"], "configuration": one})
        found.append(epochs)
    return [row for epochs in sorted(found, key=_is_search) for row in epochs]


def _is_search(epochs: list[dict]) -> bool:
    return "momentum" not in epochs[0]["configuration"]  # a search of the paper's space


def comparable(result) -> dict:
    return replace(result.record, seconds={}).to_dict()


@pytest.mark.parametrize("optimizer", ["random", "hyperband", "dyhpo", "tpe"])
def test_own_hyperparameters_first_then_the_rest_of_the_budget(
    run, few_digits, tmp_path, optimizer
):
    if optimizer == "tpe":
        pytest.importorskip("optuna")
    result = tune(run, tmp_path, few_digits, optimizer=optimizer, max_budget=9)
    trained = rows(result)
    assert [row["epoch"] for row in trained[:2]] == [1, 2]
    assert all(row["configuration"]["lr"] == OWN_LR for row in trained[:2])
    assert all(row["configuration"]["batch_size"] == 8 for row in trained[:2])
    assert all(row["configuration"]["lr"] != OWN_LR for row in trained[2:])
    assert len(trained) == result.record.epochs["hpo"]
    assert 2 < len(trained) <= 9
    if optimizer != "hyperband":  # it ends before a bracket that it cannot pay
        assert len(trained) == 9
    ended = [row for row in trained if row["epoch"] == 2]
    best = max(row["metric"] for row in ended)
    record = result.record
    chosen = next(row for row in ended if row["metric"] == best)
    validated = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "epoch")
    assert record.validation == {name: chosen[name] for name in validated}
    assert record.search == {
        "current": trained[1]["metric"],
        "adopted": chosen["metric"],
        "current_test": trained[1]["test_accuracy"],
        "adopted_test": chosen["test_accuracy"],
    }
    assert record.configuration["lr"] == pytest.approx(chosen["configuration"]["lr"])
    assert (record.kind, record.cycle, record.n_labeled, record.tuned) == ("tuned", 1, 22, True)
    assert json.loads((result.path / "tune.json").read_text()) == record.to_dict()


def test_the_last_epoch_decides_and_not_the_best(run, few_digits, tmp_path, monkeypatch):
    """The last trial is cut off by the budget after its first epoch, and its metric is made the
    highest of all: it is not chosen."""
    call = Objective.__call__

    def early(self, configuration, epoch, previous_epoch, checkpoint_path):
        (row,) = call(self, configuration, epoch, previous_epoch, checkpoint_path)
        return [row if epoch == 2 else row | {"metric": 0.9 + row["metric"] / 100}]

    monkeypatch.setattr(Objective, "__call__", early)
    result = tune(run, tmp_path, few_digits, max_budget=7)
    trained = rows(result)
    last = max((row for row in trained if row["epoch"] == 2), key=lambda row: row["metric"])
    assert max(trained, key=lambda row: row["metric"])["epoch"] == 1
    assert result.record.validation.items() >= {(n, last[n]) for n in ("accuracy", "nll", "epoch")}


def test_what_the_pool_has_already_gives_what_its_run_had(run, few_digits, tmp_path):
    """The pool's own hyperparameters, trained again on the same labels, are the run's model."""
    before = run.records[1]
    result = tune(run, tmp_path, few_digits, max_budget=3)  # one epoch of one other trial
    assert result.record.configuration == before.configuration
    assert result.record.test == before.test
    assert result.record.epochs == {"hpo": 3, "fit": 2}


def test_own_hyperparameters_outside_the_space_are_measured_too(few_digits, tmp_path):
    settings = {**RUN, "hpo": "fixed", "hyperparameters": {"batch_size": 8, "lr": 0.4}}
    run = run_experiment({**settings, "output_dir": str(tmp_path / "run")}, dataset=few_digits)
    result = tune(run, tmp_path, few_digits)
    trained = rows(result)
    assert [row["configuration"]["lr"] for row in trained[:2]] == [0.4, 0.4]
    assert all(row["configuration"]["lr"] <= 0.1 for row in trained[2:])
    assert len(trained) == 6


def test_own_hyperparameters_of_a_run_with_searches_are_those_of_the_cycle(few_digits, tmp_path):
    poor = {"hyperparameters": {"batch_size": 8, "lr": 1e-4}, "metric": "likelihood", "seed": 1}
    where = {"output_dir": str(tmp_path / "run")}
    settings = {**RUN, **poor, **where, "max_budget": 8, "hpo": "per-cycle"}
    run = run_experiment(settings, dataset=few_digits)
    found = {record.n_labeled: record.configuration["lr"] for record in run.records}
    result = tune(run, tmp_path, few_digits, labels=12)
    assert rows(result)[0]["configuration"]["lr"] == found[12] != found[22]
    changed = tune(run, tmp_path, few_digits, hyperparameters={"momentum": 0.5})
    assert rows(changed)[0]["configuration"]["lr"] == found[22]
    assert {row["configuration"]["momentum"] for row in rows(changed)[:2]} == {0.5}
    assert changed.record.configuration["momentum"] == 0.5
    assert changed.record.configuration["batch_size"] == 8


def test_another_model_on_the_same_labels(run, few_digits, tmp_path):
    result = tune(run, tmp_path, few_digits, model="mobilenetv3_small_050")
    assert comparable(result) != comparable(tune(run, tmp_path, few_digits))
    assert result.record.n_labeled == 22
    config = yaml.safe_load((result.path / "config.yaml").read_text())
    assert config["model"] == "mobilenetv3_small_050"
    assert config["hyperparameters"] == {"batch_size": 8}  # the rest is as in the run


def test_test_accuracy_is_measured_for_the_record_and_changes_no_choice(run, few_digits, tmp_path):
    watched = tune(run, tmp_path, few_digits)
    blind = tune(run, tmp_path, few_digits, measure_test=False)
    assert watched.path != blind.path
    one, other = comparable(watched), comparable(blind)
    told, untold = one.pop("search"), other.pop("search")
    assert one == other
    assert untold == told | {"current_test": None, "adopted_test": None} != told
    for row in rows(watched):
        assert ("test_accuracy" in row) == (row["epoch"] == 2)
    assert not any("test_accuracy" in row for row in rows(blind))


def test_a_json_of_dal_toolbox_gives_what_the_folder_gives(run, few_digits, tmp_path):
    shared = {name: value for name, value in RUN.items() if name in TuneConfig.model_fields}
    file = tmp_path / "queried_indices.json"
    shutil.copy(run.path / "queried_indices.json", file)
    folder = tune(run, tmp_path, few_digits)
    imported = tune(file, tmp_path, few_digits, **{**shared, "max_budget": 6})
    assert comparable(imported) == comparable(folder)
    assert rows(imported) == rows(folder)
    beside = tune(file, tmp_path, few_digits, **{**shared, "max_budget": 6, "output_dir": None})
    assert beside.path.parent == tmp_path / "tune"


def test_a_json_can_be_cut_within_a_cycle(run, few_digits, tmp_path):
    content = json.loads((run.path / "queried_indices.json").read_text())
    content["cycle1"] = content["cycle1"][:5]
    del content["cycle2"]
    short = tmp_path / "short.json"
    short.write_text(json.dumps(content))
    shared = {"model": "alhpo_toy", "optimizer": "random", "max_epochs": 2, "labels": 17}
    one = tune(run.path / "queried_indices.json", tmp_path, few_digits, **shared)
    other = tune(short, tmp_path, few_digits, **shared)
    assert comparable(one) == comparable(other)
    assert (one.record.n_labeled, one.record.cycle) == (17, 1)


def test_a_pool_that_people_labelled(few_digits, tmp_path):
    """The labels come from the folder, not from the data set, which has none."""
    nobody_knows = replace(few_digits, labels=None)
    folder = tmp_path / "mine"
    learner = ActiveLearner(nobody_knows, "alhpo_toy", "random", path=folder)
    truth = few_digits.labels
    for n in (10, 8):
        query = learner.ask(n) if learner.n_labeled else learner.ask_initial(n)
        learner.tell(query.indices[::-1], truth[list(query.indices[::-1])].tolist())
    shared = {"model": "alhpo_toy", "optimizer": "random", "max_epochs": 2}
    result = tune(folder, tmp_path, nobody_knows, labels=18, **shared)
    assert result.record.n_labeled == 18
    with pytest.raises(ConfigurationError, match="have 10, 18"):
        tune(folder, tmp_path, nobody_knows, labels=12, **shared)
    learner.pool.export(tmp_path / "mine.json")
    with pytest.raises(LabelError, match="has no labels for them"):
        tune(tmp_path / "mine.json", tmp_path, nobody_knows, labels=18, **shared)


def test_probabilities_of_the_draws_come_along(run, few_digits, tmp_path):
    """Validation weighted by them needs the record of the strategy's draws."""
    result = tune(run, tmp_path, few_digits, validation="acquisition:holdout:0.3")
    assert "accuracy_unweighted" in rows(result)[0]


def test_a_final_fit_that_diverges_is_said_to(few_digits, tmp_path):
    hot = {"hyperparameters": {"batch_size": 8, "lr": 1e25}}
    settings = {**RUN, **hot, "hpo": "fixed", "budget": 22, "output_dir": str(tmp_path / "run")}
    run = run_experiment(settings, dataset=few_digits)
    space = tmp_path / "space.json"
    from ConfigSpace import ConfigurationSpace, Float

    made = ConfigurationSpace({"lr": Float("lr", (1e24, 1e26), log=True)})
    if hasattr(made, "to_json"):
        made.to_json(space)
    else:
        from ConfigSpace.read_and_write import json as configspace_json

        space.write_text(configspace_json.write(made))
    record = tune(run, tmp_path, few_digits, space=str(space)).record
    assert record.diverged
    assert record.validation is None
    assert record.test["accuracy"] == pytest.approx(0.1)
    rescued = tune(run, tmp_path, few_digits).record  # of the paper's space
    assert not rescued.diverged
    assert rescued.configuration["lr"] <= 0.1


@pytest.fixture
def trained(monkeypatch):
    """The epochs that searches and measurements train from now on."""
    epochs = []
    call = Objective.__call__

    def counted(self, configuration, epoch, *rest):
        epochs.append((configuration["lr"], epoch))
        return call(self, configuration, epoch, *rest)

    monkeypatch.setattr(Objective, "__call__", counted)
    return epochs


@pytest.mark.parametrize("optimizer", ["random", "dyhpo"])
def test_a_larger_budget_goes_on_with_what_was_trained(
    run, few_digits, tmp_path, optimizer, trained
):
    settings = {"optimizer": optimizer, "space": "paper"}
    whole = tune(run, tmp_path / "whole", few_digits, max_budget=9, **settings)
    first = tune(run, tmp_path / "out", few_digits, max_budget=6, **settings)
    before = {file: file.read_bytes() for file in first.path.rglob("*.js*") if file.is_file()}
    del trained[:]
    anew = tune(run, tmp_path / "out", few_digits, max_budget=9, **settings)
    assert OWN_LR not in dict(trained)  # that measurement is the same in all of them
    assert len(trained) == 7
    assert rows(anew) == rows(whole)
    assert comparable(anew) == comparable(whole)
    tune(run, tmp_path / "out", few_digits, max_budget=13, **settings)  # too much
    del trained[:]
    longer = tune(run, tmp_path / "out", few_digits, max_budget=11, extend=True, **settings)
    assert rows(longer)[:9] == rows(whole)  # that had trained most
    assert len(rows(longer)) == longer.record.epochs["hpo"] == 11
    assert longer.record.search["extended_from"] == 7
    assert not (longer.path / "earlier_hpo").exists()
    assert {file: file.read_bytes() for file in before} == before
    again = len(trained) - 2  # of a trial that goes on, whose checkpoint was not kept
    assert 0 <= again <= 2
    if optimizer == "random":
        alone = comparable(tune(run, tmp_path / "whole", few_digits, max_budget=11, **settings))
        alone["search"]["extended_from"] = 7
        assert comparable(longer) == alone


@pytest.mark.parametrize("at", [1, 3])
def test_an_extended_tuning_that_was_interrupted_goes_on(
    run, few_digits, tmp_path, monkeypatch, at
):
    for folder in ("one", "other"):
        tune(run, tmp_path / folder, few_digits, max_budget=6)
    whole = tune(run, tmp_path / "one", few_digits, max_budget=11, extend=True)
    call, calls = Objective.__call__, []

    def interrupted(self, *request):
        calls.append(request)
        if len(calls) == at:
            raise KeyboardInterrupt
        return call(self, *request)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Objective, "__call__", interrupted)
        tune(run, tmp_path / "other", few_digits, max_budget=11, extend=True)
    ended = tune(run, tmp_path / "other", few_digits, max_budget=11, extend=True)
    assert comparable(ended) == comparable(whole)
    assert rows(ended) == rows(whole)


def test_nothing_is_taken_from_a_tuning_of_something_else(run, few_digits, tmp_path, trained):
    tune(run, tmp_path, few_digits, max_budget=6, validation="random:0.3")
    tune(run, tmp_path, few_digits, max_budget=6, hyperparameters={"momentum": 0.5})
    del trained[:]
    tune(run, tmp_path, few_digits, max_budget=9, extend=True)
    assert len(trained) == 9


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"labels": 23}, "have 12, 22, 32"),
        ({"labels": 42}, "have 12, 22, 32"),
        ({"labels": 12, "validation": "kfold:13"}, "needs at least 13 labelled images"),
        ({"max_epochs": 6}, "expected more than max_epochs=6"),
        ({"hyperparameters": {"learning_rate": 1}}, "Legal: augmentation"),
        ({"hyperparameters": {"warmup_epochs": 2}}, "warmup_epochs is 2"),
        ({"optimizer": "bohb"}, "Unknown optimizer"),
        ({"labels": None}, "labels"),
        ({"strategy": "badge"}, "Unknown setting 'strategy'"),
    ],
)
def test_what_cannot_be_tuned_on_is_refused_before_any_training(
    run, few_digits, tmp_path, settings, match
):
    with pytest.raises(ConfigurationError, match=match):
        tune(run, tmp_path, few_digits, **settings)
    assert not list(tmp_path.rglob("journal.jsonl"))


def test_pools_that_are_none_or_of_other_data_are_refused(run, few_digits, tmp_path):
    with pytest.raises(ConfigurationError, match="There is no labelled pool at"):
        tune(tmp_path / "nowhere", tmp_path, few_digits)
    with pytest.raises(ConfigurationError, match="There is no labelled pool at"):
        tune(tmp_path, tmp_path, few_digits)
    with pytest.raises(ConfigurationError, match="'pool' is missing"):
        tune_pool({"labels": 22})
    with pytest.raises(DataError, match="other data"):
        tune(run, tmp_path, replace(few_digits, images=few_digits.images.flip(0)))
    with pytest.raises(DataError, match="no evaluation split"):
        bare = {"eval_images": few_digits.eval_images[:0], "eval_labels": torch.zeros(0).long()}
        tune(run, tmp_path, replace(few_digits, **bare))
    file = tmp_path / "pool.json"
    for content, match in [
        ({"cycle0": [1, 2, 120]}, "holds the index 120"),
        ({"cycle0": [1, 2], "cycle1": [3, 2]}, "index 2 twice"),
        ({"zero": [1]}, "not of the form"),
    ]:
        file.write_text(json.dumps(content))
        with pytest.raises(LabelError, match=match):
            tune(file, tmp_path, few_digits, labels=2, max_epochs=2)
    file.write_text(json.dumps({"cycle0": [1, 2, 3]}))
    with pytest.raises(ConfigurationError, match="holds 3"):
        tune(file, tmp_path, few_digits, labels=4, max_epochs=2)
    assert not list(tmp_path.glob("*labels-*"))


def test_a_number_of_labels_that_an_unfinished_run_has_no_record_of(run, few_digits, tmp_path):
    unfinished = tmp_path / "run"
    shutil.copytree(run.path, unfinished)
    (unfinished / "run.json").unlink()
    lines = (unfinished / "cycles.jsonl").read_text().splitlines(keepends=True)
    (unfinished / "cycles.jsonl").write_text("".join(lines[:2]))
    with pytest.raises(ConfigurationError, match=r"have 12, 22\. Choose"):
        tune(unfinished, tmp_path, few_digits, labels=32)
    assert comparable(tune(unfinished, tmp_path, few_digits)) == comparable(
        tune(run, tmp_path / "whole", few_digits)
    )


@pytest.mark.parametrize("lines", [0, 2, 4])
def test_labels_that_were_lost_are_missed(run, few_digits, tmp_path, lines):
    damaged = tmp_path / "run"
    shutil.copytree(run.path, damaged)
    content = (damaged / "labels.jsonl").read_text().splitlines(keepends=True)
    (damaged / "labels.jsonl").write_text("".join(content[:lines]))
    with pytest.raises(LabelError, match=r"labels\.jsonl holds \d+ labels, but .* count 32"):
        tune(damaged, tmp_path, few_digits, labels=32)
    assert not list(tmp_path.glob("*labels-*"))


def test_a_damaged_record_is_written_anew_as_the_message_says(run, few_digits, tmp_path):
    first = tune(run, tmp_path, few_digits)
    for content in ("", "{", "[1]", '{"kind": "tuned"}'):
        (first.path / "tune.json").write_text(content)
        with pytest.raises(DataError, match=r"tune\.json is not a record.*Remove it"):
            tune(run, tmp_path, few_digits)
    (first.path / "tune.json").unlink()
    again = tune(run, tmp_path, few_digits)
    assert replace(again.record, seconds={}) == replace(first.record, seconds={})


def test_finished_is_returned_at_once_and_two_at_a_time_are_refused(
    run, few_digits, tmp_path, monkeypatch
):
    first = tune(run, tmp_path, few_digits)
    assert not first.resumed
    monkeypatch.setattr("alhpo.runs.pool_tuning.load_data", lambda *_: pytest.fail("loaded"))
    again = tune(run, tmp_path, few_digits)
    assert again.resumed
    assert again.record == first.record
    with pytest.raises(DataError, match="began with other data"):
        tune(run, tmp_path, replace(few_digits, images=few_digits.images.flip(1)))
    with exclusive(first.path), pytest.raises(RunLockedError, match="in use by another process"):
        tune(run, tmp_path, few_digits)


def command(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def commanded(tmp_path_factory) -> Path:
    """The folder of a run of the command line."""
    folder = tmp_path_factory.mktemp("commands")
    result = command(
        *("run", "--model", "alhpo_toy", "--strategy", "random", "--initial-size", "12"),
        *("--acquisition-size", "10", "--budget", "22", "--max-epochs", "1", "--hpo", "fixed"),
        *("--pool-size", "60", "--eval-size", "30", "--optimizer", "random"),
        *("--hp", "batch_size=8", "--output-dir", str(folder)),
    )
    assert result.exit_code == 0, result.output
    return next(folder.glob("*/run.json")).parent


def test_the_command_takes_the_settings_of_the_run(commanded):
    arguments = ("tune", str(commanded), "--labels", "12,22", "--trials", "3", "--hp", "momentum=0")
    result = command(*arguments)
    assert result.exit_code == 0, result.output
    assert "tuning 2 of 2" in result.output
    for labels in (12, 22):
        (file,) = commanded.glob(f"tune/{labels}labels-*/tune.json")
        record = json.loads(file.read_text())
        assert record["n_labeled"] == labels
        assert record["epochs"] == {"hpo": 3, "fit": 1}
        assert (record["configuration"]["batch_size"], record["configuration"]["momentum"]) == (
            8,
            0,
        )
        assert f"tuned      {record['test']['accuracy']:.4f}" in result.output
        assert str(file) in result.output
        settings = yaml.safe_load((file.parent / "config.yaml").read_text())
        assert settings["pool_size"] == 60
    lines = (commanded / "cycles.jsonl").read_text().splitlines()
    for line in lines:
        assert f"of the run  {json.loads(line)['test']['accuracy']:.4f}" in result.output
    again = command(*arguments)
    assert again.output.count("finished before") == 2
    assert len(list(commanded.glob("tune/*"))) == 2


def test_a_tuning_that_fails_stops_none_of_the_others(commanded, tmp_path):
    arguments = (
        *("tune", str(commanded), "--labels", "12,22", "--trials", "2"),
        *("--output-dir", str(tmp_path)),
    )
    assert command(*arguments).exit_code == 0
    first, second = sorted(tmp_path.glob("*/tune.json"))
    first.write_text("[]")
    second.unlink()
    result = command(*arguments)
    assert result.exit_code == 1
    assert second.exists()
    assert f"failed: tuning {first.parent.name}: {first} is not a record" in result.output


def test_the_command_on_a_json_with_a_file_of_settings(commanded, tmp_path):
    pool = tmp_path / "queried_indices.json"
    shutil.copy(commanded / "queried_indices.json", pool)
    file = tmp_path / "tune.yaml"
    file.write_text(
        "pool_size: 60\neval_size: 30\nmodel: alhpo_toy\noptimizer: random\nmax_epochs: 1\n"
        "labels: [12, 22]\nmax_budget: 9\n"
    )
    result = command(
        "tune", str(pool), "--config", str(file), "--max-budget", "2", "--output-dir",
        str(tmp_path / "out"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.glob("out/*/tune.json"))) == 2
    assert "of the run" not in result.output


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--labels", "13"], "have 12, 22"),
        ([], "--labels"),
        (["--labels", "many"], "labels"),
        (["--labels", "12", "--trials", "1"], "at least 2"),
        (["--labels", "12", "--max-epochs", "200", "--trials", "1"], "at least 2"),
        (["--labels", "12", "--trials", "4", "--max-budget", "7"], "Give one of them"),
        (["--labels", "12", "--model", "resnet81"], "resnet"),
        (["--labels", "12", "--strategy", "badge"], "No such option"),
        (["--labels", "12", "--hp", "lr"], "NAME=VALUE"),
    ],
)
def test_wrong_flags_are_refused(commanded, tmp_path, arguments, match):
    result = command("tune", str(commanded), "--output-dir", str(tmp_path), *arguments)
    assert result.exit_code != 0
    assert match in result.output + str(result.exception)
    assert not list(tmp_path.iterdir())
