"""Sources of weights by name: built in, registered in Python, or an installed plug-in."""

from __future__ import annotations

from typing import Any

from alhpo.base.errors import ConfigurationError
from alhpo.base.registry import Registry
from alhpo.models.weights.efficientnet_lite0 import EFFICIENTNET_LITE0
from alhpo.models.weights.files import ENDINGS
from alhpo.models.weights.source import WeightsSource


def _check(name: str, source: Any) -> WeightsSource:
    if not isinstance(source, WeightsSource):
        raise ConfigurationError(
            f"The source of weights {name!r} is {source!r}; expected a WeightsSource."
        )
    return source


WEIGHTS: Registry[WeightsSource] = Registry(
    "source of weights",
    "alhpo.weights",
    check=_check,
    otherwise=f"a file of weights ({', '.join(ENDINGS)})",
)


def register_weights(name: str, source: WeightsSource) -> None:
    """Give a source of weights its name.

    Args:
        name: what users write as ``weights``.
        source: where the weights are, and of which model.

    Raises:
        ConfigurationError: the name is not text, another source has it, or the object is not a
            ``WeightsSource``.
    """
    WEIGHTS.register(name, source)


def weights_names() -> tuple[str, ...]:
    """The names of all sources, sorted. Plug-ins are listed but not imported."""
    return WEIGHTS.names()


register_weights("efficientnet-lite0", EFFICIENTNET_LITE0)
