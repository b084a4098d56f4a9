"""The weights that a user gives: found by name or path, read, and identified by content."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from alhpo.base.digests import digest
from alhpo.base.errors import ConfigurationError
from alhpo.models.weights.files import ENDINGS, read_tensors
from alhpo.models.weights.registry import WEIGHTS
from alhpo.models.weights.source import Convert


@dataclass(frozen=True)
class Weights:
    """Weights that were read.

    Attributes:
        given: the name or path, as the user gave it.
        tensors: the tensors by their names in the file.
        convert: gives them the names of the model; None leaves it to timm.
    """

    given: str
    tensors: dict[str, torch.Tensor]
    convert: Convert | None


def read_weights(weights: str, model: str) -> Weights:
    """Read the weights of a file or a source.

    Args:
        weights: a file of a state dict (.safetensors, .pth, .pt, .bin), or the name of a source.
        model: the timm model that they are for.

    Raises:
        ConfigurationError: an unknown name, a source for another model or one that is not
            installed; or a file that does not exist, cannot be read, or holds more than tensors.
    """
    path, convert = _locate(weights, model)
    return Weights(weights, read_tensors(path), convert)


def weights_identity(weights: str, model: str) -> str:
    """Hash of the names and values of the tensors, whatever the path and the format of the file.

    A file that did not change is read once per process.

    Raises:
        ConfigurationError: as for ``read_weights``.
    """
    path, _ = _locate(weights, model)
    state = path.stat()
    return _hash(path.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hash(path: Path, *state: int) -> str:
    tensors = read_tensors(path)
    return digest(*(part for name in sorted(tensors) for part in (name, tensors[name])))


def _locate(weights: str, model: str) -> tuple[Path, Convert | None]:
    source = WEIGHTS.find(weights)
    if source is None:
        return _file(weights), None
    if model.split(".")[0] != source.model:  # without the tag of timm's own weights
        raise ConfigurationError(
            f"Weights {weights!r} are of timm model {source.model!r}; setting model is {model!r}. "
            f"Set model to {source.model!r}, or give other weights."
        )
    return source.find(), source.convert


def _file(weights: str) -> Path:
    path = Path(weights).expanduser()
    if path.is_file():
        if path.suffix in ENDINGS:
            return path
        problem = f"ends in {path.suffix!r}"
    elif path.is_dir():
        problem = "is a folder"
    elif path.suffix in ENDINGS:
        problem = "does not exist"
    else:
        raise WEIGHTS.unknown(weights)
    raise ConfigurationError(
        f"The file of weights {weights} {problem}; expected is a file that ends in one of "
        f"{', '.join(ENDINGS)}. Give its path, or a name: {', '.join(WEIGHTS.names())}."
    )
