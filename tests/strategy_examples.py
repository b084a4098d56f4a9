"""Every strategy that has a name, families by an example each."""

from importlib.util import find_spec

from alhpo.strategies import strategy_families, strategy_names

FAMILIES = {
    "albl": "albl:entropy,random",
    "autoal": "autoal:entropy,kmeans",
    "bait": "bait:binary@0.5",
    "boss": "boss:margin,typiclass",
    "maxherding": "maxherding:0.5",
    "power": "power:entropy@2",
    "probcover": "probcover:0.3",
    "refine": "refine:margin,random",
    "skactiveml": "skactiveml:CoreSet",
    "softmax": "softmax:variation-ratio",
    "softrank": "softrank:ddu",
    "uherding": "uherding:entropy@0.5",
    "tcm": "tcm:2",
    "votes": "votes:entropy,kmeans",
}
#: The package that a family's example needs.
PACKAGES = {"skactiveml": "skactiveml"}


def examples() -> list[str]:
    """All registered names, and a member of each family whose package is installed."""
    forms = strategy_families()
    prefixes = [form.partition(":")[0] for form in forms]
    installed = [p for p in prefixes if p not in PACKAGES or find_spec(PACKAGES[p])]
    named = [name for name in strategy_names() if name not in forms]
    return named + [FAMILIES[prefix] for prefix in installed]
