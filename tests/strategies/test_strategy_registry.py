"""Strategies by name, as functions, and as installed plug-ins."""

import shutil
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import POOL_OUTPUTS
from alhpo.base.types import PoolOutputs, Query
from alhpo.strategies import (
    get_strategy,
    register_score,
    register_strategy,
    register_strategy_family,
    registry,
    run_strategy,
    split_strategy_names,
    strategy_families,
    strategy_name,
    strategy_names,
    strategy_needs,
)


def lowest(pool, n, generator):
    return Query(tuple(pool.indices[:n].tolist()))


@pytest.fixture(autouse=True)
def own_registry():
    with registry.STRATEGIES.temporary():
        yield


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """Install a module with this text as the plug-in "plugged"."""

    def install(text, attribute="strategy"):
        (tmp_path / "alhpo_plugged.py").write_text(text)
        point = EntryPoint("plugged", f"alhpo_plugged:{attribute}", "alhpo.strategies")
        monkeypatch.setattr(
            "alhpo.base.registry.installed_plugins", lambda group: {point.name: point}
        )
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("alhpo_plugged", None)


def test_names_and_needs_of_the_built_in_strategies():
    names = strategy_names()
    named = [name for name in names if name not in strategy_families()]
    assert {"badge", "coreset", "entropy", "random"} <= set(named)
    assert list(names) == sorted(named) + sorted(strategy_families())
    expected = {
        "badge": {"logits", "features"},
        "coreset": {"features", "labeled_features"},
        "entropy": {"logits"},
        "random": set(),
    }
    for name in named:
        needs = strategy_needs(get_strategy(name))
        assert needs <= POOL_OUTPUTS
        assert needs == expected.get(name, needs)
        assert needs or name == "random"
    assert get_strategy("core-set") is get_strategy("coreset")
    assert strategy_name("core-set") == strategy_name(get_strategy("coreset")) == "coreset"


def test_unknown_names_list_the_legal_ones():
    with pytest.raises(ConfigurationError, match=r"'bagde'.*badge,.* coreset,.* entropy,.* random"):
        get_strategy("bagde")


def test_functions_pass_through_and_get_what_is_cheap_unless_they_say_so():
    assert get_strategy(lowest) is lowest
    assert strategy_needs(lowest) == {"logits", "features", "labels", "labeled_features"}
    assert strategy_needs(lowest) < POOL_OUTPUTS
    assert strategy_name(lowest) == "lowest"


@pytest.mark.parametrize("thing", [None, 3, object(), dict])
def test_what_is_neither_name_nor_function_is_refused(thing):
    with pytest.raises(ConfigurationError, match="function"):
        get_strategy(thing)


@pytest.mark.parametrize("needs", [{"logit"}, "logits", 3, {"indices"}])
def test_illegal_needs_are_refused_and_the_legal_ones_listed(needs):
    def strategy(pool, n, generator): ...

    strategy.needs = needs
    with pytest.raises(
        ConfigurationError, match="features, heldout_labels, heldout_logits, images"
    ):
        get_strategy(strategy)
    with pytest.raises(
        ConfigurationError, match="features, heldout_labels, heldout_logits, images"
    ):
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


def test_what_has_no_name_of_its_own_never_replaces_another():
    class Mine:
        def __call__(self, pool, n, generator): ...

    pairs = [
        (lambda pool, n, generator: None, lambda pool, n, generator: None),
        (Mine(), Mine()),
    ]
    for number, (one, other) in enumerate(pairs):
        name = f"mine-{number}"
        for _ in range(2):
            assert register_strategy(name)(one) is one
            register_strategy_family(name, one, "K")
        with pytest.raises(ConfigurationError, match=f"'{name}' belongs to the strategy"):
            register_strategy(name)(other)
        with pytest.raises(ConfigurationError, match=f"'{name}' belongs to the family"):
            register_strategy_family(name, other, "K")
        assert get_strategy(name) is one
    register_score("mine-2")(lambda pool: pool.logits[:, 0])
    with pytest.raises(ConfigurationError, match="'mine-2' belongs to"):
        register_score("mine-2")(lambda pool: pool.logits[:, 1])


def test_members_of_families_follow_a_strategy_that_is_registered_again():
    def define(sign):
        @register_score("mine", needs={"logits"})
        def mine(pool):
            return sign * pool.logits[:, 0]

    pool = PoolOutputs(torch.arange(3), logits=torch.tensor([[1.0], [3.0], [2.0]]))
    for sign, first in ((1, 1), (-1, 0)):
        define(sign)
        query = run_strategy("softmax:mine@1e9", pool, 1, np.random.default_rng(0))
        assert query.indices == (first,)


@pytest.mark.parametrize("name", ["", None])
def test_names_are_text(name):
    with pytest.raises(ConfigurationError, match="text"):
        register_strategy(name)(lowest)


def every(text):
    """Every k-th candidate, from the first."""
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"every:{text}: expected a number from 1, as every:3.")

    def strategy(pool, n, generator):
        return Query(tuple(pool.indices[:: int(text)][:n].tolist()))

    strategy.needs = frozenset()
    return strategy


def test_a_family_makes_strategies_from_the_text_in_their_names():
    register_strategy_family("every", every, "K")
    assert "every:K" in strategy_families() and "every:K" in strategy_names()
    three = get_strategy("every:3")
    assert get_strategy("every:3") is three is not get_strategy("every:4")
    assert strategy_name(three) == strategy_name("every:3") == "every:3"
    assert strategy_needs(three) == frozenset()
    with pytest.raises(ConfigurationError, match="every:none: expected a number"):
        get_strategy("every:none")
    for unknown in ("every", "evry:3", "random:3"):
        with pytest.raises(ConfigurationError, match=r"Unknown strategy.*every:K"):
            get_strategy(unknown)


def test_a_family_redefined_forgets_what_it_made_and_a_taken_prefix_is_refused():
    register_strategy_family("every", every, "K")
    before = get_strategy("every:3")
    register_strategy_family("every", every, "K")
    assert get_strategy("every:3") is not before
    with pytest.raises(ConfigurationError, match="'every' belongs to"):
        register_strategy_family("every", lambda text: lowest, "K")
    with pytest.raises(ConfigurationError, match="text"):
        register_strategy_family("", every, "K")


@pytest.mark.parametrize(
    "text, names",
    [
        ("badge", ["badge"]),
        ("random, badge", ["random", "badge"]),
        ("every:3", ["every:3"]),
        ("random,every:a,b,c", ["random", "every:a,b,c"]),
        ("every:a,b; random,badge;every:c", ["every:a,b", "random", "badge", "every:c"]),
        ("random,other:a,b", ["random", "other:a", "b"]),
        ("single:3,random,single:4,every:a,b", ["single:3", "random", "single:4", "every:a,b"]),
        ("every,random", ["every", "random"]),
    ],
)
def test_lists_of_names_leave_the_commas_of_a_family_to_it(text, names):
    register_strategy_family("every", every, "K,...")
    register_strategy_family("single", every, "K")
    assert split_strategy_names(text) == names


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


def test_plug_ins_may_bring_a_family(plugin):
    plugin(
        "from alhpo.strategies import register_strategy, register_strategy_family\n"
        "@register_strategy('plugged', needs=())\n"
        "def strategy(pool, n, generator): ...\n"
        "def family(text):\n"
        "    def member(pool, n, generator): ...\n"
        "    member.needs = frozenset({text})\n"
        "    return member\n"
        "register_strategy_family('plugged', family, 'OUTPUT')"
    )
    assert strategy_needs(get_strategy("plugged:logits")) == {"logits"}
    assert "plugged:OUTPUT" in strategy_families()


def test_a_package_that_is_installed_or_removed_meanwhile_is_seen(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    assert "late" not in strategy_names()
    info = tmp_path / "late-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[alhpo.strategies]\nlate = late:strategy\n")
    assert "late" in strategy_names()
    shutil.rmtree(info)
    assert "late" not in strategy_names()


def test_plug_ins_do_not_shadow_built_in_strategies(monkeypatch):
    point = EntryPoint("badge", "nowhere:nothing", "alhpo.strategies")
    monkeypatch.setattr("alhpo.base.registry.installed_plugins", lambda group: {point.name: point})
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
