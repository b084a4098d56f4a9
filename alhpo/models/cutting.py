"""A model in two parts: what comes before the first trained layer, and the rest.

The first part gives activations. In the second, what ran before is the identity, so that the
model's own forward pass takes the activations. Whether that is the same model is tried: the two
parts must give the outputs of the whole, bit by bit.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from alhpo.models.timm_models import classifier, forward_features

#: Random images on which the parts are compared with the whole.
IMAGES = 2
#: The method by which timm's transformers add positions to patches, between two modules.
POSITIONS = "_pos_embed"


@dataclass(frozen=True)
class Cut:
    """Where a model can be cut.

    Attributes:
        at: name of the module that takes the activations; "" for the classifier, with the dropout
            before it.
        skipped: the modules that become the identity.
        shape: of the activations of an image.
    """

    at: str
    skipped: tuple[str, ...]
    shape: tuple[int, ...]

    def before(self, model: nn.Module) -> nn.Module:
        """The first part, from (B, C, H, W) images to their activations, in evaluation mode. It
        shares the tensors of the model."""
        part = sharing_copy(model).eval()
        if not self.at:
            return _ToFeatures(part)
        _replace(part, self.at, _End())
        return _ToBoundary(part)

    def after(self, model: nn.Module) -> nn.Module:
        """The second part: a timm model that takes activations. It shares the tensors of the model,
        and has its names for the parameters, except for the classifier alone."""
        if not self.at:
            return _ClassifierAlone(model)
        part = sharing_copy(model)
        for name in self.skipped:
            _replace(part, name, nn.Identity())
        if hasattr(part, POSITIONS):
            setattr(part, POSITIONS, _unchanged)
        return part


def find_cut(model: nn.Module, trained: Collection[str], shape: tuple[int, ...]) -> Cut | None:
    """Where a model can be cut; None if it cannot, or the parts do not give what the whole gives.

    Args:
        model: a timm model. It stays as it is.
        trained: names of the parameters that the second part must hold; not all.
        shape: (C, H, W) of its input.
    """
    model = sharing_copy(model).eval()
    device = next(model.parameters()).device
    images = torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        places = _place(model, trained, images)
        if places is None:
            return None
        cut = Cut(*places, ())
        try:
            activations = cut.before(model)(images)
            rest = cut.after(model).eval()
            found = rest(activations), *forward_features(rest, activations)
        except Exception:  # whatever an architecture raises for input that it was not made for
            return None
        expected = model(images), *forward_features(model, images)
    if not isinstance(activations, torch.Tensor) or len(activations) != IMAGES:
        return None
    same = all(map(torch.equal, found, expected)) and bool(torch.isfinite(activations).all())
    return Cut(*places, tuple(activations.shape[1:])) if same else None


def sharing_copy(model: nn.Module) -> nn.Module:
    """A copy of a model that shares its parameters and buffers."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _place(
    model: nn.Module, trained: Collection[str], images: torch.Tensor
) -> tuple[str, tuple[str, ...]] | None:
    """The first module that runs and is trained as a whole, and what ran before it."""
    head = {id(parameter) for parameter in classifier(model).parameters()}
    if trained and all(id(p) in head for n, p in model.named_parameters() if n in trained):
        return "", ()
    calls = _calls(model, images)
    at = next((name for name in calls if name and _is_trained(model, name, trained)), None)
    if at is None:
        return None
    ran = set(calls[: calls.index(at)])
    way = {".".join(at.split(".")[:depth]) for depth in range(at.count(".") + 2)}
    skipped = tuple(_beside(model, ran, way))
    lost = {f"{name}.{key}" for name in skipped for key in _parameters(model, name)}
    return None if lost & set(trained) else (at, skipped)


def _calls(model: nn.Module, images: torch.Tensor) -> list[str]:
    calls: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, __, name=name: calls.append(name))
        for name, module in model.named_modules()
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return calls


def _beside(model: nn.Module, ran: Collection[str], way: Collection[str]) -> Iterator[str]:
    """The outermost modules that ran and are not on the way to the module that is called next."""
    for name, module in model.named_modules():
        if name not in way:
            continue
        for key, _ in module.named_children():
            child = f"{name}.{key}" if name else key
            if child not in way and any(f"{one}.".startswith(f"{child}.") for one in ran):
                yield child


def _is_trained(model: nn.Module, name: str, trained: Collection[str]) -> bool:
    parameters = _parameters(model, name)
    return bool(parameters) and all(f"{name}.{key}" in trained for key in parameters)


def _parameters(model: nn.Module, name: str) -> list[str]:
    return [key for key, _ in model.get_submodule(name).named_parameters()]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, key = name.rpartition(".")
    setattr(model.get_submodule(owner), key, module)


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


class _Reached(Exception):
    """The forward pass has come as far as it should."""

    def __init__(self, activations: torch.Tensor) -> None:
        super().__init__()
        self.activations = activations


class _End(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise _Reached(x)


class _ToBoundary(nn.Module):
    """A model that stops at an ``_End``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        try:
            self.model(images)
        except _Reached as end:
            return end.activations
        raise RuntimeError("the model ran past the place where it was to be cut")


class _ToFeatures(nn.Module):
    """A model without its classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        model = cast(Any, self.model)
        return model.forward_head(model.forward_features(images), pre_logits=True).flatten(1)


class _ClassifierAlone(nn.Module):
    """The classifier of a timm model, with timm's interface, and dropout before it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.classifier = classifier(model)
        self.drop_rate = float(getattr(model, "drop_rate", 0.0))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x if pre_logits else self(x)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(F.dropout(x, self.drop_rate, self.training))
