"""Modules import lower layers only, and each outside library stays where it belongs."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "alhpo"

#: The layer of each module; a package stands for all modules in it.
LAYERS = {
    0: ["types", "seeding", "identity"],
    0.5: ["files", "registration", "schema"],  # they raise the errors of types
    0.6: ["digests", "formats", "model_check"],
    1: ["protocols", "weights", "tables"],
    2: [
        "hyperparameters",
        "datasets",
        "pool",
        "validation",
        "batches",
        "models",
        "checkpoints",
        "stochastic",
        "strategies",
        "tuning",
        "results",
    ],
    3: ["training", "figures", "loading", "first_query"],
    3.5: ["loss_prediction", "adversarial"],
    4: ["trainer", "provenance", "outputs", "selection"],
    5: ["objective", "fitting"],
    6: ["learner", "config", "report"],
    6.5: ["steps", "labeled_pool"],
    6.7: ["cycle_search"],
    7: ["experiment", "pool_tuning", "testing"],  # testing: anything below experiment
    7.5: ["progress"],
    8: ["studies"],
    9: ["cli"],
    10: [""],  # the package itself, which gathers the public names
}
LAYER = {name: number for number, names in LAYERS.items() for name in names}

#: Where outside libraries may be imported; a trailing slash stands for a package.
ONLY_IN = {
    "timm": {"models.py", "loading.py"},
    "hpo4dl": {"tuning/upstream.py", "tuning/containment.py"},
    "optuna": {"tuning/tpe.py"},
    "skactiveml": {"strategies/scikit_activeml.py", "strategies/prediction_lookup.py"},
    "matplotlib": {"figures.py", "studies/report/figures/"},
    "jinja2": {"studies/report/html.py"},
    "ray": {"studies/launch/ray.py"},
    "click": {"cli.py"},
    "rich": {"cli.py", "progress.py", "report.py", "tables/console.py", "tuning/progress.py"},
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


def part(path):
    """The name in LAYERS of a file: its module, its package, or '' for alhpo/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


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


def test_every_module_has_a_layer():
    unknown = {part(path) for path in modules()} - set(LAYER)
    assert not unknown, f"Give these modules a layer: {sorted(unknown)}"
    missing = set(LAYER) - {part(path) for path in modules()}
    assert not missing, f"These modules are gone: {sorted(missing)}"


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_module_imports_lower_layers_only(path):
    here = part(path)
    wrong = []
    for name, line in imports(path):
        if name.split(".")[0] != "alhpo":
            continue
        if name == "alhpo":
            wrong.append(f"line {line}: import from the module that defines it, not the package")
            continue
        there = name.split(".")[1]
        if there != here and not LAYER.get(there, 99) < LAYER[here]:
            wrong.append(f"line {line}: {name} of layer {LAYER.get(there, '?')}")
    where = f"{relative(path)} of layer {LAYER[here]} imports"
    assert here == "" or not wrong, where + "\n" + "\n".join(wrong)


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
    """Checkpoints are safetensors, settings are JSON and safe YAML."""
    unsafe = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}
    calls = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                loads = called in unsafe or called in ("np.load", "numpy.load")
                if loads and "allow_pickle=False" not in ast.unparse(node):
                    calls.append(f"{relative(path)}, line {node.lineno}: {called}")
    assert not calls


def test_no_test_helper_is_used_by_the_package():
    users = [
        relative(path)
        for path in modules()
        if part(path) != "testing" and any("alhpo.testing" in name for name, _ in imports(path))
    ]
    assert not users
