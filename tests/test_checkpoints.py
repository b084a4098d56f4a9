"""Checkpoints bring training back as it was: values, memory layout, device and type."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from alhpo.hyperparameters import Hyperparameters
from alhpo.training.checkpoints import (
    read_checkpoint,
    restore_training,
    training_tensors,
    write_checkpoint,
)
from alhpo.training.epochs import make_optimizer

DEVICES = [
    "cpu",
    *(["cuda"] if torch.cuda.is_available() else []),
    *(["mps"] if torch.backends.mps.is_available() else []),
]
SETTINGS = {
    "sgd": {"optimizer": "sgd"},
    "plain sgd": {"optimizer": "sgd", "momentum": 0.0},
    "nesterov": {"optimizer": "sgd", "nesterov": True},
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw"},
}


def made_model(device):
    """A network with tensors of every number of dimensions, in channels-last order."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.5))

        def forward(self, inputs):
            return inputs * self.scale

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), Scaled(), nn.Linear(16, 2)
        )
    return model.to(device=device, memory_format=torch.channels_last)


def step(model, optimizer):
    inputs = torch.linspace(-1, 1, 5 * 3 * 4 * 4, device=next(model.parameters()).device)
    optimizer.zero_grad()
    model(inputs.reshape(5, 3, 4, 4)).square().sum().backward()
    optimizer.step()


def placement(optimizer):
    """Of every tensor of the optimizer: device, type and strides."""
    return [
        {
            name: (value.device, value.dtype, value.stride())
            for name, value in optimizer.state[parameter].items()
            if isinstance(value, torch.Tensor)
        }
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_restored_is_what_training_would_have(tmp_path, name, device):
    hp = Hyperparameters.create({"lr": 1e-3}, SETTINGS[name])
    model = made_model(device)
    optimizer = make_optimizer(model.parameters(), hp)
    for _ in range(3):
        step(model, optimizer)
    write_checkpoint(tmp_path, training_tensors("0.", model, optimizer), {})
    tensors, _ = read_checkpoint(tmp_path)

    restored = made_model(device)
    fresh = make_optimizer(restored.parameters(), hp)
    restore_training(tensors, "0.", restored, fresh)
    assert placement(fresh) == placement(optimizer)
    for one, other in ((model, optimizer), (restored, fresh)):
        for group in other.param_groups:
            group["lr"] = hp.lr / 2  # as the schedule sets it
        step(one, other)
    for ours, theirs in zip(
        restored.state_dict().values(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("flags", [{}, {"capturable": True}, {"fused": True}])
def test_the_step_is_where_the_optimizer_reads_it(kind, flags):
    """On a device without memory: on that of the parameters for a fused or capturable step, as on
    CUDA; else on the CPU."""
    model = made_model("cpu")
    trained = kind(model.parameters())
    step(model, trained)
    tensors = training_tensors("", model, trained)
    elsewhere = copy.deepcopy(model).to("meta")
    try:
        optimizer = kind(elsewhere.parameters(), **flags)
    except RuntimeError as error:  # torch < 2.5 looks at the device at once
        pytest.skip(str(error))
    restore_training(tensors, "", elsewhere, optimizer)
    for parameter in elsewhere.parameters():
        state = dict(optimizer.state[parameter])
        assert state.pop("step").device.type == ("meta" if flags else "cpu")
        assert {value.device.type for value in state.values()} == {"meta"}
        assert {value.dtype for value in state.values()} == {parameter.dtype}
