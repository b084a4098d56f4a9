"""The recipe "architecture": a residual network whose blocks and stacks are hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, cast

from torch import nn

from alhpo.base.digests import digest
from alhpo.base.errors import ConfigurationError
from alhpo.hyperparameters import ArchitectureHyperparameters, TrainingHyperparameters
from alhpo.models.stacked_resnet import NAME, most_stacks
from alhpo.models.timm_models import ModelSpec
from alhpo.training.recipes.learning_loss import LearningLossRecipe
from alhpo.training.recipes.network import NetworkRecipe

#: The smallest network of the family, in which everything is checked that holds for all of them.
SMALLEST = {"blocks": 1, "stacks": 1}


class ArchitectureRecipe(NetworkRecipe):
    """A network of the family ``stacked_resnet``, trained as a whole from random weights.

    The same blocks, stacks and seed give the same initial weights.
    """

    hyperparameters: ClassVar[type[TrainingHyperparameters]] = ArchitectureHyperparameters
    whole: ClassVar[Mapping[str, Any]] = SMALLEST

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        if spec.name != NAME or spec.starts_pretrained:
            raise ConfigurationError(
                f"The recipe 'architecture' makes networks of the family {NAME!r} from random "
                f"weights; model is {spec.name!r}, and its weights would be "
                f"{'pretrained' if spec.starts_pretrained else 'random'}. Leave out the model and "
                "its weights, or use the recipe 'network'."
            )
        super().__init__(spec, seed)
        self._seed = seed

    @property
    def identity(self) -> dict[str, Any]:
        """The family; blocks and stacks are in the configuration."""
        return {"architecture": self.spec.identity()}

    @cached_property
    def weights(self) -> str:
        return digest(NAME, self.spec.init, self._seed)

    def check(self, hp: TrainingHyperparameters) -> None:
        """See ``ChecksHyperparameters``."""
        stacks = cast(ArchitectureHyperparameters, hp).stacks
        size = self.input_size or self.spec.image_size
        most = most_stacks(size)
        if stacks > most:
            named = f" The space 'architecture-{most}' has no more." if most > 1 else ""
            raise ConfigurationError(
                f"Hyperparameter stacks is {stacks}, but images of {size[0]} x {size[1]} pixels "
                f"allow at most {most}: each stack after the first halves the map, and then it is "
                f"a single pixel. Give at most {most}, also as the bound of a space.{named}"
            )

    def from_model(self, model: nn.Module) -> NetworkRecipe:
        raise ConfigurationError(
            "The recipe 'architecture' supports no warm start: from cycle to cycle the network may "
            "have another shape. Use start='cold'."
        )

    def _initial(self, hp: TrainingHyperparameters) -> nn.Module:
        self.check(hp)
        values = cast(ArchitectureHyperparameters, hp)
        return self._build(self._seed, {"blocks": values.blocks, "stacks": values.stacks})


class ArchitectureLossRecipe(ArchitectureRecipe, LearningLossRecipe):
    """The same with a head that predicts losses; see ``LearningLossRecipe``."""
