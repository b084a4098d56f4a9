"""The searches of runs as studies that Optuna, its dashboard and a terminal show."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console
from toy_models import TOY

from alhpo.base.errors import ConfigurationError
from alhpo.cli import main
from alhpo.runs.experiment import run_experiment
from alhpo.runs.pool_tuning import tune_pool
from alhpo.runs.progress import RichObserver
from alhpo.runs.settings import RunConfig
from alhpo.tuning import recorded_results

optuna = pytest.importorskip("optuna")


def opened(file):
    """The studies in a file, by name."""
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    storage = optuna.storages.JournalStorage(backend)
    names = optuna.get_all_study_names(storage)
    return {name: optuna.load_study(study_name=name, storage=storage) for name in names}


@pytest.fixture(scope="module")
def run(few_digits, tmp_path_factory):
    """A run of two cycles that search, a tuning of its pool, and the file of their studies."""
    folder = tmp_path_factory.mktemp("run")
    file = folder / "optuna.log"
    config = RunConfig.create(
        TOY, {"hpo": "per-cycle", "budget": 20, "output_dir": str(folder / "runs")}
    )
    shown = RunConfig.create(config.model_dump(), {"optuna_storage": str(file)})
    assert shown.name == config.name  # no other run
    result = run_experiment(shown, dataset=few_digits)
    tuning = tune_pool({"pool": str(result.path), "labels": 20}, dataset=few_digits)
    return result.path, tuning.path, file


def test_every_search_of_a_run_is_a_study(run):
    path, tuning, file = run
    studies = opened(file)
    assert [*studies] == [f"{path.name}/cycle_000", f"{path.name}/cycle_001", tuning.name]
    folders = [path / "hpo/cycle_000", path / "hpo/cycle_001", tuning / "hpo"]
    for study, folder in zip(studies.values(), folders, strict=True):
        experiment = folder / study.user_attrs["experiment"]
        rows = recorded_results(experiment)
        assert [trial.params for trial in study.trials] == [
            row["configuration"] for row in rows if row["epoch"] == 1
        ]
        values = [value for one in study.trials for value in one.intermediate_values.values()]
        assert values == [row["metric"] for row in rows]
        last = pd.read_csv(experiment / "hpo4dl_results.csv", float_precision="round_trip")
        last = last.groupby("configuration_id", sort=False).last()
        assert [one.user_attrs["nll"] for one in study.trials] == last["nll"].tolist()


def test_the_command_writes_the_same_studies(run, tmp_path):
    path, tuning, file = run
    out = tmp_path / "later.log"
    for _ in range(2):
        result = CliRunner().invoke(main, ["optuna", str(path), str(out)], catch_exceptions=False)
        assert result.output.splitlines() == [*opened(file)]
    for name, study in opened(file).items():
        later = opened(out)[name]
        assert later.user_attrs == study.user_attrs
        assert [
            (one.state, one.values, one.params, one.intermediate_values, one.user_attrs)
            for one in later.trials
        ] == [
            (one.state, one.values, one.params, one.intermediate_values, one.user_attrs)
            for one in study.trials
        ]
    experiment = next((tuning / "hpo").glob("experiment_*"))
    CliRunner().invoke(main, ["optuna", str(experiment), str(tmp_path / "one.log")])
    assert len(opened(tmp_path / "one.log")) <= 1
    with pytest.raises(ConfigurationError, match="has no search"):
        CliRunner().invoke(main, ["optuna", str(tmp_path), str(out)], catch_exceptions=False)


def test_a_storage_that_cannot_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigurationError, match=r"optuna_storage is .*, a folder"):
        RunConfig.create(TOY, {"hpo": "final", "optuna_storage": str(tmp_path)})


def test_the_dashboard_has_the_studies(run):
    pytest.importorskip("optuna_dashboard")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = Path(sys.executable).with_name("optuna-dashboard")
    server = subprocess.Popen(
        [command, "--host", "127.0.0.1", "--port", str(port), "--quiet", run[2]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        summaries = _asked(server, f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
        assert {one["study_name"] for one in summaries} == {*opened(run[2])}
        first = summaries[0]["study_id"]
        detail = _asked(server, f"http://127.0.0.1:{port}/api/studies/{first}")
        trials = opened(run[2])[summaries[0]["study_name"]].trials
        assert [one["state"] for one in detail["trials"]] == [
            one.state.name.capitalize() for one in trials
        ]
    finally:
        server.terminate()
        server.wait(timeout=60)


def _asked(server, url):
    for _ in range(600):
        assert server.poll() is None, "the dashboard ended"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)
        except OSError:  # not there yet
            time.sleep(0.2)
    raise AssertionError(f"no answer from {url}")


class Recorded:
    """An observer that keeps what it is told of progress."""

    def __init__(self):
        self.told = []

    def progressed(self, cycle, part, done, total, note):
        self.told.append((cycle, part, done, total, note))

    def started(self, *_): ...

    loaded = encoded = recorded = started


def test_a_run_shows_the_search_of_the_cycle(few_digits, tmp_path):
    observer = Recorded()
    settings = {"hpo": "initial", "budget": 12, "max_budget": 6, "output_dir": str(tmp_path)}
    result = run_experiment(RunConfig.create(TOY, settings), dataset=few_digits, observer=observer)
    search = [one for one in observer.told if one[1] == "search"]
    assert {(cycle, total) for cycle, _, _, total, _ in search} == {(0, 6)}
    done = [one[2] for one in search]
    assert done == sorted(done)  # before and after each of six epochs
    assert [done.count(n) for n in range(7)] == [1, 2, 2, 2, 2, 2, 1]
    measured, last = search[0][-1], search[-1][-1]
    assert measured == "best  –\nnow   the current configuration, epoch 1 of 2"
    best, now, beat = last.splitlines()
    found = result.records[0].search
    assert beat == f"beat  {found['current']:.4g}  the current configuration"
    assert best.startswith(f"best  {found['found']:.4g}  trial ")
    assert now.startswith("now   trial 1, epoch 2 of 2:  lr ")
    for line in (best, now):
        assert re.search(r"lr \S+  weight_decay \S+$", line)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def screen(width):
        terminal = Terminal()
        with RichObserver(Console(file=terminal, width=width, color_system=None)) as shown:
            shown.progressed(*search[-1])
        lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n")
        return [line.rstrip() for line in lines.splitlines() if line.strip()][-4:]

    bar, *below = screen(150)
    assert re.match(r"cycle 0 search \S+ 6/6 +epochs ", bar)
    assert below == [best, now, beat]
    short = screen(30)
    assert max(map(len, short)) <= 30
    assert short[1].startswith(best[:20])
    assert short[1].endswith("…")
