"""Computes ``PoolOutputs``, what a strategy looks at, from a pool and its fitted model.

Only what the strategy needs is computed. Candidates and labelled images go through the model at
most once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alhpo.base.seeding import derive_seed, torch_generator
from alhpo.base.types import PoolOutputs, Retraining
from alhpo.data.batches import InputFormat
from alhpo.data.dataset import ImageDataset
from alhpo.outputs.adversarial import Discrimination
from alhpo.outputs.dropout_passes import DropoutPasses, keep_masks
from alhpo.training.compute import Compute
from alhpo.training.evaluation import predict
from alhpo.training.inputs import ModelInputs
from alhpo.training.recipes.recipe import Recipe

#: Fields of ``PoolOutputs`` from the model: of the candidates, and of the labelled images.
OF_CANDIDATES = frozenset({"logits", "features", "passes", "predicted_losses"})
OF_LABELED = frozenset({"labeled_logits", "labeled_features"})
#: Fields from models of parts of the labelled images.
HELD_OUT = frozenset({"heldout_logits", "heldout_labels"})
#: Fields from networks that weigh strategies.
SEARCHED = frozenset({"strategy_weights", "strategy_search"})


@dataclass(frozen=True)
class OutputSettings:
    """Settings for the outputs of every query of a learner.

    Attributes:
        form: how images become input of networks that strategies train.
        compute: device and precision.
        dropout: probability with which each feature is dropped in a pass.
        mc_passes: number of passes.
        vaal_epochs: epochs, over the candidates, of the training behind ``labeled_scores``.
        seed: seed of the run.
    """

    form: InputFormat
    compute: Compute
    dropout: float
    mc_passes: int
    vaal_epochs: int
    seed: int


def predicted_outputs(
    recipe: Recipe,
    model: Any,
    inputs: ModelInputs,
    indices: np.ndarray,
    settings: OutputSettings,
    *,
    features: bool = True,
) -> PoolOutputs:
    """Outputs of the model for pool images, from one pass over them.

    Args:
        recipe: the recipe of the model.
        model: a fitted model.
        inputs: the data set as the model takes it.
        indices: (N,) pool indices.
        settings: see ``OutputSettings``.
        features: whether features are needed; without, they may be None.
    """
    chosen = torch.from_numpy(np.asarray(indices, dtype=np.int64))
    compute = settings.compute
    blocks = inputs.form.in_blocks(inputs.pool, chosen, compute.device)
    said = predict(recipe, model, blocks, compute, features=features)
    return PoolOutputs(chosen, **said._asdict())


def pool_outputs(
    needs: frozenset[str],
    candidates: np.ndarray,
    dataset: ImageDataset,
    inputs: Callable[[], ModelInputs],
    labeled: np.ndarray,
    labels: np.ndarray,
    recipe: Recipe,
    model: Any,
    settings: OutputSettings,
    *,
    cycle: int,
    state: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    retrain: Retraining | None = None,
    held_out: Callable[[], tuple[torch.Tensor, torch.Tensor]] | None = None,
    search: Callable[[], tuple[torch.Tensor, Mapping[str, Any]]] | None = None,
) -> PoolOutputs:
    """Compute the fields of ``PoolOutputs`` that a strategy needs, and no others.

    Args:
        needs: fields of ``PoolOutputs``.
        candidates: (N,) pool indices, ascending.
        dataset: the data set.
        inputs: the data set as the model takes it, asked for only if the model is.
        labeled: (L,) int64 pool indices of the labelled images, in the order of labelling.
        labels: (L,) int64, their classes.
        recipe: the recipe of the model.
        model: the model of the last fit; None if no ``MODEL_OUTPUTS`` are needed.
        settings: see ``OutputSettings``.
        cycle: number of the current cycle; it names the random streams.
        state: see ``PoolOutputs``.
        folder: folder for checkpoints of trainings for this query; None: not saved.
        retrain: see ``PoolOutputs``.
        held_out: computes ``heldout_logits`` and ``heldout_labels``.
        search: computes ``strategy_weights`` and ``strategy_search``.
    """
    rows, chosen = torch.from_numpy(candidates), torch.from_numpy(labeled)
    outputs: dict[str, Any] = {
        "labels": torch.from_numpy(labels),
        "labeled_indices": chosen,
        "state": state,
        "retrain": retrain,
    }
    if needs & OF_CANDIDATES:
        assert model is not None
        features = bool(needs & {"features", "passes"})
        predicted = predicted_outputs(
            recipe, model, inputs(), candidates, settings, features=features
        )
        outputs |= {name: getattr(predicted, name) for name in OF_CANDIDATES}
        if "passes" in needs:
            assert predicted.features is not None
            outputs["passes"] = _passes(
                recipe.classifier(model), predicted.features, settings, cycle
            )
    if needs & OF_LABELED:
        assert model is not None
        features = "labeled_features" in needs
        predicted = predicted_outputs(recipe, model, inputs(), labeled, settings, features=features)
        outputs |= {"labeled_logits": predicted.logits, "labeled_features": predicted.features}
    if needs & HELD_OUT:
        assert held_out is not None
        outputs["heldout_logits"], outputs["heldout_labels"] = held_out()
    if "true_labels" in needs:
        assert dataset.labels is not None  # check_oracle
        outputs["true_labels"] = dataset.labels[rows]
    if "classify" in needs:
        outputs["classify"] = _of_features(recipe.classifier(model))
    if needs & {"images", "labeled_scores"}:
        outputs["images"] = dataset.images[rows]
    if needs & {"labeled_images", "labeled_scores"}:
        outputs["labeled_images"] = dataset.images[chosen]
    if "labeled_scores" in needs:
        training = Discrimination(
            labeled=outputs["labeled_images"],
            unlabeled=outputs["images"],
            form=replace(settings.form, size=None),
            compute=settings.compute,
            epochs=settings.vaal_epochs,
            seed=derive_seed(settings.seed, "labeled scores", cycle),
        )
        outputs["labeled_scores"] = training.scores(folder)
    if needs & SEARCHED:
        assert search is not None
        outputs["strategy_weights"], outputs["strategy_search"] = search()
    return PoolOutputs(rows, **{name: value for name, value in outputs.items() if name in needs})


def _of_features(
    classifier: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The classifier as a function of features alone: with gradients only if these have some."""

    def classify(features: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(features.requires_grad):
            return classifier(features).float()

    return classify


def _passes(
    classifier: Callable[[torch.Tensor], torch.Tensor],
    features: torch.Tensor,
    settings: OutputSettings,
    cycle: int,
) -> DropoutPasses:
    generator = torch_generator(settings.seed, "dropout passes", cycle + 1)
    keep = keep_masks(settings.mc_passes, features.shape[1], settings.dropout, generator)
    return DropoutPasses(features, classifier, keep, settings.dropout)
