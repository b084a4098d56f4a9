"""What a recipe's models take: the images, or features of a frozen network."""

from __future__ import annotations

from dataclasses import dataclass

from alhpo.data.batches import InputFormat, RowFormat, Rows
from alhpo.data.dataset import ImageDataset
from alhpo.data.feature_batches import FeatureFormat
from alhpo.data.stored_features import EncodeProgress
from alhpo.training.compute import Compute
from alhpo.training.recipes.recipe import Recipe


@dataclass(frozen=True)
class ModelInputs:
    """A data set as a recipe's models take it.

    Attributes:
        pool: (N, ...), of the pool.
        evaluation: (M, ...), of the evaluation split.
        form: how they become model input.
    """

    pool: Rows
    evaluation: Rows
    form: RowFormat


def model_inputs(
    recipe: Recipe,
    dataset: ImageDataset,
    form: InputFormat,
    compute: Compute,
    progress: EncodeProgress | None = None,
) -> ModelInputs:
    """The images of a data set; for a recipe with an encoder, their features.

    Args:
        recipe: the recipe.
        dataset: the data set.
        form: how images become input of a model that takes images.
        compute: device and precision of the encoder.
        progress: called with the numbers of images that have features, and of those that get some.

    Raises:
        DataError: features that are not finite.
    """
    encoder = recipe.encoder
    if encoder is None:
        return ModelInputs(dataset.images, dataset.eval_images, form)
    precision, device = compute.precision, compute.device
    pool = encoder.features(
        dataset.images, dataset.identities, precision, device, dataset.name, progress
    )
    evaluation = encoder.features(
        dataset.eval_images, dataset.eval_identities, precision, device, dataset.name, progress
    )
    return ModelInputs(pool, evaluation, FeatureFormat())
