"""The door: few names, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import alhpo
import alhpo.tuning
from alhpo.cli import main
from alhpo.reports import published_names
from alhpo.runs.setting_groups import STRATEGIES
from alhpo.runs.settings import RunConfig
from alhpo.strategies import registry, strategy_families, strategy_names
from alhpo.studies.launch import launcher_names

#: What takes seconds to import.
HEAVY = ("torch", "timm", "ConfigSpace", "pandas", "numpy", "sklearn", "scipy", "matplotlib")

COMMANDS = """
import sys
from alhpo.cli import run_main
for arguments in {commands!r}:
    sys.argv = ["alhpo", *arguments]
    try:
        run_main()
        status = 0
    except SystemExit as end:
        status = end.code
    print("STATUS", status, sorted(set({heavy!r}) & set(sys.modules)))
"""


def python(code: str) -> list[str]:
    """The lines that the code prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.splitlines()


def test_importing_alhpo_imports_nothing_heavy() -> None:
    code = f"import sys, alhpo; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert python(code) == ["[]"]
    named = (
        f"import sys; from alhpo import RunConfig; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    assert python(named) == ["[]"]


def test_help_and_refusals_by_form_import_nothing_heavy() -> None:
    cases = [
        (["--help"], 0),
        (["--version"], 0),
        *[([command, "--help"], 0) for command in main.commands],
        (["run", "--max-epochs", "many"], 2),
        (["run", "--max-epochs", "0"], 2),
        (["run", "--metric", "loss"], 2),
        (["run", "--dropout", "1"], 2),
        (["run", "--no-such-flag"], 2),
        (["run", "--config", "missing.yaml"], 2),
        (["tune"], 2),
        (["study", "mine.yaml", "--workers", "two"], 2),
        (["no-such-command"], 2),
    ]
    commands = [arguments for arguments, _ in cases]
    printed = python(COMMANDS.format(commands=commands, heavy=HEAVY))
    ends = [line for line in printed if line.startswith("STATUS")]
    for (arguments, status), end in zip(cases, ends, strict=True):
        assert end == f"STATUS {status} []", arguments


def test_the_door_has_at_most_twenty_names_and_each_is_its_modules() -> None:
    assert len(alhpo.__all__) <= 20
    assert sorted(alhpo.__all__) == alhpo.__all__
    assert set(alhpo.__all__) <= set(dir(alhpo))
    for name in alhpo.__all__:
        value = getattr(alhpo, name)
        assert getattr(import_module(value.__module__), name) is value
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = alhpo.no_such_name


@pytest.mark.parametrize("package", [alhpo, alhpo.tuning])
def test_type_checkers_see_the_same_names(package: ModuleType) -> None:
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(checked.test) == "TYPE_CHECKING"
    seen = {
        name.asname: f"{node.module}.{name.name}"
        for node in ast.walk(checked)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    modules = {
        name: f"{package.__name__}.{module}.{name}" for name, module in package._MODULES.items()
    }
    assert seen == modules
    assert sorted(seen) == package.__all__


def test_help_names_what_there_is() -> None:
    own = {
        name
        for name, f in registry.STRATEGIES.registered().items()
        if f.__module__.startswith("alhpo.")
    }
    assert own | set(strategy_families()) >= set(STRATEGIES)
    assert set(STRATEGIES) >= own
    assert set(strategy_names()) >= set(STRATEGIES)
    assert all(name in str(RunConfig.model_fields["strategy"].description) for name in STRATEGIES)
    options = {option.name: option.metavar for option in main.commands["study"].params}  # type: ignore[attr-defined]
    assert options["launcher"] == "|".join(launcher_names())
    options = {option.name: option for option in main.commands["report"].params}
    assert options["compare"].metavar == "|".join(["published", *published_names()])
