"""Runs: the HPO modes, their records, kill and continue, two runs in one folder, the commands."""

from __future__ import annotations

import ast
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from quick_figures import undrawn  # noqa: F401 - a fixture

from alhpo import RunConfig, run_experiment
from alhpo.base.errors import (
    CheckpointError,
    ConfigurationError,
    DataError,
    LabelError,
    RunLockedError,
)
from alhpo.base.files import exclusive
from alhpo.cli import main
from alhpo.runs.observer import Observer

TINY = {
    "model": "alhpo_toy",
    "strategy": "entropy",
    "initial_size": 12,
    "acquisition_size": 10,
    "budget": 37,  # the last acquisition is of 5
    "max_epochs": 3,
    "max_budget": 7,
    "num_configurations": 9,
    "optimizer": "random",
    "hyperparameters": {"batch_size": 8},
    "precision": "float32",
}


def settings(tmp_path, **changes) -> RunConfig:
    return RunConfig.create(TINY, {"output_dir": str(tmp_path)}, changes)


def comparable(records) -> list[dict]:
    return [replace(record, seconds={}).to_dict() for record in records]


def test_records_of_a_fixed_run(few_digits, tmp_path):
    result = run_experiment(settings(tmp_path, hpo="fixed"), dataset=few_digits)
    assert [r.n_labeled for r in result.records] == [12, 22, 32, 37]
    assert [len(r.queried) for r in result.records] == [10, 10, 5, 0]
    assert [r.cycle for r in result.records] == [0, 1, 2, 3]
    for record in result.records:
        assert record.configuration["batch_size"] == 8
        assert record.configuration["lr"] == 0.05
        assert not record.tuned
        assert record.epochs == {"hpo": 3, "fit": 3}
        validated = {"accuracy", "balanced_accuracy", "macro_f1", "nll", "epoch"}
        assert set(record.validation) == validated and record.search is None
        assert 0 <= record.test["accuracy"] <= 1
        assert record.test["nll"] > 0
        assert 0 < record.test["brier"] < 2 and 0 < record.test["ece"] < 1
        assert set(record.seconds) >= {"hpo", "fit"}
    queried = json.loads((result.path / "queried_indices.json").read_text())
    assert [len(indices) for indices in queried.values()] == [12, 10, 10, 5]
    for cycle, record in enumerate(result.records[:-1]):
        assert queried[f"cycle{cycle + 1}"] == list(record.queried)
    assert RunConfig.create(yaml.safe_load((result.path / "config.yaml").read_text())) == settings(
        tmp_path, hpo="fixed"
    )
    assert (result.path / "run.json").exists()


def test_fixed_without_validation_spends_nothing_on_it(few_digits, tmp_path):
    config = settings(tmp_path, hpo="fixed", validate_fixed=False)
    result = run_experiment(config, dataset=few_digits)
    measured = run_experiment(settings(tmp_path, hpo="fixed"), dataset=few_digits)
    for record, other in zip(result.records, measured.records, strict=True):
        assert record.validation is None
        assert record.epochs == {"hpo": 0, "fit": 3}
        assert record.test == other.test  # measuring validation changes nothing else
        assert record.queried == other.queried


def best_of(searches: list[pd.DataFrame], names) -> list[tuple[float, dict]]:
    """The best metric of each configuration of a cycle, in the order of the search first."""
    best: dict[str, tuple[float, dict]] = {}
    for search in sorted(searches, key=len):
        for metric, text in zip(search["metric"], search["configuration"], strict=True):
            values = {name: ast.literal_eval(text)[name] for name in names}
            if repr(values) not in best or metric > best[repr(values)][0]:
                best[repr(values)] = (metric, values)
    return list(best.values())


@pytest.mark.parametrize("transfer", [True, False])
@pytest.mark.parametrize("optimizer", ["random", "hyperband", "dyhpo"])
def test_per_cycle_search(few_digits, tmp_path, optimizer, transfer):
    config = settings(tmp_path, hpo="per-cycle", optimizer=optimizer, transfer=transfer)
    result = run_experiment(config, dataset=few_digits)
    assert all(record.tuned for record in result.records)
    assert [record.epochs["hpo"] for record in result.records] == [7, 7, 7, 7]
    assert not list(result.path.glob("hpo/*/*/best_trial"))
    record_in_force, before = {"lr": 0.05, "weight_decay": 5e-4}, []
    for cycle, record in enumerate(result.records):
        searches = [
            pd.read_csv(file)
            for file in result.path.glob(f"hpo/cycle_{cycle:03d}/*/hpo4dl_results.csv")
        ]
        # the configuration in force is trained to the end, then others get the rest
        current, search = sorted(searches, key=len)
        assert current["epoch"].tolist() == [1, 2, 3]
        assert len(search) == 4
        first = ast.literal_eval(search["configuration"][0])
        measured = {name: record_in_force[name] for name in first}
        assert measured not in [ast.literal_eval(one) for one in search["configuration"]]
        if cycle and transfer:  # the best of the cycle before, unless it was measured just now
            others = [one for one in before if one[1] != measured]
            assert first == max(others, key=lambda one: one[0])[1]
        before = best_of(searches, first)
        record_in_force = record.configuration
        best = max(current["metric"].max(), search["metric"].max())
        assert record.validation["accuracy"] == pytest.approx(best)
        assert (
            record.search.items()
            >= {
                "current": pytest.approx(current["metric"].max()),
                "adopted": pytest.approx(best),
                "current_test": None,
                "adopted_test": None,
                "replaced": best > current["metric"].max(),
            }.items()
        )
    assert [folder.name for folder in (result.path / "fit").iterdir()] == ["cycle_003"]


def test_search_without_measuring_what_is_in_force(few_digits, tmp_path):
    config = settings(tmp_path, hpo="per-cycle", measure_current=False, budget=12)
    (record,) = run_experiment(config, dataset=few_digits).records
    assert record.epochs["hpo"] == 7 and record.search is None
    (file,) = (tmp_path / config.name).glob("hpo/*/*/hpo4dl_results.csv")
    assert len(pd.read_csv(file)) == 7


def test_measuring_the_test_tells_what_a_search_gained_and_changes_nothing_else(
    few_digits, tmp_path
):
    changes = {"hpo": "per-cycle", "budget": 22, "max_budget": 12, "metric": "macro-f1"}
    plain = settings(tmp_path, **changes)
    on = settings(tmp_path, **changes, measure_test=True)
    assert (
        plain.name != on.name == settings(tmp_path, **changes, measure_test=True, device="cpu").name
    )
    fixed = settings(tmp_path, hpo="fixed")
    assert fixed.name == settings(tmp_path, hpo="fixed", measure_test=True).name
    expected = run_experiment(plain, dataset=few_digits).records
    result = run_experiment(on, dataset=few_digits)
    before = {"lr": 0.05, "weight_decay": 5e-4}
    for record, other in zip(result.records, expected, strict=True):
        files = result.path.glob(f"hpo/cycle_{record.cycle:03d}/*/hpo4dl_results.csv")
        trials = {}
        for _, row in pd.concat(map(pd.read_csv, files)).dropna(subset="test_macro_f1").iterrows():
            values = ast.literal_eval(row["configuration"])
            trials[values["lr"], values["weight_decay"]] = row["test_macro_f1"]
        left = record.configuration
        for name, hp in (("current_test", before), ("adopted_test", left)):
            measured = trials.get((hp["lr"], hp["weight_decay"]))
            assert record.search[name] == (measured and pytest.approx(measured))
        assert record.search["current_test"] is not None
        before = left
        without = {"current_test": None, "adopted_test": None}
        silent = replace(record, search={**record.search, **without})
        assert comparable([silent]) == comparable([other])


def test_every_second_cycle(few_digits, tmp_path):
    config = settings(tmp_path, hpo="every:2", validate_fixed=False)
    records = run_experiment(config, dataset=few_digits).records
    assert [record.tuned for record in records] == [True, False, True, False]
    assert records[1].configuration == records[0].configuration
    assert records[3].configuration == records[2].configuration
    assert [record.epochs["hpo"] for record in records] == [7, 0, 7, 0]


def test_final_search(few_digits, tmp_path):
    fixed = run_experiment(settings(tmp_path, hpo="fixed"), dataset=few_digits).records
    records = run_experiment(settings(tmp_path, hpo="final"), dataset=few_digits).records
    assert [record.kind for record in records] == ["cycle"] * 4 + ["final"]
    assert comparable(records[:4]) == comparable(fixed)
    assert records[4].n_labeled == 37
    assert records[4].tuned


def test_finished_run_is_returned_at_once(few_digits, tmp_path, monkeypatch):
    config = settings(tmp_path, hpo="fixed")
    first = run_experiment(config, dataset=few_digits)
    monkeypatch.setattr("alhpo.runs.experiment.load_data", lambda *a, **k: pytest.fail("loaded"))
    again = run_experiment(config, dataset=few_digits)
    assert again.resumed
    assert comparable(again.records) == comparable(first.records)


@pytest.mark.parametrize("finished", [True, False])
def test_other_images_or_labels_are_noticed(few_digits, tmp_path, finished):
    config = settings(tmp_path, hpo="fixed")
    path = run_experiment(config, dataset=few_digits).path
    if not finished:
        (path / "run.json").unlink()
    pixel, label = few_digits.images.clone(), few_digits.labels.clone()
    pixel[7, 0, 0] ^= 1
    label[3] = (label[3] + 1) % 10
    for changes, what in (
        ({"images": pixel}, "in the pool 1 missing .*, 1 new"),
        ({"labels": label}, "in the pool 1 with another label"),
        (
            {"eval_images": few_digits.eval_images.flip(0)},
            "in the evaluation .* with another label",
        ),
        ({"classes": tuple("abcdefghij")}, r"classes \['0'.*now \['a'"),
    ):
        with pytest.raises(DataError, match=f"began with other data: .*{what}"):
            run_experiment(config, dataset=replace(few_digits, **changes))
    assert run_experiment(config, dataset=few_digits).resumed


def test_a_finished_run_whose_data_are_gone_is_returned(tmp_path):
    folder = tmp_path / "photos"
    for number in range(24):
        file = folder / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 10 * number, np.uint8)).save(file)
    sizes = {"initial_size": 4, "acquisition_size": 4, "budget": 8, "pool_size": None}
    config = settings(
        tmp_path, hpo="fixed", dataset=str(folder), eval_size=None, validate_fixed=False, **sizes
    )
    first = run_experiment(config)
    file = folder / "a" / "0.png"
    os.utime(file, (10**9, 10**9))
    assert run_experiment(config).resumed
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # behind all pixels
    os.utime(file, (10**9, 10**9))
    assert run_experiment(config).resumed  # the same size, time and inode
    with pytest.raises(DataError, match=r"1 changed .*0\.png"):
        run_experiment(RunConfig.create(config.model_dump(), {"verify": True}))
    file.write_bytes(content)
    (folder / "a").rename(folder / "c")
    with pytest.raises(DataError, match=r"classes \['a', 'b'\], now \['b', 'c'\]"):
        run_experiment(config)
    (folder / "c").rename(tmp_path / "elsewhere")
    (folder / "b").rename(tmp_path / "elsewhere" / "b")
    with pytest.warns(UserWarning, match="is finished, and its data cannot be compared"):
        assert comparable(run_experiment(config).records) == comparable(first.records)


def test_data_without_an_evaluation_split_are_refused(few_digits, tmp_path):
    bare = replace(
        few_digits, eval_images=few_digits.eval_images[:0], eval_labels=few_digits.eval_labels[:0]
    )
    with pytest.raises(DataError, match="no evaluation split"):
        run_experiment(settings(tmp_path, hpo="fixed"), dataset=bare)


def test_warm_start_differs_and_resumes(few_digits, tmp_path):
    cold = run_experiment(settings(tmp_path, hpo="fixed"), dataset=few_digits)
    warm = run_experiment(settings(tmp_path, hpo="fixed", start="warm"), dataset=few_digits)
    assert warm.records[0].test == cold.records[0].test
    assert warm.records[1].test != cold.records[1].test


def test_diverging_baseline_goes_on_and_says_so(few_digits, tmp_path):
    hot = {"hyperparameters": {"batch_size": 8, "lr": 1e25}}
    records = run_experiment(settings(tmp_path, hpo="fixed", **hot), dataset=few_digits).records
    assert [record.n_labeled for record in records] == [12, 22, 32, 37]
    for record in records:
        assert record.diverged
        assert record.test == pytest.approx(
            {
                "accuracy": 0.1,
                "nll": math.log(10),
                "brier": 0.9,
                "ece": 0.0,
                "balanced_accuracy": 0.1,
                "macro_f1": 2 / 110,
            }
        )


class Killed(BaseException):
    """Ends the process as SIGKILL would: nothing catches it."""


class KilledAfterACycle(Observer):
    def recorded(self, record):
        raise Killed


COMMAND = [
    *(sys.executable, "-W", "ignore", "-c", "import torch; torch.set_num_threads(1); "
      "from alhpo.cli import run_main; run_main()", "run"),
    *("--model", "lcnet_035", "--strategy", "coreset", "--hpo", "per-cycle", "--pool-size", "300"),
    *("--optimizer", "hyperband", "--initial-size", "20", "--acquisition-size", "10"),
    *("--budget", "40", "--max-epochs", "4", "--max-budget", "20", "--eval-size", "50"),
    *("--precision", "float32"),
]  # fmt: skip


@pytest.mark.slow
def test_sigkill_and_the_same_command_again(tmp_path):
    whole = subprocess.run(
        [*COMMAND, "--output-dir", tmp_path / "whole"], capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr
    killed = tmp_path / "killed"
    dice = random.Random(0)
    for _ in range(2):
        process = subprocess.Popen(
            [*COMMAND, "--output-dir", killed], stdout=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and not list(killed.glob("*/labels.jsonl")):
            time.sleep(0.05)
        time.sleep(dice.uniform(0.5, 4))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = subprocess.run([*COMMAND, "--output-dir", killed], capture_output=True, text=True)
    assert last.returncode == 0, last.stderr

    def records(folder: Path):
        lines = next(folder.glob("*/cycles.jsonl")).read_text().splitlines()
        return [json.loads(line) | {"seconds": None} for line in lines]

    assert records(killed) == records(tmp_path / "whole")


def test_second_run_in_one_folder_is_refused(few_digits, tmp_path):
    config = settings(tmp_path, hpo="fixed")
    with (
        exclusive(tmp_path / config.name),
        pytest.raises(RunLockedError, match="in use by another process"),
    ):
        run_experiment(config, dataset=few_digits)


def test_other_data_in_the_same_run_is_refused(few_digits, tmp_path):
    config = settings(tmp_path, hpo="fixed")
    with pytest.raises(Killed):
        run_experiment(config, dataset=few_digits, observer=KilledAfterACycle())
    other = replace(few_digits, images=few_digits.images.flip(0))
    with pytest.raises(DataError, match="began with other data"):
        run_experiment(config, dataset=other)


@pytest.fixture(scope="module")
def finished(few_digits, tmp_path_factory):
    """A finished run with a search in each of its cycles, of 12, 22 and 32 labels."""
    folder = tmp_path_factory.mktemp("finished")
    changes = {"hpo": "per-cycle", "budget": 32, "max_epochs": 2, "max_budget": 4}
    return run_experiment(settings(folder, **changes), dataset=few_digits)


@pytest.fixture
def rerun(finished, few_digits, tmp_path):
    """Continues a copy of the run with some files changed, as if killed after some records."""
    config = RunConfig.create(
        yaml.safe_load((finished.path / "config.yaml").read_text()), {"output_dir": str(tmp_path)}
    )
    folder = tmp_path / config.name
    shutil.copytree(finished.path, folder)

    def rerun(records=None, **changes):
        if records is not None:
            (folder / "run.json").unlink()
            changes["cycles.jsonl"] = lambda old: b"".join(old.splitlines(keepends=True)[:records])
        for name, change in changes.items():
            for file in folder.glob(name):
                file.write_bytes(change(file.read_bytes()))
        return run_experiment(config, dataset=few_digits)

    return rerun


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def lines(n: int):
    return lambda content: b"".join(content.splitlines(keepends=True)[:n])


@pytest.mark.parametrize("records", [1, 2, 3])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_labels_that_were_lost_are_missed(rerun, tmp_path, records, kept):
    with pytest.raises(
        LabelError, match=r"labels\.jsonl holds \d+ labels and does not fit .*Restore.*remove"
    ):
        rerun(records, **{"labels.jsonl": lines(kept)})
    (journal,) = tmp_path.glob("*/labels.jsonl")
    assert len(journal.read_text().splitlines()) == kept  # nothing was labelled anew


def test_a_label_that_was_changed_is_missed(rerun):
    def other(content):
        entry = json.loads(content.splitlines()[1])
        entry["labels"][0] = "0" if entry["labels"][0] != "0" else "1"
        return content.replace(content.splitlines()[1], json.dumps(entry).encode())

    with pytest.raises(LabelError, match="cut short or changed"):
        rerun(1, **{"labels.jsonl": other})


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_records_that_were_lost_are_missed(rerun, kept):
    with pytest.raises(DataError, match=rf"cycles\.jsonl holds {kept} records, but .* with 3"):
        rerun(**{"cycles.jsonl": lines(kept)})


@pytest.mark.parametrize("kept", [0, 1])
def test_records_that_an_unfinished_run_lost_are_missed(rerun, kept):
    with pytest.raises(LabelError, match=r"holds 32 labels and does not fit cycles\.jsonl"):
        rerun(kept)


@pytest.mark.parametrize("line", [b"[1]\n", b'{"a": 1}\n', b"3\n", b"null\n"])
@pytest.mark.parametrize(
    ("file", "error", "match"),
    [
        ("cycles.jsonl", DataError, "line 1 is not a record of a cycle"),
        ("labels.jsonl", LabelError, "not of what was asked and told"),
        ("dataset.json", DataError, "does not tell which data"),
        ("hpo/cycle_002/*/journal.jsonl", DataError, "line 1 is not an entry of a search"),
    ],
)
def test_files_of_something_else_are_named(rerun, file, error, match, line):
    with pytest.raises(error, match=rf"{Path(file).name}.*{match}.*[Rr]estore"):
        rerun(*([] if file == "cycles.jsonl" else [2]), **{file: lambda _: line})


@pytest.mark.parametrize("change", [half, lambda _: b"", lambda content: b"\0" * len(content)])
@pytest.mark.parametrize(
    "file", ["run.json", "config.yaml", "queried_indices.json", "fit/*/state.safetensors"]
)
def test_damaged_files_that_can_be_written_anew_are(rerun, finished, file, change):
    again = rerun(*([] if file == "run.json" else [2]), **{file: change})
    assert comparable(again.records) == comparable(finished.records)
    for name in ("run.json", "queried_indices.json"):
        assert (again.path / name).read_bytes() == (finished.path / name).read_bytes()


def test_a_flipped_bit_in_the_model_of_an_interrupted_fit_changes_no_record(rerun, finished):
    def flipped(content):
        return content[:-2_000] + bytes([content[-2_000] ^ 64]) + content[-1_999:]

    again = rerun(2, **{"fit/*/state.safetensors": flipped})
    assert comparable(again.records) == comparable(finished.records)


def test_a_warm_start_without_its_model_is_refused(few_digits, tmp_path):
    config = settings(tmp_path, hpo="fixed", budget=22, start="warm", validate_fixed=False)

    with pytest.raises(Killed):
        run_experiment(config, dataset=few_digits, observer=KilledAfterACycle())
    (model,) = tmp_path.glob("*/fit/*/state.safetensors")
    model.write_bytes(half(model.read_bytes()))
    with pytest.raises(
        CheckpointError, match=r"start=warm needs the model of its last fit.*remove"
    ):
        run_experiment(config, dataset=few_digits)


def test_a_storage_that_cannot_be_made_is_refused_before_anything_is_trained(few_digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        run_experiment(
            settings(tmp_path, hpo="final", storage_dir=str(tmp_path / "file")), dataset=few_digits
        )
    assert not list(tmp_path.glob("*/fit"))


def test_budget_over_the_pool_is_refused_before_anything_runs(few_digits, tmp_path):
    with pytest.raises(ConfigurationError, match="the pool of 'digits' has 120 images"):
        run_experiment(settings(tmp_path, budget=121), dataset=few_digits)
    assert not list(tmp_path.glob("*/labels.jsonl"))


def test_whole_pool_can_be_labelled(few_digits, tmp_path):
    config = settings(tmp_path, budget=120, acquisition_size=60, validate_fixed=False, max_epochs=1)
    records = run_experiment(config, dataset=few_digits).records
    assert [record.n_labeled for record in records] == [12, 72, 120]


def command(*arguments: str):
    return CliRunner().invoke(main, list(arguments), catch_exceptions=True)


FLAGS = [
    *("run", "--model", "alhpo_toy", "--initial-size", "12", "--acquisition-size", "10"),
    *("--budget", "22", "--max-epochs", "1", "--max-budget", "2", "--optimizer", "random"),
    *("--pool-size", "60", "--eval-size", "30"),
]


@pytest.mark.usefixtures("undrawn")
def test_command_runs_several_settings_and_reports(tmp_path):
    folder = str(tmp_path / "runs")
    result = command(
        *FLAGS, "--hpo", "fixed,per-cycle", "--seed", "0,1", "--strategy", "random",
        "--output-dir", folder, "--hp", "batch_size=8",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 4
    assert "run 4 of 4" in result.output
    for name in ("report.md", "report.csv", "curves-by-setting.png"):
        assert (tmp_path / "runs" / name).stat().st_size > 50
        assert name in result.output.replace("\n", "")
    again = command(
        *FLAGS, "--hpo", "fixed", "--strategy", "random", "--output-dir", folder,
        "--hp", "batch_size=8",
    )  # fmt: skip
    assert "finished before" in again.output
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 4
    report = command("report", folder, "--output", str(tmp_path / "elsewhere"))
    assert report.exit_code == 0
    assert (tmp_path / "elsewhere" / "report.md").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_fails_stops_none_of_the_others(tmp_path):
    folder = tmp_path / "runs"
    flags = [
        *(*FLAGS, "--hpo", "fixed", "--strategy", "random,entropy", "--seed", "0,1"),
        *("--output-dir", str(folder), "--hp", "batch_size=8"),
    ]
    assert command(*flags).exit_code == 0
    whole = (folder / "report.csv").read_bytes()
    paths = sorted(folder.glob("*/run.json"))
    assert len(paths) == 4
    broken, lost = (file.parent for file in (paths[0], paths[2]))
    for path in (broken, lost):
        (path / "cycles.jsonl").write_text("{}\n")
    shutil.rmtree(paths[1].parent)
    result = command(*flags)
    assert result.exit_code == 1
    assert paths[1].exists()
    for path in (broken, lost):
        assert (
            f"failed: run {path.name}: {path}/cycles.jsonl, line 1 is not a record" in result.output
        )
    assert result.output.rstrip().endswith("The same command continues these.")
    assert f"{broken.name}: left out, damaged: " in result.output
    for path in (broken, lost):
        shutil.rmtree(path)
    assert command(*flags).exit_code == 0
    assert len((folder / "report.csv").read_text().splitlines()) == len(whole.splitlines())


@pytest.mark.parametrize("error", [ValueError("odd"), OSError(28, "No space left on device")])
def test_every_error_is_named_at_the_end(tmp_path, monkeypatch, error):
    def fail(path):
        raise error

    monkeypatch.setattr("alhpo.runs.experiment.exclusive", fail)
    result = command(*FLAGS, "--seed", "0,1", "--output-dir", str(tmp_path))
    assert result.exit_code == 1
    named = f"{type(error).__name__}: {error}"
    assert len(re.findall(rf"failed: run \S+: {re.escape(named)}", result.output)) == 2


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_all_runs(tmp_path, monkeypatch, end):
    begun = []

    def interrupted(path):
        begun.append(path)
        raise end

    monkeypatch.setattr("alhpo.runs.experiment.exclusive", interrupted)
    command(*FLAGS, "--seed", "0,1", "--output-dir", str(tmp_path))
    assert len(begun) == 1


def test_yaml_file_and_flags_share_one_schema(tmp_path):
    file = tmp_path / "run.yaml"
    content = {key: value for key, value in TINY.items() if key != "hyperparameters"}
    content |= {"budget": 22, "hyperparameters": {"lr": 0.02}, "pool_size": 60, "eval_size": 30}
    file.write_text(yaml.safe_dump(content))
    folder = tmp_path / "runs"
    result = command(
        "run", "--config", str(file), "--max-epochs", "1", "--hp", "batch_size=8",
        "--output-dir", str(folder),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    written = yaml.safe_load(next(folder.glob("*/config.yaml")).read_text())
    assert written["max_epochs"] == 1
    assert written["hyperparameters"] == {"lr": 0.02, "batch_size": 8}
    assert written["strategy"] == "entropy"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--stratgy", "badge"], "--strategy"),
        (["--strategy", "bagde"], "Legal: albl, alfamix, autoal, badge"),
        (["--hpo", "sometimes"], "every:K"),
        (["--hpo", "every:0"], "every:K"),
        (["--optimizer", "bohb"], "Legal: asha, dyhpo, "),
        (["--max-epochs", "many"], "--max-epochs': 'many'"),
        (["--max-epochs", "0"], "x>=1"),
        (["--hp", "lr"], "NAME=VALUE"),
        (["--hp", "lr=[1"], "'lr' is '[1': Input should be a valid number"),
        (["--hp", "learning_rate=1"], "Legal: augmentation, batch_size"),
        (["--model", "resnet81"], "resnet"),
        (["--dataset", "digit"], "Did you mean 'digits'"),
        (["--budget", "50"], "initial_size"),
        (["--budget", "5000"], "has 1438 images"),
        (["--metric", "f1"], "'accuracy', 'balanced-accuracy', 'macro-f1', 'likelihood'"),
        (["--seed", "0,x"], "seed"),
    ],
)
def test_wrong_flags_are_refused_with_the_legal_values(tmp_path, arguments, match):
    result = command("run", "--output-dir", str(tmp_path), *arguments)
    assert result.exit_code != 0
    assert match in result.output + str(result.exception)
    assert not list(tmp_path.glob("*/labels.jsonl"))


def test_unknown_key_in_a_file_is_refused_with_the_legal_ones(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("stratgy: badge\n")
    result = command("run", "--config", str(file))
    assert isinstance(result.exception, ConfigurationError)
    assert "Did you mean 'strategy'" in str(result.exception)
    file.write_text("- a\n- b\n")
    assert "holds a list" in str(command("run", "--config", str(file)).exception)
    file.write_text("a: [")
    assert "Cannot read settings" in str(command("run", "--config", str(file)).exception)


@pytest.mark.parametrize(
    ("text", "flags", "match"),
    [
        ("seed: []", (), "'seed' is an empty list"),
        ("strategy: []", (), "'strategy' is an empty list"),
        ("hyperparameters: [1]", ("--hp", "lr=1"), r"'hyperparameters' is \[1\]"),
        ("hyperparameters: [1]", (), r"'hyperparameters' is \[1\]"),
    ],
)
def test_lists_in_a_file_that_hold_nothing_or_stand_for_a_mapping(tmp_path, text, flags, match):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    result = command("run", "--config", str(file), "--output-dir", str(tmp_path), *flags)
    assert isinstance(result.exception, ConfigurationError)
    assert re.search(match, str(result.exception))


def test_report_of_an_empty_folder_says_so(tmp_path):
    result = command("report", str(tmp_path))
    assert result.exit_code != 0
    assert isinstance(result.exception, DataError)


def test_threads_are_the_users(few_digits, tmp_path):
    threads = torch.get_num_threads()
    run_experiment(settings(tmp_path, hpo="fixed", budget=12), dataset=few_digits)
    assert torch.get_num_threads() == threads
    session = json.loads(next(tmp_path.glob("*/sessions.jsonl")).read_text().splitlines()[0])
    assert session["threads"] == threads
