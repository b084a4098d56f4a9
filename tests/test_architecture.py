"""Imports go one way, and each outside library stays where it belongs."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "alhpo"

#: Where outside libraries may be imported; a trailing slash stands for a package.
ONLY_IN = {
    "timm": {
        "models/timm_models.py",
        "models/stacked_resnet.py",
        "models/weights/fit.py",
        "data/sources/timm_factory.py",
    },
    "hpo4dl": {"tuning/optimizers/hpo4dl.py", "tuning/optimizers/containment.py"},
    "optuna": {"tuning/optimizers/tpe.py", "tuning/optuna_study.py"},
    "skactiveml": {"strategies/scikit_activeml.py", "strategies/prediction_lookup.py"},
    "matplotlib": {"reports/figures/"},
    "jinja2": {"reports/html.py"},
    "ray": {"studies/launch/ray.py"},
    "click": {"cli/"},
    "rich": {"cli/", "reports/formats/console.py", "runs/progress.py", "tuning/progress.py"},
    "pickle": {"tuning/processes/"},  # between a search and the processes that it starts, only
    "cloudpickle": {"tuning/processes/"},
    "dill": set(),
    "joblib": set(),
    "shelve": set(),
    "marshal": set(),
}


@cache
def modules():
    """The trees of all modules, by path."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def relative(path):
    return path.relative_to(PACKAGE).as_posix()


@cache
def imports():
    """Of what modules import, anywhere in them: the full name, the module, and the line."""
    found = []
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                package = ("alhpo", *path.relative_to(PACKAGE).parts[:-1])
                base = package[: len(package) - node.level + 1] if node.level else ()
                source = ".".join([*base, *([node.module] if node.module else [])])
                names = [source, *(f"{source}.{alias.name}" for alias in node.names)]
            else:
                continue
            found += [(name, relative(path), node.lineno) for name in names]
    return found


def test_imports_go_one_way():
    """The contracts of pyproject.toml: floors of rooms, and no circle within a room. In a process
    of its own, because the linter sets up logging for all of it."""
    linter = "from importlinter.cli import lint_imports as lint; exit(lint(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", linter],
        cwd=PACKAGE.parent,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


DRAWING = PACKAGE.parent / "docs" / "draw_rooms.py"


def draw(*arguments):
    return subprocess.run(
        [sys.executable, str(DRAWING), *arguments], capture_output=True, text=True, timeout=300
    )


def test_the_drawing_of_the_rooms_is_up_to_date():
    done = draw("--check")
    assert done.returncode == 0, done.stderr


def test_modules_import_from_the_module_that_defines():
    """Not from the package, whose names are for users."""
    wrong = [
        f"{module}, line {line}"
        for name, module, line in imports()
        if name == "alhpo" and module != "__init__.py"
    ]
    assert not wrong


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_stays_in_its_place(library):
    users = {module for name, module, _ in imports() if name.split(".")[0] == library}
    places = ONLY_IN[library]
    packages = tuple(place for place in places if place.endswith("/"))
    assert not {user for user in users if user not in places and not user.startswith(packages)}


def test_nothing_that_could_run_code_is_loaded_from_files():
    """Checkpoints are safetensors, settings are JSON and safe YAML; of a file of weights, tensors
    are loaded and nothing else."""
    unsafe = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}
    calls = []
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                loads = called in unsafe or called in ("np.load", "numpy.load")
                safely = ("allow_pickle=False", "weights_only=True")
                if loads and not any(option in ast.unparse(node) for option in safely):
                    calls.append(f"{relative(path)}, line {node.lineno}: {called}")
    assert not calls
