"""Check that a timm model can be trained and queried.

Some timm models have no classifier or no penultimate features, or take only images of some sizes.
On torch's meta device, where tensors have shapes but no memory, the check takes a second, even for
a model that does not fit into memory.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from alhpo.base.errors import ConfigurationError

ADVICE = "Choose an image classifier such as 'resnet18'."


class NotOnMeta(Exception):
    """The check needs values of tensors, which the meta device does not have."""


def may_be_of_meta(error: Exception) -> bool:
    """Whether the meta device, not the model, may have caused an error: something asks for values
    of tensors, or an operation does not work there."""
    of_torch = isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError)
    return of_torch or "meta" in str(error).lower()


def check_model(
    model: nn.Module,
    name: str,
    shape: tuple[int, int, int],
    num_classes: int,
    own_size: tuple[int, int] | None,
) -> None:
    """Refuse a model that does not return logits and penultimate features.

    Args:
        model: the model, on the meta device or on the CPU. It is left in evaluation mode.
        name: its name, for messages.
        shape: (channels, height, width) of the images.
        num_classes: C, the number of classes.
        own_size: (height, width) that the model was made for, if timm says so.

    Raises:
        ConfigurationError: the model lacks timm's feature interface; its logits are not (B, C); its
            features are not (B, D) with the D of its linear classifier; or it fails on images of
            this shape.
        NotOnMeta: the model cannot be checked on the meta device.
    """
    features, head = (getattr(model, f"forward_{part}", None) for part in ("features", "head"))
    if not (callable(features) and callable(head)):
        raise ConfigurationError(
            f"The timm model {name!r} has no forward_features/forward_head, which the strategies "
            f"need for penultimate features. {ADVICE}"
        )
    if "pre_logits" not in inspect.signature(head).parameters:
        raise ConfigurationError(
            f"The timm model {name!r} has a forward_head without pre_logits, which the strategies "
            f"need for penultimate features. {ADVICE}"
        )
    fault = _fault(model, shape, num_classes)
    if fault is None:
        return
    channels, height, width = shape
    if own_size is not None and own_size != (height, width):
        own_height, own_width = own_size
        if _fault(model, (channels, own_height, own_width), num_classes) is None:
            raise ConfigurationError(
                f"The timm model {name!r} cannot take images of {height} x {width} pixels: "
                f"{fault}. Set input_size, such as to {max(own_size)}, the model's own, or choose "
                "another model."
            )
    raise ConfigurationError(
        f"The timm model {name!r} cannot be used as a classifier of images of {channels} x "
        f"{height} x {width}: {fault}. {ADVICE}"
    )


def _fault(model: Any, shape: tuple[int, int, int], num_classes: int) -> str | None:
    """What fails with images of a shape; None if nothing does."""
    device = next(model.parameters(), torch.empty(0)).device
    try:
        with torch.no_grad(), device:
            model.eval()
            # one image, to find a head that drops axes of length 1
            hidden = model.forward_features(torch.zeros(1, *shape))
            logits = model.forward_head(hidden)
            features = model.forward_head(hidden, pre_logits=True)
            return _wrong_logits(logits, num_classes) or _wrong_features(features, model)
    except Exception as error:  # whatever an architecture raises
        if device.type == "meta" and may_be_of_meta(error):
            raise NotOnMeta(str(error)) from error
        return ": ".join([type(error).__name__, *str(error).split("\n")[:1]]).rstrip(":. ")


def _wrong_logits(logits: Any, num_classes: int) -> str | None:
    if isinstance(logits, torch.Tensor) and logits.shape == (1, num_classes):
        return None
    return (
        f"it makes {_shape(logits)} of one image, where logits of shape {(1, num_classes)} are "
        "expected"
    )


def _wrong_features(features: Any, model: Any) -> str | None:
    if not isinstance(features, torch.Tensor) or features.ndim < 2 or len(features) != 1:
        return (
            f"it makes {_shape(features)} of one image, where features of shape (1, D) are expected"
        )
    last = model.get_classifier() if callable(getattr(model, "get_classifier", None)) else None
    if isinstance(last, nn.Linear) and last.in_features != features[0].numel():
        return (
            f"its features have {features[0].numel()} values, and its classifier takes "
            f"{last.in_features}"
        )
    return None


def _shape(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
