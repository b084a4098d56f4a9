"""Strategies by name, as functions, and as installed plug-ins."""

import sys
from importlib.metadata import EntryPoint

import pytest

from alhpo.protocols import POOL_OUTPUTS
from alhpo.strategies import (
    get_strategy,
    register_strategy,
    registry,
    strategy_name,
    strategy_names,
    strategy_needs,
)
from alhpo.types import ConfigurationError, Query


def lowest(pool, n, generator):
    return Query(tuple(pool.indices[:n].tolist()))


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_strategies", dict(registry._strategies))
    monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """Install a module with this text as the plug-in "plugged"."""

    def install(text, attribute="strategy"):
        (tmp_path / "alhpo_plugged.py").write_text(text)
        point = EntryPoint("plugged", f"alhpo_plugged:{attribute}", "alhpo.strategies")
        monkeypatch.setattr(registry, "entry_points", lambda group: [point])
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("alhpo_plugged", None)


def test_names_and_needs_of_the_built_in_strategies():
    assert {"badge", "coreset", "entropy", "random"} <= set(strategy_names())
    assert list(strategy_names()) == sorted(strategy_names())
    assert {name: set(strategy_needs(get_strategy(name))) for name in strategy_names()} == {
        "badge": {"logits", "features"},
        "coreset": {"features", "labeled_features"},
        "entropy": {"logits"},
        "random": set(),
    }
    assert get_strategy("core-set") is get_strategy("coreset")
    assert strategy_name("core-set") == strategy_name(get_strategy("coreset")) == "coreset"


def test_unknown_names_list_the_legal_ones():
    with pytest.raises(ConfigurationError, match=r"'bagde'.*badge, coreset, entropy, random"):
        get_strategy("bagde")


def test_functions_pass_through_and_need_everything_unless_they_say_so():
    assert get_strategy(lowest) is lowest
    assert strategy_needs(lowest) == POOL_OUTPUTS
    assert strategy_name(lowest) == "lowest"


@pytest.mark.parametrize("thing", [None, 3, object(), dict])
def test_what_is_neither_name_nor_function_is_refused(thing):
    with pytest.raises(ConfigurationError, match="function"):
        get_strategy(thing)


@pytest.mark.parametrize("needs", [{"logit"}, "logits", 3, {"indices"}])
def test_illegal_needs_are_refused_and_the_legal_ones_listed(needs):
    def strategy(pool, n, generator): ...

    strategy.needs = needs
    with pytest.raises(ConfigurationError, match="features, labeled_features, logits"):
        get_strategy(strategy)
    with pytest.raises(ConfigurationError, match="features, labeled_features, logits"):
        register_strategy("mine", needs=needs)


def test_registering_gives_name_needs_and_aliases():
    decorated = register_strategy("mine", needs=["logits"], aliases=("my-own",))(lowest)
    try:
        assert decorated is lowest
        assert lowest.needs == {"logits"}
        assert get_strategy("mine") is get_strategy("my-own") is lowest
        assert "mine" in strategy_names() and "my-own" not in strategy_names()
        assert strategy_name(lowest) == "mine"
    finally:
        del lowest.needs


def test_taken_names_are_refused_unless_the_same_function_is_defined_again():
    def define():
        @register_strategy("mine")
        def mine(pool, n, generator): ...

        return mine

    define()
    assert get_strategy("mine") is not define()
    for taken in ("mine", "badge", "core-set"):
        with pytest.raises(ConfigurationError, match="belongs to"):
            register_strategy(taken)(lowest)
    with pytest.raises(ConfigurationError, match="belongs to"):
        register_strategy("new", aliases=("random",))(lowest)
    assert not hasattr(lowest, "needs")


@pytest.mark.parametrize("name", ["", None])
def test_names_are_text(name):
    with pytest.raises(ConfigurationError, match="text"):
        register_strategy(name)(lowest)


def test_plug_ins_are_listed_without_import_and_found_by_name(plugin):
    plugin("def strategy(pool, n, generator): ...\nstrategy.needs = {'logits'}")
    assert "plugged" in strategy_names()
    assert "alhpo_plugged" not in sys.modules
    assert strategy_needs(get_strategy("plugged")) == {"logits"}
    assert strategy_name(get_strategy("plugged")) == "plugged"


def test_plug_ins_may_register_themselves(plugin):
    plugin(
        "from alhpo.strategies import register_strategy\n"
        "@register_strategy('plugged', needs=())\n"
        "def strategy(pool, n, generator): ..."
    )
    assert strategy_needs(get_strategy("plugged")) == frozenset()


def test_plug_ins_do_not_shadow_built_in_strategies(monkeypatch):
    point = EntryPoint("badge", "nowhere:nothing", "alhpo.strategies")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert get_strategy("badge").__module__ == "alhpo.strategies.badge"


@pytest.mark.parametrize("text", ["raise RuntimeError('broken')", "import nowhere", "other = 1"])
def test_broken_plug_ins_are_named(plugin, text):
    plugin(text)
    with pytest.raises(ConfigurationError, match=r"'plugged' \(alhpo_plugged:strategy\)"):
        get_strategy("plugged")


@pytest.mark.parametrize("text", ["strategy = 3", "strategy = 'badge'"])
def test_plug_ins_that_are_no_functions_are_refused(plugin, text):
    plugin(text)
    with pytest.raises(ConfigurationError, match="function"):
        get_strategy("plugged")
