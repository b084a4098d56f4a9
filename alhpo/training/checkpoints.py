"""Checkpoints: tensors and a small description in one safetensors file, replaced atomically."""

from __future__ import annotations

import errno
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from alhpo.base.errors import CheckpointError
from alhpo.base.files import atomic_path

FILE_NAME = "state.safetensors"


def write_checkpoint(
    folder: Path, tensors: Mapping[str, torch.Tensor], description: Mapping[str, Any]
) -> None:
    """Write ``folder/state.safetensors``. A crash leaves the old file or the new one.

    Args:
        folder: folder of the checkpoint; made if missing.
        tensors: tensors by name; views that share storage are copied.
        description: a mapping that JSON can hold, returned with the tensors.

    Raises:
        OSError: the disk is full or broken; the previous checkpoint stays.
    """
    seen: set[int] = set()
    content = {}
    for name, tensor in tensors.items():
        dense = tensor.detach().cpu().contiguous()
        shared = dense.untyped_storage().data_ptr() in seen
        content[name] = dense.clone() if shared else dense
        seen.add(dense.untyped_storage().data_ptr())
    text = json.dumps(description)
    metadata = {
        "alhpo": f"{_checksum(text, content)} {text}"
    }  # one entry: the order of several is not fixed
    with atomic_path(folder / FILE_NAME, durable=False) as temporary:
        try:
            save_file(content, temporary, metadata)
        except SafetensorError as error:  # safetensors wraps an OSError
            full = "os error 28" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(folder)) from error


def read_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors (on the CPU, independent of the file) and the description in a checkpoint.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or not one of alhpo.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}: it is missing or was removed.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            checksum, _, text = (file.metadata() or {})["alhpo"].partition(" ")
            description = json.loads(text)
            names = file.keys()
            # clone, because the file is memory-mapped and will be replaced
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of this version of alhpo. Train from epoch 0 again."
        ) from error
    if checksum != _checksum(text, tensors):
        raise _damaged(path, "its content does not fit its checksum")
    return tensors, description


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint {path} is truncated or damaged ({reason}). Restore it from a copy, or "
        "train from epoch 0 again."
    )


def _checksum(description: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """CRC-32 of the description and of every tensor with its name."""
    value = zlib.crc32(description.encode())
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def training_tensors(
    prefix: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """The state of a training: parameters, buffers and the optimizer's tensors, by name."""
    tensors = {f"{prefix}model.{name}": value for name, value in model.state_dict().items()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{prefix}optimizer.{index}.{name}"] = value
    return tensors


def restore_training(
    tensors: Mapping[str, torch.Tensor],
    prefix: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Restore the tensors of ``training_tensors`` into a model and its optimizer.

    Device, type and memory layout are as in an uninterrupted training.

    Raises:
        CheckpointError: the tensors are of another model.
    """
    start = f"{prefix}model."
    state = {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"The checkpoint holds another model's weights: {error}") from error
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: dict[int, dict[str, torch.Tensor]] = {}
    start = f"{prefix}optimizer."
    for key, value in tensors.items():
        if not key.startswith(start):
            continue
        index, name = key[len(start) :].split(".", 1)
        parameter = parameters[int(index)]
        # fused optimizers read memory linearly: use the strides of the parameter
        like = torch.empty_like(parameter) if value.shape == parameter.shape else None
        restored = value.clone() if like is None or name == "step" else like.copy_(value)
        found.setdefault(int(index), {})[name] = restored.detach()
    # torch places the rest: Adam's step is on the parameter's device for fused and capturable
    # optimizers, else on the CPU
    optimizer.load_state_dict({**optimizer.state_dict(), "state": found})
