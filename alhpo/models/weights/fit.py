"""Puts given weights into a timm model, as timm does with its own pretrained weights."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from alhpo.base.errors import ConfigurationError
from alhpo.models.weights.given import Weights

#: Number of tensors that a message names, of each kind.
NAMED = 3
#: Channels of the images that pretrained weights are for.
RGB = 3


def put_into(model: nn.Module, weights: Weights, name: str) -> None:
    """Load weights into a model, in place.

    Names of the architecture's authors become timm's by the ``checkpoint_filter_fn`` in the
    architecture's module. A classifier for another number of classes, or none, leaves the model's
    own. The first convolution is adapted to other channels than 3 as timm does: summed for 1,
    otherwise repeated.

    Args:
        model: a timm model on the CPU.
        weights: the weights.
        name: the model's name, for messages.

    Raises:
        ConfigurationError: the weights do not fit; the message names tensors that are missing,
            unexpected or of another shape.
    """
    tensors = _converted(model, weights, name)
    expected = model.state_dict()
    _adapt_first_convolution(model, tensors, expected)
    head = classifier_tensors(model)
    if _is_of_other_classes(head, tensors, expected):
        tensors = {key: tensor for key, tensor in tensors.items() if key not in head}
        expected = {key: tensor for key, tensor in expected.items() if key not in head}
    _check(tensors, expected, weights, name)
    model.load_state_dict(tensors, strict=False)


def _converted(model: nn.Module, weights: Weights, name: str) -> dict[str, torch.Tensor]:
    tensors = dict(weights.tensors)
    module = sys.modules[type(model).__module__]
    convert: Any = weights.convert or getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return dict(convert(tensors, model))
    except ConfigurationError:
        raise
    except Exception as error:  # whatever an architecture's function raises for foreign tensors
        raise ConfigurationError(
            f"Weights {weights.given!r} do not fit timm model {name!r}: timm's function that "
            f"converts weights of this architecture fails with {error!r}. {_advice(weights)}"
        ) from error


def _adapt_first_convolution(
    model: Any, tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    from timm.models import adapt_input_conv  # timm_models.py imports timm, with care

    first = (getattr(model, "pretrained_cfg", None) or {}).get("first_conv") or ()
    for layer in (first,) if isinstance(first, str) else first:
        key = f"{layer}.weight"
        if key not in tensors or key not in expected:
            continue
        given, channels = tensors[key], expected[key].shape[1]
        if given.ndim == 4 and given.shape[1] == RGB != channels:
            tensors[key] = adapt_input_conv(channels, given)


def classifier_tensors(model: Any) -> frozenset[str]:
    """The names of the tensors of the classifier, or of the classifiers."""
    found = model.get_classifier() if callable(getattr(model, "get_classifier", None)) else ()
    heads = found if isinstance(found, Sequence) else (found,)
    return frozenset(
        f"{layer}.{key}"
        for layer, module in model.named_modules()
        if any(module is head for head in heads)
        for key in module.state_dict()
    )


def _is_of_other_classes(
    head: Iterable[str], tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> bool:
    """Whether the weights have a classifier for other classes, or none."""
    given = [key for key in head if key in tensors]
    return all(
        tensors[key].shape[:1] != expected[key].shape[:1]
        and tensors[key].shape[1:] == expected[key].shape[1:]
        for key in given
    )


def _check(
    tensors: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    weights: Weights,
    name: str,
) -> None:
    # which PyTorch did not store once, and does not need
    counters = {key for key in expected if key.endswith(".num_batches_tracked")}
    shapes = [
        f"{key}: {tuple(tensors[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    found = {
        "missing": [key for key in expected if key not in tensors and key not in counters],
        "unexpected": [key for key in tensors if key not in expected],
        "of another shape": shapes,
    }
    if told := [f"{len(of)} {kind} ({_some(of)})" for kind, of in found.items() if of]:
        raise ConfigurationError(
            f"Weights {weights.given!r} do not fit timm model {name!r}, of whose "
            f"{len(expected)} tensors {'; '.join(told)}. {_advice(weights)}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:NAMED], *(["..."] if len(names) > NAMED else [])])


def _advice(weights: Weights) -> str:
    return f"Set model to the one that {weights.given!r} was saved from, or give other weights."
