"""Imports go one way, and each outside library stays where it belongs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "alhpo"

#: Where outside libraries may be imported; a trailing slash stands for a package.
ONLY_IN = {
    "timm": {"models/timm_models.py", "models/weights/fit.py", "data/sources/timm_factory.py"},
    "hpo4dl": {"tuning/optimizers/hpo4dl.py", "tuning/optimizers/containment.py"},
    "optuna": {"tuning/optimizers/tpe.py"},
    "skactiveml": {"strategies/scikit_activeml.py", "strategies/prediction_lookup.py"},
    "matplotlib": {"reports/figures/"},
    "jinja2": {"reports/html.py"},
    "ray": {"studies/launch/ray.py"},
    "click": {"cli/"},
    "rich": {"cli/", "reports/formats/console.py", "runs/progress.py", "tuning/progress.py"},
    "pickle": set(),
    "cloudpickle": set(),
    "dill": set(),
    "joblib": set(),
    "shelve": set(),
    "marshal": set(),
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def relative(path):
    return path.relative_to(PACKAGE).as_posix()


def imports(path):
    """Full names of what a module imports, anywhere in it, with line numbers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            package = ("alhpo", *path.relative_to(PACKAGE).parts[:-1])
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source, node.lineno
            for alias in node.names:
                yield f"{source}.{alias.name}", node.lineno


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
        f"{relative(path)}, line {line}"
        for path in modules()
        for name, line in imports(path)
        if name == "alhpo" and relative(path) != "__init__.py"
    ]
    assert not wrong


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_stays_in_its_place(library):
    users = {
        relative(path)
        for path in modules()
        if any(name.split(".")[0] == library for name, _ in imports(path))
    }
    places = ONLY_IN[library]
    packages = tuple(place for place in places if place.endswith("/"))
    assert not {user for user in users if user not in places and not user.startswith(packages)}


def test_nothing_that_could_run_code_is_loaded_from_files():
    """Checkpoints are safetensors, settings are JSON and safe YAML; of a file of weights, tensors
    are loaded and nothing else."""
    unsafe = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}
    calls = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                loads = called in unsafe or called in ("np.load", "numpy.load")
                safely = ("allow_pickle=False", "weights_only=True")
                if loads and not any(option in ast.unparse(node) for option in safely):
                    calls.append(f"{relative(path)}, line {node.lineno}: {called}")
    assert not calls
