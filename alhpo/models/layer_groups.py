"""The layers of a timm model from its input to its classifier, in timm's groups of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from alhpo.models.timm_models import timm
from alhpo.models.weights import classifier_tensors


@dataclass(frozen=True)
class LayerGroups:
    """The parameters of a model, by name.

    Attributes:
        stages: those of each layer group of timm's coarse grouping, such as the stem, the stages of
            a convolutional network or the blocks of a transformer; the last are those of the
            classifier alone. What timm puts beside the classifier, such as a last normalisation,
            belongs to the group before.
        above: how many groups of timm's fine grouping, such as the blocks of a stage, lie between
            a parameter and the output: 0 for the last group.
    """

    stages: tuple[tuple[str, ...], ...]
    above: Mapping[str, int]

    def first(self, train_from: int) -> int:
        """The first of the stages that are trained.

        Args:
            train_from: 0 for all; -1 for the last, the classifier; -2 for the last two, ...; below
                the number of stages, all.
        """
        return max(len(self.stages) + train_from, 0) if train_from else 0

    def trained(self, first: int) -> frozenset[str]:
        """The parameters of the stages from this one on."""
        return frozenset(name for stage in self.stages[first:] for name in stage)


def layer_groups(model: Any) -> LayerGroups:
    """The layer groups of a timm model.

    A model that does not know its groups (``group_matcher``) has two: all of it but the classifier,
    and the classifier.
    """
    names = [name for name, _ in model.named_parameters()]
    head = classifier_tensors(model)
    coarse, fine = (_grouped(model, names, coarse=coarse) for coarse in (True, False))
    stages = [tuple(name for name in group if name not in head) for group in coarse]
    last = tuple(name for name in names if name in head)
    if last and len(coarse) > 1 and any(name in head for name in coarse[-1]):
        stages[-2:] = [stages[-2] + stages[-1]]
    stages = [stage for stage in (*stages, last) if stage]
    above = {name: len(fine) - 1 - at for at, group in enumerate(fine) for name in group}
    return LayerGroups(tuple(stages), above)


def _grouped(model: nn.Module, names: list[str], *, coarse: bool) -> list[list[str]]:
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        return [names]
    groups = timm.models.group_parameters(model, matcher(coarse=coarse))
    return [list(group) for _, group in sorted(groups.items())]
