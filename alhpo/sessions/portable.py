"""A fitted model as a folder that needs nothing of its session.

model.json                 classes, architecture, input, and the digests of the other files
model.safetensors          the weights of the model, as a state dict
backbone.safetensors       for a head on a frozen network: the state dict of that timm model
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import nn

from alhpo.base.errors import AlhpoError, CheckpointError, ConfigurationError
from alhpo.base.files import sha256, write_json
from alhpo.base.types import PoolOutputs
from alhpo.data.batches import InputFormat
from alhpo.data.dataset import ImageDataset
from alhpo.learner import ActiveLearner
from alhpo.models.timm_models import ModelSpec
from alhpo.outputs.pool_outputs import OutputSettings, predicted_outputs
from alhpo.sessions.handover import new_folder
from alhpo.training.compute import Compute, Precision
from alhpo.training.inputs import model_inputs
from alhpo.training.recipes import RECIPES

FORMAT = 1
DESCRIPTION, MODEL, BACKBONE = "model.json", "model.safetensors", "backbone.safetensors"


@dataclass(frozen=True)
class PortableModel:
    """A fitted model.

    Attributes:
        classes: names of the classes.
        image_shape: (height, width, channels) of the images that it takes.
        encodes: whether it looks at each image once, so that files need not be decoded before.
        description: all of ``model.json``.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    encodes: bool
    description: dict[str, Any]
    _recipe: Any
    _model: Any
    _settings: OutputSettings

    def predict(self, dataset: ImageDataset) -> PoolOutputs:
        """Outputs for the pool of a data set with images of ``image_shape``."""
        settings = self._settings
        inputs = model_inputs(self._recipe, dataset, settings.form, settings.compute)
        every = np.arange(len(dataset))
        return predicted_outputs(self._recipe, self._model, inputs, every, settings)


def save_model(learner: ActiveLearner, recipe_name: str, out: Path, about: dict[str, Any]) -> None:
    """Write the fitted model of a learner into a new folder.

    Args:
        learner: the learner.
        recipe_name: name of its recipe.
        out: the folder, which must not exist.
        about: what else is to stand in ``model.json``, such as scores.

    Raises:
        AlhpoError: no model was fitted yet.
        ConfigurationError: the recipe's models are no torch modules.
    """
    parts = learner.fitted_parts()
    if not isinstance(parts.model, nn.Module):
        raise ConfigurationError(
            f"Recipe {recipe_name!r} has models of type {type(parts.model).__name__}; only torch "
            "modules can be written as a folder."
        )
    encoder = parts.recipe.encoder
    files = {MODEL: parts.model.state_dict()}
    if encoder is not None:
        files[BACKBONE] = encoder.state_dict()
    dataset = learner.dataset
    with new_folder(out) as folder:
        for name, tensors in files.items():
            plain = {key: value.cpu().contiguous() for key, value in tensors.items()}
            save_file(plain, folder / name)
            (folder / name).chmod(0o644)
        write_json(
            folder / DESCRIPTION,
            {
                "format": FORMAT,
                "alhpo": version("alhpo"),
                "recipe": recipe_name,
                "classes": list(dataset.classes),
                "model": asdict(parts.spec) | {"weights": None, "pretrained": False},
                "from_pretrained": parts.spec.starts_pretrained,
                "image_shape": list(dataset.images.shape[1:]),
                "input": asdict(encoder.form if encoder is not None else parts.form),
                "precision": learner.compute.precision,
                "hyperparameters": parts.hyperparameters.model_dump(),
                "max_epochs": parts.max_epochs,
                "files": {name: sha256((folder / name).read_bytes()) for name in files},
                **about,
            },
        )


def load_model(folder: Path, device: str = "auto") -> PortableModel:
    """The model that ``save_model`` wrote.

    Args:
        folder: the folder.
        device: "auto" or a torch device.

    Raises:
        CheckpointError: the folder is no such model, is damaged, or of a later version.
        ConfigurationError: a device or recipe that is not there.
    """
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        number, files = int(description["format"]), dict(description["files"])
        if number != FORMAT:
            raise CheckpointError(
                f"{folder} is of format {number}, which alhpo {description['alhpo']} reads; this "
                f"is alhpo {version('alhpo')}, with format {FORMAT}."
            )
        for name in files:
            if name not in (MODEL, BACKBONE) or sha256((folder / name).read_bytes()) != files[name]:
                raise CheckpointError(
                    f"{folder / name} is not the file that {DESCRIPTION} describes: it is damaged "
                    "or of another model. Write the model again (alhpo export --format model)."
                )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_model(folder, error) from error
    try:
        return _loaded(folder, description, device)
    except AlhpoError:  # such as a device that is not there
        raise
    except (KeyError, TypeError, RuntimeError) as error:
        raise _no_model(folder, error) from error


def _no_model(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder} holds no model that alhpo wrote ({error!r}); expected {DESCRIPTION} and "
        f"{MODEL}, as alhpo export --format model writes them."
    )


def _loaded(folder: Path, description: dict[str, Any], device: str) -> PortableModel:
    make = RECIPES.get(description["recipe"])
    values = description["model"]
    spec = ModelSpec(**values | {"image_size": tuple(values["image_size"])})
    frozen = BACKBONE in description["files"]
    if frozen or description["from_pretrained"]:
        spec = replace(spec, weights=str(folder / (BACKBONE if frozen else MODEL)))
    recipe = make(spec, 0)
    form = _form(description["input"])
    if recipe.encoder is not None:
        recipe.encoder.form = form
    precision: Precision = description["precision"]
    shape = tuple(description["image_shape"])
    compute = Compute.resolve(device, precision, max(recipe.input_size or shape[:2]))
    hp = recipe.hyperparameters.create(description["hyperparameters"])
    model = recipe.start(hp, description["max_epochs"], compute).model
    model.load_state_dict(load_file(folder / MODEL))
    height, width, channels = shape
    return PortableModel(
        tuple(description["classes"]),
        (height, width, channels),
        recipe.encoder is not None,
        description,
        recipe,
        model,
        OutputSettings(form, compute, spec.dropout, 1, 1, 0),
    )


def _form(values: dict[str, Any]) -> InputFormat:
    size = values["size"]
    return InputFormat(
        tuple(values["mean"]),
        tuple(values["std"]),
        None if size is None else (int(size[0]), int(size[1])),
        bool(values["channels_last"]),
        values["interpolation"],
    )
