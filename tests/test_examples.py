"""The examples run as a user runs them, on digits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alhpo import RunConfig

EXAMPLES = Path(__file__).parents[1] / "examples"

pytest.importorskip("hpo4dl", reason="the examples drive hpo4dl")


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", EXAMPLES / script, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("tuner", "optimizer"), [("hpo4dl", "hyperband"), ("alhpo", "dyhpo")])
def test_tuner_api(tmp_path, tuner, optimizer):
    done = run(
        tmp_path, "tuner_api.py", "--tuner", tuner, "--optimizer", optimizer, "--max-epochs", "3",
        "--max-budget", "2", "--labels", "120",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "labels: validation" in line]
    assert [line.split()[0] for line in lines] == ["100", "120"]


@pytest.mark.slow
def test_timm_al(tmp_path):
    done = run(
        tmp_path, "timm_al.py", "--dataset", "digits", "--train-split", "train", "--val-split",
        "validation", "--optimizer", "dyhpo", "--output-dir", "./results", "--max-epochs", "2",
        "--max-budget", "2", "--num-config", "20", "--initial-size", "20", "--acquisition-size",
        "10", "--budget", "30", "--storage-dir", "./storage",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cycle 1" in done.stdout
    (report,) = (tmp_path / "results").glob("*/learning_curves.png")
    assert report.stat().st_size > 1000
    refused = run(tmp_path, "timm_al.py", "--dataset", "digits", "--optimizer", "bohb")
    assert refused.returncode != 0
    assert "'asha', 'dyhpo', 'hpo4dl-dyhpo'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_settings_file_of_the_readme_is_legal():
    settings = yaml.safe_load((EXAMPLES / "digits.yaml").read_text())
    for hpo in settings["hpo"]:
        for seed in settings["seed"]:
            RunConfig.create(settings, {"hpo": hpo, "seed": seed})
