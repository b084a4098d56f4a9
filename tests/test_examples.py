"""The examples run as a user runs them, on digits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", EXAMPLES / script, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tuner", "optimizer"),
    [pytest.param("hpo4dl", "hyperband", marks=pytest.mark.hpo4dl), ("alhpo", "dyhpo")],
)
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
    (report,) = (tmp_path / "results").glob("*/curves-by-setting.png")
    assert report.stat().st_size > 1000
    refused = run(tmp_path, "timm_al.py", "--dataset", "digits", "--optimizer", "bohb")
    assert refused.returncode != 0
    assert "Legal: asha, dyhpo, hpo4dl-dyhpo" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_finetune(tmp_path):
    done = run(
        tmp_path, "finetune.py", "--input-size", "32", "--pool-size", "100", "--eval-size", "40",
        "--labels", "50", "--max-epochs", "2", "--max-budget", "4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "trained from group" in line]
    assert [line.split()[0] for line in lines] == ["40", "50"]


STUDY = """
name: small
settings:
  {dataset: digits, model: resnet10t, strategy: random, pool_size: 60, eval_size: 20,
   initial_size: 12, budget: 12, max_epochs: 1, validate_fixed: false}
tune: {labels: [12], settings: {max_budget: 2}}
"""


@pytest.mark.slow
def test_the_slurm_script_runs_a_cell_in_each_task(tmp_path):
    """With bash for Slurm: an array over the runs, then one over their tunings."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not here")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, line in (("srun", '"$@"'), ("alhpo", f'{sys.executable} -m alhpo.cli "$@"')):
        (programs / name).write_text(f"#!/bin/bash\nexec {line}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "study.yaml").write_text(STUDY)

    def task(index):
        environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(EXAMPLES.parent),
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_ARRAY_TASK_ID": str(index),
            "STUDY": "study.yaml",
        }
        script = ["bash", EXAMPLES / "study.slurm"]
        return subprocess.run(
            script, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    early = task(1)
    assert early.returncode == 1
    assert "Run cell 0 first" in early.stdout
    for index in range(2):
        done = task(index)
        assert done.returncode == 0, done.stdout + done.stderr
    results = sorted(path.name for path in (tmp_path / "studies").rglob("*.json"))
    assert (results.count("run.json"), results.count("tune.json")) == (1, 1)
    assert task(2).returncode == 2


def test_the_page_on_studies_shows_the_slurm_script():
    page = EXAMPLES.parent / "docs" / "studies.md"
    assert (EXAMPLES / "study.slurm").read_text() in page.read_text()
