"""A package whose parts are found by their entry points, and used by name in the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from toy_models import TOY

pytestmark = pytest.mark.slow  # it takes a process of its own

HERE = Path(__file__).parent
PACKAGE = HERE / "plugin_package"
PARTS = {
    "dataset": "stripes",
    "strategy": "gap",
    "validation": "every-kth:4",
    "optimizer": "best-two",
    "hpo": "when-worse",
    "recipe": "focal",
}
SETTINGS = {**TOY, **PARTS, "transfer": False, "measure_current": False}


@pytest.fixture(scope="module")
def python_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where Python finds the package, and what an installer writes about it."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return os.pathsep.join([str(site), str(PACKAGE), str(HERE), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def printed(python_path: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the jobs print in a Python process with the package installed, and the folder of all of
    them. Each job is a fork of a process that has imported PyTorch, which takes the most time."""
    folder = tmp_path_factory.mktemp("jobs")
    study = {"name": "own", "settings": {**SETTINGS, "budget": 12}, "grid": {"strategy": ["gap"]}}
    for name, content in (("own", SETTINGS), ("study", study)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        input=json.dumps(JOBS),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return {name: (folder / name).read_text() for name in JOBS} | {"folder": str(folder)}


def result(printed: dict[str, str], job: str) -> str:
    """What a job printed; the test fails where that ended with an error."""
    text, _, status = printed[job].rpartition("ended with ")
    assert status == "0", text
    return text


FORKS = """
import json, os, sys
import torch, toy_models

torch.set_num_threads(1)
for name, code in json.load(sys.stdin).items():
    if not (child := os.fork()):
        file = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(name, "a") as file:
        file.write(f"ended with {status}")
"""


def command(*arguments: str) -> str:
    """The code of one of alhpo's commands."""
    return f"import sys; sys.argv[1:] = {arguments}; from alhpo.cli import run_main; run_main()"


CHECKS = """
from alhpo.testing import *
from alhpo.tuning import get_optimizer_factory
from alhpo.validation import get_validation

check_data_source("stripes")
check_strategy("gap")
check_validation_scheme(get_validation("every-kth:4"))
check_optimizer(get_optimizer_factory("best-two"))
check_recipe("focal", model="alhpo_toy")
check_hpo_mode("when-worse", model="alhpo_toy")
"""

NEAR_MISSES = """
from alhpo import AlhpoError, RunConfig, load_dataset

def show(use):
    try:
        use()
    except AlhpoError as error:
        print(error)

show(lambda: load_dataset("stripe"))
show(lambda: RunConfig.create({"strategy": "gab"}))
show(lambda: RunConfig.create({"optimizer": "best-too"}))
show(lambda: RunConfig.create({"recipe": "focsal"}))
show(lambda: RunConfig.create({"hpo": "when-worst"}))
show(lambda: RunConfig.create({"validation": "every-kth:one"}))
show(lambda: RunConfig.create({"validation": "every-kht:4"}))
"""


JOBS = {
    "run": command("run", "--config", "own.yaml"),
    "again": command("run", "--config", "own.yaml"),
    "study": command("study", "study.yaml", "--launcher", "in-process"),
    "checks": CHECKS,
    "near misses": NEAR_MISSES,
}


def test_its_parts_are_used_by_name_in_a_run_and_a_study(printed: dict[str, str]) -> None:
    result(printed, "run")
    assert "finished before" in result(printed, "again")
    (folder,) = Path(printed["folder"], "runs").glob("stripes-gap-when-worse-*")
    records = [json.loads(line) for line in (folder / "cycles.jsonl").read_text().splitlines()]
    assert [record["n_labeled"] for record in records] == [12, 20, 28]
    assert [record["tuned"] for record in records[:2]] == [True, False]
    recorded = yaml.safe_load((folder / "config.yaml").read_text())
    assert {name: recorded[name] for name in PARTS} == PARTS
    assert "1 finished" in result(printed, "study")


def test_its_parts_pass_the_suites(printed: dict[str, str]) -> None:
    result(printed, "checks")


def test_near_misses_of_its_names_are_suggested(printed: dict[str, str]) -> None:
    shown = result(printed, "near misses").splitlines()
    expected = [
        "'stripes'",
        "'gap'",
        "'best-two'",
        "'focal'",
        "'when-worse'",
        "a number from 2",
        "'every-kth:K'",
    ]
    assert len(shown) == len(expected)
    for line, text in zip(shown, expected, strict=True):
        assert (text if " " in text else f"Did you mean {text}?") in line
