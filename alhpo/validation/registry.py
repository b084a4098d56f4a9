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
            "object that has both, or text such as 'holdout:0.2'."
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
    """Give a validation scheme a name that settings can have.

    Args:
        name: what users write.
        scheme: an object that offers ``name`` and ``splits``.

    Raises:
        ConfigurationError: a name that is no text or that another scheme has, or an object that is
            no scheme.
    """
    SCHEMES.register(name, scheme)


def register_validation_scheme_family(
    prefix: str, factory: Callable[[str], ValidationScheme], form: str
) -> None:
    """Make validation schemes with arguments in their names, as ``"kfold:5"``.

    Args:
        prefix: what comes before the colon.
        factory: makes the scheme from the text after it, and raises ``ConfigurationError`` where
            it cannot. It is called once for each name.
        form: of that text, for messages, such as ``"K"``.

    Raises:
        ConfigurationError: a prefix that is no text, or that another family has. A named factory
            of the same module replaces its former self.
    """
    SCHEMES.register_family(prefix, factory, form)


def get_validation(scheme: str | ValidationScheme) -> ValidationScheme:
    """A scheme from its name, or itself.

    Args:
        scheme: ``"random:F"`` (a random hold-out of the fraction F), ``"random:FxR"`` (R of them),
            ``"holdout:F"``, ``"holdout:FxR"`` (the same, stratified by class), ``"kfold:K"``;
            ``"weighted:SCHEME"`` or ``"acquisition:SCHEME"``, which weigh the images of another
            scheme; the name of a scheme that was registered or that an installed plug-in offers;
            or an object that offers ``name`` and ``splits``.

    Raises:
        ConfigurationError: an unknown name, arguments that cannot be used, an object that is no
            scheme, or an installed plug-in that cannot be imported.
    """
    return SCHEMES.get(scheme) if isinstance(scheme, str) else _check("", scheme)


def validation_scheme_names() -> tuple[str, ...]:
    """All names, sorted, then the families as ``"kfold:K"``; plug-ins are listed without being
    imported."""
    return SCHEMES.names()
