"""Training of a network whose steps wait for nothing, so that several share a GPU.

A small network leaves a GPU idle while the CPU launches its kernels, and most of the GPU idle while
they run. So a step finds all that it needs on the device: the order, crops and flips of the whole
epoch, the learning rates, and a counter that walks through them. On CUDA devices it is captured as
a CUDA graph, and the graphs of several trainings take turns, each on a stream of its own. On the
CPU the same step runs as it is.

All trainable parameters lie in one float32 tensor, which the optimizer updates at once, or part by
part if learning rates differ. Those that autocast would round to bfloat16 before every use are kept
rounded beside it.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from alhpo.base.epoch_size import EpochImages
from alhpo.base.errors import CheckpointError
from alhpo.base.seeding import Key, derive_seed
from alhpo.data.batches import DeviceRows, EpochPlan
from alhpo.training.checkpoints import training_tensors
from alhpo.training.compute import Compute
from alhpo.training.epochs import (
    EpochOf,
    EpochSettings,
    TrainingLoss,
    learning_rates,
    make_optimizer,
)
from alhpo.training.lanes import CAPTURING, deterministic_convolutions, next_lane
from alhpo.tuning.failures import is_out_of_memory

#: Modules of whose weights autocast rounds every use. Subclasses may use theirs in other ways.
ROUNDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Elements to which parameters are aligned in their common tensor.
ALIGN = 64
#: Steps before a capture: libraries choose and load their kernels.
WARM_UP = 2


class PlannedRows(Protocol):
    """Training images whose epochs are drawn before they start, such as ``DeviceImages``."""

    @property
    def device(self) -> torch.device: ...

    def plan(
        self, batch_size: int, augmentation: str, *key: Key, images: EpochImages = "fill"
    ) -> EpochPlan:
        """Draw an epoch; see ``DeviceImages.plan``."""
        ...

    def batch(
        self, source: torch.Tensor, *parts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of an epoch, as model input with its labels, made on the device.

        Args:
            source: ``EpochPlan.source``.
            parts: a step of ``EpochPlan.parts``.
        """
        ...


class CapturedTraining:
    """The training of a network with its optimizer; see ``Training``.

    Args:
        model: the model on the device, in training mode, trained in place.
        settings: what its epochs depend on.
        groups: parameters with the factors ``lr_scale`` on their learning rates; by default all
            that require gradients, with 1.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: EpochSettings,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.model = model
        self._settings = settings
        self._device = device = settings.compute.device
        if groups is None:
            groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
        self._scales = [group.get("lr_scale", 1.0) for group in groups]
        self._weights = _Weights(model, [group["params"] for group in groups], settings.compute)
        #: (G,) learning rates of the groups at the current step.
        self._rate = torch.zeros(len(groups), device=device)
        parts = [
            {"params": parts, "lr": rate}
            for parts, rate in zip(self._weights.parts, self._rate.unbind(), strict=True)
        ]
        self._optimizer = make_optimizer(parts, settings.hp, self._rate[0])
        self._make_optimizer_state()
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._total = torch.zeros((), device=device)
        self._generator = torch.Generator(device)
        self._random = _DrawFrom(self._generator)
        self._lane = next_lane(device) if device.type == "cuda" else None
        self._images: PlannedRows | None = None
        self._plan: EpochPlan
        self._rates: torch.Tensor
        #: The loss of the captured step; None before a capture.
        self._loss: TrainingLoss | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def epoch(self, images: DeviceRows, epoch: int, *key: Key) -> float:
        return train_captured([EpochOf(self, cast(PlannedRows, images), epoch, key)])[0]

    def tensors(self) -> dict[str, torch.Tensor]:
        return training_tensors("", self.model, self._optimizer)

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        mine = self.tensors()
        differs = mine.keys() != tensors.keys() or any(
            mine[name].shape != value.shape for name, value in tensors.items()
        )
        if differs:
            raise CheckpointError("The checkpoint holds another model's weights.")
        for name, value in tensors.items():
            mine[name].copy_(value)
        self._weights.round()

    def begin(self, images: PlannedRows, epoch: int, *key: Key) -> int:
        """Draw an epoch, and capture the step if that is not done. Returns the number of steps."""
        hp, max_epochs = self._settings.hp, self._settings.max_epochs
        plan = images.plan(hp.batch_size, hp.augmentation, *key, epoch, images=hp.epoch_images)
        rates = torch.tensor(
            [
                [rate * scale for scale in self._scales]
                for rate in learning_rates(hp, epoch, max_epochs, plan.steps)
            ]
        )
        loss = self._settings.loss(epoch)
        if self._images is not images:  # the step reads these tensors from now on
            self._images, self._plan = images, plan
            self._rates = rates.to(self._device)
            self._loss = None
        else:
            for mine, new in zip(self._plan.parts, plan.parts, strict=True):
                mine.copy_(new)
            self._rates.copy_(rates)
        if self._lane is not None:
            self._lane.stream.wait_stream(torch.cuda.current_stream(self._device))
        with self._on_lane():
            if self._loss is not loss:
                self._loss = loss
                self._capture()
            self._generator.manual_seed(derive_seed(*key, "dropout", epoch))
            self._position.zero_()
            self._total.zero_()
        return plan.steps

    def step(self) -> None:
        """Train the next step of the epoch."""
        with self._on_lane():
            if self._graph is not None:
                self._graph.replay()
            elif self._lane is None:
                self._step()
            else:
                with CAPTURING, deterministic_convolutions():
                    self._step()

    def end(self) -> float:
        """Wait for the epoch. Returns its mean loss."""
        with self._on_lane():
            self._weights.count(self._plan.steps)
            loss = float(self._total) / self._plan.steps
            return loss if self._settings.intact(self.model) else math.nan

    def wait(self) -> None:
        """Wait for steps under way: what comes next may free and reuse their memory."""
        if self._lane is not None:
            self._lane.stream.synchronize()

    @contextmanager
    def _on_lane(self) -> Iterator[None]:
        if self._lane is None:
            yield
            return
        with torch.cuda.stream(self._lane.stream):
            yield

    def _capture(self) -> None:
        """Capture the step, after steps that are undone."""
        self._graph = None
        if self._lane is None or not self._plan.resident:
            return
        with CAPTURING, deterministic_convolutions():
            before = [tensor.clone() for tensor in self.tensors().values()]
            for _ in range(WARM_UP):
                self._position.zero_()
                self._step()
            self._graph = self._lane.capture(self._step, (self._generator,))
            for tensor, value in zip(self.tensors().values(), before, strict=True):
                tensor.copy_(value)
            self._weights.round()

    def _step(self) -> None:
        assert self._images is not None and self._loss is not None
        position, weights = self._position, self._weights
        parts = (part.index_select(0, position)[0] for part in self._plan.parts)
        inputs, labels = self._images.batch(self._plan.source, *parts)
        with self._random:
            loss = self._loss(
                weights.model, inputs, labels, self._settings.hp, self._settings.compute
            )
        loss.backward()
        weights.gather_gradients()
        self._rate.copy_(self._rates.index_select(0, position)[0])
        self._optimizer.step()
        weights.round()
        self._total += loss.detach()
        self._position += 1

    def _make_optimizer_state(self) -> None:
        """Make the optimizer's tensors before a capture, as they are before the first step."""
        self._optimizer.step()  # gradients and learning rate are 0
        for state in self._optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()


def train_captured(epochs: Sequence[EpochOf[CapturedTraining, Any]]) -> list[float]:
    """Train an epoch of different trainings, whose steps take turns.

    Each has the same result whatever the others are.

    Returns:
        The mean training loss of each; NaN or infinity after divergence.
    """
    trainings = [one.training for one in epochs]
    try:
        left = {one.training: one.training.begin(one.images, one.epoch, *one.key) for one in epochs}
        while left:
            for training in left:
                training.step()
            left = {training: steps - 1 for training, steps in left.items() if steps > 1}
        return [training.end() for training in trainings]
    except BaseException:
        for training in trainings:
            with suppress(RuntimeError):  # the device is broken, which the first error says
                training.wait()
        raise


class _Weights:
    """The trained parameters of a model in one tensor, and the model that computes with them.

    Args:
        model: in training mode, but for what keeps its statistics.
        groups: its parameters that are trained, in groups.
        compute: device and precision.

    Attributes:
        parts: of each group, float32 tensors that hold its parameters, which become views of them.
            A single group has one tensor. Their ``grad`` is the gradient.
        model: a copy of the given model that shares all tensors except the rounded parameters.
            Its batch norms do not count steps.
    """

    def __init__(
        self, model: nn.Module, groups: Sequence[Sequence[nn.Parameter]], compute: Compute
    ) -> None:
        names = _rounded(model) if compute.precision == "bfloat16" else set()
        # the rounded ones first, and in each half group after group
        order = [(id(p) not in names, group, p) for group, some in enumerate(groups) for p in some]
        order.sort(key=lambda one: one[:2])
        ends = list(itertools.accumulate(-(-p.numel() // ALIGN) * ALIGN for *_, p in order))
        starts = [0, *ends[:-1]]
        flat = torch.zeros(ends[-1], device=compute.device)
        gradient = torch.zeros_like(flat)
        self.parts: list[list[torch.Tensor]] = [[] for _ in groups]
        runs = itertools.groupby(zip(order, starts, ends, strict=True), lambda one: one[0][1])
        for group, members in runs:
            places = list(members)
            start, end = places[0][1], places[-1][2]
            part = flat[start:end].requires_grad_()
            part.grad = gradient[start:end]
            self.parts[group].append(part)
        exact = (start for (is_exact, *_), start in zip(order, starts, strict=True) if is_exact)
        end = next(exact, ends[-1])
        self._exact_parts, self._gradient_parts = flat[:end], gradient[:end]
        self._rounded = torch.zeros(end, dtype=torch.bfloat16, device=compute.device)
        self._rounded_gradient = torch.zeros_like(self._rounded)
        memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
        gathered: dict[bool, tuple[list[torch.Tensor], list[nn.Parameter]]] = {}
        for (is_exact, _, parameter), start in zip(order, starts, strict=True):
            view = _view(flat, parameter, start)
            view.copy_(parameter.detach())
            parameter.data = view
            if not is_exact:
                memo[id(parameter)] = nn.Parameter(_view(self._rounded, parameter, start))
            place = gradient if is_exact else self._rounded_gradient
            gradients, parameters = gathered.setdefault(is_exact, ([], []))
            gradients.append(_view(place, parameter, start))
            parameters.append(memo[id(parameter)])
        self._gathered = list(gathered.values())
        self.model = copy.deepcopy(model, memo)
        self._counters = list(_without_counters(self.model))
        self.round()

    def count(self, steps: int) -> None:
        """Add steps to the counters of batch norms."""
        if self._counters:
            torch._foreach_add_(self._counters, steps)  # pyright: ignore[reportPrivateImportUsage]

    def round(self) -> None:
        """Bring the rounded parameters up to date."""
        self._rounded.copy_(self._exact_parts)

    def gather_gradients(self) -> None:
        """Move the gradients of a backward pass into those of ``parts``."""
        for mine, parameters in self._gathered:  # each of one type, which is one kernel
            gradients = [p.grad for p in parameters if p.grad is not None]
            if len(gradients) < len(parameters):
                raise Unsuitable("some of its parameters have no part in the loss")
            torch._foreach_copy_(mine, gradients)  # pyright: ignore[reportPrivateImportUsage]
            for parameter in parameters:
                parameter.grad = None
        self._gradient_parts.copy_(self._rounded_gradient)


class Unsuitable(Exception):
    """A model cannot be trained by ``CapturedTraining``; the message says why."""


def check_suitable(train: Callable[[], object], device: torch.device) -> None:
    """Train an epoch of captured steps, after which the training must not be used any more.

    Raises:
        Unsuitable: the model draws random numbers other than dropout's, waits for the device, or
            has parameters without a gradient.
    """
    before = _global_stream(device)
    try:
        train()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise Unsuitable(str(error).splitlines()[0]) from error
    if not torch.equal(before, _global_stream(device)):
        raise Unsuitable("it draws random numbers other than those of dropout")


def _global_stream(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


class _DrawFrom(TorchFunctionMode):
    """A block in which dropout and ``bernoulli_`` draw from a generator of its own."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is torch.Tensor.bernoulli_:
            kwargs = {"generator": self._generator} | kwargs
        return func(*args, **kwargs)

    def _dropout(
        self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        if not training or p == 0:
            return input
        kept = torch.empty_like(input).bernoulli_(1 - p, generator=self._generator)
        return input * (kept if p == 1 else kept.div_(1 - p))


def _rounded(model: nn.Module) -> set[int]:
    """Identities of the parameters that only modules of the types ``ROUNDED`` have."""
    owners: dict[int, list[bool]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(type(module) in ROUNDED)
    return {name for name, suitable in owners.items() if all(suitable)}


def _without_counters(model: nn.Module) -> Iterator[torch.Tensor]:
    """Take the counters of steps from batch norms that do not compute with them, and yield them."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    for norm in (norm for norm in norms if norm.training):
        if norm.momentum is not None and norm.num_batches_tracked is not None:
            yield norm.num_batches_tracked
            norm.num_batches_tracked = None


def _view(flat: torch.Tensor, like: torch.Tensor, start: int) -> torch.Tensor:
    """A part of ``flat`` in the shape and memory order of a parameter."""
    return flat.as_strided(like.shape, like.stride(), start)
