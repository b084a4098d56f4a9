"""Recipes, what is trained, by name; one file each."""

from __future__ import annotations

from typing import Any, cast

from alhpo.base.errors import ConfigurationError
from alhpo.base.registry import Registry
from alhpo.hyperparameters import TrainingHyperparameters
from alhpo.training.recipes.architecture import ArchitectureLossRecipe, ArchitectureRecipe
from alhpo.training.recipes.finetune import FinetuneRecipe
from alhpo.training.recipes.frozen import FrozenRecipe
from alhpo.training.recipes.learning_loss import LearningLossRecipe
from alhpo.training.recipes.network import NetworkRecipe
from alhpo.training.recipes.recipe import RecipeFactory


def _check(name: str, recipe: Any) -> RecipeFactory:
    fields = getattr(recipe, "hyperparameters", None)
    if not (
        callable(recipe)
        and isinstance(fields, type)
        and issubclass(fields, TrainingHyperparameters)
    ):
        raise ConfigurationError(
            f"Recipe {name!r} is {recipe!r}; expected is a callable (spec, seed) with the "
            "attribute hyperparameters, a subclass of TrainingHyperparameters."
        )
    if "logits" not in getattr(recipe, "outputs", ()):
        raise ConfigurationError(
            f"Recipe {name!r} does not declare what its models predict. Give it the attribute "
            "outputs, such as frozenset({'logits', 'features'})."
        )
    return cast(RecipeFactory, recipe)


RECIPES: Registry[RecipeFactory] = Registry("recipe", "alhpo.recipes", check=_check)
RECIPES.register("network", NetworkRecipe)
RECIPES.register("frozen", FrozenRecipe)
RECIPES.register("finetune", FinetuneRecipe)
RECIPES.register("learning-loss", LearningLossRecipe)
RECIPES.register("architecture", ArchitectureRecipe)
RECIPES.register("architecture-loss", ArchitectureLossRecipe)

#: What a recipe becomes for a strategy that needs predicted losses.
_WITH_LOSSES = {"network": "learning-loss", "architecture": "architecture-loss"}


def encodes(name: str) -> bool:
    """Whether models of the recipe with this name take features of a frozen network.

    Raises:
        ConfigurationError: an unknown name.
    """
    return bool(getattr(RECIPES.get(name), "encodes", False))


#: Fields of ``PoolOutputs`` that a model predicts, and from which of its outputs.
_PREDICTED = {
    "logits": "logits",
    "labeled_logits": "logits",
    "features": "features",
    "labeled_features": "features",
    "passes": "features",
    "classify": "features",
    "predicted_losses": "predicted_losses",
}


def get_recipe(name: str, needs: frozenset[str] = frozenset()) -> RecipeFactory:
    """The recipe with this name.

    "network" becomes "learning-loss" for a strategy that needs ``predicted_losses``, and
    "architecture" becomes "architecture-loss".

    Args:
        name: name of a recipe.
        needs: fields of ``PoolOutputs`` that the strategy needs.

    Raises:
        ConfigurationError: an unknown name, or a recipe that does not predict what is needed.
    """
    if "predicted_losses" in needs:
        name = _WITH_LOSSES.get(name, name)
    recipe = RECIPES.get(name)
    missing = {_PREDICTED[one] for one in needs & _PREDICTED.keys()} - recipe.outputs
    if missing:
        raise ConfigurationError(
            f"The strategy needs {', '.join(sorted(missing))}, which models of recipe {name!r} do "
            f"not predict. They predict {', '.join(sorted(recipe.outputs))}. Choose another "
            "strategy or recipe."
        )
    return recipe
