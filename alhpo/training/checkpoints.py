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
    """Write ``folder/state.safetensors``; a crash leaves the old file or the new one, whole.

    Args:
        folder: made where it is missing.
        tensors: copied to the CPU as they are; views of shared storage are written one by one.
        description: a JSON-able mapping that comes back with the tensors.

    Raises:
        OSError: the disk is full or broken; the previous checkpoint is still there.
    """
    seen: set[int] = set()
    content = {}
    for name, tensor in tensors.items():
        dense = tensor.detach().cpu().contiguous()
        shared = dense.untyped_storage().data_ptr() in seen
        content[name] = dense.clone() if shared else dense
        seen.add(dense.untyped_storage().data_ptr())
    text = json.dumps(description)
    metadata = {"alhpo": f"{_checksum(text, content)} {text}"}  # two would come in any order
    with atomic_path(folder / FILE_NAME, durable=False) as temporary:
        try:
            save_file(content, temporary, metadata)
        except SafetensorError as error:  # what it makes of an OSError
            full = "os error 28" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(folder)) from error


def read_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors (on the CPU, independent of the file) and the description in a checkpoint.

    Raises:
        CheckpointError: no checkpoint there, or one that is damaged or not alhpo's.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}: it is missing or was removed.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            checksum, _, text = (file.metadata() or {})["alhpo"].partition(" ")
            description = json.loads(text)
            names = file.keys()
            # clone: the file is memory-mapped, and will be replaced
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} was not written by alhpo's training of this version."
        ) from error
    if checksum != _checksum(text, tensors):
        raise _damaged(path, "its content does not fit its checksum")
    return tensors, description


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint {path} is truncated or damaged ({reason}). Put back a copy, or train from "
        "epoch 0 again."
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
    """Everything training needs to go on: parameters, buffers and the optimizer's tensors."""
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
    """Put the tensors of ``training_tensors`` back, as training itself would have them: the
    parameters where they are, and the optimizer's tensors in their memory layout, and on the device
    and of the type that a fresh optimizer gives them.

    Raises:
        CheckpointError: the tensors are not those of this model.
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
        # fused optimizers walk the memory linearly: same strides as the parameter
        like = torch.empty_like(parameter) if value.shape == parameter.shape else None
        restored = value.clone() if like is None or name == "step" else like.copy_(value)
        found.setdefault(int(index), {})[name] = restored.detach()
    # torch knows where the rest belongs: the step of Adam is on the device of its parameter where
    # a fused or capturable step reads it there, and else on the CPU
    optimizer.load_state_dict({**optimizer.state_dict(), "state": found})
