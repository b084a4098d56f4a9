"""Reads files of weights, without running code that a file may hold."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from alhpo.base.errors import ConfigurationError, error_line

#: The endings of files of weights.
ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
#: Keys under which training scripts put the state dict of a model.
WRAPPINGS = ("state_dict", "model")
_PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")
_EXPECTED = (
    "Expected are the tensors of a model: a .safetensors file, or what "
    "torch.save(model.state_dict(), FILE) writes."
)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a model in a file, by name, on the CPU.

    They may be under the key "state_dict" or "model". The prefixes of models wrapped for parallel
    training or compilation ("module.", "_orig_mod.") are removed.

    Raises:
        ConfigurationError: the file is damaged, holds something else than tensors, or is a pickle
            that needs other classes.
    """
    content = _load(path)
    for key in WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        found = "nothing" if content == {} else f"a {type(content).__name__}"
        raise ConfigurationError(f"The file of weights {path} holds {found}. {_EXPECTED}")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise ConfigurationError(
                f"The file of weights {path} holds a {type(value).__name__} under {name!r}. "
                f"{_EXPECTED}"
            )
    return {_PREFIXES.sub("", str(name)): tensor for name, tensor in content.items()}


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its text advises to load the file all the same
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ConfigurationError(
                f"The file of weights {path} needs {found[1]}. alhpo loads tensors only: loading "
                f"other objects can run code. {_EXPECTED}"
            ) from error
        raise _unreadable(path, "no file of torch.save") from error
    except Exception as error:  # whatever the libraries raise for bytes of any kind
        raise _unreadable(path, error_line(error).split(". ")[0]) from error


def _unreadable(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"The file of weights {path} cannot be read ({reason}). {_EXPECTED}")
