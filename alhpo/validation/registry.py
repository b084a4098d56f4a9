"""Validation schemes by name: built in, registered in Python, or an installed plug-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import ValidationScheme
from alhpo.base.registry import Registry


def _check(name: str, scheme: Any) -> ValidationScheme:
    if isinstance(scheme, type) or not isinstance(scheme, ValidationScheme):
        raise ConfigurationError(
            f"Validation scheme {scheme!r} has no name and splits(labels, generator). Give an "
            "object that has both, or a name such as 'holdout:0.2'."
        )
    return scheme


SCHEMES: Registry[ValidationScheme] = Registry(
    "validation scheme",
    "alhpo.validation_schemes",
    check=_check,
    otherwise="an object with name and splits(labels, generator); for example random:0.1x3, "
    "holdout:0.2, kfold:5, and with weights weighted:kfold:5 or acquisition:random:0.2",
)


def register_validation_scheme(name: str, scheme: ValidationScheme) -> None:
    """Give a validation scheme a name for settings.

    Args:
        name: what users write.
        scheme: an object with ``name`` and ``splits``.

    Raises:
        ConfigurationError: the name is not text, another scheme has it, or the object is not a
            scheme.
    """
    SCHEMES.register(name, scheme)


def register_validation_scheme_family(
    prefix: str, factory: Callable[[str], ValidationScheme], form: str
) -> None:
    """Register a family: validation schemes with arguments in their names, such as ``"kfold:5"``.

    Args:
        prefix: what comes before the colon.
        factory: makes a scheme from the text after it, or raises ``ConfigurationError``. It is
            called once for each name.
        form: the form of that text, for messages, such as ``"K"``.

    Raises:
        ConfigurationError: the prefix is not text, or another family has it. A factory of the same
            module and name replaces the earlier one.
    """
    SCHEMES.register_family(prefix, factory, form)


def get_validation(scheme: str | ValidationScheme) -> ValidationScheme:
    """The scheme of this name; an object is returned as it is.

    Args:
        scheme: ``"random:F"`` (a random hold-out of the fraction F), ``"random:FxR"`` (R of them),
            ``"holdout:F"``, ``"holdout:FxR"`` (the same, stratified by class), ``"kfold:K"``;
            ``"weighted:SCHEME"`` or ``"acquisition:SCHEME"``, which weigh the images of another
            scheme; the name of a registered scheme or of an installed plug-in; or an object with
            ``name`` and ``splits``.

    Raises:
        ConfigurationError: the name is unknown, the arguments in it are not legal, the object is
            not a scheme, or an installed plug-in cannot be imported.
    """
    return SCHEMES.get(scheme) if isinstance(scheme, str) else _check("", scheme)


def validation_scheme_names() -> tuple[str, ...]:
    """All names, sorted, then the families as ``"kfold:K"``. Plug-ins are listed but not
    imported."""
    return SCHEMES.names()
