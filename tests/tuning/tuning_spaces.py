"""A hypothesis strategy for search spaces: every hyperparameter type, nested conditions, clauses.

``spaces()`` draws what the installed ConfigSpace can hold: quantised hyperparameters exist in
version 0.7 only.
"""

from __future__ import annotations

from typing import Any

from ConfigSpace import (
    AndConjunction,
    CategoricalHyperparameter,
    ConfigurationSpace,
    Constant,
    EqualsCondition,
    ForbiddenAndConjunction,
    ForbiddenEqualsClause,
    ForbiddenInClause,
    GreaterThanCondition,
    InCondition,
    LessThanCondition,
    NotEqualsCondition,
    OrConjunction,
    OrdinalHyperparameter,
    UniformFloatHyperparameter,
    UniformIntegerHyperparameter,
)
from ConfigSpace.hyperparameters import (
    BetaFloatHyperparameter,
    BetaIntegerHyperparameter,
    NormalFloatHyperparameter,
    NormalIntegerHyperparameter,
)
from hypothesis import reject
from hypothesis import strategies as st

CHOICES = [[64, 16, 32], ["b", "a"], [True, False], [3, "a", True], [0.5, "auto"], ["only"]]
SEQUENCES = [["s", "m", "l"], [8, 16, 64], [0.1, 1.0], [1]]
CONSTANTS = [1, 0.5, "fixed"]
#: ConfigSpace 0.7 has quantised numbers; 1.x has none.
HAS_QUANTA = hasattr(UniformFloatHyperparameter("x", 0.0, 1.0), "q")


def build(hyperparameters, conditions=(), clauses=()) -> ConfigurationSpace:
    """A space of these parts, on any version of ConfigSpace."""
    space = ConfigurationSpace()
    if hasattr(space, "add"):
        space.add([*hyperparameters, *conditions, *clauses])
    else:
        space.add_hyperparameters(list(hyperparameters))
        space.add_conditions(list(conditions))
        space.add_forbidden_clauses(list(clauses))
    return space


@st.composite
def hyperparameters(draw, name: str) -> Any:
    """One hyperparameter of any type."""
    log = draw(st.booleans())
    kinds = [
        lambda: UniformFloatHyperparameter(name, 1e-4, 1.0, log=log),
        lambda: UniformFloatHyperparameter(name, -3.0, 2.5),
        lambda: UniformIntegerHyperparameter(name, 1, draw(st.integers(2, 40)), log=log),
        lambda: UniformIntegerHyperparameter(name, -5, 512),
        lambda: NormalFloatHyperparameter(name, mu=0.3, sigma=0.5, lower=-1.0, upper=2.0),
        lambda: NormalIntegerHyperparameter(name, mu=4, sigma=3, lower=1, upper=12),
        lambda: BetaFloatHyperparameter(name, alpha=2, beta=3, lower=0.0, upper=1.0),
        lambda: BetaIntegerHyperparameter(name, alpha=2, beta=3, lower=0, upper=9),
        lambda: CategoricalHyperparameter(name, draw(st.sampled_from(CHOICES))),
        lambda: CategoricalHyperparameter(name, ["x", "y", "z"], weights=[0.2, 0.3, 0.5]),
        lambda: OrdinalHyperparameter(name, draw(st.sampled_from(SEQUENCES))),
        lambda: Constant(name, draw(st.sampled_from(CONSTANTS))),
    ]
    if HAS_QUANTA:
        kinds += [
            lambda: UniformFloatHyperparameter(name, 0.0, 1.0, q=0.25),  # pyright: ignore[reportCallIssue]
            lambda: UniformIntegerHyperparameter(name, 1, 10, q=3),  # pyright: ignore[reportCallIssue]
        ]
    return draw(st.sampled_from(kinds))()


@st.composite
def spaces(
    draw, max_size: int = 6, conditional: bool = True, forbidden: bool = True
) -> ConfigurationSpace:
    """Spaces of 1 to ``max_size`` hyperparameters (and a switch).

    Args:
        max_size: how many hyperparameters beside the switch.
        conditional: some are active only if parents, conditional themselves perhaps, have certain
            values.
        forbidden: some combinations are forbidden; never that of all default values.
    """
    parts = [CategoricalHyperparameter("switch", ["on", "off", "auto"])] if conditional else []
    conditions, conditioned = [], set()
    for number in range(draw(st.integers(1, max_size))):
        child = draw(hyperparameters(f"h{number}"))
        if conditional and draw(st.booleans()):
            conditions.append(draw(_conditions(child, parts, conditioned)))
            conditioned.add(child.name)
        parts.append(child)
    choosable = [one for one in parts if _is_exact(one) and len(some_values(one)) > 1]
    clauses = st.lists(_clauses(choosable), max_size=3) if forbidden and choosable else st.just([])
    try:
        return build(parts, conditions, draw(clauses))
    except ValueError:  # ConfigSpace 1 cannot make the default configuration of a few of these
        reject()


def _is_exact(hyperparameter: Any) -> bool:
    """0.7 samples quantised values that its own conditions and clauses do not recognise."""
    return getattr(hyperparameter, "q", None) is None


def _one_or_two(candidates) -> Any:
    return st.lists(
        st.sampled_from(candidates), min_size=1, max_size=2, unique_by=lambda one: one.name
    )


@st.composite
def _conditions(draw, child, candidates, conditional) -> Any:
    """A condition of the child on one or two of the candidates.

    Both versions of ConfigSpace refuse samples of their own where a parent may be inactive and
    the condition is more than that a categorical has certain values; such are not drawn.
    """
    nested = [
        one
        for one in candidates
        if one.name in conditional and isinstance(one, CategoricalHyperparameter)
    ]
    if nested and draw(st.booleans()):
        return draw(_equalities(child, draw(st.sampled_from(nested))))
    always = [
        one
        for one in candidates
        if one.name not in conditional
        and _is_exact(one)
        and not isinstance(one, Constant)  # which 0.7 cannot compare
    ]
    parents = draw(_one_or_two(always))
    conditions = [draw(_literals(child, parent)) for parent in parents]
    if len(conditions) == 1:
        return conditions[0]
    return draw(st.sampled_from([AndConjunction, OrConjunction]))(*conditions)


@st.composite
def _equalities(draw, child, parent) -> Any:
    values = some_values(parent)
    if draw(st.booleans()):
        return InCondition(child, parent, values[:2])
    return EqualsCondition(child, parent, draw(st.sampled_from(values)))


@st.composite
def _literals(draw, child, parent) -> Any:
    values = some_values(parent)
    kinds = [lambda: draw(_equalities(child, parent))]
    if len(values) > 1:
        kinds.append(lambda: NotEqualsCondition(child, parent, draw(st.sampled_from(values))))
    if not isinstance(parent, CategoricalHyperparameter) and len(values) > 2:
        kinds.append(lambda: GreaterThanCondition(child, parent, values[1]))
        kinds.append(lambda: LessThanCondition(child, parent, values[1]))
    return draw(st.sampled_from(kinds))()


@st.composite
def _clauses(draw, candidates) -> Any:
    """A clause on one or two of the candidates that spares the default value of the first."""
    literals = []
    for one in draw(_one_or_two(candidates)):
        values = [value for value in some_values(one) if literals or value != one.default_value]
        # 0.7 sorts the values to print a clause
        if len(set(map(type, values))) == 1 < len(values) and draw(st.booleans()):
            literals.append(ForbiddenInClause(one, values[:2]))
        else:
            literals.append(ForbiddenEqualsClause(one, draw(st.sampled_from(values))))
    return literals[0] if len(literals) == 1 else ForbiddenAndConjunction(*literals)


def some_values(hyperparameter: Any) -> list[Any]:
    """Legal values of a hyperparameter, in its order: all of a discrete one, some of a number."""
    if isinstance(hyperparameter, CategoricalHyperparameter):
        return list(hyperparameter.choices)
    if isinstance(hyperparameter, OrdinalHyperparameter):
        return list(hyperparameter.sequence)
    if isinstance(hyperparameter, Constant):
        return [hyperparameter.value]
    lower, upper = hyperparameter.lower, hyperparameter.upper
    return sorted({lower, hyperparameter.default_value, upper})
