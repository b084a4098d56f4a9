"""Classification heads on features, many of them trained together.

A step of a single small head is mostly overhead. So heads with batches of one shape are trained
``SLOTS`` at a time, as one batched matrix product; empty slots repeat the last head. The width of
the product is fixed because a head's last bits depend on it, and on nothing else: not on the slot,
and not on what is trained beside the head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from alhpo.base.errors import CheckpointError
from alhpo.base.seeding import Key, derive_seed, torch_generator
from alhpo.data.feature_batches import DeviceFeatures, Normalization, normalized
from alhpo.hyperparameters import HeadHyperparameters
from alhpo.training.epochs import EpochOf, learning_rates

#: Heads in one product when trials are trained.
SLOTS = 5
#: Values, 64 bytes, to which the rows of every slot are aligned.
ALIGN = 16
#: Logit of the classes that fill up the last axis: their probability is 0.
NEVER = -1e30
#: Adam's second beta and epsilon (torch's defaults).
BETA2, EPSILON = 0.999, 1e-8


class Head(nn.Module):
    """A linear classifier, or a perceptron with one hidden layer, on normalised features.

    Args:
        width: D, the number of features.
        classes: C, the number of classes.
        hidden: units of the hidden layer (ReLU); 0 for none.
        normalization: see ``normalized``.
        dropout: probability with which each input of the classifier is dropped in training.
    """

    def __init__(
        self, width: int, classes: int, hidden: int, normalization: Normalization, dropout: float
    ) -> None:
        super().__init__()
        self.normalization: Normalization = normalization
        self.hidden = nn.Linear(width, hidden) if hidden else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden or width, classes)

    def penultimate(self, features: torch.Tensor) -> torch.Tensor:
        """The input of the classifier, from (B, D) features of the frozen network."""
        values = normalized(features, self.normalization)
        return values if self.hidden is None else self.hidden(values).relu()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C) logits."""
        return self.classifier(self.dropout(self.penultimate(features)))


class HeadTraining:
    """The training of one head with its optimizer.

    Args:
        model: the head on the device, trained in place.
        hp: the hyperparameters.
        max_epochs: epochs of a full training.
    """

    def __init__(self, model: Head, hp: HeadHyperparameters, max_epochs: int) -> None:
        self.model = model
        self.hp = hp
        self.max_epochs = max_epochs
        self.parameters = [value.detach() for value in model.parameters()]
        n_moments = 1 if hp.optimizer == "sgd" else 2
        #: Averages that the optimizer keeps of each parameter's gradient.
        self.moments = [
            [torch.zeros_like(value) for value in self.parameters] for _ in range(n_moments)
        ]
        self.steps = torch.zeros((), dtype=torch.int64)

    def epoch(self, images: DeviceFeatures, epoch: int, *key: Key) -> float:
        return train_heads([EpochOf(self, images, epoch, key)], slots=1)[0]

    def tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for order, moments in enumerate(self.moments):
            tensors |= {f"moment{order}.{index}": value for index, value in enumerate(moments)}
        return tensors | {"steps": self.steps}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        mine = self.tensors()
        differs = mine.keys() != tensors.keys() or any(
            mine[name].shape != value.shape for name, value in tensors.items()
        )
        if differs:
            raise CheckpointError("The checkpoint holds another head's weights.")
        for name, value in tensors.items():
            mine[name].copy_(value)


def train_heads(
    epochs: Sequence[EpochOf[HeadTraining, DeviceFeatures]], slots: int = SLOTS
) -> list[float]:
    """Train an epoch of several heads, together where their batches have one shape.

    Args:
        epochs: epochs of different trainings.
        slots: heads in one product; the results depend on it, but not on ``epochs``.

    Returns:
        The mean training loss of each; NaN or infinity after divergence.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    orders = [_order(one) for one in epochs]
    for number, (one, order) in enumerate(zip(epochs, orders, strict=True)):
        hp = one.training.hp
        shape = tuple(value.shape for value in one.training.parameters)
        source = id(one.images.values), hp.normalization
        kind = hp.optimizer, hp.nesterov
        groups.setdefault((order.shape, shape, source, kind), []).append(number)
    losses = [math.nan] * len(epochs)
    for numbers in groups.values():
        for start in range(0, len(numbers), slots):
            chosen = numbers[start : start + slots]
            product = _Product([epochs[n] for n in chosen], [orders[n] for n in chosen], slots)
            for number, loss in zip(chosen, product.train(), strict=True):
                losses[number] = loss
    return losses


class _Product:
    """Heads of one shape, side by side in tensors whose first axis is the slot.

    All arithmetic is exact and elementwise, or row by row, or a matrix product per slot. Matrix
    products round differently where memory is aligned differently, so every axis of a matrix is
    padded to a multiple of ``ALIGN``. So no slot depends on its place or on another.

    Args:
        epochs: the epochs to train, one per slot.
        orders: (S, B) rows of each.
        slots: G, the number of slots.
    """

    def __init__(
        self,
        epochs: Sequence[EpochOf[HeadTraining, DeviceFeatures]],
        orders: Sequence[torch.Tensor],
        slots: int,
    ) -> None:
        self._epochs = epochs
        self._missing = slots - len(epochs)
        trainings = [one.training for one in epochs]
        first = trainings[0]
        self._kind, self._nesterov = first.hp.optimizer, first.hp.nesterov
        self._source = epochs[0].images.normalized(first.hp.normalization, ALIGN)
        self._labels = epochs[0].images.labels
        self._order = self._stacked(orders, dim=1)
        self._rates = [
            learning_rates(one.training.hp, one.epoch, one.training.max_epochs, len(self._order))
            for one in epochs
        ]
        self._parameters = self._slots_of(training.parameters for training in trainings)
        self._moments = [
            self._slots_of(training.moments[order] for training in trainings)
            for order in range(len(first.moments))
        ]
        self._weight_decay = self._values(hp.weight_decay for hp in self._hps)
        self._momentum = self._values(hp.momentum for hp in self._hps)
        self._smoothing = self._values(hp.label_smoothing for hp in self._hps)
        self._class_weights = self._stacked([_padded(_class_weights(one)) for one in epochs])
        self._classes = len(first.parameters[-1])
        self._absent = torch.zeros_like(self._class_weights[0])
        self._absent[self._classes :] = NEVER
        self._dropout = first.model.dropout.p
        self._generators = [torch_generator(*one.key, "dropout", one.epoch) for one in epochs]

    def train(self) -> list[float]:
        """Train the epoch; return the mean loss of each head."""
        total = torch.zeros(self._order.shape[1], device=self._source.device)
        for step, rows in enumerate(self._order):
            total += self._step(step, rows)
        for slot, one in enumerate(self._epochs):
            training = one.training
            stacked = (self._parameters, *self._moments)
            for mine, values in zip((training.parameters, *training.moments), stacked, strict=True):
                for value, of_slots in zip(mine, values, strict=True):
                    value.copy_(of_slots[slot][tuple(slice(size) for size in value.shape)])
            training.steps += len(self._order)
        return (total / len(self._order)).tolist()[: len(self._epochs)]

    def _step(self, step: int, rows: torch.Tensor) -> torch.Tensor:
        """Train on (G, B) rows of the features; return the loss of each slot."""
        assert self._labels is not None
        inputs = self._source.index_select(0, rows.view(-1)).view(*rows.shape, -1)
        hidden = inputs
        if len(self._parameters) > 2:
            weights, biases = self._parameters[:2]
            hidden = torch.baddbmm(biases[:, None], inputs, weights.transpose(1, 2)).relu_()
        keep = self._keep(len(rows[0]))
        classifier_inputs = hidden if keep is None else hidden * keep
        weights, biases = self._parameters[-2:]
        biases = (biases + self._absent)[:, None]
        logits = torch.baddbmm(biases, classifier_inputs, weights.transpose(1, 2))
        loss, errors = self._loss(logits, self._labels[rows])
        gradients = list(_of_layer(errors, classifier_inputs))
        if len(self._parameters) > 2:
            errors = torch.bmm(errors, weights)
            errors = (errors if keep is None else errors * keep) * (hidden > 0)
            gradients = [*_of_layer(errors, inputs), *gradients]
        self._update(gradients, step)
        return loss

    def _keep(self, batch: int) -> torch.Tensor | None:
        """The factors of the classifier's inputs in dropout: 0, or 1 / (1 - p)."""
        if not self._dropout:
            return None
        shape = batch, self._epochs[0].training.parameters[-2].shape[1]
        draws = [_padded(torch.rand(shape, generator=one), 1) for one in self._generators]
        kept = (self._stacked(draws) >= self._dropout).float() / (1 - self._dropout)
        return kept.to(self._source.device)

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(G,) cross-entropy, as torch's with class weights and label smoothing, and its gradient
        with respect to the (G, B, C) logits."""
        smoothing = self._smoothing[:, None, None]
        one_hot = torch.zeros_like(logits).scatter_(2, labels[..., None], 1.0)
        weights = self._class_weights.gather(1, labels)
        targets = one_hot * (1 - smoothing) + smoothing / self._classes
        targets = targets * self._class_weights[:, None] / weights.sum(1)[:, None, None]
        loss = -(targets * logits.log_softmax(2)).sum(2).sum(1)
        return loss, logits.softmax(2) * targets.sum(2, keepdim=True) - targets

    def _update(self, gradients: Sequence[torch.Tensor], step: int) -> None:
        """The optimizer's step, as torch's of the same name."""
        rate = self._values(rates[step] for rates in self._rates)
        if self._kind == "sgd":
            for value, gradient, moment in zip(
                self._parameters, gradients, self._moments[0], strict=True
            ):
                lr, decay, momentum = (
                    _along(one, value) for one in (rate, self._weight_decay, self._momentum)
                )
                gradient.add_(decay * value)
                moment.mul_(momentum).add_(gradient)
                step_of = gradient.add_(momentum * moment) if self._nesterov else moment
                value.sub_(lr * step_of)
            return
        counts = [int(one.training.steps) + step + 1 for one in self._epochs]
        betas = [hp.momentum for hp in self._hps]
        first = self._values(1 - b**n for b, n in zip(betas, counts, strict=True))
        second = self._values(math.sqrt(1 - BETA2**n) for n in counts)
        for value, gradient, moment, square in zip(
            self._parameters, gradients, *self._moments, strict=True
        ):
            lr, decay, beta, first_bias, second_bias = (
                _along(one, value)
                for one in (rate, self._weight_decay, self._momentum, first, second)
            )
            if self._kind == "adam":
                gradient.add_(decay * value)
            else:
                value.mul_(1 - lr * decay)
            moment.mul_(beta).add_((1 - beta) * gradient)
            square.mul_(BETA2).add_((1 - BETA2) * gradient * gradient)
            value.sub_(lr / first_bias * moment / (square.sqrt() / second_bias + EPSILON))

    @property
    def _hps(self) -> list[HeadHyperparameters]:
        return [one.training.hp for one in self._epochs]

    def _values(self, values: Iterable[float]) -> torch.Tensor:
        """(G,) float32, one value for each slot."""
        given = list(values)
        given += given[-1:] * self._missing
        return torch.tensor(given, device=self._source.device)

    def _slots_of(self, tensors: Iterable[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        """From the tensors of each head to the padded tensors of all slots."""
        padded = ([_padded(one) for one in of_head] for of_head in tensors)
        return [self._stacked(same) for same in zip(*padded, strict=True)]

    def _stacked(self, tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
        return torch.stack([*tensors, *[tensors[-1]] * self._missing], dim)


def _of_layer(errors: torch.Tensor, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of a linear layer's weights and biases, from (G, B, C) gradients of its outputs."""
    return torch.bmm(errors.transpose(1, 2), inputs), errors.sum(1)


def _padded(values: torch.Tensor, axes: int | None = None) -> torch.Tensor:
    """The values with zeros behind them, so that the last ``axes`` (None: all) are multiples of
    ``ALIGN``."""
    sizes = reversed(values.shape if axes is None else values.shape[-axes:])
    return F.pad(values, [part for size in sizes for part in (0, -size % ALIGN)])


def _along(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(G,) values to multiply a tensor of slots with."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _order(one: EpochOf[HeadTraining, DeviceFeatures]) -> torch.Tensor:
    """(S, B) rows of the features, the batches of the epoch."""
    generator, hp = torch_generator(derive_seed(*one.key, one.epoch), "epoch"), one.training.hp
    return one.images.order(hp.batch_size, generator, hp.epoch_images)


def _class_weights(one: EpochOf[HeadTraining, DeviceFeatures]) -> torch.Tensor:
    """(C,) weights of the classes. "balanced": n / (number of classes · n_c), as in scikit-learn;
    1 for a class without images."""
    weights = torch.ones_like(one.training.parameters[-1])
    if one.training.hp.class_weights == "balanced":
        counts = torch.bincount(one.images.own_labels, minlength=len(weights))
        there = counts > 0
        weights[there] = (len(one.images) / there.sum() / counts[there]).float()
    return weights
