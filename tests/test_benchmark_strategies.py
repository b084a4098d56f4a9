"""The benchmark of strategies runs, on a pool small enough to take seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alhpo.strategies import strategy_families, strategy_names

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "strategies.py"


def run(*arguments):
    command = [sys.executable, SCRIPT, "--threads", "1", "--quick", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_peers_of_the_same_definition_agree_and_a_second_call_measures_nothing(tmp_path):
    output = tmp_path / "strategies.json"
    chosen = ("--strategies", "badge", "coreset", "margin", "--output", output)
    lines = run(*chosen)
    recorded = json.loads(output.read_text())
    assert recorded["machine"]["pool"] == 600
    for row in recorded["figures"]:
        assert row["seconds"] > 0
        assert row["extra_mb"] >= 0
        if row["contestant"] == "explicit":
            assert row["same"] is True
    assert run(*chosen) == lines
    assert json.loads(output.read_text()) == recorded


@pytest.mark.slow
def test_a_peer_in_an_environment_of_its_own_makes_the_same_picks(tmp_path):
    version = pytest.importorskip("skactiveml").__version__
    output = tmp_path / "strategies.json"
    peer = f"scikit-activeml={sys.executable}"
    run("--strategies", "coreset", "--no-peers", "--peer", peer, "--output", output)
    ours, theirs = json.loads(output.read_text())["figures"]
    assert theirs["contestant"].startswith(f"scikit-activeml {version}")
    assert theirs["same"] is True
    assert theirs["seconds"] > 0
    assert theirs["measured"] == ours["measured"]


@pytest.mark.slow
def test_a_peer_that_cannot_run_is_named(tmp_path):
    missing = f"dal-toolbox={tmp_path / 'python'}"
    command = [sys.executable, SCRIPT, "--quick", "--peer", missing]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "--peer dal-toolbox=" in done.stderr


@pytest.mark.slow
def test_every_strategy_is_measured():
    measured = {line.split()[0] for line in run("--no-peers")[2:] if "left out" not in line}
    trained = {"autoal"}  # its time is that of two trainings
    assert measured == set(strategy_names()) - set(strategy_families()) - trained
