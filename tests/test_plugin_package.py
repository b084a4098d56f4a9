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


def python(code: str, *arguments: object, python_path: str, cwd: Path) -> str:
    """What a Python process with the package installed prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


COMMAND = "import toy_models; from alhpo.cli import run_main; run_main()"

CHECKS = """
import toy_models
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


def test_its_parts_are_used_by_name_in_a_run_and_a_study(python_path: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    run = ("run", "--config", "own.yaml")
    python(COMMAND, *run, python_path=python_path, cwd=tmp_path)
    assert "finished before" in python(COMMAND, *run, python_path=python_path, cwd=tmp_path)
    (folder,) = (tmp_path / "runs").glob("stripes-gap-when-worse-*")
    records = [json.loads(line) for line in (folder / "cycles.jsonl").read_text().splitlines()]
    assert [record["n_labeled"] for record in records] == [12, 20, 28]
    assert [record["tuned"] for record in records[:2]] == [True, False]
    recorded = yaml.safe_load((folder / "config.yaml").read_text())
    assert {name: recorded[name] for name in PARTS} == PARTS

    study = {"name": "own", "settings": {**SETTINGS, "budget": 12}, "grid": {"strategy": ["gap"]}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    arguments = ("study", "study.yaml", "--launcher", "in-process")
    assert "1 finished" in python(COMMAND, *arguments, python_path=python_path, cwd=tmp_path)


def test_its_parts_pass_the_suites(python_path: str, tmp_path: Path) -> None:
    python(CHECKS, python_path=python_path, cwd=tmp_path)


def test_near_misses_of_its_names_are_suggested(python_path: str, tmp_path: Path) -> None:
    shown = python(NEAR_MISSES, python_path=python_path, cwd=tmp_path).splitlines()
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
